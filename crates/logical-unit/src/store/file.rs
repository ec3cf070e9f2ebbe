//! A store in a sparse file or a block device, locked while it is served: a second process, or a second
//! LUN of this one, is refused before anything listens.

use super::direct::{self, Aligned};
use super::{Caching, Descriptor, Run, Store};
use rustix::buffer::spare_capacity;
use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom, fallocate, major, minor, seek};
use rustix::io::{Errno, ReadWriteFlags, pread, pwritev2};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileStoreError {
    /// It cannot be opened, created, locked or grown.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another process, or another LUN of this one, serves it.
    #[error("the file is served already")]
    InUse,
    /// A block device that is mounted, or part of something else.
    #[error("the device is in use")]
    Held,
    /// `block=` with something else.
    #[error("not a block device")]
    NotABlockDevice,
    /// `file=` with something else.
    #[error("not a regular file")]
    NotAFile,
    /// The file is larger than the size asked for; nothing is cut off.
    #[error("the file has {0} bytes already")]
    Larger(u64),
}

/// How a medium is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Past the page cache, where that can be had.
    pub(crate) direct: bool,
    /// Not for writing: whoever may only read it can serve it so.
    pub(crate) read_only: bool,
}

/// An exclusively locked file or block device.
#[derive(Debug)]
pub(crate) struct FileStore {
    file: File,
    /// The same open file, for who moves data himself.
    shared: Arc<OwnedFd>,
    size: AtomicU64,
    caching: Caching,
    volatile: bool,
    /// Locked beside it, so that nobody serves the same medium under another name.
    claim: Option<File>,
}

/// More zeros than one write of them, aligned for direct I/O.
#[repr(align(4096))]
struct Zeros([u8; 64 << 10]);
static ZEROS: Zeros = Zeros([0; 64 << 10]);

impl FileStore {
    /// Opens and locks the file. With a size it is created or grown to that many bytes, without one it
    /// must exist.
    pub(crate) fn open(path: &Path, size: Option<u64>, access: Access) -> Result<Self, FileStoreError> {
        // Before it is opened, which some devices take for a wish.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(FileStoreError::NotAFile);
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(!access.read_only).create(size.is_some()).truncate(false);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(FileStoreError::NotAFile);
        }
        let store = Self::locked(file)?;
        let present = seek(&store.file, SeekFrom::End(0)).map_err(io::Error::from)?;
        match size {
            Some(size) if size < present => return Err(FileStoreError::Larger(present)),
            Some(size) if size > present => store.file.set_len(size)?,
            _ => {}
        }
        Ok(store.ready(size.unwrap_or(present), access.direct))
    }

    /// Opens a block device that nobody has mounted or made a part of something, and locks it; it stays so while it is
    /// served (O_EXCL).
    pub(crate) fn open_block(path: &Path, access: Access) -> Result<Self, FileStoreError> {
        if !fs::metadata(path)?.file_type().is_block_device() {
            return Err(FileStoreError::NotABlockDevice);
        }
        let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(!access.read_only).custom_flags(exclusive).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => FileStoreError::Held,
            _ => error.into(),
        })?;
        let store = Self::locked(file)?;
        let size = seek(&store.file, SeekFrom::End(0)).map_err(io::Error::from)?;
        Ok(store.ready(size, access.direct))
    }

    /// Locks `path` as well, which is made for that, as long as the medium.
    pub(crate) fn claim(mut self, path: &Path) -> Result<Self, FileStoreError> {
        let claim = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        lock(&claim)?;
        self.claim = Some(claim);
        Ok(self)
    }

    /// From here on whatever fails unlocks it, as the end of a store does.
    fn locked(file: File) -> Result<Self, FileStoreError> {
        let shared = Arc::new(OwnedFd::from(file.try_clone()?));
        lock(&file)?;
        let caching = Caching::Buffered("it was not asked for");
        Ok(Self { file, shared, size: AtomicU64::new(0), caching, volatile: true, claim: None })
    }

    /// Not before the file has its size: where nobody says what direct I/O wants, a block is read.
    fn ready(mut self, size: u64, direct: bool) -> Self {
        if direct {
            self.caching = turned_on(&self.file);
        }
        self.volatile = !(matches!(self.caching, Caching::Direct { .. }) && writes_through(&self.file));
        self.size = AtomicU64::new(size);
        self
    }

    /// What memory must be aligned to; 1 where the kernel copies.
    const fn alignment(&self) -> usize {
        match self.caching {
            Caching::Direct { alignment } => alignment,
            Caching::Buffered(_) | Caching::Memory => 1,
        }
    }

    fn read_aligned(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let mut memory = Aligned::new(length);
        self.file.read_exact_at(memory.bytes(), offset)?;
        out.extend_from_slice(memory.bytes());
        Ok(())
    }

    /// Runs `write` with memory that the medium takes.
    fn with_aligned(&self, data: &[u8], write: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if direct::fits(data, self.alignment()) { write(data) } else { write(Aligned::of(data).bytes()) }
    }

    /// Overwrites with zeros, for file systems and devices that can do nothing better.
    fn write_zeros(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let now = length.min(ZEROS.0.len() as u64);
            self.file.write_all_at(ZEROS.0.get(..now as usize).unwrap_or_default(), offset)?;
            (offset, length) = (offset + now, length - now);
        }
        Ok(())
    }
}

impl Drop for FileStore {
    /// Closing the file would not do: a process that another thread has just forked holds a copy of it until it calls exec.
    /// Whoever still moves data keeps it locked until he has ended.
    fn drop(&mut self) {
        if Arc::get_mut(&mut self.shared).is_some() {
            let _ = self.file.unlock();
            let _ = self.claim.as_ref().map(File::unlock);
        }
    }
}

fn turned_on(file: &File) -> Caching {
    match direct::turn_on(file) {
        Ok(alignment) => Caching::Direct { alignment },
        Err(why) => Caching::Buffered(why),
    }
}

fn lock(file: &File) -> Result<(), FileStoreError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(FileStoreError::InUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// A block device whose own writes are durable when they have ended; a partition's are its disk's. A file's never are:
/// what says where its blocks lie is written later.
fn writes_through(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    if FileType::from_raw_mode(metadata.mode()) != FileType::BlockDevice {
        return false;
    }
    let device = format!("/sys/dev/block/{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
    let queues = [format!("{device}/queue/write_cache"), format!("{device}/../queue/write_cache")];
    let said = queues.iter().find_map(|queue| fs::read_to_string(queue).ok());
    said.is_some_and(|said| said.trim() == "write through")
}

/// Past the last data there is none: the system says ENXIO.
fn or_end(found: Result<u64, Errno>, size: u64) -> io::Result<u64> {
    match found {
        Ok(offset) => Ok(offset.min(size)),
        Err(Errno::NXIO) => Ok(size),
        Err(error) => Err(error.into()),
    }
}

/// The system cannot do it here, or not in pieces of this size.
const fn is_unable(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS | Errno::INVAL)
}

impl Store for FileStore {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn measure(&self) -> io::Result<u64> {
        let size = seek(&self.file, SeekFrom::End(0))?;
        self.size.fetch_max(size, Ordering::AcqRel);
        Ok(size)
    }

    fn read_at(&self, mut offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if self.alignment() > 1 {
            return self.read_aligned(offset, length, out);
        }
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
        self.with_aligned(data, |data| self.file.write_all_at(data, offset))
    }

    fn write_durably(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_aligned(data, |data| write_durably(&self.file, offset, data))
    }

    /// By fallocate for block devices too: it promises zeros, which BLKDISCARD does not, and drops what the page cache has.
    fn deallocate(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        for flags in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
            match fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, offset, length) {
                Ok(()) => return Ok(()),
                Err(error) if is_unable(error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.write_zeros(offset, length)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let size = self.size();
        let data = match seek(&self.file, SeekFrom::Data(offset)) {
            Err(Errno::INVAL) => return Ok(Run { end: size, mapped: true }),
            found => or_end(found, size)?,
        };
        if data > offset {
            return Ok(Run { end: data, mapped: false });
        }
        let hole = or_end(seek(&self.file, SeekFrom::Hole(offset)), size)?;
        Ok(Run { end: hole, mapped: true })
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn has_volatile_cache(&self) -> bool {
        self.volatile
    }

    fn caching(&self) -> Caching {
        self.caching
    }

    fn descriptor(&self) -> Option<Descriptor> {
        Some(Descriptor { file: Arc::clone(&self.shared), alignment: self.alignment() })
    }
}

fn write_durably(file: &File, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match pwritev2(file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFERED: Access = Access { direct: false, read_only: false };

    #[test]
    fn a_copy_of_the_file_in_a_process_just_forked_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lun");
        let store = FileStore::open(&path, Some(8192), BUFFERED).unwrap();
        let _copy = store.file.try_clone().unwrap();
        drop(store);
        assert_eq!(FileStore::open(&path, None, BUFFERED).unwrap().size(), 8192);
    }

    #[test]
    fn what_is_read_only_is_not_opened_for_writing_and_locked_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lun");
        fs::write(&path, [7; 8192]).unwrap();
        let read_only = Access { read_only: true, ..BUFFERED };
        let store = FileStore::open(&path, None, read_only).unwrap();
        assert!(store.write_at(0, &[0; 512]).is_err() && store.deallocate(0, 4096).is_err());
        assert!(matches!(FileStore::open(&path, None, read_only), Err(FileStoreError::InUse)));
        assert_eq!(fs::read(&path).unwrap(), [7; 8192]);
    }

    #[test]
    fn a_file_stays_locked_while_somebody_still_moves_its_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lun");
        let store = FileStore::open(&path, Some(8192), BUFFERED).unwrap();
        let moving = store.descriptor();
        drop(store);
        assert!(matches!(FileStore::open(&path, None, BUFFERED), Err(FileStoreError::InUse)));
        drop(moving);
        assert!(FileStore::open(&path, None, BUFFERED).is_ok());
    }
}
