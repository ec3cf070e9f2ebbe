//! The SCSI target device that a guest sees behind its one port (SAM-5 4.6): logical units by number, and the answers that belong
//! to none of them. Used by the queues for every command, by the control queue, and by whoever adds and removes logical units while
//! the guest runs.
//!
//! Guarantees: a table is never changed, a new one takes its place; commands under way keep their logical unit alive. Looking a
//! logical unit up takes no lock while nothing changes.

use crate::statistics::{Counters, Totals};
use crate::unit::Unit;
use scsi::{AdditionalSense, Completion, Sense, opcode};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why a logical unit cannot be added.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AttachError {
    /// There is one with that number.
    #[error("LUN {0} is in use")]
    InUse(u8),
}

/// A logical unit in its place.
#[derive(Debug)]
pub struct Lun {
    /// Its number.
    pub number: u8,
    /// The logical unit, as this guest's nexus reaches it.
    pub unit: Arc<dyn Unit>,
    counters: Box<[Counters]>,
    /// The guest has not heard yet that other logical units came or went.
    stale: AtomicBool,
    since: Instant,
    /// Whether its medium is in memory, once that was looked at.
    in_memory: OnceLock<bool>,
}

impl Lun {
    /// The counters that request queue `queue` (from 0) writes.
    #[must_use]
    pub fn counters(&self, queue: u16) -> Option<&Counters> {
        self.counters.get(usize::from(queue))
    }

    /// Whether this medium is a file in memory (tmpfs, ramfs). It is looked at once: a logical unit keeps its medium, or has another of
    /// the same kind.
    pub(crate) fn is_in_memory(&self, medium: &OwnedFd) -> bool {
        /// `TMPFS_MAGIC` and `RAMFS_MAGIC` (linux/magic.h).
        const MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];
        *self.in_memory.get_or_init(|| {
            let kind = rustix::fs::fstatfs(medium).ok().and_then(|system| u64::try_from(system.f_type).ok());
            kind.is_some_and(|kind| MEMORY.contains(&kind))
        })
    }

    /// How long it has been there.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// What all queues did, together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.counters.iter().for_each(|counters| counters.add_to(&mut totals));
        totals
    }
}

impl Lun {
    /// Whether REPORTED LUNS DATA HAS CHANGED waits for the guest.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }
}

/// REPORTED LUNS DATA HAS CHANGED.
const LUNS_CHANGED: Sense = Sense::unit_attention(AdditionalSense::new(0x3F, 0x0E));

impl Lun {
    /// The unit attention of the other logical units when one comes or goes (SPC-4 6.33), before any other. INQUIRY and REQUEST SENSE
    /// leave it alone.
    fn attention(&self, cdb: &[u8]) -> Option<Completion> {
        let stale = self.stale.load(Ordering::Acquire);
        let passes = matches!(cdb.first(), Some(&(opcode::INQUIRY | opcode::REQUEST_SENSE)));
        let told = stale && !passes && self.stale.swap(false, Ordering::AcqRel);
        told.then(|| Completion::check(&LUNS_CHANGED))
    }
}

/// The logical units at some time, by number.
#[derive(Debug)]
pub struct Table {
    places: [Option<Arc<Lun>>; 256],
}

impl Default for Table {
    fn default() -> Self {
        Self { places: [const { None }; 256] }
    }
}

impl Table {
    /// The logical unit with that number.
    #[must_use]
    pub fn get(&self, number: u8) -> Option<&Arc<Lun>> {
        self.places.get(usize::from(number))?.as_ref()
    }

    /// All logical units, by ascending number.
    pub fn luns(&self) -> impl Iterator<Item = &Arc<Lun>> {
        self.places.iter().flatten()
    }

    /// What the target itself answers: REPORT LUNS, and any command to a LUN without logical unit (`lun` is none). None where the
    /// logical unit has to answer.
    #[must_use]
    pub fn answer(&self, lun: Option<&Arc<Lun>>, cdb: &[u8]) -> Option<Completion> {
        let reports = cdb.first() == Some(&opcode::REPORT_LUNS);
        let numbers = || self.luns().map(|lun| u16::from(lun.number));
        match lun {
            Some(lun) if !reports => lun.attention(cdb),
            _ if reports => {
                // Whoever asks knows it all by now, through whichever logical unit.
                self.set_stale(false, None);
                Some(logical_unit::report_luns(cdb, numbers()))
            }
            _ => Some(logical_unit::execute_missing(cdb, numbers())),
        }
    }

    fn set_stale(&self, stale: bool, but: Option<u8>) {
        let others = self.luns().filter(|lun| Some(lun.number) != but);
        others.for_each(|lun| lun.stale.store(stale, Ordering::Release));
    }

    fn with(&self, number: u8, lun: Option<Arc<Lun>>) -> Self {
        let mut places = self.places.clone();
        if let Some(place) = places.get_mut(usize::from(number)) {
            *place = lun;
        }
        Self { places }
    }
}

/// A target device.
#[derive(Debug)]
pub struct Target {
    table: Mutex<Arc<Table>>,
    version: AtomicU64,
    queues: u16,
}

/// A queue's way to the table. It does not keep the table: a queue that is idle would keep a logical unit that has been taken away.
#[derive(Debug)]
pub struct View {
    table: Weak<Table>,
    version: u64,
}

impl Target {
    /// Without logical units, for a device with that many request queues.
    #[must_use]
    pub fn new(queues: u16) -> Self {
        Self { table: Mutex::default(), version: AtomicU64::new(0), queues }
    }

    /// Puts a logical unit in place.
    ///
    /// # Errors
    /// The place is taken.
    pub fn attach(&self, number: u8, unit: Arc<dyn Unit>) -> Result<(), AttachError> {
        let mut table = self.lock();
        if table.get(number).is_some() {
            return Err(AttachError::InUse(number));
        }
        self.replace(&mut table, number, Some(self.lun(number, unit, false)));
        Ok(())
    }

    fn lun(&self, number: u8, unit: Arc<dyn Unit>, stale: bool) -> Arc<Lun> {
        let counters = std::iter::repeat_with(Counters::default).take(self.queues.into()).collect();
        let (since, in_memory) = (Instant::now(), OnceLock::new());
        Arc::new(Lun { number, unit, counters, stale: AtomicBool::new(stale), since, in_memory })
    }

    /// Takes a logical unit away: no new command reaches it. Those under way end as they do.
    pub fn detach(&self, number: u8) -> Option<Arc<Lun>> {
        let mut table = self.lock();
        let lun = table.get(number).cloned()?;
        self.replace(&mut table, number, None);
        Some(lun)
    }

    /// Puts a logical unit in place that the guest knows: nothing has changed for it. `changed`: it has not heard yet that others came or
    /// went before.
    ///
    /// # Errors
    /// The place is taken.
    pub fn resume(&self, number: u8, unit: Arc<dyn Unit>, changed: bool) -> Result<(), AttachError> {
        let mut table = self.lock();
        if table.get(number).is_some() {
            return Err(AttachError::InUse(number));
        }
        self.put(&mut table, number, Some(self.lun(number, unit, changed)));
        Ok(())
    }

    /// Takes a logical unit out of its place until it is resumed; no command may be under way.
    pub fn suspend(&self, number: u8) -> Option<Arc<Lun>> {
        let mut table = self.lock();
        let lun = table.get(number).cloned()?;
        self.put(&mut table, number, None);
        Some(lun)
    }

    /// The logical units as they are now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.lock())
    }

    /// A new guest: what happened before concerns it no more, it finds everything as it is.
    pub(crate) fn forget(&self) {
        self.lock().set_stale(false, None);
    }

    /// A view, to be brought up to date by [`View::table`].
    #[must_use]
    pub fn view(&self) -> View {
        let version = self.version.load(Ordering::Acquire);
        View { table: Arc::downgrade(&self.table()), version }
    }

    fn replace(&self, table: &mut Arc<Table>, number: u8, lun: Option<Arc<Lun>>) {
        self.put(table, number, lun);
        table.set_stale(true, Some(number));
    }

    fn put(&self, table: &mut Arc<Table>, number: u8, lun: Option<Arc<Lun>>) {
        *table = Arc::new(table.with(number, lun));
        self.version.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Table>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// The table, as it is now.
    pub fn table(&mut self, target: &Target) -> Arc<Table> {
        // The version is read before the table: a change in between is seen once more the next time.
        let version = target.version.load(Ordering::Acquire);
        if let Some(table) = self.table.upgrade().filter(|_| version == self.version) {
            return table;
        }
        let table = target.table();
        *self = Self { table: Arc::downgrade(&table), version };
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeUnit;
    use scsi::Status;

    fn target(numbers: &[u8]) -> Target {
        let target = Target::new(2);
        numbers.iter().for_each(|number| target.attach(*number, FakeUnit::new()).unwrap());
        target
    }

    fn report_luns(select: u8) -> [u8; 12] {
        [0xA0, 0, select, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    }

    #[test]
    fn report_luns_names_what_is_there_whatever_lun_it_is_sent_to() {
        let table = target(&[0, 7, 255]).table();
        let expected = [
            0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0,
        ];
        for lun in [None, table.get(7)] {
            assert_eq!(table.answer(lun, &report_luns(0)).unwrap().data, expected);
        }
        assert_eq!(table.answer(None, &report_luns(1)).unwrap().data, [0; 8]);
    }

    #[test]
    fn a_logical_unit_that_is_resumed_changes_nothing_for_the_guest() {
        let target = target(&[0, 7]);
        target.forget();
        assert!(target.suspend(7).is_some() && target.table().get(7).is_none());
        target.resume(7, FakeUnit::new(), true).unwrap();
        let changed: Vec<_> = target.table().luns().map(|lun| (lun.number, lun.is_changed())).collect();
        assert_eq!(changed, [(0, false), (7, true)], "what waited still waits, and nothing else");
        assert_eq!(target.resume(7, FakeUnit::new(), false), Err(AttachError::InUse(7)));
    }

    #[test]
    fn a_lun_that_does_not_exist_answers_as_spc_says() {
        let table = target(&[0]).table();
        let inquiry = table.answer(None, &[0x12, 0, 0, 0, 96, 0]).unwrap();
        assert_eq!((inquiry.status, inquiry.data[0]), (Status::GOOD, 0x7F));
        let ready = table.answer(None, &[0; 6]).unwrap();
        assert_eq!((ready.status, ready.sense[12]), (Status::CHECK_CONDITION, 0x25));
        assert_eq!(table.answer(table.get(0), &[0; 6]), None);
    }

    #[test]
    fn a_guest_hears_once_of_each_logical_unit_that_others_came_or_went() {
        let target = target(&[0, 1]);
        let told = |number: u8, cdb: &[u8]| {
            let table = target.table();
            let ended = table.answer(table.get(number), cdb)?;
            ended.decoded_sense().map(|sense| (sense.key.0, sense.code.asc, sense.code.ascq))
        };
        let (ready, changed) = ([0; 6], Some((6, 0x3F, 0x0E)));
        target.forget();
        assert_eq!(told(0, &ready), None, "a new guest finds them as they are");
        target.attach(2, FakeUnit::new()).unwrap();
        assert_eq!((told(0, &[0x12, 0, 0, 0, 36, 0]), told(0, &[3, 0, 0, 0, 18, 0])), (None, None));
        assert_eq!([told(0, &ready), told(0, &ready), told(2, &ready)], [changed, None, None]);
        assert_eq!(told(1, &ready), changed);
        target.detach(2);
        target.table().answer(None, &report_luns(0)).unwrap();
        assert_eq!([0, 1].map(|number| told(number, &ready)), [None, None], "it has looked itself");
        target.attach(2, FakeUnit::new()).unwrap();
        assert_eq!(told(1, &ready), changed);
    }

    #[test]
    fn a_view_sees_what_is_added_and_removed() {
        let target = target(&[]);
        let mut view = target.view();
        assert!(view.table(&target).get(9).is_none());
        target.attach(9, FakeUnit::new()).unwrap();
        let under_way = view.table(&target).get(9).cloned().unwrap();
        assert_eq!(target.attach(9, FakeUnit::new()), Err(AttachError::InUse(9)));
        assert!(target.detach(9).is_some());
        assert!(view.table(&target).get(9).is_none());
        assert_eq!(under_way.number, 9);
        assert!(target.detach(9).is_none());
    }
}
