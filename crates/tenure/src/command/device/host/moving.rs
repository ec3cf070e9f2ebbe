//! A guest's logical units leave this process and come into it, all of them or none.

use super::{Host, Hosted, Luns, Slot};
use crate::command::device::lun::Kind as Source;
use logical_unit::snapshot::{self, ResumeError, Snapshot};
use logical_unit::{LogicalUnit, LunSpec, Medium};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use vhost_user_scsi::saved::{Kind, Saved, SavedError, SavedLun};
use vhost_user_scsi::target::Lun;
use vhost_user_scsi::unit::Unit;

/// How long the last user of a logical unit may need to let it go: a queue or a command that is just ending.
const LETTING_GO: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(2);

/// Why logical units do not move.
#[derive(Debug, Error)]
pub(in crate::command::device) enum MoveError {
    /// They are somebody else's, too.
    #[error(
        "the device serves other guests, which have the same LUNs: a guest that shares a LUN moves between two sockets of one \
         device (--name given twice)"
    )]
    Shared,
    /// They are not here.
    #[error("its LUNs are not open here")]
    Closed,
    /// One that only this process has.
    #[error("LUN {0} is memory of one process, and cannot be reached from another one")]
    Memory(u8),
    /// One of an array.
    #[error(
        "LUN {0} is none of Tenure's own: one of a target or of this host does not move between two devices yet"
    )]
    Real(u8),
    /// One that cannot be put down.
    #[error("LUN {0}: {1}")]
    Snapshot(u8, snapshot::SnapshotError),
    /// Somebody uses one.
    #[error("LUN {0} is still in use")]
    InUse(u8),
    /// The state cannot be carried, or read.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// It is of another guest.
    #[error("it is the state of guest {0}")]
    Guest(String),
    /// The device here has less.
    #[error("its device has {there} request queues, and this one {here}: give it --num-queues {there}")]
    Queues {
        /// Here.
        here: u16,
        /// Where it comes from.
        there: u16,
    },
    /// The two sides have not the same LUNs.
    #[error("LUN {number} is {}: both devices need the same --lun, in the same order", if *.here { "here and not there" } else { "there and not here" })]
    Luns {
        /// Its number.
        number: u8,
        /// On which side it is.
        here: bool,
    },
    /// One whose file or device is not there.
    #[error("LUN {0}: {1}")]
    Missing(u8, std::io::Error),
    /// A state of another kind of LUN.
    #[error("LUN {0} is of another kind there")]
    Kind(u8),
    /// One whose state is unfit.
    #[error("LUN {0}: its state: {1}")]
    Parse(u8, logical_unit::aptpl::ImageError),
    /// One that cannot be taken up.
    #[error("LUN {0}: {1}")]
    Resume(u8, ResumeError),
    /// One that cannot be opened.
    #[error("LUN {0}: {1}")]
    Open(u8, logical_unit::OpenError),
}

impl Host {
    /// The state of the one guest's device; it may run.
    pub(in crate::command::device) fn save(&self) -> Result<Vec<u8>, MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let luns = self.lock();
        if luns.closed {
            return Err(MoveError::Closed);
        }
        let saved = Saved {
            guest: hosted.guest.name.clone(),
            request_queues: hosted.device.settings().request_queues,
            luns: luns
                .slots
                .iter()
                .map(|(number, slot)| save(hosted, *number, slot))
                .collect::<Result<_, _>>()?,
        };
        Ok(saved.to_bytes()?)
    }

    /// Whether `bytes` are a state that this device can go on with, as far as that can be said without opening anything.
    pub(in crate::command::device) fn check(&self, bytes: &[u8]) -> Result<(), MoveError> {
        let luns = self.lock();
        self.read(&luns, bytes).map(drop)
    }

    /// Whether the logical units are open.
    pub(in crate::command::device) fn is_open(&self) -> bool {
        !self.lock().closed
    }

    /// Lets every logical unit go; no ring of the guest's runs. Nothing has changed after an error.
    pub(in crate::command::device) fn close(&self) -> Result<(), MoveError> {
        let mut luns = self.lock();
        if luns.closed {
            return Ok(());
        }
        let taken = self.suspend_all(&luns);
        let end = Instant::now() + LETTING_GO;
        if let Some(number) = self.in_use(&luns, &taken, end) {
            for (hosted, lun) in taken {
                resume(hosted, lun.number, Arc::clone(&lun.unit), lun.is_changed());
            }
            return Err(MoveError::InUse(number));
        }
        drop(taken);
        for slot in luns.slots.values_mut() {
            // What is kept for the next process here is of the past as soon as somebody else serves it.
            let forgotten = slot.unit.take().map_or(Ok(()), |unit| unit.forget_kept());
            if let Err(error) = forgotten {
                tracing::warn!(lun = slot.lun.text, %error, "what was kept of it stays");
            }
        }
        luns.closed = true;
        Ok(())
    }

    fn suspend_all(&self, luns: &Luns) -> Vec<(&Hosted, Arc<Lun>)> {
        let of = |hosted| luns.slots.keys().filter_map(move |number| suspend(hosted, *number));
        self.guests.iter().flat_map(of).collect()
    }

    /// A logical unit that somebody still has at `end`, beside its slot and the guests' nexuses to it.
    fn in_use(&self, luns: &Luns, taken: &[(&Hosted, Arc<Lun>)], end: Instant) -> Option<u8> {
        let is_free = |lun: &Arc<Lun>| {
            let own = 1 + self.guests.len();
            let unit = luns.slots.get(&lun.number).and_then(|slot| slot.unit.as_ref());
            let counts = (Arc::strong_count(lun), Arc::strong_count(&lun.unit));
            counts == (1, 1) && unit.is_none_or(|unit| Arc::strong_count(unit) == own)
        };
        loop {
            let used = taken.iter().find(|(_, lun)| !is_free(lun)).map(|(_, lun)| lun.number)?;
            if Instant::now() >= end {
                return Some(used);
            }
            thread::sleep(LOOK);
        }
    }

    /// Takes up every logical unit with the state that [`Host::save`] gave elsewhere, or here.
    pub(in crate::command::device) fn resume(&self, bytes: &[u8]) -> Result<(), MoveError> {
        let mut luns = self.lock();
        if !luns.closed {
            return Ok(());
        }
        let saved = self.read(&luns, bytes)?;
        let mut units = BTreeMap::new();
        for taken in saved {
            let number = taken.number;
            let unit = LogicalUnit::resume(&taken.spec, &taken.snapshot);
            let unit = unit.map_err(|error| MoveError::Resume(number, error))?;
            units.insert(number, (unit, taken.changed));
        }
        self.put(&mut luns, units);
        Ok(())
    }

    /// Opens every logical unit without a state, as after a power cycle.
    pub(in crate::command::device) fn reopen(&self) -> Result<(), MoveError> {
        let mut luns = self.lock();
        if !luns.closed {
            return Ok(());
        }
        let mut units = BTreeMap::new();
        for (number, slot) in &luns.slots {
            let unit = super::open(spec(*number, slot)?).map_err(|error| MoveError::Open(*number, error))?;
            units.insert(*number, (unit, false));
        }
        self.put(&mut luns, units);
        Ok(())
    }

    /// Silently: for the guest nothing has changed.
    fn put(&self, luns: &mut Luns, units: BTreeMap<u8, (Arc<LogicalUnit>, bool)>) {
        for (number, (unit, changed)) in units {
            for hosted in &self.guests {
                resume(hosted, number, hosted.nexus_to(&unit), changed);
            }
            if let Some(slot) = luns.slots.get_mut(&number) {
                slot.unit = Some(unit);
            }
        }
        luns.closed = false;
    }

    /// The logical units of a state that fits this device.
    fn read(&self, luns: &Luns, bytes: &[u8]) -> Result<Vec<Taken>, MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let saved = Saved::parse(bytes)?;
        if saved.guest != hosted.guest.name {
            return Err(MoveError::Guest(saved.guest));
        }
        let (here, there) = (hosted.device.settings().request_queues, saved.request_queues);
        if here < there {
            return Err(MoveError::Queues { here, there });
        }
        let is_there = |number: &u8| saved.luns.iter().any(|lun| lun.number == *number);
        if let Some(number) = luns.slots.keys().find(|number| !is_there(number)) {
            return Err(MoveError::Luns { number: *number, here: true });
        }
        saved.luns.iter().map(|lun| read(luns, lun)).collect()
    }
}

/// A logical unit of a state, and what is to be opened for it here.
struct Taken {
    number: u8,
    changed: bool,
    spec: LunSpec,
    snapshot: Snapshot,
}

fn suspend(hosted: &Hosted, number: u8) -> Option<(&Hosted, Arc<Lun>)> {
    Some((hosted, hosted.device.target().suspend(number)?))
}

fn resume(hosted: &Hosted, number: u8, unit: Arc<dyn Unit>, changed: bool) {
    if let Err(error) = hosted.device.resume(number, unit, changed) {
        tracing::error!(lun = number, %error, "not attached");
    }
}

fn spec(number: u8, slot: &Slot) -> Result<&LunSpec, MoveError> {
    match &slot.lun.kind {
        Source::Emulated(spec) if matches!(spec.medium, Medium::Memory { .. }) => {
            Err(MoveError::Memory(number))
        }
        Source::Emulated(spec) => Ok(spec),
        Source::Disk(_) | Source::Iscsi(_) => Err(MoveError::Real(number)),
    }
}

fn save(hosted: &Hosted, number: u8, slot: &Slot) -> Result<SavedLun, MoveError> {
    spec(number, slot)?;
    let unit = slot.unit.as_ref().ok_or(MoveError::Closed)?;
    let snapshot = unit.snapshot().map_err(|error| MoveError::Snapshot(number, error))?;
    let name = format!("naa.{:016x}", snapshot.naa);
    let changed = hosted.device.target().table().get(number).is_some_and(|lun| lun.is_changed());
    Ok(SavedLun { number, kind: Kind::Emulated, changed, name, state: snapshot.to_bytes() })
}

fn read(luns: &Luns, lun: &SavedLun) -> Result<Taken, MoveError> {
    let number = lun.number;
    let slot = luns.slots.get(&number).ok_or(MoveError::Luns { number, here: false })?;
    let spec = spec(number, slot)?;
    if lun.kind != Kind::Emulated {
        return Err(MoveError::Kind(number));
    }
    let snapshot = Snapshot::parse(&lun.state).map_err(|error| MoveError::Parse(number, error))?;
    let wanted = snapshot.naa;
    let found = snapshot::naa_of(spec).map_err(|error| MoveError::Missing(number, error))?;
    match found.ok_or(MoveError::Memory(number))? {
        found if found != wanted => Err(MoveError::Resume(number, ResumeError::Other { found, wanted })),
        _ => Ok(Taken { number, changed: lun.changed, spec: spec.clone(), snapshot }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use std::path::Path;

    fn host(folder: &Path, more: &[&str]) -> Host {
        let socket = folder.join("a.sock").display().to_string();
        let lun = format!("file={},size=1M", folder.join("disk").display());
        let line = [&["tenure", "device", "--socket", &socket, "--lun", &lun], more].concat();
        let Command::Device(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("another command")
        };
        let guests = crate::command::device::guests::guests(&args).unwrap();
        Host::open(&args, &guests, false).unwrap()
    }

    #[test]
    fn logical_units_are_put_down_and_taken_up_again() {
        let folder = tempfile::TempDir::new().unwrap();
        let (here, there) = (host(folder.path(), &[]), folder.path().to_owned());
        let state = here.save().unwrap();
        here.check(&state).unwrap();
        here.close().unwrap();
        assert!(here.guests()[0].device.target().table().get(0).is_none());
        // The file is free.
        let other = host(&there, &[]);
        assert!(matches!(here.resume(&state), Err(MoveError::Resume(0, _))));
        assert!(!here.is_open());
        drop(other);
        here.resume(&state).unwrap();
        assert!(here.is_open() && here.guests()[0].device.target().table().get(0).is_some());
        assert_eq!(here.save().unwrap(), state);
        here.close().unwrap();
        assert!(matches!(here.save(), Err(MoveError::Closed)));
        here.reopen().unwrap();
    }

    #[test]
    fn a_logical_unit_in_use_is_not_let_go_and_goes_on() {
        let folder = tempfile::TempDir::new().unwrap();
        let host = host(folder.path(), &[]);
        let used = host.guests()[0].device.target().table().get(0).cloned().unwrap();
        assert!(matches!(host.close(), Err(MoveError::InUse(0))));
        assert!(host.is_open() && host.guests()[0].device.target().table().get(0).is_some());
        assert_eq!(used.unit.data_out_length(&[0; 6]), Some(0));
        drop(used);
        host.close().unwrap();
    }

    #[test]
    fn what_cannot_move_says_why() {
        let folder = tempfile::TempDir::new().unwrap();
        let state = host(folder.path(), &["--num-queues", "2"]).save().unwrap();
        assert!(matches!(host(folder.path(), &["--lun", "memory=1M"]).save(), Err(MoveError::Memory(1))));
        let second = folder.path().join("b.sock").display().to_string();
        assert!(matches!(host(folder.path(), &["--socket", &second]).save(), Err(MoveError::Shared)));
        let refused = |more: &[&str]| host(folder.path(), more).check(&state).unwrap_err().to_string();
        let message = refused(&["--num-queues", "1"]);
        assert!(message.contains("--num-queues 2"), "{message}");
        let message = refused(&["--lun", "memory=1M"]);
        assert!(message.contains("LUN 1 is here and not there"), "{message}");
        let message = refused(&["--name", "b"]);
        assert!(message.contains("guest a"), "{message}");
    }
}
