//! The dirty log: one bit for each page of guest-physical memory, which the device sets when it has written there (vhost-user
//! specification, "Migration").
//!
//! Used by `migration`.

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// A log that a device marks.
#[derive(Debug)]
pub struct Log {
    file: Arc<File>,
    map: MmapRegion,
    words: u64,
}

impl Log {
    /// A clean log for so many pages.
    ///
    /// # Errors
    /// If the kernel gives no memory.
    pub fn new(pages: u64) -> Result<Self> {
        let words = pages.div_ceil(64);
        let file = memfd_create("log", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, words * 8)?;
        let file = Arc::new(File::from(file));
        let length = usize::try_from(words * 8)?;
        let map = MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), 0), length)?;
        Ok(Self { file, map, words })
    }

    /// Its memory.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.words * 8
    }

    /// The numbers of the pages that were marked since this was asked last.
    ///
    /// # Errors
    /// If the log is not there.
    pub fn take(&self) -> Result<Vec<u64>> {
        let mut pages = Vec::new();
        for word in 0..self.words {
            let place = usize::try_from(word * 8)?;
            let shared: &AtomicU64 = self.map.get_atomic_ref(place).context("the log")?;
            let bits = u64::from_le(shared.swap(0, Ordering::AcqRel));
            pages.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 64 + bit));
        }
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_page_is_the_bit_of_its_number_counted_in_bytes() {
        let log = Log::new(130).unwrap();
        assert_eq!(log.length(), 24);
        log.file().write_all_at(&[1, 0x80], 0).unwrap();
        log.file().write_all_at(&[2], 16).unwrap();
        assert_eq!(log.take().unwrap(), [0, 15, 129]);
        assert!(log.take().unwrap().is_empty());
    }
}
