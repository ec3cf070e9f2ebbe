//! How much memory commands of a request queue may hold at once: data-out and data-in of workers, and buffers of transfers that cannot go
//! straight. Used by [`super`].
//!
//! Guarantees: never more than the limit, but for a command that is alone and for what transfers have beyond it ([`Buffers::force`]); a
//! logical unit has at most half of it beside others, so that one that hangs leaves room; commands of one logical unit get theirs in order.
//! Only commands for workers wait, which hold nothing yet: a transfer has its blocks, and workers may be waiting for them.

use std::collections::{BTreeSet, VecDeque};

/// A queue's buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    most: usize,
    all: usize,
    of_lun: Box<[usize; 256]>,
    waiting: VecDeque<Wait>,
    /// Something was given up since those who wait were looked at.
    freed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    place: u32,
    lun: u8,
    need: usize,
}

/// Why a command has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Now,
    /// Its logical unit has its share already.
    Share,
    /// All are in use.
    All,
}

impl Buffers {
    pub(super) fn new(most: usize) -> Self {
        Self { most, all: 0, of_lun: Box::new([0; 256]), waiting: VecDeque::new(), freed: false }
    }

    /// Takes `need` bytes for the command in `place`; or it waits, and [`Buffers::next`] names it when it is its turn.
    pub(super) fn take(&mut self, place: u32, lun: u8, need: usize) -> bool {
        let behind = || self.waiting.iter().any(|wait| wait.lun == lun);
        // Who needs none passes all others.
        let now = need == 0 || (self.fit(lun, need) == Fit::Now && !behind());
        if now {
            self.add(lun, need);
        } else {
            self.waiting.push_back(Wait { place, lun, need });
        }
        now
    }

    /// Takes `need` bytes for a transfer if they are to be had now. It never waits.
    pub(super) fn try_take(&mut self, lun: u8, need: usize) -> bool {
        let now = need == 0 || self.fit(lun, need) == Fit::Now;
        if now {
            self.add(lun, need);
        }
        now
    }

    /// Takes `need` bytes whether there is room or not: little, for a transfer that has to go on.
    pub(super) fn force(&mut self, lun: u8, need: usize) {
        self.add(lun, need);
    }

    /// A command gives up its buffers.
    pub(super) fn give(&mut self, lun: u8, bytes: usize) {
        self.all = self.all.saturating_sub(bytes);
        if let Some(used) = self.of_lun.get_mut(usize::from(lun)) {
            *used = used.saturating_sub(bytes);
        }
        self.freed |= bytes > 0;
    }

    /// The next command that has waited and has its buffers now.
    pub(super) fn next(&mut self) -> Option<(u32, usize)> {
        if !self.freed || self.waiting.is_empty() {
            return None;
        }
        let mut full = BTreeSet::new();
        for (position, wait) in self.waiting.iter().copied().enumerate() {
            match self.fit(wait.lun, wait.need) {
                _ if full.contains(&wait.lun) => {}
                Fit::Share => {
                    full.insert(wait.lun);
                }
                // Who needs much must not be put off for ever by those who need little.
                Fit::All => break,
                Fit::Now => {
                    self.waiting.remove(position);
                    self.add(wait.lun, wait.need);
                    return Some((wait.place, wait.need));
                }
            }
        }
        self.freed = false;
        None
    }

    /// Nobody gets anything any more: who has waited.
    pub(super) fn abandon(&mut self) -> Vec<u32> {
        self.waiting.drain(..).map(|wait| wait.place).collect()
    }

    fn fit(&self, lun: u8, need: usize) -> Fit {
        let used = self.of_lun.get(usize::from(lun)).copied().unwrap_or(0);
        let share = self.most / 2;
        match self.all.saturating_add(need) {
            _ if self.all == 0 => Fit::Now,
            _ if used > 0 && used.saturating_add(need) > share => Fit::Share,
            all if all > self.most => Fit::All,
            _ => Fit::Now,
        }
    }

    fn add(&mut self, lun: u8, need: usize) {
        self.all = self.all.saturating_add(need);
        if let Some(used) = self.of_lun.get_mut(usize::from(lun)) {
            *used = used.saturating_add(need);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logical_unit_that_hangs_leaves_half_to_the_others() {
        let mut buffers = Buffers::new(100);
        assert!(buffers.take(0, 1, 30) && buffers.take(1, 1, 20));
        assert!(!buffers.take(2, 1, 1), "LUN 1 has its half");
        assert!(buffers.take(3, 2, 25) && buffers.take(4, 2, 25));
        assert!(!buffers.take(5, 3, 1), "all are in use");
        buffers.give(2, 25);
        // LUN 1 gives nothing up, and holds up nobody.
        assert_eq!(buffers.next(), Some((5, 1)));
        assert_eq!(buffers.next(), None);
        buffers.give(1, 30);
        assert_eq!(buffers.next(), Some((2, 1)));
    }

    #[test]
    fn a_command_that_needs_more_than_there_is_runs_alone() {
        let mut buffers = Buffers::new(100);
        assert!(buffers.take(0, 0, 1000));
        assert!(!buffers.take(1, 0, 1000) && !buffers.take(2, 5, 10));
        assert_eq!(buffers.next(), None);
        buffers.give(0, 1000);
        assert_eq!((buffers.next(), buffers.next()), (Some((1, 1000)), None));
        buffers.give(0, 1000);
        assert_eq!((buffers.next(), buffers.next()), (Some((2, 10)), None));
    }

    #[test]
    fn commands_of_one_logical_unit_get_their_buffers_in_order_and_who_needs_none_does_not_wait() {
        let mut buffers = Buffers::new(100);
        assert!(buffers.take(0, 0, 50) && buffers.take(1, 1, 40));
        assert!(!buffers.take(2, 1, 30));
        assert!(!buffers.take(3, 1, 1), "the one before it waits");
        assert!(buffers.take(4, 1, 0));
        buffers.give(1, 40);
        assert_eq!((buffers.next(), buffers.next(), buffers.next()), (Some((2, 30)), Some((3, 1)), None));
    }

    #[test]
    fn who_needs_much_is_not_put_off_by_those_who_need_little() {
        let mut buffers = Buffers::new(100);
        assert!(buffers.take(0, 0, 50) && buffers.take(1, 1, 45));
        assert!(!buffers.take(2, 2, 50) && !buffers.take(3, 3, 6));
        buffers.give(1, 3);
        assert_eq!(buffers.next(), None, "LUN 3's would fit now");
        buffers.give(1, 42);
        assert_eq!((buffers.next(), buffers.next()), (Some((2, 50)), None));
    }

    #[test]
    fn a_transfer_never_waits() {
        let mut buffers = Buffers::new(100);
        assert!(buffers.try_take(0, 90) && !buffers.try_take(0, 20) && !buffers.try_take(1, 20));
        buffers.force(1, 20);
        assert!(!buffers.take(0, 2, 1));
        buffers.give(1, 20);
        assert_eq!(buffers.next(), Some((0, 1)));
    }

    #[test]
    fn who_has_waited_is_known_when_all_is_over() {
        let mut buffers = Buffers::new(10);
        assert!(buffers.take(0, 0, 10) && !buffers.take(1, 0, 1) && !buffers.take(2, 1, 1));
        assert_eq!(buffers.abandon(), [1, 2]);
        buffers.give(0, 10);
        assert_eq!(buffers.next(), None);
    }
}
