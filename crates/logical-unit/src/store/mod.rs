//! Where the blocks of a logical unit are kept: [`Store`], in memory or in a sparse file.

mod memory;

pub(crate) use memory::MemoryStore;

use std::fmt::Debug;
use std::io;

/// Bytes that can be read, written and given back. Safe to use from many threads; overlapping writes
/// may interleave, the caller serialises where a command must be atomic.
pub(crate) trait Store: Send + Sync + Debug {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset`; what was never written reads as zeros.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
}
