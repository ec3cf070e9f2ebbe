//! A logical unit is put down here and taken up there.

use super::kept::go_on;
use super::stamp::{self, Stamp};
use super::{MAX_LENGTH, Snapshot};
use crate::aptpl::{self, Image, SavedRegistration};
use crate::identity::Identity;
use crate::nexuses::Nexuses;
use crate::open::{OpenError, Opened};
use crate::profile;
use crate::reservations::{Holder, Registration, Reservation, Reservations};
use crate::{Directory, ItNexus, LogicalUnit, LunSpec, Medium, NexusId, PrUnit};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Why a logical unit cannot be put down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Its medium is being erased, or that failed.
    #[error("its medium is being sanitized, or that failed: let that end first")]
    Sanitizing,
    /// Its registrations end with their sessions.
    #[error("by its profile registrations belong to a session, and a session does not move")]
    SessionInstance,
    /// It has more registrations than a snapshot holds.
    #[error("it has more registrations than can be carried elsewhere")]
    TooLong,
}

/// Why a logical unit cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another logical unit is there.
    #[error(
        "there is another logical unit: it names itself naa.{found:016x}, and the guest's disk is naa.{wanted:016x}; a file \
         is the same one only under the same absolute path on the same file system"
    )]
    Other {
        /// Its NAA name.
        found: u64,
        /// The one that is wanted.
        wanted: u64,
    },
    /// It behaves otherwise.
    #[error("its profile is {found}, and was {wanted}")]
    Profile {
        /// The profile's name here.
        found: String,
        /// And where it comes from.
        wanted: String,
    },
    /// The operator presents it otherwise.
    #[error("{part}= is {found} here, and {wanted} where it comes from: give the LUN the same on both hosts")]
    Presentation {
        /// The part of the specification.
        part: &'static str,
        /// What it says here.
        found: String,
        /// And where it comes from.
        wanted: String,
    },
    /// It is smaller.
    #[error("it has {found} blocks, and had {wanted}")]
    Smaller {
        /// Blocks here.
        found: u64,
        /// Blocks where it comes from.
        wanted: u64,
    },
    /// What was saved with the state is not beside it.
    #[error(
        "the state that was brought is not of this file as it is now: it is another file of the same name, or a copy, or somebody \
         has served it since"
    )]
    Stamp,
    /// Its durable image is not that of the state.
    #[error(
        "its reservation file says something else than the state that was brought: somebody served it meanwhile"
    )]
    Changed,
    /// Its mode pages are not those of this program, or a nexus has no place.
    #[error("its state does not fit: {0}")]
    Unfit(&'static str),
    /// The durable image cannot be written.
    #[error(transparent)]
    Image(#[from] aptpl::FileError),
}

impl LogicalUnit {
    /// What it knows now; no command of anybody's may be under way.
    ///
    /// # Errors
    /// It cannot go on elsewhere.
    pub fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        self.with_reservations(|unit, directory| self.describe(unit, directory))
    }

    /// The same of a state that is held.
    pub(crate) fn describe(
        &self,
        unit: &PrUnit,
        directory: &dyn Directory,
    ) -> Result<Snapshot, SnapshotError> {
        if self.disk.is_sanitizing() {
            return Err(SnapshotError::Sanitizing);
        }
        if self.profile().identity == profile::Identity::SessionInstance {
            return Err(SnapshotError::SessionInstance);
        }
        let mut snapshot = of_reservations(unit, directory);
        snapshot.profile = self.profile().name.to_owned();
        snapshot.naa = self.disk.naa();
        snapshot.blocks = self.disk.blocks();
        snapshot.stopped = self.disk.is_stopped();
        snapshot.modes = self.disk.mode_pages();
        snapshot.presentation = self.disk.presentation().clone();
        if snapshot.to_bytes().len() > MAX_LENGTH { Err(SnapshotError::TooLong) } else { Ok(snapshot) }
    }

    /// Opens what `spec` names and goes on with `snapshot`. For the nexuses nothing has happened.
    ///
    /// # Errors
    /// [`ResumeError`] before anything is served; nothing on disk is changed then.
    pub fn resume(spec: &LunSpec, snapshot: &Snapshot) -> Result<Arc<Self>, ResumeError> {
        Self::resume_with(spec, snapshot, |_| Ok(()))
    }

    /// The same, if the [`Stamp`] of the snapshot is beside the medium, which nobody else has open now.
    ///
    /// # Errors
    /// [`ResumeError::Stamp`] if not, and the same as above.
    pub fn resume_given(spec: &LunSpec, snapshot: &Snapshot, stamp: Stamp) -> Result<Arc<Self>, ResumeError> {
        Self::resume_with(spec, snapshot, |image| stamp::must_be(stamp, image))
    }

    fn resume_with(
        spec: &LunSpec,
        snapshot: &Snapshot,
        look: impl Fn(&Path) -> Result<(), ResumeError>,
    ) -> Result<Arc<Self>, ResumeError> {
        must_present_alike(spec, snapshot)?;
        let mut opened = Opened::open(&as_it_is(spec))?;
        opened.image.as_deref().map_or(Ok(()), look)?;
        let parts = take_up(&opened, snapshot)?;
        if let Some(path) = &opened.image {
            let there = aptpl::load(path)?.unwrap_or_default();
            // A block device's is on this host, from whenever it was here last.
            let ours = Image::of(&parts.0, &parts.1);
            if matches!(spec.medium, Medium::File { .. }) && comparable(&there) != comparable(&ours) {
                return Err(ResumeError::Changed);
            }
        }
        put(&mut opened, parts)?;
        Ok(go_on(opened, spec.delay)?)
    }
}

/// Its nexuses know its capacity: a file is there, and does not grow because it is asked for larger here.
fn as_it_is(spec: &LunSpec) -> LunSpec {
    let medium = match &spec.medium {
        Medium::File { path, .. } => Medium::File { path: path.clone(), size: None },
        other => other.clone(),
    };
    LunSpec { medium, ..spec.clone() }
}

/// The state of a snapshot in what was opened; nothing of it is in force yet, but for mode pages.
pub(super) fn take_up(opened: &Opened, snapshot: &Snapshot) -> Result<(PrUnit, Nexuses), ResumeError> {
    fits(opened, snapshot)?;
    let mut nexuses = Nexuses::new(opened.profile.identity);
    let unit = restore(snapshot, &mut nexuses, opened)?;
    if !opened.disk.restore(snapshot.stopped, &snapshot.modes) {
        return Err(ResumeError::Unfit("mode pages"));
    }
    Ok((unit, nexuses))
}

/// Puts it in force, in the durable image as well.
pub(super) fn put(opened: &mut Opened, parts: (PrUnit, Nexuses)) -> Result<(), aptpl::FileError> {
    if let Some(path) = &opened.image {
        let ours = Image::of(&parts.0, &parts.1);
        if aptpl::load(path)?.unwrap_or_default() != ours {
            aptpl::save(path, &ours)?;
        }
    }
    (opened.unit, opened.nexuses) = parts;
    Ok(())
}

/// Whether the block device of `spec` says by itself which one it is, on whatever host it is. A file does not.
///
/// # Errors
/// There is no such device.
pub fn names_itself(spec: &LunSpec) -> io::Result<bool> {
    match &spec.medium {
        Medium::Block { path, .. } => Identity::is_of_device(path),
        Medium::File { .. } | Medium::Memory { .. } => Ok(false),
    }
}

/// Whether the guest finds it presented as it was.
///
/// # Errors
/// [`ResumeError::Presentation`].
pub fn must_present_alike(spec: &LunSpec, snapshot: &Snapshot) -> Result<(), ResumeError> {
    match spec.presentation.difference(&snapshot.presentation) {
        Some((part, found, wanted)) => Err(ResumeError::Presentation { part, found, wanted }),
        None => Ok(()),
    }
}

/// The NAA name that the logical unit of `spec` would have, without opening it; none for memory.
///
/// # Errors
/// There is no such file or device.
pub fn naa_of(spec: &LunSpec) -> io::Result<Option<u64>> {
    let identity = match &spec.medium {
        Medium::File { path, .. } => Identity::of_file(path)?,
        Medium::Block { path, .. } => Identity::of_block_device(path)?,
        Medium::Memory { .. } => return Ok(None),
    };
    Ok(Some(identity.naa()))
}

fn fits(opened: &Opened, snapshot: &Snapshot) -> Result<(), ResumeError> {
    let (found, wanted) = (opened.disk.naa(), snapshot.naa);
    if found != wanted {
        return Err(ResumeError::Other { found, wanted });
    }
    if snapshot.known_profile().is_none_or(|profile| profile.name != opened.profile.name) {
        let (found, wanted) = (opened.profile.name.to_owned(), snapshot.profile.clone());
        return Err(ResumeError::Profile { found, wanted });
    }
    let (found, wanted) = (opened.disk.blocks(), snapshot.blocks);
    if found < wanted { Err(ResumeError::Smaller { found, wanted }) } else { Ok(()) }
}

/// The reservations and unit attentions by names.
fn of_reservations(unit: &PrUnit, directory: &dyn Directory) -> Snapshot {
    let state = unit.reservations();
    let mut places = BTreeMap::new();
    let mut registrations = Vec::new();
    for one in state.registrations().iter() {
        let Some(nexus) = directory.nexus(one.nexus).cloned() else { continue };
        places.insert(one.nexus, u32::try_from(registrations.len()).unwrap_or(u32::MAX));
        let (key, all_target_ports) = (one.key, one.all_target_ports);
        registrations.push(SavedRegistration { nexus, key, all_target_ports });
    }
    let place = |nexus: NexusId| places.get(&nexus).copied();
    let reservation = state.reservation().map(|held| match held.holder {
        Holder::One(nexus) => (held.kind, place(nexus)),
        Holder::All { marked } => (held.kind, marked.and_then(place)),
    });
    let waiting = unit.attentions();
    let attentions = waiting
        .nexuses()
        .filter_map(|nexus| Some((directory.nexus(nexus)?.clone(), waiting.pending(nexus).collect())));
    Snapshot {
        aptpl: state.aptpl(),
        lost: state.is_lost(),
        generation: state.generation(),
        spc2: state.spc2_holder().and_then(|nexus| directory.nexus(nexus)).cloned(),
        attentions: attentions.collect(),
        registrations,
        reservation,
        ..Snapshot::default()
    }
}

fn restore(snapshot: &Snapshot, nexuses: &mut Nexuses, opened: &Opened) -> Result<PrUnit, ResumeError> {
    // The ports of this run are named later; a registration may name any that there was.
    let present = nexuses.target_ports().to_vec();
    let named = snapshot.registrations.iter().map(|one| one.nexus.target_port);
    let waiting = snapshot.attentions.iter().map(|(nexus, _)| nexus.target_port);
    let others = snapshot.spc2.iter().map(|nexus| nexus.target_port);
    nexuses.set_target_ports(&named.chain(waiting).chain(others).collect::<Vec<_>>());
    let mut resolve =
        |nexus: &ItNexus| nexuses.resolve(nexus).ok_or(ResumeError::Unfit("there are too many nexuses"));
    let mut registrations = Vec::new();
    for saved in &snapshot.registrations {
        let (key, all_target_ports) = (saved.key, saved.all_target_ports);
        registrations.push(Registration { nexus: resolve(&saved.nexus)?, key, all_target_ports });
    }
    let at = |place: u32| registrations.get(usize::try_from(place).ok()?).map(|one| one.nexus);
    let reservation = snapshot.reservation.map(|(kind, holder)| {
        let named = holder.and_then(at);
        let single = named.filter(|_| !kind.is_all_registrants());
        let holder = single.map_or(Holder::All { marked: named }, Holder::One);
        Reservation { kind, holder }
    });
    let spc2 = snapshot.spc2.as_ref().map(&mut resolve).transpose()?;
    let mut attentions = Vec::new();
    for (nexus, waiting) in &snapshot.attentions {
        let nexus = resolve(nexus)?;
        attentions.extend(waiting.iter().map(|condition| (nexus, *condition)));
    }
    nexuses.set_target_ports(&present);
    let state = Reservations::restored(registrations, reservation, snapshot.aptpl, snapshot.lost);
    let mut unit = PrUnit::restored(opened.profile, state.resumed(snapshot.generation, spc2));
    attentions.into_iter().for_each(|(nexus, condition)| unit.waits(nexus, condition));
    Ok(unit)
}

/// The same whatever handles the nexuses have.
fn comparable(image: &Image) -> Image {
    let mut sorted = image.clone();
    let at = |place: u32| image.registrations.get(usize::try_from(place).ok()?);
    let holder = image.reservation.and_then(|(_, holder)| holder).and_then(at);
    sorted.registrations.sort_by(|one, other| one.nexus.cmp(&other.nexus));
    let place = sorted.registrations.iter().position(|one| Some(one) == holder);
    let place = place.and_then(|place| u32::try_from(place).ok());
    sorted.reservation = image.reservation.map(|(kind, _)| (kind, place));
    sorted
}
