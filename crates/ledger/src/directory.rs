//! The state directory: one directory for each guest, under `guests`.
//!
//! Opened once, before privileges are dropped; everything later is opened relative to it.

use crate::error::Error;
use crate::guest::Guest;
use crate::names::{self, Owner};
use rustix::fd::OwnedFd;
use rustix::fs::{Dir, Mode, OFlags, fsync, mkdirat, open, openat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The ledger of a host.
#[derive(Debug)]
pub struct Ledger {
    guests: Folder,
    read_only: bool,
}

/// A directory that is open, and its name for messages.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
}

impl Folder {
    /// Opens a file in it; never through a symbolic link.
    pub(crate) fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        // What somebody put there in place of a file is neither followed nor waited for.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Opens a file for reading and writing; where that is not allowed, as on a read-only file system, for reading. With
    /// it comes why it cannot be written.
    pub(crate) fn open_best(&self, name: &str, flags: OFlags) -> Result<(OwnedFd, Option<Errno>), Errno> {
        match self.open(name, OFlags::RDWR | flags) {
            Ok(fd) => Ok((fd, None)),
            Err(why @ (Errno::ROFS | Errno::ACCESS)) => {
                self.open(name, OFlags::RDONLY).map(|fd| (fd, Some(why))).map_err(|_| why)
            }
            Err(error) => Err(error),
        }
    }

    /// The files in it, in the order of their names, but for those that begin with a dot.
    pub(crate) fn names(&self) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // What is not one of our escaped names is not ours.
            names.extend(name.to_str().filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Opens a directory in it, creating it first if wanted.
    fn folder(&self, name: &str, create: bool) -> Result<Self, Error> {
        let path = self.path.join(name);
        if create {
            make(&self.fd, name).map_err(Error::io("create", &path))?;
        }
        let fd =
            self.open(name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|error| missing(error, &path))?;
        Ok(Self { fd, path })
    }
}

impl Ledger {
    /// Opens the ledger of this state directory, creating it for root alone (mode 0700) where it is absent.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(state: &Path) -> Result<Self, Error> {
        make(rustix::fs::CWD, state).map_err(Error::io("create", state))?;
        // Where the parent can be opened, the directory itself outlives a crash as well.
        let _ = state.parent().map(|parent| std::fs::File::open(parent).and_then(|parent| parent.sync_all()));
        let guests = Self::state(state)?.folder("guests", true)?;
        Ok(Self { guests, read_only: false })
    }

    /// Opens the ledger to be read. Nothing is created, locked, or cut.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`].
    pub fn read_only(state: &Path) -> Result<Self, Error> {
        let guests = Self::state(state)?.folder("guests", false)?;
        Ok(Self { guests, read_only: true })
    }

    fn state(path: &Path) -> Result<Folder, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|error| missing(error, path))?;
        Ok(Folder { fd, path: path.to_owned() })
    }

    /// One guest's records.
    ///
    /// # Errors
    /// Every [`Error`] but [`Error::Full`]; [`Error::Missing`] only of a ledger that was opened to be read.
    pub fn guest(&self, owner: &Owner) -> Result<Guest, Error> {
        names::check(&owner.0)?;
        let folder = self.guests.folder(&names::file_name(&owner.0), !self.read_only)?;
        if self.read_only { Guest::read(folder, Some(owner)) } else { Guest::open(folder, owner) }
    }

    /// Where everything of one guest is, or will be: a directory that no other guest has.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn directory(&self, owner: &Owner) -> Result<PathBuf, Error> {
        names::check(&owner.0)?;
        Ok(self.guests.path.join(names::file_name(&owner.0)))
    }

    /// Every guest's records to be read, in the order of their names. One that cannot be read hides no other.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory itself cannot be read.
    pub fn guests(&self) -> Result<Vec<Result<Guest, Error>>, Error> {
        let names = self.guests.names().map_err(Error::io("read", &self.guests.path))?;
        let read =
            |name: &String| self.guests.folder(name, false).and_then(|folder| Guest::read(folder, None));
        // A directory without a log is a guest whose first change was never written.
        let written = |guest: &Result<Guest, Error>| !matches!(guest, Err(Error::Missing(_)));
        Ok(names.iter().map(read).filter(written).collect())
    }
}

/// Makes a directory for its owner alone, durably, unless there is one.
fn make<F: rustix::fd::AsFd>(parent: F, name: impl rustix::path::Arg) -> Result<(), Errno> {
    match mkdirat(&parent, name, Mode::RWXU) {
        // The working directory cannot be synced by this handle.
        Ok(()) => fsync(&parent).or(Ok(())),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn missing(error: Errno, path: &Path) -> Error {
    match error {
        Errno::NOENT => Error::Missing(path.to_owned()),
        error => Error::io("open", path)(error),
    }
}
