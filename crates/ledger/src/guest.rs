//! One guest's log as a file: appended to under a lock, durable before [`Guest::append`] returns, compacted when most of it
//! no longer counts.
//!
//! Reading waits for no disk: while this process appends, others see the records as they were before, and where nothing was
//! appended a refresh is one stat(2).
//!
//! Files of a guest's directory: `log`; `lock`, held for an append; `lock.next`, held while waiting for it; `log.new`, a
//! compaction that is being written; `LUN.freeze`, the freeze lock of a logical unit. The log is replaced only by renaming,
//! which others notice by its inode.

mod file;
mod freeze;

use crate::change::Change;
use crate::directory::{Folder, missing};
use crate::error::Error;
use crate::line::Line;
use crate::lock::{Freezes, Idle, Lock, Mode};
use crate::log::{Flaw, Log, header};
use crate::names::{self, LunId, Owner};
use crate::record::Record;
use file::{ChangeTime, Inode, LogFile};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// Appends that wait for the one under way: the next to write writes them all.
    waiting: Mutex<Vec<Waiting>>,
    /// Of the threads of this process one at a time appends, or takes in what others appended. Locked before `inner`.
    writer: Mutex<()>,
    /// Locked for as long as memory takes, or a read of what others appended; never while anything is synced.
    inner: Mutex<Inner>,
    freezes: Freezes,
    /// Open files of `lock.next` and `lock`.
    turn: Arc<Idle>,
    appending: Arc<Idle>,
}

#[derive(Debug)]
struct Inner {
    /// The log by name is another file after a compaction.
    file: Arc<LogFile>,
    log: Log,
    /// This process holds the lock for appending, so that nobody else appends. What it has written counts when it is durable.
    writing: bool,
    /// Length from which on it is worth looking whether most of the log no longer counts.
    compact_at: u64,
    /// The file's change time when its end was read; `None` where this process wrote the end.
    read_at: Option<ChangeTime>,
    /// The directory says durably that the log is this file.
    named: bool,
}

/// An append: its lines, and where its caller looks for the result.
#[derive(Debug)]
struct Waiting {
    lines: Vec<Line>,
    result: Arc<OnceLock<Result<(), Error>>>,
}

impl Guest {
    pub(crate) fn open(folder: Folder, owner: &Owner) -> Result<Self, Error> {
        let log = LogFile::open(&folder, OFlags::CREATE)?;
        let guest = Self::new(folder, owner.clone(), log, false);
        let locked = guest.lock()?;
        guest.settle(&mut guest.inner())?;
        drop(locked);
        Ok(guest)
    }

    /// Opens to be read, whoever's it is unless `owner` says.
    pub(crate) fn read(folder: Folder, owner: Option<&Owner>) -> Result<Self, Error> {
        let path = folder.path.join("log");
        let log = LogFile::open_to(&folder, true)?;
        let unnamed = || Owner(String::new());
        let mut guest = Self::new(folder, owner.cloned().unwrap_or_else(unnamed), log, true);
        guest.catch_up(&mut guest.inner())?;
        let found = guest.inner().log.owner().cloned().ok_or(Error::Missing(path))?;
        match owner {
            Some(_) => guest.belongs(&found)?,
            None => guest.owner = found,
        }
        Ok(guest)
    }

    fn new(folder: Folder, owner: Owner, file: LogFile, read_only: bool) -> Self {
        let inner = Inner {
            file: Arc::new(file),
            log: Log::default(),
            writing: false,
            compact_at: SMALL,
            read_at: None,
            named: true,
        };
        Self {
            owner,
            folder,
            read_only,
            waiting: Mutex::default(),
            writer: Mutex::default(),
            inner: Mutex::new(inner),
            freezes: Freezes::default(),
            turn: Arc::default(),
            appending: Arc::default(),
        }
    }

    /// Whose records these are.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The record of one logical unit, as of the last append or refresh.
    #[must_use]
    pub fn record(&self, lun: &LunId) -> Option<Arc<Record>> {
        self.inner().log.record(lun).cloned()
    }

    /// Every record, as of the last append or refresh, in the order of their logical units.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.inner().log.records().cloned().collect()
    }

    /// Takes in what other processes appended. Waits for none of them: what anybody was told to be durable can be read.
    ///
    /// # Errors
    /// Every [`Error`] but [`Error::Locked`], [`Error::ReadOnly`] and, but for a log that is too long, [`Error::Full`]; the
    /// records stay as they were.
    pub fn refresh(&self) -> Result<(), Error> {
        let mut inner = self.inner();
        if inner.writing || self.is_current(&inner)? {
            return Ok(());
        }
        self.catch_up(&mut inner)?;
        inner.log.owner().map_or(Ok(()), |owner| self.belongs(owner))
    }

    /// Nothing was appended since the log was last looked at, and it was not replaced.
    fn is_current(&self, inner: &Inner) -> Result<bool, Error> {
        let found = rustix::fs::statat(&self.folder.fd, "log", AtFlags::SYMLINK_NOFOLLOW);
        let found = found.map_err(|error| missing(error, &self.path()))?;
        let length = u64::try_from(found.st_size).unwrap_or(u64::MAX);
        let same = Inode(found.st_dev, found.st_ino) == inner.file.inode && length == inner.log.length();
        // What was read may have been taken back, and another line of the same length be in its place.
        let untouched = inner.read_at.is_none_or(|then| then == ChangeTime::of(&found));
        Ok(inner.log.owner() == Some(&self.owner) && same && untouched)
    }

    /// Writes changes, durably before it returns: one write and one fdatasync(2) for all of them, and for those of other
    /// threads that came while the disk was busy. A crash leaves all or none, as long as they have room in 64 KiB.
    ///
    /// # Errors
    /// Every [`Error`]; the records stay as they were, and what was written is cut off again.
    pub fn append(&self, changes: &[(LunId, Change)]) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly(self.path()));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let result = Arc::new(OnceLock::new());
        let waiting = Waiting { lines: self.lines(changes)?, result: Arc::clone(&result) };
        lock(&self.waiting).push(waiting);
        let writer = lock(&self.writer);
        if result.get().is_none() {
            // Not in one expression with what follows, which would keep others from joining the next while this one is written.
            let waiting = std::mem::take(&mut *lock(&self.waiting));
            self.write_all(waiting);
        }
        drop(writer);
        // Whoever wrote it has set the result and dropped its share; else it died.
        let died = || Error::io("write", self.path())(io::Error::other("the thread that wrote it ended"));
        Arc::into_inner(result).and_then(OnceLock::into_inner).unwrap_or_else(|| Err(died()))
    }

    /// The same, if `admits` lets it: it sees the records as they are while nobody else can append.
    ///
    /// # Errors
    /// What `admits` says, and those of [`Self::append`]; the records stay as they were.
    pub fn append_if<E: From<Error>>(
        &self,
        changes: &[(LunId, Change)],
        admits: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.read_only {
            return Err(Error::ReadOnly(self.path()).into());
        }
        let lines = self.lines(changes)?;
        let _writer = lock(&self.writer);
        let _held = self.lock()?;
        self.settle(&mut self.inner())?;
        admits(self)?;
        if lines.is_empty() { Ok(()) } else { Ok(self.write_lines(&lines)?) }
    }

    /// With `writer` held: together if that makes one line; if not, or if it fails, each by itself, so that one
    /// that does not fit fails alone. The lock is waited for once for all.
    fn write_all(&self, waiting: Vec<Waiting>) {
        let held = self.lock();
        let all: Vec<Line> = waiting.iter().flat_map(|one| one.lines.iter().cloned()).collect();
        let joined = held.is_ok() && waiting.len() > 1 && Line::pack(&all).1 == 1;
        let together = joined && self.write_lines(&all).is_ok();
        for Waiting { lines, result } in waiting {
            let _ = result.set(match &held {
                Err(error) => Err(error.again()),
                Ok(_) if together => Ok(()),
                Ok(_) => self.write_lines(&lines),
            });
        }
    }

    /// With the lock held.
    fn write_lines(&self, lines: &[Line]) -> Result<(), Error> {
        self.settle(&mut self.inner())?;
        let _writing = Writing::begin(&self.inner);
        let (text, packed) = Line::pack(lines);
        self.check_room(lines, text.len())?;
        let (file, length) = {
            let inner = self.inner();
            (Arc::clone(&inner.file), inner.log.length())
        };
        self.name_durably()?;
        file.write(&text, length).map_err(Error::io("write", self.path()))?;
        self.inner().wrote(lines, &text, packed);
        // What was asked for is durable; a compaction that fails is tried again later.
        let _ = self.compact(false);
        Ok(())
    }

    /// The lock for appending. Whoever waits for it keeps whoever had it last from taking it again first.
    fn lock(&self) -> Result<Lock, Error> {
        let deadline = Instant::now() + PATIENCE;
        let take = |idle: &Arc<Idle>, name: &str| {
            let open = || self.lock_file(name, OFlags::CREATE);
            self.lock_open(idle, Mode::Exclusive, deadline, open, || name.to_owned())
        };
        let turn = take(&self.turn, "lock.next")?;
        let held = take(&self.appending, "lock")?;
        drop(turn);
        Ok(held)
    }

    /// Locks a file that is open and idle, else one that `open` opens. Others who lock it by its name lock the same one.
    fn lock_open(
        &self,
        idle: &Arc<Idle>,
        mode: Mode,
        deadline: Instant,
        open: impl Fn() -> Result<OwnedFd, Error>,
        name: impl Fn() -> String,
    ) -> Result<Lock, Error> {
        loop {
            let file = idle.take().map_or_else(&open, Ok)?;
            let held = Lock::take(file, mode, deadline, || self.folder.path.join(name()))?;
            // It may have been removed, also between open and lock.
            if held.is_of_a_file_with_a_name() {
                return Ok(held.lent_by(Arc::clone(idle)));
            }
        }
    }

    fn lock_file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let path = || self.folder.path.join(name);
        if self.read_only {
            return Err(Error::ReadOnly(path()));
        }
        Ok(self.folder.open_best(name, flags).map_err(Error::io("open", path()))?.0)
    }

    fn path(&self) -> PathBuf {
        self.folder.path.join("log")
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
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

    fn check_room(&self, lines: &[Line], more: usize) -> Result<(), Error> {
        let full = |what| Err(Error::Full { path: self.path(), what });
        if lines.iter().any(|line| self.inner().log.is_crowded(line, MOST_UNITS, MOST_PATHS)) {
            return full("a guest has at most 4096 logical units, each with at most 256 paths");
        }
        let fits = || self.inner().log.length().saturating_add(more as u64) <= LONGEST;
        if !fits() {
            self.compact(true)?;
        }
        if fits() { Ok(()) } else { full("a log has at most 64 MiB") }
    }

    /// With the lock held: takes in what is there, gives a new log its header, and cuts off what was never written whole.
    fn settle(&self, inner: &mut Inner) -> Result<(), Error> {
        if inner.file.refused.is_none() && self.is_current(inner)? {
            return Ok(());
        }
        self.catch_up(inner)?;
        match inner.log.owner() {
            Some(owner) => self.belongs(owner)?,
            None => return self.begin(inner),
        }
        let whole = inner.log.length();
        let length = inner.file.length().map_err(Error::io("read", self.path()))?;
        if length == whole || inner.file.refused.is_some() {
            return Ok(());
        }
        inner.read_at = None;
        inner.file.cut(whole).map_err(Error::io("cut", self.path()))
    }

    /// Writes the header of a log that has none, or only the beginning of its own.
    fn begin(&self, inner: &mut Inner) -> Result<(), Error> {
        let header = header(&self.owner);
        let found = inner.file.rest(0).map_err(Error::io("read", self.path()))?;
        // A crash may have left the length without the bytes.
        let unwritten = found.len() <= header.len() && found.iter().all(|byte| *byte == 0);
        if !unwritten && !header.as_bytes().starts_with(&found) {
            return Err(self.flaw(Flaw { line: 1, newer: false, what: "not a ledger".to_owned() }));
        }
        let written = inner.file.write(&header, 0);
        let written = written.and_then(|()| rustix::fs::fsync(&self.folder.fd).map_err(Into::into));
        written.map_err(Error::io("write", self.path()))?;
        inner.read_at = None;
        inner.log.feed(header.as_bytes()).map_err(|flaw| self.flaw(flaw))
    }

    /// Takes in what was appended; the whole of a log that was replaced, cut, or written again from some place on, as it is
    /// when what others were writing failed after it was read here.
    fn catch_up(&self, inner: &mut Inner) -> Result<(), Error> {
        let now = LogFile::open_to(&self.folder, self.read_only)?;
        let path = || self.path();
        let length = now.length().map_err(Error::io("read", path()))?;
        if length > LONGEST {
            return Err(Error::Full { path: path(), what: "a log has at most 64 MiB" });
        }
        // Before the reading: what comes in between is then read again.
        let read_at = Some(now.changed().map_err(Error::io("read", path()))?);
        let continues = now.inode == inner.file.inode && length >= inner.log.length();
        if continues && now.has(&inner.log).map_err(Error::io("read", path()))? {
            let bytes = now.rest(inner.log.length()).map_err(Error::io("read", path()))?;
            if inner.log.feed(&bytes).is_ok() {
                (inner.file, inner.read_at) = (Arc::new(now), read_at);
                return Ok(());
            }
        }
        let bytes = now.rest(0).map_err(Error::io("read", path()))?;
        let log = Log::parse(&bytes).map_err(|flaw| self.flaw(flaw))?;
        *inner = Inner { file: Arc::new(now), log, compact_at: SMALL, read_at, ..*inner };
        Ok(())
    }

    fn flaw(&self, Flaw { line, newer, what }: Flaw) -> Error {
        let path = self.path();
        if newer { Error::Newer { path, line, what } } else { Error::Damaged { path, line, what } }
    }

    /// After a compaction whose new name was not durable yet: else a crash brings the old log back, without what was
    /// appended since.
    fn name_durably(&self) -> Result<(), Error> {
        if self.inner().named {
            return Ok(());
        }
        rustix::fs::fsync(&self.folder.fd).map_err(Error::io("sync", self.folder.path.clone()))?;
        self.inner().named = true;
        Ok(())
    }

    /// With the lock held and `writing`: replaces the log by what still counts, if that is less than a quarter of it. It
    /// is looked at when the log is long enough; or `now`, because it is full, and then three quarters are few enough.
    fn compact(&self, now: bool) -> Result<(), Error> {
        let text = {
            let mut inner = self.inner();
            if !now && inner.log.length() <= inner.compact_at {
                return Ok(());
            }
            let text = inner.log.compacted();
            let live = text.len() as u64;
            inner.compact_at = live.saturating_mul(4).max(SMALL);
            let crowded = now && live <= LONGEST / 4 * 3;
            if !crowded && inner.log.length() <= inner.compact_at {
                return Ok(());
            }
            text
        };
        let log = Log::parse(text.as_bytes()).map_err(|flaw| self.flaw(flaw))?;
        let file = self.replace(&text).inspect_err(|_| {
            // A disk that is full must not stay so for the sake of half a log.
            let _ = rustix::fs::unlinkat(&self.folder.fd, "log.new", AtFlags::empty());
        });
        let file = file.map_err(Error::io("compact", self.path()))?;
        let mut inner = self.inner();
        (inner.file, inner.log, inner.read_at) = (Arc::new(file), log, None);
        inner.named = rustix::fs::fsync(&self.folder.fd).is_ok();
        Ok(())
    }

    fn replace(&self, text: &str) -> io::Result<LogFile> {
        let file = File::from(self.folder.open("log.new", OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)?);
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_all()?;
        let file = LogFile::new(file, None)?;
        rustix::fs::renameat(&self.folder.fd, "log.new", &self.folder.fd, "log")?;
        Ok(file)
    }
}

impl Inner {
    fn wrote(&mut self, lines: &[Line], text: &str, packed: u64) {
        self.log.wrote(lines, text, packed);
        self.read_at = None;
    }
}

/// While it lives, this process is appending.
struct Writing<'a>(&'a Mutex<Inner>);

impl<'a> Writing<'a> {
    fn begin(inner: &'a Mutex<Inner>) -> Self {
        lock(inner).writing = true;
        Self(inner)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        lock(self.0).writing = false;
    }
}

// Nothing here panics half way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
