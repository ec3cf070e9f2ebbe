//! Reads the audits of all guests as one, oldest event first. One that cannot be read says so and hides no other.

use super::Timestamp;
use super::read::{GuestReader, Line};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The audit of one state directory.
#[derive(Debug)]
pub struct Reader {
    guests: PathBuf,
    streams: BTreeMap<OsString, Stream>,
}

/// One guest's lines, and the next of them.
#[derive(Debug)]
struct Stream {
    /// `None` once it cannot be read.
    reader: Option<GuestReader>,
    next: Option<Line>,
    /// There was none when it was looked for, or there can be none any more.
    ended: bool,
}

impl Stream {
    fn open(directory: &Path) -> Self {
        match GuestReader::open(directory) {
            Ok(reader) => Self { reader: Some(reader), next: None, ended: false },
            Err(error) => Self { reader: None, next: Some(unreadable(directory, &error)), ended: false },
        }
    }

    /// Looks for the next line, if there is none waiting.
    fn advance(&mut self, directory: impl FnOnce() -> PathBuf) {
        if self.next.is_some() || self.ended {
            return;
        }
        self.next = match self.reader.as_mut().map(GuestReader::next_line) {
            Some(Ok(line)) => line,
            Some(Err(error)) => {
                self.reader = None;
                Some(unreadable(&directory(), &error))
            }
            None => None,
        };
        self.ended = self.next.is_none();
    }
}

fn unreadable(directory: &Path, error: &io::Error) -> Line {
    Line::Unreadable(format!("the audit in {} cannot be read: {error}", directory.display()))
}

impl Reader {
    /// Opens what is there; an audit that has not begun is empty.
    ///
    /// # Errors
    /// If the state directory cannot be read.
    pub fn open(state: &Path) -> io::Result<Self> {
        fs::read_dir(state)?;
        let mut reader = Self { guests: state.join("guests"), streams: BTreeMap::new() };
        reader.look_again()?;
        Ok(reader)
    }

    /// The next line; `None` when there is none yet. Called again later, it goes on where the audits have grown.
    ///
    /// # Errors
    /// If the directory of the guests cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        match self.oldest() {
            Some(line) => Ok(Some(line)),
            None => {
                self.look_again()?;
                Ok(self.oldest())
            }
        }
    }

    /// Takes in guests that came meanwhile, and lines that did.
    fn look_again(&mut self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.guests) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() && !self.streams.contains_key(&name) {
                let stream = Stream::open(&self.guests.join(&name));
                self.streams.insert(name, stream);
            }
        }
        self.streams.values_mut().for_each(|stream| stream.ended = false);
        Ok(())
    }

    /// The oldest line of those that are next. One that has no time is as old as time.
    fn oldest(&mut self) -> Option<Line> {
        for (name, stream) in &mut self.streams {
            stream.advance(|| self.guests.join(name));
        }
        let waiting = self.streams.values_mut().filter(|stream| stream.next.is_some());
        let oldest = waiting.min_by_key(|stream| stream.next.as_ref().map(at));
        oldest.and_then(|stream| stream.next.take())
    }
}

fn at(line: &Line) -> Timestamp {
    match line {
        Line::Event(event) => event.at,
        Line::Damaged | Line::Unreadable(_) => Timestamp::default(),
    }
}
