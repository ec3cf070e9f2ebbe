//! Reads one guest's audit back, oldest event first, and follows it while it grows.

use super::{Event, FILE_NAME, file};
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
}

/// The audit of one guest.
#[derive(Debug)]
pub(super) struct GuestReader {
    path: PathBuf,
    older: VecDeque<File>,
    current: Option<BufReader<File>>,
    partial: Vec<u8>,
}

impl GuestReader {
    /// Opens what is there; an audit that has not begun is empty.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let names = (1..=file::KEPT).rev().map(|number| directory.join(format!("{FILE_NAME}.{number}")));
        let files = names.chain([path.clone()]).map(|name| open(&name));
        let older = files.filter_map(Result::transpose).collect::<io::Result<_>>()?;
        Ok(Self { path, older, current: None, partial: Vec::new() })
    }

    /// The next line; `None` when there is none yet. Called again later, it goes on where the audit has grown.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.read_line()? {
                return Ok(Some(line));
            }
            if !self.advance()? {
                return Ok(None);
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

    /// Goes to the next file, if the present one is finished.
    fn advance(&mut self) -> io::Result<bool> {
        let next = match self.older.pop_front() {
            Some(file) => Some(file),
            None => open(&self.path)?.filter(|named| !self.is_current(named)),
        };
        let found = next.is_some();
        if let Some(file) = next {
            self.partial.clear();
            self.current = Some(BufReader::new(file));
        }
        Ok(found)
    }

    fn is_current(&self, named: &File) -> bool {
        let place = |file: &File| file.metadata().map(|data| (data.dev(), data.ino())).ok();
        self.current.as_ref().is_some_and(|current| place(current.get_ref()) == place(named))
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(line: &[u8]) -> Line {
    match serde_json::from_slice::<Event>(line) {
        Ok(event) if event.schema == 1 => Line::Event(Box::new(event)),
        _ => Line::Damaged,
    }
}
