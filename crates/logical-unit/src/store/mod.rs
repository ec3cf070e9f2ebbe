//! Where the blocks of a logical unit are kept: [`Store`], in memory, in a sparse file or on a block device.
//!
//! A store knows bytes, not logical blocks. What was never written, or was given back, reads as zeros.

mod direct;
mod file;
mod memory;

pub(crate) use file::{Access, FileStore, FileStoreError};
pub(crate) use memory::{MAX_SIZE as MAX_MEMORY, MemoryStore};

use crate::block::BLOCK;
use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How a medium is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// It is memory.
    Memory,
    /// By direct I/O, past the page cache.
    Direct {
        /// What addresses and lengths in memory must be multiples of.
        alignment: usize,
    },
    /// Through the page cache, and why.
    Buffered(&'static str),
}

/// The medium for who moves data himself.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) file: Arc<OwnedFd>,
    /// What addresses and lengths in memory must be multiples of; 1 where it does not matter.
    pub(crate) alignment: usize,
}

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

    /// Looks how large the medium is now. [`Store::size`] follows where it has grown.
    fn measure(&self) -> io::Result<u64> {
        Ok(self.size())
    }

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

    /// How the medium is reached.
    fn caching(&self) -> Caching {
        Caching::Memory
    }

    /// The medium as a descriptor, if it has one: bytes there are the bytes of the store.
    fn descriptor(&self) -> Option<Descriptor> {
        None
    }
}

#[cfg(test)]
mod tests;
