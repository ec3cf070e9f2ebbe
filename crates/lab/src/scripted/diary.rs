//! When the guest ran, and where: one file for all processes that may run it, and a lock that one of them can hold.
//!
//! A process takes the lock before its guest runs and gives it back after it has stopped; the kernel gives back a dead one's.
//! One that does not get the lock runs all the same, as QEMU would, and the diary says so for ever.

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A line of the diary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Nanoseconds of the monotonic clock, which all processes of a machine share.
    pub at: u64,
    /// Who.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The guest runs from now on.
    Runs,
    /// It has stopped.
    Stopped,
    /// It runs although it runs in another process, too.
    Twice,
}

/// One process's end of it.
#[derive(Debug)]
pub struct Diary {
    file: File,
    lock: File,
    name: String,
}

impl Diary {
    /// Opens it, and makes it where it is not there yet.
    ///
    /// # Errors
    /// The files cannot be opened.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let open = |path: &Path| OpenOptions::new().append(true).create(true).open(path);
        let lock = lock_path(path);
        let file = open(path).with_context(|| path.display().to_string())?;
        let lock = open(&lock).with_context(|| lock.display().to_string())?;
        Ok(Self { file, lock, name: name.to_owned() })
    }

    /// The guest is about to run.
    pub(super) fn runs(&self) -> Result<()> {
        let alone = flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        self.write(if alone { What::Runs } else { What::Twice })
    }

    /// The guest has stopped.
    pub(super) fn stopped(&self) -> Result<()> {
        self.write(What::Stopped)?;
        Ok(flock(&self.lock, FlockOperation::Unlock)?)
    }

    fn write(&self, what: What) -> Result<()> {
        let now = clock_gettime(ClockId::Monotonic);
        let at = u64::try_from(now.tv_sec)? * 1_000_000_000 + u64::try_from(now.tv_nsec)?;
        let line = Line { at, name: self.name.clone(), pid: std::process::id(), what };
        // One write: lines of two processes do not mix.
        let text = serde_json::to_string(&line)? + "\n";
        Ok((&self.file).write_all(text.as_bytes())?)
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

/// What a diary tells.
///
/// # Errors
/// It cannot be read; one that is not there is empty.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The moment at which the guest ran twice, if it ever did: by the lock, and by what each process wrote. `None`: one owner at every instant.
#[must_use]
pub fn ran_twice(lines: &[Line]) -> Option<&Line> {
    lines.iter().find(|line| line.what == What::Twice)
}

/// Whose guest runs, after all that was written: the last one to begin, unless it has stopped since. Whether that process is
/// alive is not for the diary to say.
#[must_use]
pub fn runs_now(lines: &[Line]) -> Option<&Line> {
    let last = lines.iter().rev().find(|line| line.what != What::Stopped)?;
    let stopped = |line: &&Line| line.what == What::Stopped && line.pid == last.pid && line.at >= last.at;
    if lines.iter().any(|line| stopped(&line)) { None } else { Some(last) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_guest_that_runs_twice_is_found_out_and_one_after_the_other_is_not() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("diary");
        let [a, b] = ["a", "b"].map(|name| Diary::open(&path, name).unwrap());
        assert!(read(&path).unwrap().is_empty());
        a.runs().unwrap();
        assert_eq!(runs_now(&read(&path).unwrap()).unwrap().name, "a");
        a.stopped().unwrap();
        assert_eq!(runs_now(&read(&path).unwrap()), None);
        b.runs().unwrap();
        let lines = read(&path).unwrap();
        assert_eq!((ran_twice(&lines), runs_now(&lines).unwrap().name.as_str()), (None, "b"));
        a.runs().unwrap();
        assert_eq!(ran_twice(&read(&path).unwrap()).unwrap().name, "a");
    }

    #[test]
    fn a_dead_process_holds_nothing() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("diary");
        let dead = Diary::open(&path, "a").unwrap();
        dead.runs().unwrap();
        drop(dead);
        Diary::open(&path, "b").unwrap().runs().unwrap();
        assert_eq!(ran_twice(&read(&path).unwrap()), None);
    }
}
