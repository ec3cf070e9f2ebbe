//! The log as an open file: read in parts, written and cut durably.

use crate::directory::{Folder, missing};
use crate::error::Error;
use crate::guest::LONGEST;
use crate::log::Log;
use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Device and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode(pub(super) u64, pub(super) u64);

/// When the file was last written, cut or renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChangeTime(i64, i64);

impl ChangeTime {
    pub(super) fn of(found: &Stat) -> Self {
        Self(found.st_ctime, i64::try_from(found.st_ctime_nsec).unwrap_or_default())
    }
}

/// An open log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    pub(super) inode: Inode,
    /// Why it cannot be written, if it could only be opened to be read.
    pub(super) refused: Option<Errno>,
}

impl LogFile {
    /// Opens it for reading and writing, as far as that is allowed.
    pub(super) fn open(folder: &Folder, flags: OFlags) -> Result<Self, Error> {
        let path = folder.path.join("log");
        let (fd, refused) = folder.open_best("log", flags).map_err(|error| missing(error, &path))?;
        Self::new(File::from(fd), refused).map_err(Error::io("open", path))
    }

    /// Opens it anew, to be read only if so wanted.
    pub(super) fn open_to(folder: &Folder, read_only: bool) -> Result<Self, Error> {
        if !read_only {
            return Self::open(folder, OFlags::empty());
        }
        let path = folder.path.join("log");
        let fd = folder.open("log", OFlags::RDONLY).map_err(|error| missing(error, &path))?;
        Self::new(File::from(fd), Some(Errno::BADF)).map_err(Error::io("open", path))
    }

    pub(super) fn new(file: File, refused: Option<Errno>) -> io::Result<Self> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Self { file, inode: Inode(found.dev(), found.ino()), refused })
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|found| found.len())
    }

    pub(super) fn changed(&self) -> io::Result<ChangeTime> {
        Ok(ChangeTime::of(&rustix::fs::fstat(&self.file)?))
    }

    /// Whether the last line of `log` stands where it was read.
    pub(super) fn has(&self, log: &Log) -> io::Result<bool> {
        let mut last = vec![0; usize::try_from(log.last_length()).unwrap_or_default()];
        match self.file.read_exact_at(&mut last, log.length().saturating_sub(log.last_length())) {
            Ok(()) => Ok(log.ends_with(&last)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is in the file from there on; a little more than a log may have, so that a longer one is seen to be one.
    pub(super) fn rest(&self, from: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.file).seek(SeekFrom::Start(from))?;
        (&self.file).take(LONGEST + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes behind the first `length` bytes, durably; what cannot be is cut off again.
    pub(super) fn write(&self, text: &str, length: u64) -> io::Result<()> {
        if let Some(why) = self.refused {
            return Err(why.into());
        }
        let written = self.file.write_all_at(text.as_bytes(), length).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // If that fails too, the next append finds the rest and cuts it or takes it in.
            let _ = self.cut(length);
        }
        written
    }

    pub(super) fn cut(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_data()
    }
}
