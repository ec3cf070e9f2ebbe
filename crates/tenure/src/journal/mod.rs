//! The journal of `handover run --state DIR`: what must be durable before a phase changes anything.
//!
//! One file of JSON lines, locked while a run is under way, each line synced before the commands that follow
//! it are sent. Only the last handover is kept. A line that a crash cut short belongs to commands that were
//! never sent and is dropped; a damaged line anywhere else, or one of a newer version, is refused, never skipped and never
//! overwritten.
//! A line that could not be written whole (a full disk) is cut off again, and while that fails nothing is written.

mod line;

use crate::exit::Failure;
use agent::drive::Journal;
use anyhow::{Context, Result, bail};
use handover::{Entry, Verdict};
use line::Line;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// No run writes more than a few dozen lines of a few hundred bytes.
const MAX_SIZE: u64 = 1 << 20;

/// A handover that began and has no end in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The source's DEVICEs as they were given.
    pub from: Vec<String>,
    /// The destination's DEVICEs as they were given.
    pub to: Vec<String>,
    /// The last entry; `None` if it changed nothing yet.
    pub entry: Option<Entry>,
}

/// A journal file of which this process is the only user.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines; what lies beyond was never promised to anybody.
    length: u64,
    unfinished: Option<Unfinished>,
}

impl JournalFile {
    /// Opens the journal in `directory`, creating both where they are missing, and reads what it tells.
    ///
    /// # Errors
    /// Refused if another process uses it, or a line is damaged or of a newer version; failed if it cannot be read.
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        create_directory(directory).with_context(|| directory.display().to_string())?;
        let path = directory.join("handover.jsonl");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        lock(&file, &path)?;
        let mut journal = Self { path, file, length: 0, unfinished: None };
        // The name itself must survive a power loss as well.
        sync_directory(directory).with_context(|| directory.display().to_string())?;
        let text = read(&mut journal.file, &journal.path)?;
        (journal.length, journal.unfinished) = parse(&text).map_err(|unread| unread.of(&journal.path))?;
        journal.cut()?;
        Ok(journal)
    }

    /// The handover that was under way when its process ended.
    #[must_use]
    pub const fn unfinished(&self) -> Option<&Unfinished> {
        self.unfinished.as_ref()
    }

    /// Begins a handover; what the journal told before is dropped.
    ///
    /// # Errors
    /// If it cannot be made durable.
    pub fn begin(&mut self, from: Vec<String>, to: Vec<String>) -> Result<()> {
        self.length = 0;
        self.write(&Line::begin(from, to))
    }

    /// The handover is over and needs no recovery.
    ///
    /// # Errors
    /// If it cannot be made durable.
    pub fn end(&mut self, verdict: &Verdict) -> Result<()> {
        self.write(&Line::end(&verdict.to_string()))?;
        self.unfinished = None;
        Ok(())
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let text = format!("{}\n", serde_json::to_string(line)?);
        let written = append(&mut self.file, self.length, text.as_bytes());
        self.length = written.with_context(|| self.path.display().to_string())?;
        Ok(())
    }

    /// Drops everything behind the last whole line, and goes on there.
    fn cut(&mut self) -> Result<()> {
        self.file.cut(self.length).with_context(|| self.path.display().to_string())
    }
}

/// What a journal does to its file.
trait Storage {
    /// Ends the file there, and goes on there.
    fn cut(&mut self, length: u64) -> std::io::Result<()>;
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    fn sync(&mut self) -> std::io::Result<()>;
}

impl Storage for File {
    fn cut(&mut self, length: u64) -> std::io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(drop)
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.sync_data()
    }
}

/// Makes `line` durable behind the first `length` bytes; gives the new length.
fn append(storage: &mut impl Storage, length: u64, line: &[u8]) -> std::io::Result<u64> {
    storage.cut(length)?;
    let written = storage.write(line).and_then(|()| storage.sync());
    if written.is_err() {
        // Whoever was told that the line is not durable must not find it, after a power loss either: the next line would
        // follow on half of it, and the next run would act on a whole one. If this fails too, the next write begins with it.
        let _ = storage.cut(length).and_then(|()| storage.sync());
    }
    written.map(|()| length.saturating_add(line.len() as u64))
}

impl Drop for JournalFile {
    /// Closing the file would not do: a process that another thread has just forked holds a copy of it until it calls exec.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Journal for JournalFile {
    fn append(&mut self, entry: &Entry) -> Result<(), agent::drive::Error> {
        self.write(&Line::entry(entry)).map_err(|error| agent::drive::Error::Journal(error.into()))
    }
}

fn lock(file: &File, path: &Path) -> Result<(), Failure> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::refused(format!("{}: another handover is under way there", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(anyhow::Error::from(error).context("lock").into()),
    }
}

fn read(file: &mut File, path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(damaged(path, &anyhow::anyhow!("it is larger than any journal")));
    }
    String::from_utf8(bytes).map_err(|_| damaged(path, &anyhow::anyhow!("it is not text")))
}

/// Why the text of a journal is not taken in.
#[derive(Debug)]
enum Unread {
    /// A program of a newer version wrote it, in this schema.
    Newer(u64),
    Damaged(anyhow::Error),
}

impl From<anyhow::Error> for Unread {
    fn from(reason: anyhow::Error) -> Self {
        Self::Damaged(reason)
    }
}

impl Unread {
    fn of(&self, path: &Path) -> Failure {
        match self {
            Self::Newer(schema) => Failure::refused(format!(
                "{} was written by a newer version (schema {schema}) and is left as it is: finish with that version what it \
                 began, or update this one",
                path.display()
            )),
            Self::Damaged(reason) => damaged(path, reason),
        }
    }

    fn at(self, line: usize) -> Self {
        match self {
            Self::Damaged(reason) => Self::Damaged(reason.context(format!("line {line}"))),
            newer @ Self::Newer(_) => newer,
        }
    }
}

fn damaged(path: &Path, reason: &anyhow::Error) -> Failure {
    Failure::refused(format!(
        "{}: this journal cannot be trusted ({reason:#}); look at the reservation with `tenure pr \
         read-full-status`, decide where the guest may run, then move the file away",
        path.display()
    ))
}

/// Makes the directory and what it lies in, so that every new name survives a power loss.
fn create_directory(directory: &Path) -> std::io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// How many bytes of the text count, and the handover that it leaves open.
fn parse(text: &str) -> Result<(u64, Option<Unfinished>), Unread> {
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let mut unfinished = None;
    for (number, line) in text.get(..whole).unwrap_or_default().lines().enumerate() {
        let taken_in = Line::read(line).and_then(|line| Ok(apply(unfinished, line)?));
        unfinished = taken_in.map_err(|unread| unread.at(number + 1))?;
    }
    Ok((whole as u64, unfinished))
}

fn apply(before: Option<Unfinished>, line: Line) -> Result<Option<Unfinished>> {
    line.check_schema()?;
    match (before, line) {
        (None, Line::Begin { from, to, .. }) => Ok(Some(Unfinished { from, to, entry: None })),
        (Some(open), Line::Entry { entry, .. }) => {
            Ok(Some(Unfinished { entry: Some(entry.to_entry()?), ..open }))
        }
        (Some(_), Line::End { .. }) => Ok(None),
        _ => bail!("it does not belong there"),
    }
}

#[cfg(test)]
mod tests;
