//! Atomicity of COMPARE AND WRITE, ORWRITE and WRITE ATOMIC against each other and against every READ and
//! WRITE (SBC-4 4.29, 5.3): the medium is divided into stripes, ordinary commands share a stripe, an
//! atomic one has it alone. Stripes are taken in ascending order, so no two commands wait for each other.

use std::ops::RangeInclusive;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Number of locks.
const STRIPES: u64 = 64;
/// Logical blocks before the next stripe begins; most commands lie in one.
const WIDTH: u64 = 2048;

/// The locks of one medium.
#[derive(Debug)]
pub(crate) struct ExtentLocks([RwLock<()>; STRIPES as usize]);

/// Held while a command reads or writes.
#[derive(Debug)]
#[expect(dead_code, reason = "the guards are held for their drop alone")]
pub(crate) enum ExtentGuard<'a> {
    One(RwLockReadGuard<'a, ()>),
    Shared(Vec<RwLockReadGuard<'a, ()>>),
    Alone(Vec<RwLockWriteGuard<'a, ()>>),
}

impl Default for ExtentLocks {
    fn default() -> Self {
        Self([const { RwLock::new(()) }; STRIPES as usize])
    }
}

impl ExtentLocks {
    /// For a command that may run beside others on the same blocks, but not beside an atomic one.
    pub(crate) fn share(&self, lba: u64, blocks: u64) -> ExtentGuard<'_> {
        let stripes = stripes(lba, blocks);
        let mut guards = self.locks(stripes).map(|lock| lock.read().unwrap_or_else(PoisonError::into_inner));
        match (guards.next(), guards.next()) {
            (Some(one), None) => ExtentGuard::One(one),
            (first, second) => ExtentGuard::Shared(first.into_iter().chain(second).chain(guards).collect()),
        }
    }

    /// For a command that no other may see half done.
    pub(crate) fn exclude(&self, lba: u64, blocks: u64) -> ExtentGuard<'_> {
        let locks = self.locks(stripes(lba, blocks));
        ExtentGuard::Alone(locks.map(|lock| lock.write().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// Whether an atomic command has this block alone now.
    #[cfg(test)]
    pub(crate) fn is_excluded(&self, lba: u64) -> bool {
        self.locks(stripes(lba, 1)).all(|lock| lock.try_read().is_err())
    }

    fn locks(
        &self,
        (first, last): (RangeInclusive<u64>, Option<RangeInclusive<u64>>),
    ) -> impl Iterator<Item = &RwLock<()>> {
        first.chain(last.into_iter().flatten()).filter_map(|stripe| self.0.get(stripe as usize))
    }
}

/// The stripes of an extent in ascending order: one run, or two where it wraps around.
fn stripes(lba: u64, blocks: u64) -> (RangeInclusive<u64>, Option<RangeInclusive<u64>>) {
    let first = lba / WIDTH;
    let last = lba.saturating_add(blocks.max(1) - 1) / WIDTH;
    if last - first >= STRIPES - 1 {
        return (0..=STRIPES - 1, None);
    }
    match (first % STRIPES, last % STRIPES) {
        (first, last) if first <= last => (first..=last, None),
        (first, last) => (0..=last, Some(first..=STRIPES - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn list(lba: u64, blocks: u64) -> Vec<u64> {
        let (first, last) = stripes(lba, blocks);
        first.chain(last.into_iter().flatten()).collect()
    }

    proptest! {
        #[test]
        fn every_block_has_its_stripe_once_and_in_order(lba in 0..u64::MAX / 2, blocks in 0..300 * WIDTH) {
            let list = list(lba, blocks);
            let wanted: BTreeSet<_> = (lba / WIDTH..=(lba + blocks.max(1) - 1) / WIDTH).map(|s| s % STRIPES).collect();
            prop_assert_eq!(list, wanted.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_atomic_command_has_its_blocks_alone() {
        let locks = ExtentLocks::default();
        let alone = locks.exclude(0, 8);
        assert!(locks.0[0].try_read().is_err());
        assert!(locks.0[1].try_write().is_ok());
        drop(alone);
        let _shared = locks.share(0, 8);
        assert!(locks.0[0].try_read().is_ok());
        assert!(locks.0[0].try_write().is_err());
    }
}
