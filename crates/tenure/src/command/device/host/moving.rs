//! A guest's logical units leave this process and come into it, all of them or none.
//!
//! Those that Tenure is itself are closed here and opened there with their state; with one at a target the guest's initiator port goes
//! (`real::moving`). Before anything has changed both sides say what would keep the guest from moving ([`Host::save`], [`Host::check`]).

mod registrations;

use super::{Host, Hosted, Luns, Slot};
use crate::command::device::handed::HandError;
use crate::command::device::lun::Kind as Source;
use crate::command::device::real::{Hindrance, RealUnit, Stays};
use logical_unit::snapshot::{self, ResumeError, Snapshot, Stamp};
use logical_unit::{Caching, LogicalUnit, LunSpec, Medium};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use vhost_user_scsi::saved::{Kind, Saved, SavedError, SavedLun};
use vhost_user_scsi::target::Lun;
use vhost_user_scsi::unit;

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
    /// One of an array or of this host.
    #[error("LUN {0}: {1}")]
    Real(u8, Hindrance),
    /// Those at targets could not be let go.
    #[error(transparent)]
    Leave(#[from] Hindrance),
    /// What is registered there is not wanted here.
    #[error("LUN {0} has migrate-pr=off here")]
    Off(u8),
    /// Its data may be in a page cache of one host.
    #[error(
        "LUN {0}: a block device moves only with direct I/O: what is in a host's page cache would be old, or lost"
    )]
    Buffered(u8),
    /// Nothing says that it is the same one on another host.
    #[error(
        "LUN {0}: nothing but its path says which block device it is: give it a serial number, or use LVM, so that it names itself"
    )]
    Nameless(u8),
    /// What ties its state to its file cannot be written, or removed.
    #[error("LUN {0}: the stamp beside its reservations: {1}")]
    Stamp(u8, std::io::Error),
    /// A state that is not one.
    #[error("its state is cut short")]
    Cut,
    /// One whose data cannot be made durable.
    #[error("LUN {0}: {1}")]
    Undurable(u8, std::io::Error),
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
    /// Its registrations are another host's nexus's yet.
    #[error(transparent)]
    Handed(#[from] HandError),
    /// They are on their way.
    #[error("its registrations are being brought here")]
    UnderWay,
}

impl Host {
    /// The state of the one guest's device, whose rings have stopped, for who goes on with it: what the guest was told is written is durable,
    /// and beside each file is `stamp`, not 0. The logical units stay as they are then ([`Host::freeze`]).
    pub(in crate::command::device) fn give(&self, stamp: u128) -> Result<Vec<u8>, MoveError> {
        self.freeze(true);
        self.settle()?;
        self.stamp(stamp)?;
        // Last: it takes from targets what only comes once.
        self.state(stamp)
    }

    fn stamp(&self, stamp: u128) -> Result<(), MoveError> {
        let luns = self.lock();
        for (number, slot) in luns.slots.iter().filter(|(_, slot)| is_file(&slot.lun.kind)) {
            let unit = slot.unit.as_ref().ok_or(MoveError::Closed)?;
            unit.stamp(Stamp(stamp)).map_err(|error| MoveError::Stamp(*number, error))?;
        }
        Ok(())
    }

    /// The state of the one guest's device, for who only wants to look at it; it may run.
    pub(in crate::command::device) fn save(&self) -> Result<Vec<u8>, MoveError> {
        self.state(0)
    }

    /// The stamp, 16 bytes, big-endian, and the state.
    fn state(&self, stamp: u128) -> Result<Vec<u8>, MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let luns = self.lock();
        if luns.closed {
            return Err(MoveError::Closed);
        }
        let real = luns.slots.iter().map(|(number, slot)| (*number, &slot.lun));
        let stays = hosted.real.stays(real)?;
        let saved = Saved {
            guest: hosted.guest.name.clone(),
            request_queues: hosted.device.settings().request_queues,
            luns: luns
                .slots
                .iter()
                .map(|(number, slot)| save(hosted, *number, slot, &stays))
                .collect::<Result<_, _>>()?,
        };
        Ok([&stamp.to_be_bytes()[..], &saved.to_bytes()?].concat())
    }

    /// Makes durable what the guest was told is written; its rings have stopped.
    fn settle(&self) -> Result<(), MoveError> {
        let luns = self.lock();
        let units = luns.slots.iter().filter_map(|(number, slot)| Some((*number, slot.unit.as_ref()?)));
        for (number, unit) in units {
            unit.settle().map_err(|error| MoveError::Undurable(number, error))?;
        }
        Ok(())
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
        self.let_go(&mut self.lock())
    }

    fn let_go(&self, luns: &mut Luns) -> Result<(), MoveError> {
        if luns.closed {
            return Ok(());
        }
        let taken = self.suspend_all(luns);
        let end = Instant::now() + LETTING_GO;
        let freed = match self.in_use(luns, &taken, end) {
            Some(number) => Err(MoveError::InUse(number)),
            // Who may go on elsewhere waits for nobody's logout.
            None if luns.fresh.is_some() => {
                self.guests.iter().for_each(|hosted| hosted.real.drop_all());
                Ok(())
            }
            None => self.guests.iter().try_for_each(|hosted| Ok(hosted.real.let_go()?)),
        };
        if freed.is_err() {
            for (hosted, lun) in taken {
                resume(hosted, lun.number, Arc::clone(&lun.unit), lun.is_changed());
            }
            return freed;
        }
        drop(taken);
        for slot in luns.slots.values_mut() {
            // What is kept for the next process here is of the past as soon as somebody else serves it.
            let forgotten = slot.unit.take().map_or(Ok(()), |unit| unit.forget_kept());
            if let Err(error) = forgotten {
                tracing::warn!(lun = slot.lun.text, %error, "what was kept of it stays");
            }
        }
        (luns.closed, luns.fresh) = (true, None);
        Ok(())
    }

    fn suspend_all(&self, luns: &Luns) -> Vec<(&Hosted, Arc<Lun>)> {
        let of = |hosted| luns.slots.keys().filter_map(move |number| suspend(hosted, *number));
        self.guests.iter().flat_map(of).collect()
    }

    /// A logical unit that somebody still has at `end`, beside its slot, the guest that is its host to a target, and the guests'
    /// nexuses to it.
    fn in_use(&self, luns: &Luns, taken: &[(&Hosted, Arc<Lun>)], end: Instant) -> Option<u8> {
        let is_free = |hosted: &Hosted, lun: &Arc<Lun>| {
            let own = 1 + self.guests.len();
            let unit = luns.slots.get(&lun.number).and_then(|slot| slot.unit.as_ref());
            let counts = (Arc::strong_count(lun), Arc::strong_count(&lun.unit));
            counts == (1, 1 + usize::from(hosted.real.has(lun.number)))
                && unit.is_none_or(|unit| Arc::strong_count(unit) == own)
        };
        loop {
            let used = taken.iter().find(|(hosted, lun)| !is_free(hosted, lun)).map(|(_, lun)| lun.number)?;
            if Instant::now() >= end {
                return Some(used);
            }
            thread::sleep(LOOK);
        }
    }

    /// Takes up every logical unit with the state that [`Host::save`] gave elsewhere, or here; those that are open with another one are
    /// let go first.
    pub(in crate::command::device) fn resume(&self, bytes: &[u8]) -> Result<(), MoveError> {
        let mut luns = self.lock();
        // Fresh are only those that are open.
        if luns.fresh.as_deref() == Some(bytes) {
            return Ok(());
        }
        self.let_go(&mut luns)?;
        let saved = self.read(&luns, bytes)?;
        let found = saved.iter().map(|taken| self.take(&luns, taken)).collect::<Result<_, _>>();
        let units = found.and_then(|units| self.go_on(&saved).map(|()| units));
        self.put_all(&mut luns, units, bytes)
    }

    /// What is taken from the guest at targets is taken only when nothing is missing any more that could have been known before.
    fn go_on(&self, saved: &[Taken]) -> Result<(), MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        saved.iter().filter(|taken| taken.own.is_none()).try_for_each(|Taken { saved, .. }| {
            let gone_on = hosted.real.go_on(saved.number, saved);
            gone_on.map_err(|why| MoveError::Real(saved.number, why))
        })
    }

    fn take(&self, luns: &Luns, taken: &Taken) -> Result<(u8, Opened), MoveError> {
        let (number, changed) = (taken.saved.number, taken.saved.changed);
        let unit = match &taken.own {
            Some((spec, snapshot)) => {
                let unit = if taken.stamp == Stamp(0) || is_block(spec) {
                    LogicalUnit::resume(spec, snapshot)
                } else {
                    LogicalUnit::resume_given(spec, snapshot, taken.stamp)
                };
                let unit = unit.map_err(|error| MoveError::Resume(number, error))?;
                must_be_direct(number, spec, &unit)?;
                Unit::Own(unit)
            }
            None => {
                let ([hosted], Some(slot)) = (self.guests(), luns.slots.get(&number)) else {
                    return Err(MoveError::Shared);
                };
                let unit = hosted.real.find(hosted, number, &slot.lun, &taken.saved);
                Unit::Real(unit.map_err(|why| MoveError::Real(number, why))?)
            }
        };
        Ok((number, Opened { unit, changed }))
    }

    /// Opens every logical unit without a state, as after a power cycle.
    pub(in crate::command::device) fn reopen(&self) -> Result<(), MoveError> {
        let mut luns = self.lock();
        if !luns.closed {
            return Ok(());
        }
        let units = luns.slots.iter().map(|(number, slot)| self.open_again(*number, slot)).collect();
        self.put_all(&mut luns, units, &[])?;
        // Their sessions are the guest's own again.
        self.guests.iter().for_each(|hosted| hosted.real.desk().kept.clear());
        // The guest hears of it (29h/01h): it has lost registrations that it counts on.
        luns.slots.values().filter_map(|slot| slot.unit.as_ref()).for_each(|unit| unit.power_cycle());
        Ok(())
    }

    fn open_again(&self, number: u8, slot: &Slot) -> Result<(u8, Opened), MoveError> {
        let unit = if let Source::Emulated(_) = &slot.lun.kind {
            let unit = super::open(spec(number, slot)?, LogicalUnit::open_anew)
                .map_err(|error| MoveError::Open(number, error))?;
            Unit::Own(unit)
        } else {
            let [hosted] = self.guests() else { return Err(MoveError::Shared) };
            let unit = hosted.real.claim(hosted, number, &slot.lun);
            let opened = |failure: crate::exit::Failure| Hindrance::Open(failure.to_string());
            Unit::Real(unit.map_err(|failure| MoveError::Real(number, opened(failure)))?)
        };
        Ok((number, Opened { unit, changed: false }))
    }

    fn put_all(
        &self,
        luns: &mut Luns,
        units: Result<BTreeMap<u8, Opened>, MoveError>,
        state: &[u8],
    ) -> Result<(), MoveError> {
        if units.is_err() {
            // Those that came before the one that could not be opened: the guest may go on elsewhere.
            self.guests.iter().for_each(|hosted| hosted.real.drop_all());
        }
        self.put(luns, units?);
        luns.fresh = Some(state.to_vec());
        Ok(())
    }

    /// Puts the state that they were taken up with in force, for whoever opens them next.
    pub(in crate::command::device) fn publish(&self) -> Result<(), MoveError> {
        if self.is_open() { Ok(()) } else { Err(MoveError::Closed) }
    }

    /// They are about to be served here: a state that was saved before is good for nobody any more.
    pub(in crate::command::device) fn begin(&self) -> Result<(), MoveError> {
        let mut luns = self.lock();
        if luns.closed {
            return Err(MoveError::Closed);
        }
        let units = luns.slots.iter().filter_map(|(number, slot)| Some((*number, slot.unit.as_ref()?)));
        for (number, unit) in units {
            unit.unstamp().map_err(|error| MoveError::Stamp(number, error))?;
        }
        for hosted in &self.guests {
            hosted.real.begin()?;
        }
        luns.fresh = None;
        Ok(())
    }

    /// Silently: for the guest nothing has changed.
    fn put(&self, luns: &mut Luns, units: BTreeMap<u8, Opened>) {
        for (number, Opened { unit, changed }) in units {
            for hosted in &self.guests {
                let nexus = match &unit {
                    Unit::Own(unit) => hosted.nexus_to(unit),
                    Unit::Real(unit) => unit.unit(),
                };
                resume(hosted, number, nexus, changed);
            }
            if let (Unit::Own(unit), Some(slot)) = (unit, luns.slots.get_mut(&number)) {
                slot.unit = Some(unit);
            }
        }
        luns.closed = false;
    }

    /// The logical units of a state that fits this device.
    fn read(&self, luns: &Luns, bytes: &[u8]) -> Result<Vec<Taken>, MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let (stamp, saved) = parse(bytes)?;
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
        saved.luns.into_iter().map(|lun| read(hosted, luns, lun, stamp)).collect()
    }
}

fn parse(bytes: &[u8]) -> Result<(Stamp, Saved), MoveError> {
    let (stamp, bytes) = bytes.split_first_chunk().ok_or(MoveError::Cut)?;
    Ok((Stamp(u128::from_be_bytes(*stamp)), Saved::parse(bytes)?))
}

/// A logical unit of a state, and what is to be opened for it here if Tenure is it.
struct Taken {
    saved: SavedLun,
    own: Option<(LunSpec, Snapshot)>,
    /// Beside its file, if it is not 0.
    stamp: Stamp,
}

/// A logical unit that is open and not in its place yet.
struct Opened {
    unit: Unit,
    /// REPORTED LUNS DATA HAS CHANGED waits.
    changed: bool,
}

enum Unit {
    Own(Arc<LogicalUnit>),
    Real(RealUnit),
}

fn suspend(hosted: &Hosted, number: u8) -> Option<(&Hosted, Arc<Lun>)> {
    Some((hosted, hosted.device.target().suspend(number)?))
}

fn resume(hosted: &Hosted, number: u8, unit: Arc<dyn unit::Unit>, changed: bool) {
    if let Err(error) = hosted.device.resume(number, unit, changed) {
        tracing::error!(lun = number, %error, "not attached");
    }
}

fn spec(number: u8, slot: &Slot) -> Result<&LunSpec, MoveError> {
    match &slot.lun.kind {
        Source::Emulated(spec) if matches!(spec.medium, Medium::Memory { .. }) => {
            Err(MoveError::Memory(number))
        }
        Source::Emulated(spec) if is_block(spec) && spec.direct == Some(false) => {
            Err(MoveError::Buffered(number))
        }
        Source::Emulated(spec) => Ok(spec),
        Source::Disk(_) | Source::Iscsi(_) => Err(MoveError::Kind(number)),
    }
}

const fn is_block(spec: &LunSpec) -> bool {
    matches!(spec.medium, Medium::Block { .. })
}

const fn is_file(kind: &Source) -> bool {
    matches!(kind, Source::Emulated(LunSpec { medium: Medium::File { .. }, .. }))
}

/// A path is each host's own, and beside a block device is no place for a stamp.
fn must_name_itself(number: u8, spec: &LunSpec) -> Result<(), MoveError> {
    let missing = |error| MoveError::Missing(number, error);
    let known = !is_block(spec) || snapshot::names_itself(spec).map_err(missing)?;
    if known { Ok(()) } else { Err(MoveError::Nameless(number)) }
}

/// Nothing takes what is old out of a host's page cache when another one has written to the device.
fn must_be_direct(number: u8, spec: &LunSpec, unit: &LogicalUnit) -> Result<(), MoveError> {
    let direct = !is_block(spec) || matches!(unit.caching(), Caching::Direct { .. });
    if direct { Ok(()) } else { Err(MoveError::Buffered(number)) }
}

fn save(hosted: &Hosted, number: u8, slot: &Slot, stays: &Stays) -> Result<SavedLun, MoveError> {
    let changed = hosted.device.target().table().get(number).is_some_and(|lun| lun.is_changed());
    if let Source::Iscsi(_) | Source::Disk(_) = &slot.lun.kind {
        // Shut, it lets no ring run.
        let saved = hosted.real.save(number, &slot.lun, hosted.device.gate().is_shut(), stays);
        let (way, name, state) = saved.map_err(|why| MoveError::Real(number, why))?;
        return Ok(SavedLun { number, kind: way.kind(), changed, name, state });
    }
    let spec = spec(number, slot)?;
    let unit = slot.unit.as_ref().ok_or(MoveError::Closed)?;
    must_be_direct(number, spec, unit)?;
    must_name_itself(number, spec)?;
    let snapshot = unit.snapshot().map_err(|error| MoveError::Snapshot(number, error))?;
    let name = format!("naa.{:016x}", snapshot.naa);
    Ok(SavedLun { number, kind: Kind::Emulated, changed, name, state: snapshot.to_bytes() })
}

fn read(hosted: &Hosted, luns: &Luns, saved: SavedLun, stamp: Stamp) -> Result<Taken, MoveError> {
    let number = saved.number;
    let slot = luns.slots.get(&number).ok_or(MoveError::Luns { number, here: false })?;
    if !slot.lun.migrate_pr {
        return Err(MoveError::Off(number));
    }
    match (&slot.lun.kind, saved.kind) {
        (Source::Iscsi(_), Kind::Iscsi) | (Source::Iscsi(_) | Source::Disk(_), Kind::Handed) => {
            hosted.real.fits(hosted, &slot.lun, &saved).map_err(|why| MoveError::Real(number, why))?;
            Ok(Taken { saved, own: None, stamp })
        }
        (Source::Emulated(_), Kind::Emulated) => {
            let own = read_own(number, spec(number, slot)?, &saved)?;
            Ok(Taken { saved, own: Some(own), stamp })
        }
        _ => Err(MoveError::Kind(number)),
    }
}

fn read_own(number: u8, spec: &LunSpec, saved: &SavedLun) -> Result<(LunSpec, Snapshot), MoveError> {
    let snapshot = Snapshot::parse(&saved.state).map_err(|error| MoveError::Parse(number, error))?;
    must_name_itself(number, spec)?;
    let wanted = snapshot.naa;
    let found = snapshot::naa_of(spec).map_err(|error| MoveError::Missing(number, error))?;
    match found.ok_or(MoveError::Memory(number))? {
        found if found != wanted => Err(MoveError::Resume(number, ResumeError::Other { found, wanted })),
        _ => {
            snapshot::must_present_alike(spec, &snapshot)
                .map_err(|error| MoveError::Resume(number, error))?;
            Ok((spec.clone(), snapshot))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use iscsi::target::{Target, TargetConfig};
    use ledger::{Ledger, Owner, Record, State};
    use logical_unit::Device;
    use scsi::pr::Key;
    use scsi::{AdditionalSense, Completion, DataPhase, IscsiName, Request, opcode};
    use std::path::Path;
    use vhost_user_scsi::unit::{Admission, Arrival, Ending};

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
    fn what_is_given_is_taken_up_only_until_somebody_serves_the_file_and_only_with_that_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let (here, disk) = (host(folder.path(), &[]), folder.path().join("disk"));
        let given = here.give(7).unwrap();
        assert!(here.remove(0).is_err(), "it is part of what is on its way");
        here.close().unwrap();
        let stale =
            |host: &Host, state| matches!(host.resume(state), Err(MoveError::Resume(0, ResumeError::Stamp)));
        let mut other = given.clone();
        other[15] = 8;
        assert!(stale(&here, &other) && !here.is_open());
        // As on a host of its own, where a file of the same name lies on another disk.
        let stamp = folder.path().join("disk.pr.given");
        let kept = std::fs::read(&stamp).unwrap();
        std::fs::remove_file(&stamp).unwrap();
        assert!(stale(&here, &given));
        std::fs::write(&stamp, kept).unwrap();
        here.resume(&given).unwrap();
        here.begin().unwrap();
        here.close().unwrap();
        assert!(stale(&here, &given) && disk.exists(), "it was served");
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
    fn what_is_open_with_another_state_is_taken_up_anew() {
        let folder = tempfile::TempDir::new().unwrap();
        let here = host(folder.path(), &[]);
        let open = |host: &Host| host.lock().slots.get(&0).and_then(|slot| slot.unit.clone()).unwrap();
        let (first, state) =
            (here.save().unwrap(), |more: &[&str]| host(folder.path(), more).save().unwrap());
        here.close().unwrap();
        let second = state(&["--num-queues", "1"]);
        here.resume(&first).unwrap();
        let before = Arc::as_ptr(&open(&here));
        here.resume(&first).unwrap();
        assert_eq!(Arc::as_ptr(&open(&here)), before, "once");
        let held = Arc::downgrade(&open(&here));
        here.resume(&second).unwrap();
        assert!(held.upgrade().is_none() && here.is_open());
    }

    /// Two LUNs of one target.
    fn target() -> (Target, [String; 2]) {
        let unit = || LogicalUnit::open(&"memory=1M".parse().unwrap()).unwrap();
        let name = "iqn.2026-11.example:disk";
        let config = TargetConfig::new(
            "127.0.0.1:0".parse().unwrap(),
            IscsiName::new(name).unwrap(),
            Device::new(vec![unit(), unit()]),
        );
        let target = Target::bind(config).unwrap();
        let urls = [0, 1].map(|lun| format!("iscsi://{}/{name}/{lun}", target.local_addr()));
        (target, urls)
    }

    /// A guest with LUNs at a target, here or elsewhere.
    fn at_target(folder: &Path, state: &str, urls: &[String], closed: bool) -> Host {
        let socket = folder.join("a.sock").display().to_string();
        let state = folder.join(state).display().to_string();
        let line = ["tenure", "device", "--socket", &socket, "--state", &state].map(str::to_owned);
        let luns = urls.iter().flat_map(|url| ["--lun".to_owned(), url.clone()]);
        let Command::Device(args) = Cli::try_parse_from(line.into_iter().chain(luns)).unwrap().command else {
            panic!("another command")
        };
        let guests = crate::command::device::guests::guests(&args).unwrap();
        Host::open(&args, &guests, closed).unwrap()
    }

    #[test]
    fn who_served_nobody_lets_go_of_a_target_that_has_ended_the_session() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let here = at_target(folder.path(), "here", &urls, false);
        let there = at_target(folder.path(), "there", &urls, true);
        let state = here.save().unwrap();
        here.close().unwrap();
        there.resume(&state).unwrap();
        // Goes on by itself, as the same initiator port: that ends the other one's session.
        here.resume(&state).unwrap();
        here.begin().unwrap();
        there.close().unwrap();
        assert!(!there.is_open() && here.is_open());
        let state = here.save().unwrap();
        here.close().unwrap();
        there.resume(&state).unwrap();
    }

    /// What the guest gets for TEST UNIT READY.
    fn ready(host: &Host, number: u8) -> Completion {
        let unit = host.guests()[0].real.unit(number).unwrap().unit();
        let arrival = Arrival { id: 1, cdb: &[0; 32], data_out: 0, data_in: 0 };
        let Admission::Work(work) = unit.admit(&arrival) else { panic!("not to be waited for") };
        let Ending::Status(ended) = work.run(&[]) else { panic!("lost") };
        ended
    }

    #[test]
    fn what_was_taken_for_a_move_that_comes_to_nothing_is_given_to_the_guest() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let host = at_target(folder.path(), "here", &urls, false);
        for lun in [0, 1] {
            assert!((0..8).any(|_| ready(&host, lun).status.is_good()));
        }
        let unit = |lun| host.guests()[0].real.unit(lun).unwrap();
        assert_eq!(unit(0).unit().manage(unit::Function::LogicalUnitReset), unit::Managed::Complete);
        let reserve = Request { cdb: vec![opcode::RESERVE_6, 0, 0, 0, 0, 0], data: DataPhase::None };
        assert!(unit(1).nexus().unwrap().execute(&reserve).unwrap().status.is_good());
        host.guests()[0].device.gate().shut().unwrap();
        assert!(matches!(host.save(), Err(MoveError::Real(1, Hindrance::Reserved))));
        let told = nexus::unit_attention(&ready(&host, 0));
        assert_eq!(told, Some(AdditionalSense::TARGET_RESET));
        assert!(ready(&host, 0).status.is_good(), "once");
    }

    /// State and key as the ledger has them.
    fn recorded(folder: &Path, state: &str) -> Vec<(State, Option<Key>)> {
        let guest = Ledger::open(&folder.join(state)).unwrap().guest(&Owner("a".into())).unwrap();
        let key = |record: &Record| record.paths.iter().find_map(|path| path.tracked.key);
        guest.records().iter().map(|record| (record.standing(), key(record))).collect()
    }

    /// The guest registers; `known`: by its own command, of which account is kept.
    fn register(host: &Host, known: bool) {
        let request = scsi::pr::request::register(Key::NONE, Key(7), false);
        let DataPhase::Out(list) = &request.data else { panic!("no list") };
        assert!((0..8).any(|_| ready(host, 0).status.is_good()));
        let unit = host.guests()[0].real.unit(0).unwrap();
        if known {
            let mut cdb = [0; 32];
            cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
            let arrival = Arrival { id: 1, cdb: &cdb, data_out: list.len(), data_in: 0 };
            let Admission::Work(work) = unit.unit().admit(&arrival) else { panic!("not to be waited for") };
            assert!(matches!(work.run(list), Ending::Status(ended) if ended.status.is_good()));
        } else {
            assert!(unit.nexus().unwrap().execute(&request).unwrap().status.is_good());
        }
    }

    #[test]
    fn a_registration_that_the_other_host_did_not_tell_of_is_found() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let here = at_target(folder.path(), "here", &urls[..1], false);
        let there = at_target(folder.path(), "there", &urls[..1], true);
        register(&here, false);
        let state = here.save().unwrap();
        assert_eq!(recorded(folder.path(), "here"), []);
        here.close().unwrap();
        there.resume(&state).unwrap();
        assert_eq!(recorded(folder.path(), "there"), [(State::Active, Some(Key(7)))]);
    }

    #[test]
    fn a_guest_that_custody_says_is_here_is_not_kept_from_its_registration_by_the_record() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let here = at_target(folder.path(), "here", &urls[..1], false);
        register(&here, true);
        here.close().unwrap();
        assert_eq!(recorded(folder.path(), "here"), [(State::Moved, Some(Key(7)))]);
        drop(here);
        let here = at_target(folder.path(), "here", &urls[..1], false);
        assert_eq!(recorded(folder.path(), "here"), [(State::Active, Some(Key(7)))]);
        here.save().unwrap();
    }

    #[test]
    fn the_record_of_a_guest_that_is_elsewhere_says_so_also_after_a_kill() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let here = at_target(folder.path(), "here", &urls[..1], false);
        register(&here, true);
        let state = here.save().unwrap();
        here.close().unwrap();
        let there = at_target(folder.path(), "there", &urls[..1], true);
        there.resume(&state).unwrap();
        assert_eq!(recorded(folder.path(), "there"), [(State::Active, Some(Key(7)))]);
        drop(there);
        let there = at_target(folder.path(), "there", &urls[..1], true);
        assert_eq!(recorded(folder.path(), "there"), [(State::Moved, Some(Key(7)))]);
        there.resume(&state).unwrap();
        assert_eq!(recorded(folder.path(), "there"), [(State::Active, Some(Key(7)))]);
    }

    #[test]
    fn a_block_device_moves_only_past_the_page_cache() {
        let spec_of = |text: &str| {
            let slot = Slot { lun: crate::command::device::lun::Lun::parse(text).unwrap(), unit: None };
            spec(3, &slot).map(drop)
        };
        assert!(spec_of("block=/dev/a,reservations=/b").is_ok());
        assert!(spec_of("file=/a,direct=off").is_ok());
        assert!(matches!(spec_of("block=/dev/a,reservations=/b,direct=off"), Err(MoveError::Buffered(3))));
    }

    #[test]
    fn a_block_device_moves_only_if_it_names_itself() {
        let folder = tempfile::TempDir::new().unwrap();
        let host = host(folder.path(), &[]);
        // Of no block device, so that nothing is known of it.
        let lun = crate::command::device::lun::Lun::parse("block=/dev/null,reservations=/b").unwrap();
        let of = |spec: &str| {
            let unit = LogicalUnit::open(&spec.parse().unwrap()).unwrap();
            let direct = matches!(unit.caching(), Caching::Direct { .. });
            host.lock().slots.insert(3, Slot { lun: lun.clone(), unit: Some(unit) });
            (host.save(), direct)
        };
        assert!(matches!(of("memory=1M").0, Err(MoveError::Buffered(3))));
        let file = format!("file={},size=1M,direct=on", folder.path().join("other").display());
        match of(&file) {
            (Err(MoveError::Nameless(3)), true) | (Err(MoveError::Buffered(3)), false) => {}
            other => panic!("{other:?}"),
        }
        let state = Snapshot { profile: "spc".into(), ..Snapshot::default() }.to_bytes();
        let saved = SavedLun { number: 3, kind: Kind::Emulated, changed: false, name: String::new(), state };
        let Source::Emulated(spec) = &lun.kind else { panic!("another kind") };
        assert!(matches!(read_own(3, spec, &saved), Err(MoveError::Nameless(3))));
    }

    #[test]
    fn what_a_killed_device_left_is_not_gone_on_with_where_the_guest_was_elsewhere_since() {
        let folder = tempfile::TempDir::new().unwrap();
        let of = |closed: bool| {
            let lun = format!("file={},size=1M", folder.path().join("disk").display());
            let socket = folder.path().join("a.sock").display().to_string();
            let line = ["tenure", "device", "--socket", &socket, "--lun", &lun];
            let Command::Device(args) = Cli::try_parse_from(line).unwrap().command else { panic!("another") };
            Host::open(&args, &crate::command::device::guests::guests(&args).unwrap(), closed).unwrap()
        };
        let unit = |host: &Host| host.lock().slots.get(&0).and_then(|slot| slot.unit.clone()).unwrap();
        let registrations =
            |host: &Host| unit(host).inspect(|unit| unit.reservations().registrations().iter().count());
        let here = of(false);
        let nexus = hosted_nexus(&here);
        let request = scsi::pr::request::register(Key::NONE, Key(7), false);
        let DataPhase::Out(list) = &request.data else { panic!("no list") };
        let mut cdb = [0; 32];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let arrival = Arrival { id: 1, cdb: &cdb, data_out: list.len(), data_in: 0 };
        let Admission::Work(work) = nexus.admit(&arrival) else { panic!("not to be waited for") };
        assert!(matches!(work.run(list), Ending::Status(ended) if ended.status.is_good()));
        assert_eq!(registrations(&here), 1);
        drop((nexus, here));
        let here = of(true);
        here.reopen().unwrap();
        assert_eq!(registrations(&here), 0);
        let arrival = Arrival { id: 2, cdb: &[0; 32], data_out: 0, data_in: 0 };
        let told = match hosted_nexus(&here).admit(&arrival) {
            Admission::Work(work) => work.run(&[]),
            Admission::Ended(ended) => ended,
            other => panic!("{other:?}"),
        };
        let Ending::Status(told) = told else { panic!("{told:?}") };
        assert_eq!(nexus::unit_attention(&told), Some(AdditionalSense::POWER_ON), "{told:?}");
    }

    fn hosted_nexus(host: &Host) -> Arc<dyn unit::Unit> {
        let table = host.guests()[0].device.target().table();
        Arc::clone(&table.get(0).unwrap().unit)
    }

    #[test]
    fn logical_units_that_were_found_before_one_that_is_missing_are_let_go() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let here = at_target(folder.path(), "here", &urls, false);
        let state = here.save().unwrap();
        here.close().unwrap();
        let wrong = at_target(folder.path(), "wrong", &[urls[0].clone(), urls[0].clone()], true);
        assert!(matches!(wrong.resume(&state), Err(MoveError::Real(1, _))));
        assert!(!wrong.is_open() && !wrong.guests()[0].real.has(0), "its session would keep the guest out");
        here.resume(&state).unwrap();
    }

    #[test]
    fn who_has_served_the_guest_lets_go_only_with_a_logout_that_is_confirmed() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let here = at_target(folder.path(), "here", &urls[..1], false);
        let there = at_target(folder.path(), "there", &urls[..1], true);
        let state = here.save().unwrap();
        here.close().unwrap();
        here.resume(&state).unwrap();
        here.begin().unwrap();
        // Another one as the same initiator port: that ends the session here.
        there.resume(&state).unwrap();
        assert!(here.close().is_err() && here.is_open());
    }

    #[test]
    fn what_somebody_else_has_handed_over_is_not_taken_back_unasked() {
        let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
        let here = at_target(folder.path(), "here", &urls[..1], false);
        register(&here, true);
        drop(here);
        let guest = Ledger::open(&folder.path().join("here")).unwrap().guest(&Owner("a".into())).unwrap();
        let lun = guest.records().remove(0).lun.clone();
        let handover = Some(ledger::HandoverId(5));
        let moved = ledger::Change::State { state: State::Moved, handover, why: None };
        guest.append(&[(lun, moved)]).unwrap();
        drop(guest);
        let _here = at_target(folder.path(), "here", &urls[..1], false);
        assert_eq!(recorded(folder.path(), "here"), [(State::Moved, Some(Key(7)))]);
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
        let here = host(folder.path(), &["--num-queues", "2"]);
        assert!(matches!(here.check(&[0; 5]), Err(MoveError::Cut)));
        let lun = Saved::parse(&state[16..]).unwrap().luns.remove(0);
        let text = format!("file={},serial=a", folder.path().join("disk").display());
        let presented = read_own(0, &text.parse().unwrap(), &lun).map(drop).unwrap_err().to_string();
        assert!(presented.contains("serial= is a here, and none where it comes from"), "{presented}");
    }
}
