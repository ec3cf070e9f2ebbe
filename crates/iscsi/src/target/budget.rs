//! Memory that all connections of a target share: data-out of commands under way, requests that came too early, and
//! answers that their peers have not taken.
//!
//! Nobody waits for memory: a connection that stopped reading would also stop the data of commands that hold some, and
//! two such connections would stop each other. A command for which there is no room ends with TASK SET FULL (SAM-5
//! 5.3.1) and is sent again by its initiator. A small command of a connection that holds nothing always has room, so that
//! peers who hoard cannot keep others from being served. Used by [`super::session`].

use std::sync::atomic::{AtomicUsize, Ordering};

/// What a connection that holds nothing may always take, in bytes.
const ALWAYS: usize = 256 * 1024;

/// The common store.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(super) const fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// An empty share of it.
    pub(super) const fn share(&self) -> Share<'_> {
        Share { budget: self, taken: 0 }
    }

    fn try_take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// What one connection holds; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    taken: usize,
}

impl Share<'_> {
    pub(super) const fn taken(&self) -> usize {
        self.taken
    }

    /// Takes `bytes` if there is room.
    #[must_use]
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        if bytes == 0 || self.taken == 0 && bytes <= ALWAYS {
            self.set(self.taken + bytes);
            return true;
        }
        let room = self.budget.try_take(bytes);
        self.taken += if room { bytes } else { 0 };
        room
    }

    /// Holds exactly `bytes` from now on, whether there is room or not: they are there already.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes > self.taken {
            self.budget.used.fetch_add(bytes - self.taken, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(self.taken - bytes, Ordering::Relaxed);
        }
        self.taken = bytes;
    }

    /// Gives `bytes` back.
    pub(super) fn give(&mut self, bytes: usize) {
        self.set(self.taken.saturating_sub(bytes));
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_limit_but_for_a_small_first_command_each() {
        let budget = Budget::new(4 * ALWAYS);
        let (mut hoarder, mut other) = (budget.share(), budget.share());
        assert!(hoarder.take(3 * ALWAYS) && hoarder.take(ALWAYS));
        assert!(!hoarder.take(1), "it is full");
        assert!(!other.take(ALWAYS + 1) && other.take(ALWAYS), "small commands are always served");
        assert!(other.take(0) && !other.take(1), "one at a time");
        drop(hoarder);
        assert_eq!((budget.used(), other.taken()), (ALWAYS, ALWAYS));
        other.give(1);
        assert!(other.take(3 * ALWAYS + 1) && !other.take(1));
        other.set(0);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn sums_beyond_the_numbers_range_are_refused() {
        let budget = Budget::new(usize::MAX);
        let mut share = budget.share();
        assert!(share.take(1) && !share.take(usize::MAX));
    }
}
