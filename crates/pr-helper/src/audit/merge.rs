//! Reads the audits of all guests as one, oldest event first.

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
    reader: GuestReader,
    next: Option<Line>,
    /// There was none when it was looked for.
    ended: bool,
}

impl Reader {
    /// Opens what is there; an audit that has not begun is empty.
    ///
    /// # Errors
    /// If the directory or a file in it cannot be opened.
    pub fn open(state: &Path) -> io::Result<Self> {
        fs::read_dir(state)?;
        let mut reader = Self { guests: state.join("guests"), streams: BTreeMap::new() };
        reader.look_again()?;
        Ok(reader)
    }

    /// The next line; `None` when there is none yet. Called again later, it goes on where the audits have grown.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        match self.oldest()? {
            Some(line) => Ok(Some(line)),
            None => {
                self.look_again()?;
                self.oldest()
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
            let name = entry?.file_name();
            if !self.streams.contains_key(&name) {
                let reader = GuestReader::open(&self.guests.join(&name))?;
                self.streams.insert(name, Stream { reader, next: None, ended: false });
            }
        }
        self.streams.values_mut().for_each(|stream| stream.ended = false);
        Ok(())
    }

    /// The oldest line of those that are next. One that has no time is as old as time.
    fn oldest(&mut self) -> io::Result<Option<Line>> {
        for stream in self.streams.values_mut().filter(|stream| stream.next.is_none() && !stream.ended) {
            stream.next = stream.reader.next_line()?;
            stream.ended = stream.next.is_none();
        }
        let waiting = self.streams.values_mut().filter(|stream| stream.next.is_some());
        let oldest = waiting.min_by_key(|stream| stream.next.as_ref().map(at));
        Ok(oldest.and_then(|stream| stream.next.take()))
    }
}

fn at(line: &Line) -> Timestamp {
    match line {
        Line::Event(event) => event.at,
        Line::Damaged => Timestamp::default(),
    }
}
