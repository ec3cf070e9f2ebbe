//! The document: a line that says what it is and in which version, and one of JSON behind its checksum.
//!
//! ```text
//! tenure-guest 1
//! CRC32C {"vm":…,"handover":…,"luns":[…]}
//! ```
//! It is believed only as far as a device bears it out: keys are looked for, never registered on its word.

use handover::Tracked;
use ledger::frame::{checked, framed};
use ledger::{HandoverId, LunId, MOST_OWED, Record, State};
use scsi::TransportId;
use scsi::pr::{Key, ReservationType};
use serde::{Deserialize, Serialize};

/// Bytes that a document may have.
pub const LONGEST: usize = 8 << 20;

const MAGIC: &str = "tenure-guest";
const VERSION: u32 = 1;
const MOST_UNITS: usize = 4096;
const MOST_PORTS: usize = 256;

/// Why a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A newer program wrote it.
    #[error("it was written by a newer version ({0}): import it with that version")]
    Newer(String),
    /// It is not what was written.
    #[error("it is damaged ({0}): use the original, or a copy of it")]
    Damaged(String),
}

/// What a guest had where it was last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The guest, as that host called it.
    pub vm: String,
    /// The export.
    pub handover: HandoverId,
    /// Each of its logical units.
    pub luns: Vec<Exported>,
}

/// What it had on one logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Which.
    pub lun: LunId,
    /// `active`, `fenced` or `lost`.
    pub state: State,
    /// What its nexus had, or, if it was fenced or lost, nothing.
    pub tracked: Tracked,
    /// PRGENERATION when it was last seen.
    pub generation: Option<u32>,
    /// Its initiator ports there, where that host knew their names.
    pub ports: Vec<TransportId>,
    /// Sense data of unit attentions that it is owed, oldest first.
    pub owed: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    vm: String,
    handover: String,
    luns: Vec<Unit>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unit {
    lun: LunId,
    state: String,
    key: Option<String>,
    held: Option<u8>,
    aptpl: bool,
    all_target_ports: bool,
    generation: Option<u32>,
    ports: Vec<String>,
    owed: Vec<String>,
}

impl Document {
    pub(super) fn new(vm: &str, handover: HandoverId, records: &[Record]) -> Self {
        Self { vm: vm.to_owned(), handover, luns: records.iter().map(Exported::new).collect() }
    }

    /// The document as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let luns = self.luns.iter().map(Unit::new).collect();
        let whole = Whole { vm: self.vm.clone(), handover: self.handover.to_string(), luns };
        // Strings and numbers always have a form in JSON.
        let json = serde_json::to_string(&whole).unwrap_or_default();
        format!("{MAGIC} {VERSION}\n{}", framed(&json))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`Flaw`].
    pub fn parse(text: &str) -> Result<Self, Flaw> {
        let damaged = |what: &str| Flaw::Damaged(what.to_owned());
        if text.len() > LONGEST {
            return Err(damaged("it is longer than any"));
        }
        let (header, rest) = text.split_once('\n').ok_or_else(|| damaged("not a guest's document"))?;
        check_header(header)?;
        let line = rest.strip_suffix('\n').filter(|line| !line.contains('\n'));
        let line = line.ok_or_else(|| damaged("it is not whole"))?;
        let json = checked(line.as_bytes(), LONGEST).map_err(|damage| damaged(&damage.to_string()))?;
        // What is whole and says what this version does not know was written by another one.
        let whole: Whole = serde_json::from_str(json).map_err(|error| Flaw::Newer(error.to_string()))?;
        whole.document().ok_or_else(|| Flaw::Newer("a value that this version does not know".to_owned()))
    }
}

fn check_header(header: &str) -> Result<(), Flaw> {
    let damaged = || Flaw::Damaged("not a guest's document".to_owned());
    let version = header.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' ')).ok_or_else(damaged)?;
    match version.parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(newer) if newer > VERSION => Err(Flaw::Newer(format!("format {newer}"))),
        _ => Err(damaged()),
    }
}

impl Exported {
    /// Paths of a guest have the same key, as far as it is one guest; the one that holds speaks for all.
    fn new(record: &Record) -> Self {
        let registered = || record.paths.iter().filter(|path| path.tracked.key.is_some());
        let speaks = registered().find(|path| path.tracked.held.is_some()).or_else(|| registered().next());
        // A path begins with the name of its initiator port, where that is known.
        let port = |path: &ledger::PathRecord| path.path.0.split(' ').next()?.parse().ok();
        Self {
            lun: record.lun.clone(),
            state: record.found,
            tracked: speaks.map(|path| path.tracked).unwrap_or_default(),
            generation: record.generation,
            ports: registered().filter_map(port).collect(),
            owed: record.paths.iter().flat_map(|path| path.owed.clone()).take(MOST_OWED).collect(),
        }
    }

    /// What a guest had when it was here last, as far as the record still tells: for one that is started again with no
    /// document, after it had moved away.
    #[must_use]
    pub fn remembered(record: &Record) -> Self {
        let had = |past: &ledger::Past| match past.change {
            ledger::Change::Commit { tracked, .. } => Some(tracked).filter(|tracked| tracked.key.is_some()),
            _ => None,
        };
        let last = record.history.iter().rev().find_map(had);
        let now = Self::new(record);
        let gone = now.tracked.key.is_none() && record.state.is_away();
        Self { tracked: last.filter(|_| gone).unwrap_or(now.tracked), ..now }
    }
}

impl Unit {
    fn new(unit: &Exported) -> Self {
        Self {
            lun: unit.lun.clone(),
            state: unit.state.word().to_owned(),
            key: unit.tracked.key.map(|key| key.to_string()),
            held: unit.tracked.held.map(|kind| kind.0),
            aptpl: unit.tracked.aptpl,
            all_target_ports: unit.tracked.all_target_ports,
            generation: unit.generation,
            ports: unit.ports.iter().map(ToString::to_string).collect(),
            owed: unit.owed.iter().map(|sense| to_hex(sense)).collect(),
        }
    }

    fn exported(self) -> Option<Exported> {
        let key = match &self.key {
            Some(text) => Some(key(text)?),
            None => None,
        };
        let state = State::from_word(&self.state)?;
        let known = matches!(state, State::Active | State::Fenced | State::Lost);
        let fits = known && self.ports.len() <= MOST_PORTS && self.owed.len() <= MOST_OWED;
        let held = self.held.map(ReservationType);
        let (aptpl, all_target_ports) = (self.aptpl, self.all_target_ports);
        fits.then_some(())?;
        Some(Exported {
            lun: self.lun,
            state,
            tracked: Tracked { key, held, aptpl, all_target_ports },
            generation: self.generation,
            ports: self.ports.iter().map(|port| port.parse().ok()).collect::<Option<_>>()?,
            owed: self.owed.iter().map(|sense| from_hex(sense)).collect::<Option<_>>()?,
        })
    }
}

impl Whole {
    fn document(self) -> Option<Document> {
        let handover = HandoverId::from_hex(&self.handover)?;
        if self.luns.len() > MOST_UNITS {
            return None;
        }
        let luns = self.luns.into_iter().map(Unit::exported).collect::<Option<_>>()?;
        Some(Document { vm: self.vm, handover, luns })
    }
}

/// `0x` and 16 digits.
fn key(text: &str) -> Option<Key> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().map(Key)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    let digits = digits.collect::<Option<Vec<u8>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
