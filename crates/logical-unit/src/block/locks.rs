//! Atomicity of COMPARE AND WRITE, ORWRITE and WRITE ATOMIC against each other and against every READ and
//! WRITE (SBC-4 4.29, 5.3): the medium is divided into stripes, ordinary commands share a stripe, an
//! atomic one has it alone. Stripes are taken in ascending order, so no two commands wait for each other.
//!
//! The guards are owned and go from thread to thread, for a transfer that begins on one call and ends on
//! another, and [`ExtentLocks::try_share`] never waits: a thread that has to end transfers must not wait for an
//! atomic command that waits for those same transfers. An atomic command that waits keeps later ones from
//! sharing, so that it is not put off for ever.

use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Number of locks.
const STRIPES: u64 = 64;
/// Logical blocks before the next stripe begins; most commands lie in one.
const WIDTH: u64 = 2048;

/// Who has a stripe, and who waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Holders {
    /// Ordinary commands that share it.
    sharing: u32,
    /// An atomic command has it.
    alone: bool,
    /// Atomic commands that wait for it.
    wanted_alone: u32,
    /// Ordinary commands that wait for it.
    wanted_shared: u32,
}

impl Holders {
    /// Takes a share, unless an atomic command has the stripe or waits for it.
    const fn try_share(&mut self) -> bool {
        let free = !self.alone && self.wanted_alone == 0;
        if free {
            self.sharing += 1;
        }
        free
    }

    /// Takes it alone, if nobody has it.
    const fn try_exclude(&mut self) -> bool {
        let free = !self.alone && self.sharing == 0;
        if free {
            self.alone = true;
        }
        free
    }

    /// Gives back what was taken. `true` if somebody who waits may go on now.
    const fn release(&mut self, mode: Mode) -> bool {
        match mode {
            Mode::Shared => self.sharing = self.sharing.saturating_sub(1),
            Mode::Alone => self.alone = false,
        }
        self.sharing == 0 && self.wanted_alone + self.wanted_shared > 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Shared,
    Alone,
}

/// One lock.
#[derive(Debug, Default)]
struct Stripe {
    holders: Mutex<Holders>,
    freed: Condvar,
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self) {
        let mut holders = self.lock();
        holders.wanted_shared += 1;
        while !holders.try_share() {
            holders = self.freed.wait(holders).unwrap_or_else(PoisonError::into_inner);
        }
        holders.wanted_shared -= 1;
    }

    /// The wish counts from now on: nobody new shares the stripe.
    fn exclude(&self) {
        let mut holders = self.lock();
        holders.wanted_alone += 1;
        while !holders.try_exclude() {
            holders = self.freed.wait(holders).unwrap_or_else(PoisonError::into_inner);
        }
        holders.wanted_alone -= 1;
    }

    fn release(&self, mode: Mode) {
        // Only where somebody waits: waking nobody is a system call too.
        if self.lock().release(mode) {
            self.freed.notify_all();
        }
    }
}

/// The locks of one medium.
#[derive(Debug)]
pub(crate) struct ExtentLocks(Arc<[Stripe; STRIPES as usize]>);

/// Held while a command reads or writes.
#[derive(Debug)]
pub(crate) struct ExtentGuard {
    locks: Arc<[Stripe; STRIPES as usize]>,
    stripes: Stripes,
    mode: Mode,
}

impl Drop for ExtentGuard {
    fn drop(&mut self) {
        each(&self.locks, self.stripes).for_each(|stripe| stripe.release(self.mode));
    }
}

impl Default for ExtentLocks {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Stripe::default())))
    }
}

impl ExtentLocks {
    /// For a command that may run beside others on the same blocks, but not beside an atomic one. Waits for that.
    pub(crate) fn share(&self, lba: u64, blocks: u64) -> ExtentGuard {
        let stripes = Stripes::of(lba, blocks);
        each(&self.0, stripes).for_each(Stripe::share);
        self.guard(stripes, Mode::Shared)
    }

    /// As [`ExtentLocks::share`], but `None` where it would have to wait.
    pub(crate) fn try_share(&self, lba: u64, blocks: u64) -> Option<ExtentGuard> {
        let stripes = Stripes::of(lba, blocks);
        let taken = each(&self.0, stripes).take_while(|stripe| stripe.lock().try_share()).count();
        if taken == each(&self.0, stripes).count() {
            return Some(self.guard(stripes, Mode::Shared));
        }
        each(&self.0, stripes).take(taken).for_each(|stripe| stripe.release(Mode::Shared));
        None
    }

    /// For a command that no other may see half done. Waits for all that are on the blocks.
    pub(crate) fn exclude(&self, lba: u64, blocks: u64) -> ExtentGuard {
        let stripes = Stripes::of(lba, blocks);
        each(&self.0, stripes).for_each(Stripe::exclude);
        self.guard(stripes, Mode::Alone)
    }

    /// Whether an atomic command has this block alone now.
    #[cfg(test)]
    pub(crate) fn is_excluded(&self, lba: u64) -> bool {
        each(&self.0, Stripes::of(lba, 1)).all(|stripe| stripe.lock().alone)
    }

    fn guard(&self, stripes: Stripes, mode: Mode) -> ExtentGuard {
        ExtentGuard { locks: Arc::clone(&self.0), stripes, mode }
    }
}

/// The stripes of an extent: one run, or two where it wraps around, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stripes {
    first: (u64, u64),
    second: Option<(u64, u64)>,
}

impl Stripes {
    fn of(lba: u64, blocks: u64) -> Self {
        let first = lba / WIDTH;
        let last = lba.saturating_add(blocks.max(1) - 1) / WIDTH;
        if last - first >= STRIPES - 1 {
            return Self { first: (0, STRIPES - 1), second: None };
        }
        match (first % STRIPES, last % STRIPES) {
            (first, last) if first <= last => Self { first: (first, last), second: None },
            (first, last) => Self { first: (0, last), second: Some((first, STRIPES - 1)) },
        }
    }

    /// In ascending order.
    fn numbers(self) -> impl Iterator<Item = u64> {
        let run = |(first, last): (u64, u64)| -> RangeInclusive<u64> { first..=last };
        run(self.first).chain(self.second.into_iter().flat_map(run))
    }
}

fn each(locks: &[Stripe; STRIPES as usize], stripes: Stripes) -> impl Iterator<Item = &Stripe> {
    stripes.numbers().filter_map(|stripe| locks.get(stripe as usize))
}

#[cfg(test)]
mod tests;
