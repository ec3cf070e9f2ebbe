//! One line of the log: `CRC32C SP JSON LF`, the checksum in eight hexadecimal digits over the JSON text, which is a change,
//! or an array of the changes that were appended together: a crash leaves all of them or none.
//!
//! A change is kept as it was read, so that what a newer program added to it survives compaction.

use crate::change::{Change, Intended};
use crate::frame::{checked, framed};
use crate::names::{HandoverId, LunId, PathId};
use crate::record::State;
use handover::Tracked;
use scsi::pr::{Key, OutAction, ReservationType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes that a line may have, its end included.
pub(crate) const LONGEST: usize = 64 << 10;

/// Bytes of a checksum and the space behind it.
const SUM_LENGTH: usize = 9;
/// Bytes that a line has beside the changes in it and the commas between them.
const FRAME: usize = SUM_LENGTH + "[,]\n".len();

/// What a line says: a change, or something optional that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Change(Change),
    /// Its kind, and the path that it is about.
    Unknown(String, Option<String>),
}

/// One change that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: u64,
    pub(crate) lun: LunId,
    pub(crate) said: Said,
    /// A line with this change alone, its end included.
    pub(crate) text: String,
}

/// Why a line was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The checksum does not match: never written whole, or changed since.
    Damaged(String),
    /// It is whole, and a newer program wrote it.
    Newer(String),
}

/// What every line has, in every version.
#[derive(Deserialize)]
struct Envelope {
    at: u64,
    lun: LunId,
    change: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    path: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct Emitted<'a> {
    at: u64,
    lun: &'a LunId,
    #[serde(flatten)]
    fields: Fields,
}

/// [`Change`] as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
enum Fields {
    Seen {
        path: PathId,
        node: String,
    },
    Intent {
        path: PathId,
        #[serde(flatten)]
        command: CommandFields,
    },
    Commit {
        path: PathId,
        key: Option<KeyText>,
        held: Option<u8>,
        aptpl: bool,
        all_target_ports: bool,
        generation: Option<u32>,
    },
    Owed {
        path: PathId,
        sense: Option<String>,
    },
    Reservation {
        r#type: Option<u8>,
    },
    State {
        state: String,
        handover: Option<String>,
        why: Option<String>,
    },
}

/// [`Intended`] as JSON has it.
#[derive(Serialize, Deserialize)]
struct CommandFields {
    action: u8,
    r#type: u8,
    reservation_key: KeyText,
    service_action_key: KeyText,
    aptpl: bool,
    all_target_ports: bool,
    unregister: bool,
}

impl CommandFields {
    const fn new(intended: &Intended) -> Self {
        Self {
            action: intended.action.0,
            r#type: intended.kind.0,
            reservation_key: KeyText(intended.reservation_key),
            service_action_key: KeyText(intended.service_action_key),
            aptpl: intended.aptpl,
            all_target_ports: intended.all_target_ports,
            unregister: intended.unregister,
        }
    }

    const fn intended(&self) -> Intended {
        Intended {
            action: OutAction(self.action),
            kind: ReservationType(self.r#type),
            reservation_key: self.reservation_key.0,
            service_action_key: self.service_action_key.0,
            aptpl: self.aptpl,
            all_target_ports: self.all_target_ports,
            unregister: self.unregister,
        }
    }
}

/// A key as text, `0x` and 16 digits: JSON numbers lose digits in many readers.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct KeyText(Key);

impl From<KeyText> for String {
    fn from(KeyText(key): KeyText) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for KeyText {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 16);
        let key = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        key.map(|key| Self(Key(key))).ok_or("a key is 0x and 16 hexadecimal digits")
    }
}

const KINDS: [&str; 6] = ["seen", "intent", "commit", "owed", "reservation", "state"];

impl Line {
    /// The line for a change; `Err` if it would be too long.
    pub(crate) fn new(at: u64, lun: LunId, change: Change) -> Result<Self, &'static str> {
        let emitted = Emitted { at, lun: &lun, fields: Fields::new(&change) };
        let json = serde_json::to_string(&emitted).map_err(|_| "it has no form in JSON")?;
        let text = framed(&json);
        if text.len() > LONGEST {
            return Err("a line has at most 64 KiB");
        }
        Ok(Self { at, lun, said: Said::Change(change), text })
    }

    /// The nexus that it is about.
    pub(crate) const fn path(&self) -> Option<&PathId> {
        match &self.said {
            Said::Change(change) => change.path(),
            Said::Unknown(..) => None,
        }
    }

    /// Reads a line, without its end: every change in it, of which there is at least one.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Self>, Wrong> {
        let json = checked(bytes, LONGEST).map_err(|damage| Wrong::Damaged(damage.to_string()))?;
        if !json.starts_with('[') {
            return Ok(vec![Self::read(json)?]);
        }
        let together: Vec<&RawValue> = serde_json::from_str(json).map_err(|error| newer(&error))?;
        if together.is_empty() {
            return Err(Wrong::Newer("no change".to_owned()));
        }
        together.into_iter().map(|one| Self::read(one.get())).collect()
    }

    /// As few lines as hold all the changes, and their number. What is appended together has room in one.
    pub(crate) fn pack(lines: &[Self]) -> (String, u64) {
        let (mut packed, mut count, mut rest) = (String::new(), 0, lines);
        while !rest.is_empty() {
            let (line, after) = Self::pack_one(rest);
            packed.push_str(&line);
            (count, rest) = (count + 1, after);
        }
        (packed, count)
    }

    fn pack_one(lines: &[Self]) -> (String, &[Self]) {
        let (mut together, mut taken) = (String::new(), 0);
        for json in lines.iter().map(Self::json) {
            if taken > 0 && FRAME + together.len() + json.len() > LONGEST {
                break;
            }
            together.push(if taken == 0 { '[' } else { ',' });
            together.push_str(json);
            taken += 1;
        }
        let rest = lines.get(taken..).unwrap_or_default();
        match lines {
            [one, ..] if taken == 1 => (one.text.clone(), rest),
            _ => (framed(&format!("{together}]")), rest),
        }
    }

    /// The change without checksum and end.
    fn json(&self) -> &str {
        self.text.get(SUM_LENGTH..).unwrap_or_default().trim_end_matches('\n')
    }

    fn read(json: &str) -> Result<Self, Wrong> {
        let newer = |error| newer(&error);
        let envelope: Envelope = serde_json::from_str(json).map_err(newer)?;
        let said = match envelope.change.as_str() {
            kind if KINDS.contains(&kind) => {
                let fields: Fields = serde_json::from_str(json).map_err(newer)?;
                Said::Change(
                    fields.change().ok_or_else(|| Wrong::Newer(format!("unknown value in a {kind}")))?,
                )
            }
            _ if envelope.optional => {
                let path = envelope.path.and_then(|path| path.as_str().map(str::to_owned));
                Said::Unknown(envelope.change, path)
            }
            kind => return Err(Wrong::Newer(format!("unknown change {kind:?}"))),
        };
        Ok(Self { at: envelope.at, lun: envelope.lun, said, text: framed(json) })
    }
}

fn newer(error: &serde_json::Error) -> Wrong {
    Wrong::Newer(error.to_string())
}

impl Fields {
    fn new(change: &Change) -> Self {
        match change.clone() {
            Change::Seen { path, node } => Self::Seen { path, node },
            Change::Intent { path, intended } => {
                Self::Intent { path, command: CommandFields::new(&intended) }
            }
            Change::Commit { path, tracked, generation } => Self::Commit {
                path,
                key: tracked.key.map(KeyText),
                held: tracked.held.map(|kind| kind.0),
                aptpl: tracked.aptpl,
                all_target_ports: tracked.all_target_ports,
                generation,
            },
            Change::Owed { path, sense } => Self::Owed { path, sense: sense.as_deref().map(to_hex) },
            Change::Reservation { kind } => Self::Reservation { r#type: kind.map(|kind| kind.0) },
            Change::State { state, handover, why } => Self::State {
                state: state.word().to_owned(),
                handover: handover.map(|id| id.to_string()),
                why,
            },
        }
    }

    fn change(self) -> Option<Change> {
        Some(match self {
            Self::Seen { path, node } => Change::Seen { path, node },
            Self::Intent { path, command } => Change::Intent { path, intended: command.intended() },
            Self::Commit { path, key, held, aptpl, all_target_ports, generation } => {
                let key = key.map(|KeyText(key)| key);
                let tracked = Tracked { key, held: held.map(ReservationType), aptpl, all_target_ports };
                Change::Commit { path, tracked, generation }
            }
            Self::Owed { path, sense: None } => Change::Owed { path, sense: None },
            Self::Owed { path, sense: Some(text) } => Change::Owed { path, sense: Some(from_hex(&text)?) },
            Self::Reservation { r#type } => Change::Reservation { kind: r#type.map(ReservationType) },
            Self::State { state, handover, why } => {
                let handover = match handover {
                    Some(text) => Some(HandoverId::from_hex(&text)?),
                    None => None,
                };
                Change::State { state: State::from_word(&state)?, handover, why }
            }
        })
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().map(|digit| char::from(digit).to_digit(16));
    let digits =
        digits.map(|digit| digit.and_then(|digit| u8::try_from(digit).ok())).collect::<Option<Vec<u8>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
pub(crate) mod tests;
