//! A store in a sparse file (or a block device), locked while it is served: a second process, or a second
//! LUN of this one, is refused before anything listens.

use super::{Run, Store};
use rustix::buffer::spare_capacity;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::{Errno, ReadWriteFlags, pread, pwritev2};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileStoreError {
    /// It cannot be opened, created, locked or grown.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another process, or another LUN of this one, serves it.
    #[error("the file is served already")]
    InUse,
    /// The file is larger than the size asked for; nothing is cut off.
    #[error("the file has {0} bytes already")]
    Larger(u64),
}

/// An exclusively locked file.
#[derive(Debug)]
pub(crate) struct FileStore {
    file: File,
    size: u64,
}

impl FileStore {
    /// Opens and locks the file. With a size it is created or grown to that many bytes, without one it
    /// must exist.
    pub(crate) fn open(path: &Path, size: Option<u64>) -> Result<Self, FileStoreError> {
        let file =
            OpenOptions::new().read(true).write(true).create(size.is_some()).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FileStoreError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut store = Self { file, size: 0 };
        let present = seek(&store.file, SeekFrom::End(0)).map_err(io::Error::from)?;
        match size {
            Some(size) if size < present => return Err(FileStoreError::Larger(present)),
            Some(size) if size > present => store.file.set_len(size)?,
            _ => {}
        }
        store.size = size.unwrap_or(present);
        Ok(store)
    }

    /// Overwrites with zeros, for file systems and devices that cannot punch holes.
    fn write_zeros(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while length > 0 {
            let now = length.min(ZEROS.len() as u64);
            self.file.write_all_at(ZEROS.get(..now as usize).unwrap_or_default(), offset)?;
            (offset, length) = (offset + now, length - now);
        }
        Ok(())
    }
}

impl Drop for FileStore {
    /// Closing the file would not do: a process that another thread has just forked holds a copy of it until it calls exec.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

/// Past the last data there is none: the system says ENXIO.
fn or_end(found: Result<u64, Errno>, size: u64) -> io::Result<u64> {
    match found {
        Ok(offset) => Ok(offset.min(size)),
        Err(Errno::NXIO) => Ok(size),
        Err(error) => Err(error.into()),
    }
}

impl Store for FileStore {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.reserve_exact(length);
        let end = out.len() + length;
        while out.len() < end {
            match pread(&self.file, spare_capacity(out), offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => offset += read as u64,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        out.truncate(end);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn write_durably(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match pwritev2(&self.file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    data = data.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn deallocate(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, punch, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => self.write_zeros(offset, length),
            Err(error) => Err(error.into()),
        }
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let data = match seek(&self.file, SeekFrom::Data(offset)) {
            Err(Errno::INVAL) => return Ok(Run { end: self.size, mapped: true }),
            found => or_end(found, self.size)?,
        };
        if data > offset {
            return Ok(Run { end: data, mapped: false });
        }
        let hole = or_end(seek(&self.file, SeekFrom::Hole(offset)), self.size)?;
        Ok(Run { end: hole, mapped: true })
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn has_volatile_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_in_a_process_just_forked_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lun");
        let store = FileStore::open(&path, Some(8192)).unwrap();
        let _copy = store.file.try_clone().unwrap();
        drop(store);
        assert_eq!(FileStore::open(&path, None).unwrap().size(), 8192);
    }
}
