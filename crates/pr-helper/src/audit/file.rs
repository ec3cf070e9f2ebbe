//! The file of the audit: appended to, and turned over when it is full.

use super::{Event, FILE_NAME};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// A file of this many bytes is turned over.
pub(super) const LARGEST: u64 = 16 << 20;
/// How many full files are kept beside the current one: `audit.jsonl.1`, the youngest, to `.4`.
pub(super) const KEPT: u32 = 4;

/// The current file, and the directory in which it lies.
#[derive(Debug)]
pub(super) struct AuditFile {
    directory: OwnedFd,
    file: File,
    largest: u64,
    /// The last write ended inside a line.
    torn: bool,
}

impl AuditFile {
    pub(super) fn open(path: &Path, largest: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(path, flags, Mode::empty())?;
        let file = open_in(&directory)?;
        Ok(Self { directory, file, largest, torn: true })
    }

    /// Appends one line. `O_APPEND` makes the write one piece among those of other processes.
    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        self.follow()?;
        let length = self.file.metadata()?.len();
        if length >= self.largest {
            self.turn_over()?;
        }
        // What a crash or a full disk cut short must not swallow this line. A blank line is skipped on reading.
        let mut line = if self.torn && length > 0 { b"\n".to_vec() } else { Vec::new() };
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        Ok(())
    }

    /// Another process may have turned the file over, or somebody removed it.
    fn follow(&mut self) -> io::Result<()> {
        if !self.is_current()? {
            self.file = open_in(&self.directory)?;
            self.torn = true;
        }
        Ok(())
    }

    fn is_current(&self) -> io::Result<bool> {
        let mine = fs::fstat(&self.file)?;
        match fs::statat(&self.directory, FILE_NAME, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the full files one further and begins a new one; the lock on the full file makes one process do it, and
    /// nobody wait.
    fn turn_over(&mut self) -> io::Result<()> {
        match fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            // Somebody is at it; until it is done this file takes a little more.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            locked => locked?,
        }
        let turned = if self.is_current()? { self.shift() } else { Ok(()) };
        fs::flock(&self.file, FlockOperation::Unlock)?;
        turned?;
        self.follow()
    }

    fn shift(&self) -> io::Result<()> {
        let name = |number| if number == 0 { FILE_NAME.into() } else { format!("{FILE_NAME}.{number}") };
        for number in (0..KEPT).rev() {
            let moved = fs::renameat(&self.directory, name(number), &self.directory, name(number + 1));
            match moved {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn open_in(directory: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let file = File::from(fs::openat(directory, FILE_NAME, flags, Mode::RUSR | Mode::WUSR)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{FILE_NAME} is no regular file"))),
    }
}
