//! A [snapshot](super) that is kept while a logical unit is served: whoever serves it next on this machine, since it was started, goes on as if
//! nothing had happened. Guests whose device is started again, or was killed, have not seen a power cycle, so that what an array keeps
//! in its memory must not be gone: registrations without APTPL, unit attentions that wait, an SPC-2 reservation, mode pages.
//!
//! The file beside the durable image, with `.live` after its name, is the machine's boot id
//! (`/proc/sys/kernel/random/boot_id`, 37 bytes with its line feed) and the snapshot. After a restart of the machine it counts for nothing,
//! and for that reason it is never synced. Used by [`LogicalUnit::open_kept`].
//!
//! Guarantees: the file never tells of an earlier state than the durable image does. What cannot be written is removed; where
//! neither succeeds the command that would have changed the state has failed.

use super::Snapshot;
use super::resume::{put, take_up};
use crate::aptpl::{self, Image};
use crate::nexuses::Nexuses;
use crate::open::{OpenError, Opened};
use crate::unit::LogicalUnit;
use crate::{LunSpec, Medium, PrUnit};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    boot: Vec<u8>,
    /// What it holds; nothing where that is not known.
    held: Mutex<Option<Vec<u8>>>,
}

impl Kept {
    fn beside(image: &Path) -> io::Result<Self> {
        Ok(Self { path: name(image), boot: fs::read(BOOT_ID)?, held: Mutex::default() })
    }

    /// What was kept since the machine was started.
    fn load(&self) -> Option<Snapshot> {
        let bytes = aptpl::file::read(&self.path, self.boot.len() + super::MAX_LENGTH).ok()?;
        Snapshot::parse(bytes.strip_prefix(&*self.boot)?).ok()
    }

    /// Keeps it instead of what was kept before; `false` if what was kept before is still there.
    pub(crate) fn store(&self, snapshot: Option<&Snapshot>) -> bool {
        let bytes = snapshot.map(|snapshot| [&*self.boot, &snapshot.to_bytes()].concat());
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_some() && *held == bytes {
            return true;
        }
        let written = bytes.as_deref().is_some_and(|bytes| replace(&self.path, bytes).is_ok());
        *held = bytes.filter(|_| written);
        written || remove(&self.path).is_ok()
    }

    fn holds(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl LogicalUnit {
    /// Opens what `spec` names, and goes on with what was kept of it since the machine was started: for its nexuses nothing has happened.
    /// From now on it is kept. A memory LUN forgets all the same, with its blocks.
    ///
    /// # Errors
    /// [`OpenError`] before anything is served.
    pub fn open_kept(spec: &LunSpec) -> Result<Arc<Self>, OpenError> {
        let mut opened = Opened::open(spec)?;
        opened.unstamp()?;
        if let Some(snapshot) = opened.image.as_deref().and_then(|image| Kept::beside(image).ok()?.load()) {
            // What does not fit, a profile for one, is as if the power had been off.
            if let Ok(parts) = take_up(&opened, &snapshot) {
                put(&mut opened, parts)?;
            }
        }
        go_on(opened, spec.delay)
    }

    /// Opens what `spec` names where somebody else has served it since, as after a power failure: what was kept here is of the past, and so is
    /// the durable image of a block device, which is this host's. From now on it is kept.
    ///
    /// # Errors
    /// [`OpenError`] before anything is served; also where what is of the past cannot be removed.
    pub fn open_anew(spec: &LunSpec) -> Result<Arc<Self>, OpenError> {
        anew(Opened::open(spec)?, spec)
    }

    /// Whether the next process will go on with what this one knows. Not where the file cannot be written, or there is none.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept().is_some_and(Kept::holds)
    }

    /// Somebody else serves it from now on: what is kept is of the past once this process has ended.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget_kept(&self) -> io::Result<()> {
        let gone = self.kept().is_none_or(|kept| kept.store(None));
        if gone { Ok(()) } else { Err(ErrorKind::ReadOnlyFilesystem.into()) }
    }
}

/// Serves it, and keeps it for the next process.
pub(super) fn go_on(opened: Opened, delay: Duration) -> Result<Arc<LogicalUnit>, OpenError> {
    let Some(image) = opened.image.clone() else { return Ok(LogicalUnit::over(opened, delay, None)) };
    let failed = |source| OpenError::File { path: name(&image), source };
    let kept = Kept::beside(&image).map_err(failed)?;
    let unit = LogicalUnit::over(opened, delay, Some(kept));
    if unit.keep_now() { Ok(unit) } else { Err(failed(ErrorKind::ReadOnlyFilesystem.into())) }
}

fn anew(mut opened: Opened, spec: &LunSpec) -> Result<Arc<LogicalUnit>, OpenError> {
    opened.unstamp()?;
    forget_past(&mut opened, &spec.medium)?;
    go_on(opened, spec.delay)
}

fn forget_past(opened: &mut Opened, medium: &Medium) -> Result<(), OpenError> {
    let Some(image) = &opened.image else { return Ok(()) };
    forget(image).map_err(|source| OpenError::File { path: name(image), source })?;
    if matches!(medium, Medium::Block { .. }) {
        aptpl::save(image, &Image::default())?;
        opened.unit = PrUnit::new(opened.profile);
        opened.nexuses = Nexuses::new(opened.profile.identity);
    }
    Ok(())
}

/// Somebody serves the logical unit who keeps nothing: what was kept is of the past.
pub(crate) fn forget(image: &Path) -> io::Result<()> {
    remove(&name(image))
}

fn name(image: &Path) -> PathBuf {
    with(image, ".live")
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The old one or the new one, whenever this process ends.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = with(path, ".new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aptpl::SavedRegistration;

    /// A file's, with a registration that outlives the power.
    fn registered(folder: &Path) -> (LunSpec, PathBuf) {
        let spec: LunSpec = format!("file={},size=1M", folder.join("disk").display()).parse().unwrap();
        let image = Opened::open(&spec).unwrap().image.unwrap();
        let nexus = crate::ItNexus { initiator: "sas:5000000000000001".parse().unwrap(), target_port: 1 };
        let registration = SavedRegistration { nexus, key: scsi::pr::Key(1), all_target_ports: false };
        let there = Image { aptpl: true, registrations: vec![registration], ..Image::default() };
        aptpl::save(&image, &there).unwrap();
        (spec, image)
    }

    /// As a block device's: there is none to test with.
    fn as_block(spec: &LunSpec) -> LunSpec {
        LunSpec { medium: Medium::Block { path: "/dev/a".into(), reservations: None }, ..spec.clone() }
    }

    #[test]
    fn of_a_block_device_that_was_served_elsewhere_the_image_of_this_host_is_of_the_past_and_of_a_file_it_is_not()
     {
        let folder = tempfile::tempdir().unwrap();
        let (spec, image) = registered(folder.path());
        let registrations = |spec: &LunSpec| {
            let unit = anew(Opened::open(&registered(folder.path()).0).unwrap(), spec).unwrap();
            unit.with_reservations(|unit, directory| {
                let known = directory.nexus(crate::NexusId(0)).is_some();
                (unit.reservations().registrations().iter().count(), known)
            })
        };
        assert_eq!(registrations(&spec), (1, true));
        assert_eq!(registrations(&as_block(&spec)), (0, false));
        assert_eq!(aptpl::load(&image).unwrap(), Some(Image::default()));
    }

    #[test]
    fn what_is_of_the_past_and_stays_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let (spec, image) = registered(folder.path());
        fs::create_dir(name(&image)).unwrap();
        let opened = Opened::open(&spec).unwrap();
        assert!(matches!(anew(opened, &as_block(&spec)), Err(OpenError::File { .. })));
        assert_eq!(aptpl::load(&image).unwrap().unwrap().registrations.len(), 1, "nothing has changed then");
    }
}
