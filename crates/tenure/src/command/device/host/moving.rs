//! A guest's logical units leave this process and come into it, all of them or none.
//!
//! Those that Tenure is itself are closed here and opened there with their state; with one at a target the guest's initiator port goes
//! (`real::moving`). Before anything has changed both sides say what would keep the guest from moving ([`Host::save`], [`Host::check`]).

mod registrations;
#[cfg(test)]
mod tests;

use super::{Host, Hosted, Luns, Slot};
use crate::command::device::handed::HandError;
use crate::command::device::lun::Kind as Source;
use crate::command::device::real::{Hindrance, RealUnit, Stays};
use logical_unit::snapshot::{self, ResumeError, Snapshot, Stamp};
use logical_unit::{Caching, LogicalUnit, LunSpec, Medium};
use peer::HostName;
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
    /// Nobody here could ask for them.
    #[error(
        "its registration is at the nexus of {0}, which is no peer of this device: give it --peer {0}=ADDRESS, and the device there this one"
    )]
    NoPeer(HostName),
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
                .map(|(number, slot)| save(hosted, (*number, slot), stamp, &stays))
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
                let ticket = luns.fresh.as_deref().and_then(stamp_of);
                self.guests.iter().for_each(|hosted| hosted.real.drop_all(ticket));
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
        let units: Result<BTreeMap<_, _>, MoveError> =
            luns.slots.iter().map(|(number, slot)| self.open_again(*number, slot)).collect();
        let claimed = |units| {
            self.guests.iter().try_for_each(|hosted| hosted.real.take_claimed())?;
            Ok(units)
        };
        let units = units.and_then(claimed);
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
            self.guests.iter().for_each(|hosted| hosted.real.drop_all(stamp_of(state)));
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

/// The handover of the custody that a state is of, if it is of any.
fn stamp_of(bytes: &[u8]) -> Option<u128> {
    bytes.first_chunk().map(|stamp| u128::from_be_bytes(*stamp)).filter(|stamp| *stamp != 0)
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

/// `stamp`: 0 where somebody only looks.
fn save(
    hosted: &Hosted,
    (number, slot): (u8, &Slot),
    stamp: u128,
    stays: &Stays,
) -> Result<SavedLun, MoveError> {
    let changed = hosted.device.target().table().get(number).is_some_and(|lun| lun.is_changed());
    if let Source::Iscsi(_) | Source::Disk(_) = &slot.lun.kind {
        // Shut, it lets no ring run.
        let ticket = (stamp != 0 && hosted.device.gate().is_shut()).then_some(stamp);
        let saved = hosted.real.save(number, &slot.lun, ticket, stays);
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
