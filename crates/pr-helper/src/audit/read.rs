//! Reads one guest's audit back, oldest event first, and follows it while it grows.

use super::{Event, FILE_NAME, file};
use rustix::fs::{Mode, OFlags};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest line that is read; the writer's are far shorter.
const LONGEST_LINE: usize = 64 << 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// An event.
    Event(Box<Event>),
    /// Something else: cut short by a crash, damaged, or of a version that this program does not know.
    Damaged,
    /// The rest of one guest's audit cannot be read: which, and why.
    Unreadable(String),
}

/// The audit of one guest. A file may be turned over at any moment, also more than once between two looks.
#[derive(Debug)]
pub(super) struct GuestReader {
    directory: PathBuf,
    /// Files after the current one, oldest first.
    newer: VecDeque<File>,
    current: Option<BufReader<File>>,
    /// The current one is full: there are newer ones. What it got last is still to be read.
    full: bool,
    partial: Vec<u8>,
}

impl GuestReader {
    /// Opens what is there; an audit that has not begun is empty.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let newer = files(directory)?;
        let directory = directory.to_owned();
        Ok(Self { directory, newer, current: None, full: false, partial: Vec::new() })
    }

    /// The next line; `None` when there is none yet. Called again later, it goes on where the audit has grown.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.read_line()? {
                return Ok(Some(line));
            }
            if !self.look_for_newer()? {
                return Ok(None);
            }
            // Lines may have come before it was full and after it was read.
            if std::mem::replace(&mut self.full, true) {
                self.full = false;
                self.current = self.newer.pop_front().map(BufReader::new);
                if !std::mem::take(&mut self.partial).trim_ascii().is_empty() {
                    return Ok(Some(Line::Damaged));
                }
            }
        }
    }

    /// A line that ends; what has no end yet is kept for later.
    fn read_line(&mut self) -> io::Result<Option<Line>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        loop {
            let room = LONGEST_LINE.saturating_sub(self.partial.len());
            let mut limited = current.by_ref().take(u64::try_from(room).unwrap_or(0));
            limited.read_until(b'\n', &mut self.partial)?;
            if !self.partial.ends_with(b"\n") && self.partial.len() < LONGEST_LINE {
                return Ok(None);
            }
            let line = std::mem::take(&mut self.partial);
            if !line.trim_ascii().is_empty() {
                return Ok(Some(parse(&line)));
            }
        }
    }

    /// Whether there are files after the current one.
    fn look_for_newer(&mut self) -> io::Result<bool> {
        if self.newer.is_empty() {
            let mut found = files(&self.directory)?;
            let current = self.current.as_ref().and_then(|file| identity(file.get_ref()));
            // If it is not among them any more, those that are left are all newer.
            if let Some(place) = found.iter().position(|file| identity(file) == current) {
                found.drain(..=place);
            }
            self.newer = found;
        }
        Ok(!self.newer.is_empty())
    }
}

/// The files that there are, each once, oldest first. They are opened youngest first: one that is turned over
/// meanwhile is met twice, and none is missed.
fn files(directory: &Path) -> io::Result<VecDeque<File>> {
    let names = (1..=file::KEPT).map(|number| directory.join(format!("{FILE_NAME}.{number}")));
    let mut files = VecDeque::new();
    for name in [directory.join(FILE_NAME)].into_iter().chain(names) {
        match open(&name) {
            Ok(file) if files.front().is_some_and(|newer| identity(newer) == identity(&file)) => {}
            Ok(file) => files.push_front(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// A guest's directory may belong to another user, who may have put anything there: nothing is followed or waited for.
fn open(name: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(name, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("no regular file")) }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().map(|data| (data.dev(), data.ino())).ok()
}

fn parse(line: &[u8]) -> Line {
    match serde_json::from_slice::<Event>(line) {
        Ok(event) if event.schema == 1 => Line::Event(Box::new(event)),
        _ => Line::Damaged,
    }
}
