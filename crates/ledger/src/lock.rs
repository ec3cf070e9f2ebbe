//! Locks between processes: flock(2), asked for without blocking until a deadline, gone with the process that held it.

use crate::error::Error;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Shared by many, or held by one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

/// A lock; dropping it gives it back.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct Lock {
    _fd: OwnedFd,
}

const FIRST_WAIT: Duration = Duration::from_micros(100);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

impl Lock {
    /// Takes the lock on an open file, of which `path` is the name for messages. Every open file description is a party of
    /// its own, also within one process.
    pub(crate) fn take(fd: OwnedFd, mode: Mode, deadline: Instant, path: &Path) -> Result<Self, Error> {
        wait(&fd, mode, deadline, path)?;
        Ok(Self { _fd: fd })
    }
}

fn wait(fd: &OwnedFd, mode: Mode, deadline: Instant, path: &Path) -> Result<(), Error> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let mut pause = FIRST_WAIT;
    loop {
        match flock(fd, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
                pause = (pause * 2).min(LONGEST_WAIT);
            }
            Err(Errno::WOULDBLOCK) => return Err(Error::Locked(PathBuf::from(path))),
            Err(error) => return Err(Error::io("lock", path)(error)),
        }
    }
}
