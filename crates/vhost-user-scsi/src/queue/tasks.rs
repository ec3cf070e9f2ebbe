//! Which commands of the guest are under way on a request queue, as the control queue has to know them (SAM-5 7): by logical unit
//! and the guest's tag. Written by the queue's thread without a lock, read by the control queue's threads.
//!
//! A command is named by an id that is never used twice, so that "it has left" is "its id is not here any more": guest tags repeat.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
}

/// The commands of one request queue, one place for each that may be under way.
#[derive(Debug)]
pub(crate) struct Tasks {
    places: Box<[Place]>,
    waiting: AtomicUsize,
    left: Mutex<()>,
    told: Condvar,
}

/// `id` is 0 while there is nothing, and is written last; unique ids make a torn read seen.
#[derive(Debug, Default)]
struct Place {
    id: AtomicU64,
    tag: AtomicU64,
    lun: AtomicU64,
}

impl Tasks {
    /// Places for `most` commands.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        let places = std::iter::repeat_with(Place::default).take(most).collect();
        Self { places, waiting: AtomicUsize::new(0), left: Mutex::new(()), told: Condvar::new() }
    }

    /// A command has come, in place `place` of the queue (its thread alone calls this). Ids are not 0.
    pub(crate) fn enter(&self, place: usize, task: Task) {
        let Some(place) = self.places.get(place) else { return };
        place.tag.store(task.tag, Ordering::SeqCst);
        place.lun.store(task.lun.into(), Ordering::SeqCst);
        place.id.store(task.id, Ordering::SeqCst);
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
        self.places.iter().filter_map(Place::read).filter(wanted).collect()
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
    fn read(&self) -> Option<Task> {
        let id = self.id.load(Ordering::SeqCst);
        let tag = self.tag.load(Ordering::SeqCst);
        let lun = u8::try_from(self.lun.load(Ordering::SeqCst)).ok()?;
        (id != 0 && self.id.load(Ordering::SeqCst) == id).then_some(Task { id, tag, lun })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_task_is_found_by_tag_until_it_has_left() {
        let tasks = Tasks::new(2);
        tasks.enter(0, Task { id: 7, tag: 99, lun: 3 });
        tasks.enter(1, Task { id: 8, tag: 99, lun: 4 });
        let found = |lun| tasks.under_way(|task| task.tag == 99 && task.lun == lun);
        assert_eq!(found(3), [Task { id: 7, tag: 99, lun: 3 }]);
        tasks.leave(0);
        assert_eq!(found(3), []);
        assert_eq!(found(4).len(), 1);
    }

    #[test]
    fn waiting_ends_when_the_task_has_left_even_if_its_tag_is_used_again() {
        let tasks = Arc::new(Tasks::new(1));
        tasks.enter(0, Task { id: 1, tag: 5, lun: 0 });
        let waiter = {
            let tasks = Arc::clone(&tasks);
            std::thread::spawn(move || tasks.wait_for(&[1], Instant::now() + Duration::from_secs(30)))
        };
        while tasks.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        tasks.leave(0);
        tasks.enter(0, Task { id: 2, tag: 5, lun: 0 });
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let tasks = Tasks::new(1);
        tasks.enter(0, Task { id: 1, tag: 5, lun: 0 });
        assert!(!tasks.wait_for(&[1], Instant::now()));
    }
}
