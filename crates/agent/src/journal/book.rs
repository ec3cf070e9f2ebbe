//! A guest's journal as a file: locked, appended to durably, and begun anew when most of it is long over.

use super::error::Error;
use super::line::{Begun, Said};
use super::log::{Handover, Log, header};
use crate::claim;
use crate::conduct::{self, NotDurable};
use crate::ownership::Mark;
use crate::steps::{Observer, Step, Steps};
use handover::{Entry, Port, UnitIndex};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that a journal may have.
const LONGEST: u64 = 64 << 20;
/// Above this a journal is begun anew with the next handover,
const LARGE: u64 = 1 << 20;
/// with so many of the last: a peer may ask how one ended that it has not finished itself.
const KEPT: usize = 8;

/// The journals of a host's guests.
#[derive(Clone)]
pub struct Journals {
    directory: PathBuf,
    host: String,
    observer: Option<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Journals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journals").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Journals {
    /// Those in this state directory, of this host, by the name that its agent has.
    #[must_use]
    pub fn new(state: &Path, host: &str) -> Self {
        Self { directory: state.join("handovers"), host: host.to_owned(), observer: None }
    }

    /// The same, with somebody who is told of each line that is written.
    #[must_use]
    pub fn observed(self, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { observer, ..self }
    }

    /// Opens a guest's journal, creating it where it is absent, for its user alone.
    ///
    /// # Errors
    /// Every [`Error`] but [`Error::Unfinished`] and [`Error::NoneOpen`].
    pub fn open(&self, vm: &str) -> Result<Book, Error> {
        let path = self.path(vm)?;
        let make = || create_directory(&self.directory);
        make().map_err(Error::io("create", &self.directory))?;
        let lock = lock(&path.with_extension("lock"))?;
        let file = open_file(&path, true).map_err(Error::io("open", &path))?;
        // The name itself must survive a power loss as well.
        sync_directory(&self.directory).map_err(Error::io("sync", &self.directory))?;
        let steps = Steps::observed(self.observer.clone(), vm);
        let (host, vm) = (self.host.clone(), vm.to_owned());
        let mut book = Book { path, file, log: Log::default(), host, vm, steps, _lock: lock };
        book.settle()?;
        Ok(book)
    }

    /// What a guest's journal says, without a lock: nothing is created or cut. Empty where there is none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`], [`Error::Newer`], [`Error::Foreign`], [`Error::Full`], [`Error::Name`].
    pub fn read(&self, vm: &str) -> Result<Log, Error> {
        let path = self.path(vm)?;
        match File::open(&path) {
            Ok(mut file) => read(&mut file, &path, &self.host, vm),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Log::default()),
            Err(error) => Err(Error::io("open", &path)(error)),
        }
    }

    /// The guests that have a journal here, in the order of their files' names; one that cannot be read hides no other.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn guests(&self) -> Result<Vec<Result<String, Error>>, Error> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("read", &self.directory))?,
        };
        let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut paths = paths.map_err(Error::io("read", &self.directory))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        Ok(paths.iter().filter_map(|path| whose(path).transpose()).collect())
    }

    fn path(&self, vm: &str) -> Result<PathBuf, Error> {
        if vm.is_empty() || vm.len() > 4096 || vm.contains('\0') {
            return Err(Error::Name);
        }
        Ok(self.directory.join(format!("{}.log", ledger::file_name(vm))))
    }
}

/// A guest's journal of which this is the only user.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    file: File,
    log: Log,
    host: String,
    vm: String,
    steps: Steps,
    _lock: Lock,
}

impl Book {
    /// The handover that is under way, or was when its agent ended.
    #[must_use]
    pub fn open_handover(&self) -> Option<&Handover> {
        self.log.handovers().last().filter(|handover| handover.is_open())
    }

    /// Everything that is kept, oldest first.
    #[must_use]
    pub fn handovers(&self) -> &[Handover] {
        self.log.handovers()
    }

    /// A handover begins.
    ///
    /// # Errors
    /// [`Error::Unfinished`]; [`Error::Io`] or [`Error::Full`] if it is not durable.
    pub fn begin(&mut self, begun: Begun) -> Result<(), Error> {
        if let Some(open) = self.open_handover() {
            return Err(Error::Unfinished(open.begun.handover));
        }
        if self.log.length() > LARGE {
            self.begin_anew()?;
        }
        self.write(Said::Begin(begun))
    }

    /// Entries of a round, all together.
    ///
    /// # Errors
    /// [`Error::NoneOpen`]; [`Error::Io`] or [`Error::Full`] if they are not durable.
    pub fn entries(&mut self, round: u64, entries: Vec<(UnitIndex, Entry)>) -> Result<(), Error> {
        self.write(Said::Entries { round, entries })
    }

    /// These units go the other way from here on: in their next entries source and destination have changed places.
    ///
    /// # Errors
    /// As [`Book::entries`].
    pub fn turn(&mut self, units: Vec<UnitIndex>) -> Result<(), Error> {
        self.write(Said::Turn(units))
    }

    /// Of the other host's paths to these units it is these from which the guest is claimed.
    ///
    /// # Errors
    /// As [`Book::entries`].
    pub fn from(&mut self, ports: Vec<(UnitIndex, Port)>) -> Result<(), Error> {
        self.write(Said::From(ports))
    }

    /// A promise of this host; one that it gave before is not written again.
    ///
    /// # Errors
    /// As [`Book::entries`].
    pub fn mark(&mut self, mark: Mark) -> Result<(), Error> {
        match self.open_handover() {
            Some(open) if open.marks.contains(&mark) => Ok(()),
            _ => self.write(Said::Mark(mark)),
        }
    }

    /// The guest was given back, and runs again if it ran before.
    ///
    /// # Errors
    /// As [`Book::entries`].
    pub fn resumed(&mut self) -> Result<(), Error> {
        self.write(Said::Resumed)
    }

    /// The guest ran at the destination before that was given it.
    ///
    /// # Errors
    /// As [`Book::entries`].
    pub fn ran_there(&mut self) -> Result<(), Error> {
        self.write(Said::RanThere)
    }

    /// The handover is over and needs no recovery.
    ///
    /// # Errors
    /// As [`Book::entries`].
    pub fn end(&mut self, verdict: &str) -> Result<(), Error> {
        self.write(Said::End { verdict: verdict.to_owned() })
    }

    fn write(&mut self, said: Said) -> Result<(), Error> {
        let full = |what| Error::Full { path: self.path.clone(), what };
        let line = said.to_line().ok_or_else(|| full("a line has at most 4 MiB"))?;
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.log.length().saturating_add(length) > LONGEST {
            return Err(full("a journal has at most 64 MiB"));
        }
        self.log.admits(&said).map_err(|_| Error::NoneOpen)?;
        let (file, written) = (&mut self.file, self.log.length());
        let write = || append(file, written, line.as_bytes());
        self.steps.take(step(&said), write).map_err(Error::io("write", &self.path))?;
        self.log.take(said, length).map_err(|_| Error::NoneOpen)
    }

    /// Takes in what is there, gives a new journal its header, and cuts off what was never written whole.
    fn settle(&mut self) -> Result<(), Error> {
        self.log = read(&mut self.file, &self.path, &self.host, &self.vm)?;
        if self.log.owner().is_none() {
            let header = header(&self.host, &self.vm);
            append(&mut self.file, 0, header.as_bytes()).map_err(Error::io("write", &self.path))?;
            self.log.begin(&self.host, &self.vm);
            return Ok(());
        }
        self.file.cut(self.log.length()).map_err(Error::io("cut", &self.path))
    }

    /// The last few handovers alone, under the same name. A crash leaves the old file or the new one.
    fn begin_anew(&mut self) -> Result<(), Error> {
        let Some(start) = self.log.start_of_last(KEPT) else { return Ok(()) };
        let path = self.path.with_extension("new");
        let kept = self.copy(start, &path).map_err(Error::io("write", &path))?;
        fs::rename(&path, &self.path).map_err(Error::io("rename", &path))?;
        self.file = kept;
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        sync_directory(directory).map_err(Error::io("sync", directory))?;
        self.settle()
    }

    fn copy(&mut self, start: u64, path: &Path) -> io::Result<File> {
        let mut kept = open_file(path, true)?;
        kept.set_len(0)?;
        kept.write_all(header(&self.host, &self.vm).as_bytes())?;
        self.file.seek(SeekFrom::Start(start))?;
        io::copy(&mut Read::by_ref(&mut self.file).take(self.log.length().saturating_sub(start)), &mut kept)?;
        kept.sync_all()?;
        Ok(kept)
    }
}

/// What a line is to whoever observes.
const fn step(said: &Said) -> Step {
    match said {
        Said::Begin(_) => Step::Begin,
        Said::Entries { .. } | Said::From(_) => Step::Entries,
        Said::Turn(_) => Step::Turn,
        Said::Mark(mark) => Step::Mark(*mark),
        Said::Resumed | Said::RanThere => Step::Resumed,
        Said::End { .. } => Step::End,
    }
}

/// A journal as a group of handovers writes to it.
#[derive(Clone, Debug)]
pub struct Entries {
    book: Arc<Mutex<Book>>,
    /// Which logical units of the handover the units of the group are.
    units: Vec<UnitIndex>,
}

impl Entries {
    /// Of a group of these logical units.
    #[must_use]
    pub const fn new(book: Arc<Mutex<Book>>, units: Vec<UnitIndex>) -> Self {
        Self { book, units }
    }
}

impl Entries {
    fn placed<T: Clone>(&self, of: &[(UnitIndex, T)]) -> Result<Vec<(UnitIndex, T)>, NotDurable> {
        let place =
            |(unit, what): &(UnitIndex, T)| Some((*self.units.get(usize::from(unit.0))?, what.clone()));
        let placed = of.iter().map(place).collect::<Option<Vec<_>>>();
        placed.ok_or_else(|| NotDurable("an entry of no logical unit".to_owned()))
    }

    fn with(&self, write: impl FnOnce(&mut Book) -> Result<(), Error>) -> Result<(), NotDurable> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut book).map_err(|error| NotDurable(error.to_string()))
    }
}

impl conduct::Journal for Entries {
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        let entries = self.placed(entries)?;
        self.with(|book| book.entries(round, entries))
    }
}

impl claim::Book for Entries {
    fn claimed_from(&mut self, ports: &[(UnitIndex, Port)]) -> Result<(), NotDurable> {
        let ports = self.placed(ports)?;
        self.with(|book| book.from(ports))
    }
}

/// What a journal does to its file.
pub(super) trait Storage {
    /// Ends the file there, and goes on there.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
}

impl Storage for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(drop)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes `line` durable behind the first `length` bytes.
pub(super) fn append(storage: &mut impl Storage, length: u64, line: &[u8]) -> io::Result<()> {
    storage.cut(length)?;
    let written = storage.write(line).and_then(|()| storage.sync());
    if written.is_err() {
        // Whoever was told that the line is not durable must not find it, after a power loss either. If this fails too, the
        // next write begins with it.
        let _ = storage.cut(length).and_then(|()| storage.sync());
    }
    written
}

fn read(file: &mut File, path: &Path, host: &str, vm: &str) -> Result<Log, Error> {
    let mut bytes = Vec::new();
    let read =
        file.seek(SeekFrom::Start(0)).and_then(|_| Read::take(file, LONGEST + 1).read_to_end(&mut bytes));
    read.map_err(Error::io("read", path))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::Full { path: path.to_owned(), what: "a journal has at most 64 MiB" });
    }
    let log = Log::parse(&bytes).map_err(|flaw| Error::flaw(path, flaw))?;
    match log.owner() {
        Some((found_host, found_vm)) if (found_host, found_vm) != (host, vm) => Err(Error::Foreign {
            path: path.to_owned(),
            host: found_host.to_owned(),
            vm: found_vm.to_owned(),
        }),
        None => unbegun(&bytes, &header(host, vm)).then_some(log).ok_or_else(|| {
            let what = "not a journal of handovers".to_owned();
            Error::flaw(path, super::log::Flaw { line: 1, newer: false, what })
        }),
        Some(_) => Ok(log),
    }
}

/// Nothing, the beginning of its own header, or the length without the bytes, as a crash may have left it.
fn unbegun(bytes: &[u8], header: &str) -> bool {
    let unwritten = bytes.len() <= header.len() && bytes.iter().all(|byte| *byte == 0);
    unwritten || header.as_bytes().starts_with(bytes)
}

/// Whose journal a file is; `None` if it has not begun.
fn whose(path: &Path) -> Result<Option<String>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    file.map_err(Error::io("read", path))?;
    let log = Log::parse(&bytes).map_err(|flaw| Error::flaw(path, flaw))?;
    Ok(log.owner().map(|(_, vm)| vm.to_owned()))
}

fn open_file(path: &Path, create: bool) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

/// A locked file.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Closing the file would not do: a process that another thread has just forked holds a copy of it until it calls exec.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn lock(path: &Path) -> Result<Lock, Error> {
    let file = open_file(path, true).map_err(Error::io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
    }
}

/// Makes the directory and what it lies in, so that every new name survives a power loss.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
