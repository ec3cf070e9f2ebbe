//! Which commands of the guest are under way on a request queue, as the control queue has to know them (SAM-5 7): by logical unit
//! and the guest's tag. Written by the queue's thread without a lock, read by the control queue's threads.
//!
//! A command is named by an id that is never used twice, so that "it has left" is "its id is not here any more": guest tags repeat.

use crate::statistics::UnderWay;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A command under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// Names it in the device.
    pub(crate) id: u64,
    /// What the guest calls it.
    pub(crate) tag: u64,
    /// The logical unit's number.
    pub(crate) lun: u8,
    /// Its operation code.
    pub(crate) opcode: u8,
    /// When it was taken from the ring.
    pub(crate) began: Instant,
}

/// The commands of one request queue, one place for each that may be under way.
#[derive(Debug)]
pub(crate) struct Tasks {
    places: Box<[Place]>,
    /// What times are counted from.
    origin: Instant,
    waiting: AtomicUsize,
    left: Mutex<()>,
    told: Condvar,
}

/// `id` is 0 while there is nothing, and is written last; unique ids make a torn read seen.
#[derive(Debug, Default)]
struct Place {
    id: AtomicU64,
    tag: AtomicU64,
    /// Number of the logical unit, and the operation code above it.
    what: AtomicU64,
    /// Nanoseconds after the origin.
    began: AtomicU64,
}

impl Tasks {
    /// Places for `most` commands.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        let places = std::iter::repeat_with(Place::default).take(most).collect();
        let (origin, waiting) = (Instant::now(), AtomicUsize::new(0));
        Self { places, origin, waiting, left: Mutex::new(()), told: Condvar::new() }
    }

    /// A command has come, in place `place` of the queue (its thread alone calls this). Ids are not 0.
    pub(crate) fn enter(&self, place: usize, task: &Task) {
        let Some(place) = self.places.get(place) else { return };
        // That the id went away is seen by whoever sees any of these.
        fence(Ordering::Release);
        let began = task.began.saturating_duration_since(self.origin).as_nanos();
        place.tag.store(task.tag, Ordering::Relaxed);
        place.what.store(u64::from(task.lun) | u64::from(task.opcode) << 8, Ordering::Relaxed);
        place.began.store(u64::try_from(began).unwrap_or(u64::MAX), Ordering::Relaxed);
        place.id.store(task.id, Ordering::Release);
    }

    /// The command in `place` has left: the guest has its answer, or never gets one.
    pub(crate) fn leave(&self, place: usize) {
        let Some(place) = self.places.get(place) else { return };
        place.id.store(0, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.left.lock().unwrap_or_else(PoisonError::into_inner));
            self.told.notify_all();
        }
    }

    /// All commands under way for which `wanted` holds.
    pub(crate) fn under_way(&self, wanted: impl Fn(&Task) -> bool) -> Vec<Task> {
        self.places.iter().filter_map(|place| place.read(self.origin)).filter(wanted).collect()
    }

    /// Waits until none of `ids` is here, until `deadline` at most; whether that came about.
    pub(crate) fn wait_for(&self, ids: &[u64], deadline: Instant) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = loop {
            if self.under_way(|task| ids.contains(&task.id)).is_empty() {
                break true;
            }
            let Some(rest) =
                deadline.checked_duration_since(Instant::now()).filter(|rest| *rest > Duration::ZERO)
            else {
                break false;
            };
            guard = self.told.wait_timeout(guard, rest).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        gone
    }
}

impl Place {
    fn read(&self, origin: Instant) -> Option<Task> {
        let id = self.id.load(Ordering::Acquire);
        let tag = self.tag.load(Ordering::Relaxed);
        let [lun, opcode, ..] = self.what.load(Ordering::Relaxed).to_le_bytes();
        let began = origin + Duration::from_nanos(self.began.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let same = id != 0 && self.id.load(Ordering::Relaxed) == id;
        same.then_some(Task { id, tag, lun, opcode, began })
    }
}

/// Tasks by their logical unit, as a person is told of them.
pub(crate) fn summary(tasks: impl IntoIterator<Item = Task>) -> Vec<UnderWay> {
    let now = Instant::now();
    let mut luns: BTreeMap<u8, UnderWay> = BTreeMap::new();
    for Task { lun, opcode, began, .. } in tasks {
        let age = now.saturating_duration_since(began);
        let one = luns.entry(lun).or_insert(UnderWay { lun, commands: 0, opcode, oldest: age });
        one.commands += 1;
        if age > one.oldest {
            (one.opcode, one.oldest) = (opcode, age);
        }
    }
    luns.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn task(id: u64, tag: u64, lun: u8) -> Task {
        Task { id, tag, lun, opcode: 0x2A, began: Instant::now() }
    }

    #[test]
    fn a_task_is_found_by_tag_until_it_has_left() {
        let tasks = Tasks::new(2);
        let three = task(7, 99, 3);
        tasks.enter(0, &three);
        tasks.enter(1, &task(8, 99, 4));
        let found = |lun| tasks.under_way(|task| task.tag == 99 && task.lun == lun);
        assert_eq!(
            found(3).iter().map(|task| (task.id, task.lun, task.opcode)).collect::<Vec<_>>(),
            [(7, 3, 0x2A)]
        );
        assert!(found(3)[0].began.duration_since(three.began) < Duration::from_micros(1));
        tasks.leave(0);
        assert_eq!(found(3), []);
        assert_eq!(found(4).len(), 1);
    }

    #[test]
    fn waiting_ends_when_the_task_has_left_even_if_its_tag_is_used_again() {
        let tasks = Arc::new(Tasks::new(1));
        tasks.enter(0, &task(1, 5, 0));
        let waiter = {
            let tasks = Arc::clone(&tasks);
            std::thread::spawn(move || tasks.wait_for(&[1], Instant::now() + Duration::from_secs(30)))
        };
        while tasks.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        tasks.leave(0);
        tasks.enter(0, &task(2, 5, 0));
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let tasks = Tasks::new(1);
        tasks.enter(0, &task(1, 5, 0));
        assert!(!tasks.wait_for(&[1], Instant::now()));
    }

    #[test]
    fn a_summary_has_the_oldest_of_each_logical_unit() {
        let now = Instant::now();
        let began = |id, lun, opcode, ago| Task {
            id,
            tag: 0,
            lun,
            opcode,
            began: now.checked_sub(Duration::from_secs(ago)).unwrap(),
        };
        let told = summary([began(1, 4, 0x28, 5), began(2, 4, 0x2A, 9), began(3, 1, 0x35, 2)]);
        let told: Vec<_> =
            told.iter().map(|one| (one.lun, one.commands, one.opcode, one.oldest.as_secs())).collect();
        assert_eq!(told, [(1, 1, 0x35, 2), (4, 2, 0x2A, 9)]);
    }
}
