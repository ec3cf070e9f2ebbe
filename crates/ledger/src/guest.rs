//! One guest's log as a file: appended to under a lock, durable before [`Guest::append`] returns, compacted when most of it
//! no longer counts.
//!
//! Files of a guest's directory: `log`; `lock`, held for an append or a refresh; `log.new`, a compaction that is being written;
//! `LUN.freeze`, the freeze lock of a logical unit. The log is replaced only by renaming, which others notice by its inode.

use crate::change::Change;
use crate::directory::{Folder, missing};
use crate::error::Error;
use crate::line::Line;
use crate::lock::{Lock, Mode};
use crate::log::{Flaw, Log, header};
use crate::names::{self, LunId, Owner};
use crate::record::Record;
use rustix::fs::{AtFlags, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes that a log may have.
const LONGEST: u64 = 64 << 20;
/// Below this no log is compacted.
const SMALL: u64 = 256 << 10;
/// Logical units that a guest may have, and paths that a logical unit may have.
const MOST_UNITS: usize = 4096;
const MOST_PATHS: usize = 256;
/// How long an append of another process may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The records of one guest. Threads may share it; each call is whole.
#[derive(Debug)]
pub struct Guest {
    owner: Owner,
    folder: Folder,
    read_only: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    log: Log,
    /// Length from which on it is worth looking whether most of the log no longer counts.
    compact_at: u64,
}

impl Guest {
    pub(crate) fn open(folder: Folder, owner: &Owner) -> Result<Self, Error> {
        let file = File::from(
            folder
                .open("log", OFlags::RDWR | OFlags::CREATE)
                .map_err(|error| missing(error, &folder.path))?,
        );
        let guest = Self::new(folder, owner.clone(), file, false);
        guest.refresh()?;
        Ok(guest)
    }

    /// Opens to be read, whoever's it is unless `owner` says.
    pub(crate) fn read(folder: Folder, owner: Option<&Owner>) -> Result<Self, Error> {
        let path = folder.path.join("log");
        let file = File::from(folder.open("log", OFlags::RDONLY).map_err(|error| missing(error, &path))?);
        let mut guest = Self::new(folder, owner.cloned().unwrap_or_else(|| Owner(String::new())), file, true);
        guest.refresh()?;
        let found = guest.inner().log.owner().cloned().ok_or(Error::Missing(path))?;
        match owner {
            Some(_) => guest.belongs(&found)?,
            None => guest.owner = found,
        }
        Ok(guest)
    }

    fn new(folder: Folder, owner: Owner, file: File, read_only: bool) -> Self {
        let inner = Mutex::new(Inner { file, log: Log::default(), compact_at: SMALL });
        Self { owner, folder, read_only, inner }
    }

    /// Whose records these are.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The record of one logical unit, as of the last append or refresh.
    #[must_use]
    pub fn record(&self, lun: &LunId) -> Option<Record> {
        self.inner().log.record(lun).cloned()
    }

    /// Every record, as of the last append or refresh, in the order of their logical units.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.inner().log.records().cloned().collect()
    }

    /// Takes in what other processes appended.
    ///
    /// # Errors
    /// Every [`Error`] but [`Error::Full`] and [`Error::ReadOnly`]; the records stay as they were.
    pub fn refresh(&self) -> Result<(), Error> {
        let mut inner = self.inner();
        if self.read_only {
            return self.catch_up(&mut inner);
        }
        let _lock = self.lock(Mode::Exclusive)?;
        self.settle(&mut inner)
    }

    /// Writes changes, durably before it returns: one write and one fdatasync(2) for all of them.
    ///
    /// # Errors
    /// Every [`Error`]; the records stay as they were, and what was written is cut off again.
    pub fn append(&self, changes: &[(LunId, Change)]) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly(self.path()));
        }
        let lines = self.lines(changes)?;
        let mut inner = self.inner();
        let _lock = self.lock(Mode::Exclusive)?;
        self.settle(&mut inner)?;
        self.check_room(&mut inner, &lines)?;
        let text: String = lines.iter().map(|line| line.text.as_str()).collect();
        write(&inner.file, &text, inner.log.length()).map_err(Error::io("write", self.path()))?;
        inner.log.wrote(lines);
        if inner.log.length() > inner.compact_at {
            // What was asked for is durable; a compaction that fails is tried again later.
            let _ = self.compact(&mut inner);
        }
        Ok(())
    }

    /// Holds the freeze lock of a logical unit together with others: for one PERSISTENT RESERVE OUT of the guest.
    ///
    /// # Errors
    /// [`Error::Locked`] if a handover holds it beyond the deadline; [`Error::Io`].
    pub fn share(&self, lun: &LunId, deadline: Instant) -> Result<Lock, Error> {
        self.freeze_lock(lun, Mode::Shared, deadline)
    }

    /// Holds the freeze lock of a logical unit alone: no PERSISTENT RESERVE OUT of the guest is under way or begins.
    ///
    /// # Errors
    /// [`Error::Locked`] if others hold it beyond the deadline; [`Error::Io`].
    pub fn freeze(&self, lun: &LunId, deadline: Instant) -> Result<Lock, Error> {
        self.freeze_lock(lun, Mode::Exclusive, deadline)
    }

    fn freeze_lock(&self, lun: &LunId, mode: Mode, deadline: Instant) -> Result<Lock, Error> {
        names::check(&lun.0)?;
        self.lock_file(&format!("{}.freeze", names::file_name(&lun.0)), mode, deadline)
    }

    fn lock(&self, mode: Mode) -> Result<Lock, Error> {
        self.lock_file("lock", mode, Instant::now() + PATIENCE)
    }

    fn lock_file(&self, name: &str, mode: Mode, deadline: Instant) -> Result<Lock, Error> {
        let path = self.folder.path.join(name);
        if self.read_only {
            return Err(Error::ReadOnly(path));
        }
        let fd = self.folder.open(name, OFlags::RDWR | OFlags::CREATE).map_err(Error::io("open", &path))?;
        Lock::take(fd, mode, deadline, &path)
    }

    fn path(&self) -> PathBuf {
        self.folder.path.join("log")
    }

    // Nothing here panics half way through a change.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn belongs(&self, found: &Owner) -> Result<(), Error> {
        if *found == self.owner {
            return Ok(());
        }
        Err(Error::OtherOwner { path: self.path(), found: found.clone(), wanted: self.owner.clone() })
    }

    fn lines(&self, changes: &[(LunId, Change)]) -> Result<Vec<Line>, Error> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let line = |(lun, change): &(LunId, Change)| {
            names::check(&lun.0)?;
            change.path().map_or(Ok(()), |path| names::check(&path.0))?;
            Line::new(at, lun.clone(), change.clone()).map_err(|what| Error::Full { path: self.path(), what })
        };
        changes.iter().map(line).collect()
    }

    fn check_room(&self, inner: &mut Inner, lines: &[Line]) -> Result<(), Error> {
        let full = |what| Err(Error::Full { path: self.path(), what });
        if lines.iter().any(|line| inner.log.is_crowded(line, MOST_UNITS, MOST_PATHS)) {
            return full("a guest has at most 4096 logical units, each with at most 256 paths");
        }
        let more: usize = lines.iter().map(|line| line.text.len()).sum();
        let fits = |inner: &Inner| inner.log.length().saturating_add(more as u64) <= LONGEST;
        if !fits(inner) {
            self.compact(inner)?;
        }
        if fits(inner) { Ok(()) } else { full("a log has at most 64 MiB") }
    }

    /// With the lock held: takes in what is there, gives a new log its header, and cuts off what was never written whole.
    fn settle(&self, inner: &mut Inner) -> Result<(), Error> {
        self.catch_up(inner)?;
        if let Some(owner) = inner.log.owner() {
            self.belongs(owner)?;
        } else {
            return self.begin(inner);
        }
        let whole = inner.log.length();
        let length = inner.file.metadata().map_err(Error::io("read", self.path()))?.len();
        if length == whole { Ok(()) } else { cut(&inner.file, whole).map_err(Error::io("cut", self.path())) }
    }

    /// Writes the header of a log that has none, or only the beginning of its own.
    fn begin(&self, inner: &mut Inner) -> Result<(), Error> {
        let header = header(&self.owner);
        let found = rest(&mut inner.file, 0).map_err(Error::io("read", self.path()))?;
        if !header.as_bytes().starts_with(&found) {
            return Err(self.flaw(Flaw { line: 1, newer: false, what: "not a ledger".to_owned() }));
        }
        let written = write(&inner.file, &header, 0)
            .and_then(|()| rustix::fs::fsync(&self.folder.fd).map_err(Into::into));
        written.map_err(Error::io("write", self.path()))?;
        inner.log.feed(header.as_bytes()).map_err(|flaw| self.flaw(flaw))
    }

    /// Takes in what was appended, or the whole of a log that was replaced or cut.
    fn catch_up(&self, inner: &mut Inner) -> Result<(), Error> {
        let path = self.path();
        let flags = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let now = File::from(self.folder.open("log", flags).map_err(|error| missing(error, &path))?);
        let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino(), data.len()));
        let (held, current) = (identity(&inner.file), identity(&now));
        let (held, current) =
            (held.map_err(Error::io("read", &path))?, current.map_err(Error::io("read", &path))?);
        let same = (held.0, held.1) == (current.0, current.1) && current.2 >= inner.log.length();
        if current.2 > LONGEST {
            return Err(Error::Full { path, what: "a log has at most 64 MiB" });
        }
        if same {
            let bytes = rest(&mut inner.file, inner.log.length()).map_err(Error::io("read", &path))?;
            return inner.log.feed(&bytes).map_err(|flaw| self.flaw(flaw));
        }
        let mut file = now;
        let bytes = rest(&mut file, 0).map_err(Error::io("read", &path))?;
        let log = Log::parse(&bytes).map_err(|flaw| self.flaw(flaw))?;
        *inner = Inner { file, log, compact_at: SMALL };
        Ok(())
    }

    fn flaw(&self, Flaw { line, newer, what }: Flaw) -> Error {
        let path = self.path();
        if newer { Error::Newer { path, line, what } } else { Error::Damaged { path, line, what } }
    }

    /// With the lock held: replaces the log by what still counts, if that is less than a quarter of it.
    fn compact(&self, inner: &mut Inner) -> Result<(), Error> {
        let text = inner.log.compacted();
        let live = text.len() as u64;
        inner.compact_at = live.saturating_mul(4).max(SMALL);
        if inner.log.length() <= inner.compact_at {
            return Ok(());
        }
        let log = Log::parse(text.as_bytes()).map_err(|flaw| self.flaw(flaw))?;
        let file = self.replace(&text).inspect_err(|_| {
            // A disk that is full must not stay so for the sake of half a log.
            let _ = rustix::fs::unlinkat(&self.folder.fd, "log.new", AtFlags::empty());
        });
        let file = file.map_err(Error::io("compact", self.path()))?;
        *inner = Inner { file, log, compact_at: inner.compact_at };
        Ok(())
    }

    fn replace(&self, text: &str) -> io::Result<File> {
        let file = File::from(self.folder.open("log.new", OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)?);
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.folder.fd, "log.new", &self.folder.fd, "log")?;
        // The old log, if a crash brings it back, says the same.
        let _ = rustix::fs::fsync(&self.folder.fd);
        Ok(file)
    }
}

/// Writes behind the first `length` bytes, durably; what cannot be is cut off again.
fn write(file: &File, text: &str, length: u64) -> io::Result<()> {
    let written = file.write_all_at(text.as_bytes(), length).and_then(|()| file.sync_data());
    if written.is_err() {
        // If that fails too, the next append or refresh finds the rest and cuts it or takes it in.
        let _ = cut(file, length);
    }
    written
}

fn cut(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    file.sync_data()
}

/// What is in the file from there on; a little more than a log may have, so that a longer one is seen to be one.
fn rest(file: &mut File, from: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
