//! Direct I/O (O_DIRECT): whether a medium can have it for any run of logical blocks, and memory that it takes. Used by
//! [`FileStore`](super::FileStore).
//!
//! Either every access to a medium is direct or none is: a buffered write beside a direct one in the same page of the
//! cache could write the page's old bytes back over the new ones.

use super::BLOCK;
use rustix::fs::{AtFlags, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, statx};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// No medium wants its memory better aligned than to a page.
pub(super) const PAGE: usize = 4096;

/// Turns direct I/O on, if the medium can have it for every logical block; else says why not, and it is off.
///
/// Gives what lengths and addresses in memory must be multiples of.
pub(super) fn turn_on(file: &File) -> Result<usize, &'static str> {
    set(file, true).map_err(|_| "the file system has no direct I/O")?;
    let alignment = reported(file).unwrap_or_else(|| tried(file));
    if alignment.is_err() {
        // What could not be turned off again would fail every command with an error of the system.
        let _ = set(file, false);
    }
    alignment
}

fn set(file: &File, on: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    fcntl_setfl(file, flags)
}

/// What the file system says (Linux 6.1, most file systems); `None` if it says nothing.
fn reported(file: &File) -> Option<Result<usize, &'static str>> {
    let told = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let known = StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::DIOALIGN);
    known.then(|| judged(told.stx_dio_offset_align, told.stx_dio_mem_align))
}

fn judged(offset: u32, memory: u32) -> Result<usize, &'static str> {
    match (usize::try_from(offset), usize::try_from(memory)) {
        (Ok(0), _) | (_, Ok(0)) => Err("the file has no direct I/O"),
        // The length of each piece counts like an offset, so that memory which follows this follows both.
        (Ok(offset), Ok(memory)) if BLOCK.is_multiple_of(offset as u64) && memory <= PAGE => {
            Ok(offset.max(memory))
        }
        _ => Err("its direct I/O wants larger blocks than the 512 bytes of the logical unit"),
    }
}

/// Where nobody says, one block is read: with memory aligned to a block, and no better.
fn tried(file: &File) -> Result<usize, &'static str> {
    let block = BLOCK as usize;
    let mut memory = Aligned::new(block + PAGE);
    let by = |start: usize, memory: &mut Aligned| {
        let piece = memory.bytes().get_mut(start..start + block).ok_or(io::ErrorKind::InvalidInput)?;
        // Not at the beginning, where a misaligned offset does not show.
        file.read_at(piece, BLOCK)
    };
    match (by(block, &mut memory), by(0, &mut memory)) {
        (Ok(_), _) => Ok(block),
        (_, Ok(_)) => Ok(PAGE),
        _ => Err("its direct I/O takes no single block of 512 bytes"),
    }
}

/// Memory that begins at a multiple of [`PAGE`].
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// Zeros.
    pub(super) fn new(length: usize) -> Self {
        let memory = vec![0; length + PAGE];
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Self { memory, start, length }
    }

    /// A copy.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut copy = Self::new(bytes.len());
        copy.bytes().copy_from_slice(bytes);
        copy
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }
}

/// Whether direct I/O takes this memory as it is.
pub(super) fn fits(bytes: &[u8], alignment: usize) -> bool {
    bytes.as_ptr().addr().is_multiple_of(alignment) && bytes.len().is_multiple_of(alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_every_block_is_direct() {
        assert_eq!(judged(512, 4), Ok(512));
        assert_eq!(judged(1, 1), Ok(1));
        assert_eq!(judged(512, 4096), Ok(4096));
        for refused in [(4096, 4096), (0, 0), (512, 0), (512, 8192), (3, 1)] {
            assert!(judged(refused.0, refused.1).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn memory_is_aligned_and_as_long_as_asked_for() {
        for length in [0, 1, 512, 70_000] {
            let mut memory = Aligned::new(length);
            assert_eq!(memory.bytes().len(), length);
            assert!(memory.bytes().as_ptr().addr().is_multiple_of(PAGE));
        }
        assert_eq!(Aligned::of(&[1, 2, 3]).bytes(), [1, 2, 3]);
    }
}
