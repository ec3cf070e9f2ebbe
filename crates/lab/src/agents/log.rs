//! Where the entries and marks of a handover go: a file, with one write and one fdatasync each time.

use agent::conduct::{Journal, NotDurable};
use agent::entry::EntryForm;
use anyhow::Result;
use handover::{Entry, UnitIndex};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// One host's.
#[derive(Clone, Debug)]
pub(super) struct Log {
    file: Arc<File>,
    last: Arc<Mutex<BTreeMap<UnitIndex, Entry>>>,
}

impl Log {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Arc::new(File::create(path)?), last: Arc::default() })
    }

    /// Makes a mark durable.
    pub(super) fn mark(&self, name: &str) -> Result<()> {
        Ok(self.write(&json!({ "mark": name }).to_string())?)
    }

    /// The last entry of a unit.
    pub(super) fn last(&self, unit: UnitIndex) -> Option<Entry> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&unit).copied()
    }

    fn write(&self, line: &str) -> io::Result<()> {
        (&*self.file).write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()
    }
}

impl Journal for Log {
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        let forms: Vec<_> = entries.iter().map(|(unit, entry)| (unit.0, EntryForm::new(entry))).collect();
        let line = json!({ "round": round, "entries": forms }).to_string();
        self.write(&line).map_err(|error| NotDurable(error.to_string()))?;
        self.last.lock().unwrap_or_else(PoisonError::into_inner).extend(entries.iter().copied());
        Ok(())
    }
}
