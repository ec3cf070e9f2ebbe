//! The log as bytes: a header, then one line for each append. Pure; [`Guest`](crate::Guest) does the reading and writing.
//!
//! What a crash can leave at the end (a line without an end, a last line with a wrong checksum) is not taken in and reported
//! by [`Log::length`] being shorter than what was fed; anything else that is wrong is a [`Flaw`]. Beside the records the log
//! keeps the lines that still count, as they were read, so that [`Log::compacted`] loses nothing that a newer version wrote.

use crate::change::Change;
use crate::frame::cut;
use crate::line::{Line, Said, Wrong};
use crate::names::{LunId, Owner, PathId};
use crate::record::{MOST_HISTORY, MOST_OWED, Record};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const MAGIC: &str = "tenure-ledger";
const VERSION: u32 = 1;

/// A log, taken in line by line.
#[derive(Clone, Debug, Default)]
pub struct Log {
    owner: Option<Owner>,
    units: BTreeMap<LunId, Unit>,
    length: u64,
    lines: u64,
    changes: u64,
    /// The last line: its bytes, end included, and their checksum.
    last: (u64, u32),
}

/// Why a log cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Flaw {
    /// Line, from 1.
    pub line: u64,
    /// A newer version wrote it; else it is damaged.
    pub newer: bool,
    /// What is wrong.
    pub what: String,
}

/// One logical unit: its record, and the lines from which it can be made again.
#[derive(Clone, Debug)]
struct Unit {
    record: Arc<Record>,
    live: BTreeMap<Slot, Kept>,
    owed: BTreeMap<PathId, VecDeque<Kept>>,
    history: VecDeque<Kept>,
}

/// Only the last line of each slot counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Seen(PathId),
    Intent(PathId),
    Commit(PathId),
    Generation,
    Reservation,
    /// A state that a handover brought.
    Away,
    /// A state that was found.
    Found,
    Unknown(String, Option<String>),
}

/// A line and its place in the log.
#[derive(Clone, Debug)]
struct Kept {
    number: u64,
    text: Arc<str>,
}

/// The header of an owner's log.
#[must_use]
pub fn header(owner: &Owner) -> String {
    // A string always has a form in JSON.
    let name = serde_json::to_string(owner).unwrap_or_default();
    format!("{MAGIC} {VERSION} {name}\n")
}

impl Log {
    /// Takes in a whole log.
    ///
    /// # Errors
    /// [`Flaw`] if it is damaged or of a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let mut log = Self::default();
        log.feed(bytes)?;
        Ok(log)
    }

    /// Takes in what follows [`length`](Self::length), as far as it is whole.
    ///
    /// # Errors
    /// [`Flaw`]; nothing was taken in then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        let mut rest = bytes;
        let owner = match &self.owner {
            Some(_) => None,
            None => match cut(rest) {
                Some((line, after)) => {
                    rest = after;
                    Some(read_header(line)?)
                }
                None => return Ok(()),
            },
        };
        let before = self.lines + u64::from(owner.is_some());
        let (lines, left) = read_lines(rest, before)?;
        let taken = rest.get(..rest.len() - left).unwrap_or_default();
        self.last = last_line(taken).map_or(self.last, stamp);
        self.owner = owner.or_else(|| self.owner.take());
        self.lines = before + count(&lines);
        self.length += u64::try_from(bytes.len() - left).unwrap_or(u64::MAX);
        lines.into_iter().flatten().for_each(|change| self.take(change));
        Ok(())
    }

    /// Whose log it is; `None` before the header was fed.
    #[must_use]
    pub const fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// Bytes that were taken in: whatever follows them in the file was never written whole.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of the last line that was taken in, its end included; 0 if there is none.
    pub(crate) const fn last_length(&self) -> u64 {
        self.last.0
    }

    /// Whether these are the bytes of that line.
    pub(crate) fn ends_with(&self, bytes: &[u8]) -> bool {
        self.last == (0, 0) || self.last == stamp(bytes)
    }

    /// The records, by logical unit.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.units.values().map(|unit| &*unit.record)
    }

    /// The record of one logical unit.
    #[must_use]
    pub fn record(&self, lun: &LunId) -> Option<&Arc<Record>> {
        self.units.get(lun).map(|unit| &unit.record)
    }

    /// The shortest log with the same records, history and unknown lines.
    #[must_use]
    pub fn compacted(&self) -> String {
        let mut lines: Vec<&Kept> = self.units.values().flat_map(Unit::kept).collect();
        lines.sort_by_key(|kept| kept.number);
        lines.dedup_by_key(|kept| kept.number);
        let header = self.owner.as_ref().map(header).unwrap_or_default();
        lines.iter().fold(header, |text, kept| text + &kept.text)
    }

    /// Whether this line is about a logical unit, or a path of one, for which there is no room.
    pub(crate) fn is_crowded(&self, line: &Line, most_units: usize, most_paths: usize) -> bool {
        let Some(Unit { record, .. }) = self.units.get(&line.lun) else {
            return self.units.len() >= most_units;
        };
        let is_new = |path: &PathId| record.path(path).is_none();
        record.paths.len() >= most_paths && line.path().is_some_and(is_new)
    }

    fn take(&mut self, line: Line) {
        self.changes += 1;
        let unit = self.units.entry(line.lun.clone()).or_insert_with(|| Unit::new(line.lun.clone()));
        let kept = Kept { number: self.changes, text: line.text.into() };
        match line.said {
            Said::Unknown(kind, path) => unit.keep(Slot::Unknown(kind, path), kept),
            Said::Change(change) => unit.take(line.at, &change, kept),
        }
        if unit.kept().next().is_none() {
            self.units.remove(&line.lun);
        }
    }

    /// The changes were written behind [`length`](Self::length), packed into this text of so many lines.
    pub(crate) fn wrote(&mut self, changes: &[Line], text: &str, lines: u64) {
        self.length += u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.lines += lines;
        self.last = last_line(text.as_bytes()).map_or(self.last, stamp);
        changes.iter().for_each(|change| self.take(change.clone()));
    }
}

impl Unit {
    fn new(lun: LunId) -> Self {
        Self {
            record: Arc::new(Record::new(lun)),
            live: BTreeMap::new(),
            owed: BTreeMap::new(),
            history: VecDeque::new(),
        }
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.live.values().chain(self.owed.values().flatten()).chain(&self.history)
    }

    fn take(&mut self, at: u64, change: &Change, kept: Kept) {
        Arc::make_mut(&mut self.record).apply(at, change);
        if change.is_history() {
            self.history.push_back(kept.clone());
            self.history.drain(..self.history.len().saturating_sub(MOST_HISTORY));
        }
        match change {
            Change::Seen { path, .. } => self.keep(Slot::Seen(path.clone()), kept),
            Change::Intent { path, .. } => self.keep(Slot::Intent(path.clone()), kept),
            Change::Commit { path, generation, .. } => {
                self.live.remove(&Slot::Intent(path.clone()));
                if generation.is_some() {
                    self.keep(Slot::Generation, kept.clone());
                }
                self.keep(Slot::Commit(path.clone()), kept);
            }
            Change::Owed { path, sense } => self.owe(path, sense.is_some(), kept),
            Change::Reservation { .. } => self.keep(Slot::Reservation, kept),
            Change::State { state, .. } if state.is_away() => self.keep(Slot::Away, kept),
            Change::State { .. } => {
                if !self.record.state.is_away() {
                    self.live.remove(&Slot::Away);
                }
                self.keep(Slot::Found, kept);
            }
        }
    }

    fn keep(&mut self, slot: Slot, kept: Kept) {
        self.live.insert(slot, kept);
    }

    fn owe(&mut self, path: &PathId, more: bool, kept: Kept) {
        let owed = self.owed.entry(path.clone()).or_default();
        match more {
            true if owed.len() < MOST_OWED => owed.push_back(kept),
            true => {}
            false => drop(owed.pop_front()),
        }
        let met = [Slot::Seen, Slot::Intent, Slot::Commit]
            .iter()
            .any(|slot| self.live.contains_key(&slot(path.clone())));
        if owed.is_empty() && !met {
            // Nothing is left from which compaction could make this nexus again.
            self.owed.remove(path);
            Arc::make_mut(&mut self.record).paths.retain(|known| known.path != *path);
        }
    }
}

fn read_header(line: &[u8]) -> Result<Owner, Flaw> {
    let flaw = |newer, what: &str| Flaw { line: 1, newer, what: what.to_owned() };
    let text = std::str::from_utf8(line).map_err(|_| flaw(false, "not UTF-8"))?;
    let mut words = text.splitn(3, ' ');
    if words.next() != Some(MAGIC) {
        return Err(flaw(false, "not a ledger"));
    }
    match words.next().and_then(|version| version.parse::<u32>().ok()) {
        Some(VERSION) => {}
        Some(version) if version > VERSION => return Err(flaw(true, &format!("format {version}"))),
        _ => return Err(flaw(false, "no version")),
    }
    let name = words.next().unwrap_or_default();
    serde_json::from_str(name).map_err(|_| flaw(false, "no owner"))
}

/// The changes of every whole line, and how many bytes at the end were never written whole. `before` lines came earlier.
fn read_lines(mut rest: &[u8], before: u64) -> Result<(Vec<Vec<Line>>, usize), Flaw> {
    let mut lines = Vec::new();
    while let Some((bytes, after)) = cut(rest) {
        let flaw = |newer, what| Flaw { line: before + count(&lines) + 1, newer, what };
        match Line::parse(bytes) {
            Ok(line) => lines.push(line),
            Err(Wrong::Damaged(_)) if after.is_empty() => break,
            Err(Wrong::Damaged(what)) => return Err(flaw(false, what)),
            Err(Wrong::Newer(what)) => return Err(flaw(true, what)),
        }
        rest = after;
    }
    Ok((lines, rest.len()))
}

fn last_line(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').next_back()
}

/// Length and checksum.
fn stamp(bytes: &[u8]) -> (u64, u32) {
    (u64::try_from(bytes.len()).unwrap_or(u64::MAX), crc32c::crc32c(bytes))
}

fn count(lines: &[Vec<Line>]) -> u64 {
    u64::try_from(lines.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
