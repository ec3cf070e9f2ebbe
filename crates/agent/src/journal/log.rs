//! A journal as bytes: a header, then lines. Pure; [`Book`](super::Book) does the reading and writing.

use super::line::{Begun, Said, Wrong};
use crate::ownership::{Mark, Marks};
use handover::{Entry, UnitIndex};
use ledger::frame::cut;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

const MAGIC: &str = "tenure-handovers";
const VERSION: u32 = 1;
const NONE_OPEN: &str = "it belongs to no handover";

/// A journal, taken in line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    owner: Option<OwnerFields>,
    handovers: Vec<Handover>,
    length: u64,
}

/// Why a journal cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Line, from 1.
    pub line: u64,
    /// A newer version wrote it; else it is damaged.
    pub newer: bool,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// One handover as far as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// How it began, and from which of the other host's paths it turned out to be.
    pub begun: Begun,
    /// The last entry of each unit that has one.
    pub last: BTreeMap<UnitIndex, Last>,
    /// How often each unit was turned round, if ever.
    turns: BTreeMap<UnitIndex, u16>,
    /// Its marks, in the order in which they were written.
    pub marks: Vec<Mark>,
    /// The guest was given back, and runs again if it ran before: how it stands since is its operator's business.
    pub resumed: bool,
    /// The guest ran at the destination before that was given it.
    pub ran_there: bool,
    /// How it ended; `None` while it is unfinished.
    pub verdict: Option<String>,
    /// Where it begins in the journal.
    start: u64,
}

/// The last entry of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// How often the unit had been turned round when it was written. Odd: source and destination have changed places in it.
    pub turn: u16,
    /// What it says.
    pub entry: Entry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnerFields {
    host: String,
    vm: String,
}

/// The header of a guest's journal on a host.
#[must_use]
pub fn header(host: &str, vm: &str) -> String {
    let owner = OwnerFields { host: host.to_owned(), vm: vm.to_owned() };
    // Two strings always have a form in JSON.
    format!("{MAGIC} {VERSION} {}\n", serde_json::to_string(&owner).unwrap_or_default())
}

impl Handover {
    fn new(begun: Begun, start: u64) -> Self {
        let (last, turns, marks) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { begun, last, turns, marks, resumed: false, ran_there: false, verdict: None, start }
    }

    /// It is neither finished nor undone.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.verdict.is_none()
    }

    /// How often a unit was turned round.
    #[must_use]
    pub fn turn(&self, unit: UnitIndex) -> u16 {
        self.turns.get(&unit).copied().unwrap_or(0)
    }

    /// Its promises, for who may run the guest.
    #[must_use]
    pub fn promises(&self) -> Marks {
        let marks: Marks = self.marks.iter().copied().collect();
        if self.last.is_empty() { marks } else { marks.touched() }
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::Begin(_) => {}
            Said::Entries { entries, .. } => {
                for (unit, entry) in entries {
                    let turn = self.turn(unit);
                    self.last.insert(unit, Last { turn, entry });
                }
            }
            Said::Turn(units) => {
                for unit in units {
                    let turn = self.turns.entry(unit).or_default();
                    *turn = turn.saturating_add(1);
                }
            }
            Said::From(ports) => {
                for (unit, port) in ports {
                    if let Some(lun) = self.begun.luns.get_mut(usize::from(unit.0)) {
                        lun.peer = vec![port];
                    }
                }
            }
            Said::Mark(mark) if self.marks.contains(&mark) => {}
            Said::Mark(mark) => self.marks.push(mark),
            Said::Resumed => self.resumed = true,
            Said::RanThere => self.ran_there = true,
            Said::End { verdict } => self.verdict = Some(verdict),
        }
    }
}

impl Log {
    /// Takes in a whole journal, as far as it is whole.
    ///
    /// # Errors
    /// [`Flaw`] if it is damaged or of a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let mut log = Self::default();
        let Some((first, mut rest)) = cut(bytes) else { return Ok(log) };
        log.owner = Some(read_header(first)?);
        log.length = length(bytes) - length(rest);
        let mut number = 1;
        while let Some((line, after)) = cut(rest) {
            number += 1;
            let flaw = |newer, what| Flaw { line: number, newer, what };
            let said = match Said::parse(line) {
                // Never written whole, and promised to nobody.
                Err(Wrong::Damaged(_)) if after.is_empty() => break,
                Err(Wrong::Damaged(what)) => return Err(flaw(false, what)),
                Err(Wrong::Newer(what)) => return Err(flaw(true, what)),
                Ok(said) => said,
            };
            log.take(said, length(line) + 1).map_err(|what| flaw(false, what.to_owned()))?;
            rest = after;
        }
        Ok(log)
    }

    /// The host and the guest it belongs to; `None` if not even the header is whole.
    #[must_use]
    pub fn owner(&self) -> Option<(&str, &str)> {
        self.owner.as_ref().map(|owner| (owner.host.as_str(), owner.vm.as_str()))
    }

    /// The handovers, oldest first.
    #[must_use]
    pub fn handovers(&self) -> &[Handover] {
        &self.handovers
    }

    /// Bytes that are whole.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Where the last `count` handovers begin.
    pub(super) fn start_of_last(&self, count: usize) -> Option<u64> {
        self.handovers.get(self.handovers.len().saturating_sub(count)).map(|handover| handover.start)
    }

    pub(super) fn begin(&mut self, host: &str, vm: &str) {
        self.owner = Some(OwnerFields { host: host.to_owned(), vm: vm.to_owned() });
        self.length = length(header(host, vm).as_bytes());
    }

    /// Whether this may follow what there is.
    pub(super) fn admits(&self, said: &Said) -> Result<(), &'static str> {
        let open = self.handovers.last().filter(|handover| handover.is_open());
        let (units, turned): (Vec<UnitIndex>, bool) = match (said, open) {
            (Said::Begin(_), None) => return Ok(()),
            (Said::Begin(_), Some(_)) => return Err("a handover begins in another"),
            (_, None) => return Err(NONE_OPEN),
            (Said::Entries { entries, .. }, _) => (entries.iter().map(|(unit, _)| *unit).collect(), false),
            (Said::From(ports), _) => (ports.iter().map(|(unit, _)| *unit).collect(), false),
            (Said::Turn(units), _) => (units.clone(), true),
            (Said::Mark(_) | Said::Resumed | Said::RanThere | Said::End { .. }, _) => return Ok(()),
        };
        let there = |unit: &UnitIndex| open.is_some_and(|open| usize::from(unit.0) < open.begun.luns.len());
        if !units.iter().all(there) {
            return Err("it is about a logical unit that there is not");
        }
        let often = |unit: &UnitIndex| open.is_some_and(|open| open.turn(*unit) == u16::MAX);
        if turned && units.iter().any(often) { Err("turned round too often") } else { Ok(()) }
    }

    /// What a line of that many bytes says.
    pub(super) fn take(&mut self, said: Said, bytes: u64) -> Result<(), &'static str> {
        self.admits(&said)?;
        match (said, self.handovers.last_mut()) {
            (Said::Begin(begun), _) => self.handovers.push(Handover::new(begun, self.length)),
            (_, None) => return Err(NONE_OPEN),
            (said, Some(open)) => open.take(said),
        }
        self.length = self.length.saturating_add(bytes);
        Ok(())
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn read_header(line: &[u8]) -> Result<OwnerFields, Flaw> {
    let flaw = |newer, what: &str| Flaw { line: 1, newer, what: what.to_owned() };
    let text = std::str::from_utf8(line).map_err(|_| flaw(false, "not UTF-8"))?;
    let mut words = text.splitn(3, ' ');
    if words.next() != Some(MAGIC) {
        return Err(flaw(false, "not a journal of handovers"));
    }
    match words.next().and_then(|version| version.parse::<u32>().ok()) {
        Some(VERSION) => {}
        Some(version) if version > VERSION => return Err(flaw(true, &format!("format {version}"))),
        _ => return Err(flaw(false, "no version")),
    }
    serde_json::from_str(words.next().unwrap_or_default()).map_err(|_| flaw(false, "no owner"))
}

#[cfg(test)]
mod tests;
