//! Where the blocks of a logical unit are kept: [`Store`], in memory or in a sparse file.
//!
//! A store knows bytes, not logical blocks. What was never written, or was given back, reads as zeros.

mod file;
mod memory;

pub(crate) use file::{FileStore, FileStoreError};
pub(crate) use memory::{MAX_SIZE as MAX_MEMORY, MemoryStore};

use std::fmt::Debug;
use std::io;

/// A run of bytes that are all mapped or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where the run ends; beyond the place that was asked for.
    pub(crate) end: u64,
    /// Whether the bytes take up space.
    pub(crate) mapped: bool,
}

/// Bytes that can be read, written and given back, from many threads at once. Calls on overlapping bytes
/// may interleave: the block layer serialises where a command must be atomic.
pub(crate) trait Store: Send + Sync + Debug {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Appends `length` bytes from `offset` to `out`.
    fn read_at(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset` and returns only when it would survive power loss, as far as the
    /// medium can.
    fn write_durably(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)?;
        self.flush()
    }

    /// Makes `length` bytes from `offset` read as zeros, and gives back their space where that is possible.
    fn deallocate(&self, offset: u64, length: u64) -> io::Result<()>;

    /// The run of equally mapped bytes that contains `offset`.
    fn run_at(&self, offset: u64) -> io::Result<Run>;

    /// Returns only when everything written would survive power loss, as far as the medium can.
    fn flush(&self) -> io::Result<()>;

    /// Whether writes wait in a cache that loses them with the power until [`Store::flush`].
    fn has_volatile_cache(&self) -> bool;
}

#[cfg(test)]
mod tests;
