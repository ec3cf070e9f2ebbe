//! A piece of somebody else's file, mapped shared: a region of guest memory, the dirty log, the in-flight region (vhost-user:
//! "mmap size", "mmap offset"). Used by [`super::region`], [`crate::log`] and [`crate::inflight`].
//!
//! It is refused where the file does not reach that far, or is not one of memory or a local disk. Should the file be truncated later, a touch of what is gone reads
//! zeros and [`Mapping::is_torn`] says so: the process lives.

use super::torn::Watch;
use super::{Error, sys};
use crate::descriptor;
use rustix::fs::{fstat, fstatfs};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{AtomicInteger, FileOffset, VolatileMemory, VolatileSlice};

/// `HUGETLBFS_MAGIC` (linux/magic.h): where mappings begin and end on huge pages.
const HUGETLBFS: u64 = 0x9584_58F6;

/// A shared mapping of a piece of a file, byte by byte as its owner sees it.
#[derive(Debug)]
pub(crate) struct Mapping<B = ()> {
    /// Dropped before the pages are given back, so that nobody covers pages that are somebody else's by then.
    watch: Watch,
    pages: MmapRegion<B>,
    /// Bytes between the first page's begin and the piece.
    skip: usize,
    length: usize,
}

/// Where the pages that hold a piece of a file begin, and how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pages {
    start: u64,
    length: usize,
    skip: usize,
    size: usize,
}

impl Pages {
    fn around(offset: u64, length: u64, size: usize) -> Result<Self, Error> {
        let unit = u64::try_from(size).map_err(|_| Error::Overflow)?.max(1);
        let end = offset.checked_add(length).ok_or(Error::Overflow)?;
        let skip = offset % unit;
        let start = offset - skip;
        let whole = end.checked_next_multiple_of(unit).ok_or(Error::Overflow)? - start;
        let whole = usize::try_from(whole).ok().filter(|&whole| isize::try_from(whole).is_ok());
        let skip = usize::try_from(skip).map_err(|_| Error::Overflow)?;
        Ok(Self { start, length: whole.ok_or(Error::Overflow)?, skip, size })
    }
}

impl<B: Bitmap> Mapping<B> {
    /// Maps `length` bytes of `file` from `offset` on, for reading and writing. `bitmap` is told of writes in bytes from the piece's
    /// begin, modulo 2^64.
    pub(crate) fn new(
        file: File,
        offset: u64,
        length: u64,
        bitmap: impl FnOnce(usize) -> B,
    ) -> Result<Self, Error> {
        // First of all: every other call may ask somebody who does not answer.
        if !descriptor::is_local(file.as_fd()) {
            descriptor::let_go(file);
            return Err(Error::NotLocal);
        }
        if length == 0 {
            return Err(Error::Empty);
        }
        let pages = Pages::around(offset, length, page_size_of(file.as_fd())?)?;
        let size = u64::try_from(fstat(&file).map_err(Error::File)?.st_size).unwrap_or(0);
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(Error::BeyondFile { offset, length, size });
        }
        let mapped = map(file, pages, bitmap(pages.skip))?;
        let watch = Watch::new(mapped.as_ptr().addr(), pages.length, pages.size).ok_or(Error::TooMany)?;
        let length = usize::try_from(length).map_err(|_| Error::Overflow)?;
        Ok(Self { watch, pages: mapped, skip: pages.skip, length })
    }

    /// Bytes of address space, which are whole pages.
    pub(crate) fn mapped(&self) -> u64 {
        self.pages.size() as u64
    }

    /// Bytes of the piece.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Whether a part of it has been found missing.
    pub(crate) fn is_torn(&self) -> bool {
        self.watch.is_torn()
    }

    /// What is told of writes.
    pub(crate) fn bitmap(&self) -> &B {
        self.pages.bitmap()
    }

    /// `count` bytes from `offset` on; an error where the piece ends before that.
    pub(crate) fn slice(&self, offset: usize, count: usize) -> Result<VolatileSlice<'_, BS<'_, B>>, Error> {
        let end = offset.checked_add(count).ok_or(Error::Overflow)?;
        if end > self.length {
            return Err(Error::Overflow);
        }
        self.pages.get_slice(self.skip.wrapping_add(offset), count).map_err(|_| Error::Overflow)
    }

    /// An integer in it; an error where the piece ends before that, or where the address is not aligned.
    pub(crate) fn atomic<T: AtomicInteger>(&self, offset: usize) -> Result<&T, Error> {
        let _within = self.slice(offset, size_of::<T>())?;
        self.pages.get_atomic_ref(self.skip.wrapping_add(offset)).map_err(|_| Error::Misaligned)
    }
}

fn map<B: Bitmap>(file: File, pages: Pages, bitmap: B) -> Result<MmapRegion<B>, Error> {
    sys::survive_truncation().map_err(Error::Signal)?;
    // What `mmap` is given is a signed number.
    i64::try_from(pages.start).map_err(|_| Error::Overflow)?;
    MmapRegionBuilder::new_with_bitmap(pages.length, bitmap)
        .with_file_offset(FileOffset::new(file, pages.start))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
        .build()
        .map_err(|error| Error::Map(error.to_string()))
}

/// What mappings of this file are aligned to.
fn page_size_of(file: BorrowedFd<'_>) -> Result<usize, Error> {
    let system = fstatfs(file).map_err(Error::File)?;
    if u64::try_from(system.f_type) != Ok(HUGETLBFS) {
        return Ok(sys::page_size());
    }
    let size = usize::try_from(system.f_bsize).unwrap_or(0);
    if size.is_power_of_two() { Ok(size) } else { Err(Error::Misaligned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_and_end_on_the_files_own_pages() {
        let pages = Pages::around(0x1_2345, 0x10, 0x1000).unwrap();
        assert_eq!(pages, Pages { start: 0x1_2000, length: 0x1000, skip: 0x345, size: 0x1000 });
        let huge = Pages::around(0xC_0000, 0x40_0000, 0x20_0000).unwrap();
        assert_eq!(huge, Pages { start: 0, length: 0x60_0000, skip: 0xC_0000, size: 0x20_0000 });
        let across = Pages::around(0xFFF, 2, 0x1000).unwrap();
        assert_eq!((across.start, across.length), (0, 0x2000));
    }

    #[test]
    fn a_piece_whose_end_is_no_number_is_refused() {
        for (offset, length) in [(u64::MAX, 1), (1, u64::MAX), (u64::MAX - 5, 5), (0, 1 << 63)] {
            assert!(Pages::around(offset, length, 0x1000).is_err(), "{offset:#x} {length:#x}");
        }
    }
}
