//! What a guest did, a line of JSON for each thing, with the time at which it was over.

use anyhow::{Context, Result};
use nexus::unit_attention;
use scsi::{Completion, Status};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the disk answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// SCSI status.
    pub status: u8,
    /// Sense data, as it came.
    pub sense: Vec<u8>,
    /// Data-in of an order.
    pub data: Vec<u8>,
}

impl Answer {
    pub(super) fn new(ended: &Completion) -> Self {
        Self { status: ended.status.0, sense: ended.sense.clone(), data: ended.data.clone() }
    }

    /// A unit attention: the command was not executed.
    #[must_use]
    pub fn is_attention(&self) -> bool {
        unit_attention(&self.completion()).is_some()
    }

    /// As a completion.
    #[must_use]
    pub fn completion(&self) -> Completion {
        Completion { status: Status(self.status), sense: self.sense.clone(), data: self.data.clone() }
    }
}

/// One thing that a guest did or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It runs: a new one, or one that came from another host.
    Begun {
        /// It came.
        came: bool,
        /// The last sequence number that it knows to be written.
        sequence: u64,
    },
    /// QEMU stopped it.
    Stopped,
    /// QEMU let it go on.
    Resumed,
    /// It wrote the block of this sequence number.
    Wrote(u64, Answer),
    /// It read the block that it wrote last.
    Read {
        /// The sequence number that must be there.
        sequence: u64,
        /// The one that was.
        found: Option<u64>,
        /// The answer, without the data.
        answer: Answer,
    },
    /// The order of this number was carried out.
    Answered(usize, Answer),
    /// Its QEMU is gone, or it could not begin: why.
    Ended(String),
}

/// A line of the diary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since 1970, by the clock of the VM.
    pub at: u64,
    /// What.
    pub what: What,
}

/// Writes one.
#[derive(Debug)]
pub struct Diary(File);

impl Diary {
    pub(super) fn create(path: &Path) -> Result<Self> {
        Ok(Self(File::create(path).with_context(|| path.display().to_string())?))
    }

    pub(super) fn write(&mut self, what: What) -> Result<()> {
        let at = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
        let mut line = serde_json::to_string(&Entry { at, what })?;
        line.push('\n');
        Ok(self.0.write_all(line.as_bytes())?)
    }

    /// All whole lines of a diary; none if there is no diary yet.
    ///
    /// # Errors
    /// If a line is something else.
    pub fn read(path: &Path) -> Result<Vec<Entry>> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_being_written_is_not_read_yet() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut diary = Diary::create(file.path()).unwrap();
        diary.write(What::Stopped).unwrap();
        diary.0.write_all(b"{\"at\":1,").unwrap();
        let read = Diary::read(file.path()).unwrap();
        assert_eq!(read.into_iter().map(|entry| entry.what).collect::<Vec<_>>(), [What::Stopped]);
        diary.0.write_all(b"\n").unwrap();
        assert!(Diary::read(file.path()).is_err());
        assert!(Diary::read(Path::new("/no/such/diary")).unwrap().is_empty());
    }
}
