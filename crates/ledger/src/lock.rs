//! Locks between processes: flock(2), asked for without blocking until a deadline, gone with the process that held it.

use crate::error::Error;
use crate::names::LunId;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, flock, fstat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// `None` only while it is dropped.
    fd: Option<OwnedFd>,
    lender: Option<Arc<Idle>>,
}

const FIRST_WAIT: Duration = Duration::from_micros(100);
const LONGEST_WAIT: Duration = Duration::from_millis(5);

impl Lock {
    /// Takes the lock on an open file, whose name for messages is `path`. Every open file description is a party of its own,
    /// also within one process.
    pub(crate) fn take(
        fd: OwnedFd,
        mode: Mode,
        deadline: Instant,
        path: impl FnOnce() -> PathBuf,
    ) -> Result<Self, Error> {
        match wait(&fd, mode, deadline) {
            Ok(()) => Ok(Self { fd: Some(fd), lender: None }),
            Err(Errno::WOULDBLOCK) => Err(Error::Locked(path())),
            Err(error) => Err(Error::io("lock", path())(error)),
        }
    }

    /// Nobody removed the file: others who lock by its name lock this one.
    pub(crate) fn is_of_a_file_with_a_name(&self) -> bool {
        self.fd.as_ref().and_then(|fd| fstat(fd).ok()).is_some_and(|found| found.st_nlink > 0)
    }

    /// The open file is kept there for the next who wants the lock.
    pub(crate) fn lent_by(mut self, lender: Arc<Idle>) -> Self {
        self.lender = Some(lender);
        self
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let (Some(fd), Some(lender)) = (self.fd.take(), &self.lender) else { return };
        // What cannot be unlocked is closed, which unlocks it.
        if flock(&fd, FlockOperation::Unlock).is_ok() {
            lender.give_back(fd);
        }
    }
}

/// Open files of freeze locks that nobody holds, by logical unit: to lock one that is open takes one flock(2).
#[derive(Debug, Default)]
pub(crate) struct Freezes {
    units: Mutex<BTreeMap<LunId, Arc<Idle>>>,
    made: AtomicUsize,
}

/// Those of one logical unit.
#[derive(Debug, Default)]
pub(crate) struct Idle(Mutex<Vec<OwnedFd>>);

/// Logical units of which open files are kept, and how many of each.
const KEPT_UNITS: usize = 64;
const KEPT_FILES: usize = 2;
/// How many lock files are made before those that there are are counted again.
const UNCOUNTED: usize = 64;

impl Freezes {
    /// Whether the lock files that there are should be counted before another is made, which takes a while.
    pub(crate) fn are_to_be_counted(&self) -> bool {
        self.made.load(Ordering::Relaxed).is_multiple_of(UNCOUNTED)
    }

    /// A lock file is made.
    pub(crate) fn made_one(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, lun: &LunId) -> Arc<Idle> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idle) = units.get(lun) {
            return Arc::clone(idle);
        }
        if units.len() >= KEPT_UNITS {
            units.clear();
        }
        Arc::clone(units.entry(lun.clone()).or_default())
    }
}

impl Idle {
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        self.files().pop()
    }

    fn give_back(&self, file: OwnedFd) {
        let mut files = self.files();
        if files.len() < KEPT_FILES {
            files.push(file);
        }
    }

    fn files(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// WOULDBLOCK if others held it until the deadline.
fn wait(fd: &OwnedFd, mode: Mode, deadline: Instant) -> Result<(), Errno> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let mut pause = FIRST_WAIT;
    loop {
        match flock(fd, operation) {
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
                pause = (pause * 2).min(LONGEST_WAIT);
            }
            ended => return ended,
        }
    }
}
