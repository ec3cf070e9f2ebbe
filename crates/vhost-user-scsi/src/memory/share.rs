//! How much of its front ends' files one device may have mapped. A front end that maps without end (a sparse file costs it nothing) would
//! take the addresses of the whole process, and with them every other guest's memory. Used by [`super`], filled by [`crate::device`].
//!
//! Guarantees: what is mapped, also by tables that requests under way still hold, is within twice a table.

use super::{Error, REGIONS_MAX};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of guest memory that one front end may share at most.
pub const BYTES_MAX: u64 = 16 << 40;

/// A device's share of what a process can have mapped.
#[derive(Debug)]
pub struct Share {
    /// Of one table.
    bytes: u64,
    regions: usize,
    /// Of all tables that live.
    bytes_left: AtomicU64,
    regions_left: AtomicUsize,
}

/// A mapping's part of it, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    share: Arc<Share>,
    bytes: u64,
}

impl Share {
    /// Tables of no more bytes and regions than this; twice as much while one table takes the place of another.
    #[must_use]
    pub fn new(bytes: u64, regions: usize) -> Self {
        Self {
            bytes,
            regions,
            bytes_left: AtomicU64::new(bytes.saturating_mul(2)),
            regions_left: AtomicUsize::new(regions.saturating_mul(2)),
        }
    }

    /// Regions that a table may have.
    #[must_use]
    pub const fn regions(&self) -> usize {
        self.regions
    }

    /// Whether a table of `regions` in all and of these lengths may be.
    pub(super) fn check(&self, regions: usize, lengths: impl Iterator<Item = u64>) -> Result<(), Error> {
        if regions > self.regions {
            return Err(Error::TooMany);
        }
        let length = lengths.fold(0, u64::saturating_add);
        if length > self.bytes { Err(Error::TooLong { length, most: self.bytes }) } else { Ok(()) }
    }

    /// A mapping of so many bytes.
    pub(super) fn lend(self: &Arc<Self>, bytes: u64) -> Result<Lent, Error> {
        let relaxed = Ordering::Relaxed;
        self.regions_left
            .fetch_update(relaxed, relaxed, |left| left.checked_sub(1))
            .map_err(|_| Error::TooMany)?;
        let taken = self.bytes_left.fetch_update(relaxed, relaxed, |left| left.checked_sub(bytes));
        if let Err(left) = taken {
            self.regions_left.fetch_add(1, relaxed);
            return Err(Error::TooLong { length: bytes, most: left });
        }
        Ok(Lent { share: Arc::clone(self), bytes })
    }
}

impl Default for Share {
    /// That of a device which has a process for itself.
    fn default() -> Self {
        Self::new(BYTES_MAX, REGIONS_MAX)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.share.bytes_left.fetch_add(self.bytes, Ordering::Relaxed);
        self.share.regions_left.fetch_add(1, Ordering::Relaxed);
    }
}
