//! The mapped ranges that the process survives to lose: whoever owns a file may truncate it while we have it mapped, and touching
//! what is gone raises SIGBUS. The handler ([`super::sys`]) looks here whether an address is one of ours.
//!
//! A table of fixed size without locks, because a signal handler reads it. Each slot has one owner, a [`Watch`]; a reader that
//! meets a slot while it changes passes over it, which is right: the range that is being touched belongs to a mapping that lives.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// Ranges in the whole process; each device has a share of them ([`crate::device::Settings::one_of`]).
pub(crate) const SLOTS: usize = 16_384;

/// One range; `start` 0 for none.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    /// Odd while the rest changes.
    turn: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    torn: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

impl Slot {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            torn: AtomicBool::new(false),
        }
    }

    /// Called by the owner alone.
    fn write(&self, range: Range) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.page.store(range.page, Ordering::Relaxed);
        self.torn.store(false, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::Release);
    }

    fn read(&self) -> Option<Range> {
        let turn = self.turn.load(Ordering::Acquire);
        let range = Range {
            start: self.start.load(Ordering::Relaxed),
            end: self.end.load(Ordering::Relaxed),
            page: self.page.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        let settled = turn.is_multiple_of(2) && self.turn.load(Ordering::Relaxed) == turn;
        (settled && range.start != 0).then_some(range)
    }
}

/// Addresses of a mapping, and the size of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) page: usize,
}

impl Range {
    /// The range from the begin of the page that `address` is in; nothing where that is outside.
    pub(super) fn tail_at(self, address: usize) -> Option<Self> {
        let page = self.page.max(1);
        let start = address - address % page;
        (self.start <= start && address < self.end).then_some(Self { start, ..self })
    }
}

/// A range while it is mapped.
#[derive(Debug)]
pub(super) struct Watch {
    slot: &'static Slot,
}

impl Watch {
    /// Nothing where the table is full.
    pub(super) fn new(start: usize, length: usize, page: usize) -> Option<Self> {
        let end = start.checked_add(length)?;
        let free = |slot: &&Slot| {
            slot.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let slot = TABLE.iter().find(free)?;
        slot.write(Range { start, end, page });
        Some(Self { slot })
    }

    /// Whether a page of it was found missing.
    pub(super) fn is_torn(&self) -> bool {
        self.slot.torn.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot.write(Range { start: 0, end: 0, page: 0 });
        self.slot.taken.store(false, Ordering::Release);
    }
}

/// Finds the range that `address` is in, hands what `cover` needs to it, and marks it torn where that succeeded. Async-signal-safe where
/// `cover` is.
pub(super) fn tear(address: usize, cover: impl FnOnce(Range) -> bool) -> bool {
    let found = TABLE.iter().find_map(|slot| Some((slot, slot.read()?.tail_at(address)?)));
    let Some((slot, range)) = found else { return false };
    let covered = cover(range);
    if covered {
        slot.torn.store(true, Ordering::Relaxed);
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    // No memory is touched here: addresses that no mapping of this process can have.
    const FAR: usize = 1 << 60;

    #[test]
    fn an_address_finds_its_range_and_no_other() {
        let first = Watch::new(FAR, 0x4000, 0x1000).unwrap();
        let second = Watch::new(FAR + 0x4000, 0x40_0000, 0x20_0000).unwrap();
        let mut covered = None;
        assert!(tear(FAR + 0x2345, |range| {
            covered = Some(range);
            true
        }));
        assert_eq!(covered, Some(Range { start: FAR + 0x2000, end: FAR + 0x4000, page: 0x1000 }));
        assert!(first.is_torn() && !second.is_torn());
        assert!(!tear(FAR + 0x40_4000, |_| true), "one beyond the end");
        assert!(!tear(FAR - 1, |_| true), "one before the begin");
        drop(second);
        assert!(!tear(FAR + 0x4000, |_| true), "it is no longer watched");
        drop(first);
        assert!(!tear(FAR, |_| true));
    }

    #[test]
    fn a_range_that_could_not_be_covered_is_not_torn() {
        let watch = Watch::new(FAR << 1, 0x1000, 0x1000).unwrap();
        assert!(!tear(FAR << 1, |_| false));
        assert!(!watch.is_torn());
    }

    #[test]
    fn a_slot_used_again_is_whole() {
        let start = FAR << 2;
        for _ in 0..3 {
            let watch = Watch::new(start, 0x1000, 0x1000).unwrap();
            assert!(!watch.is_torn());
            assert!(tear(start, |_| true) && watch.is_torn());
        }
    }
}
