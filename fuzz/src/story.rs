//! A ledger's log as structured input: lines of every kind with good checksums, among them what newer versions write and
//! what no version does, so that a fuzzer that can guess neither checksums nor JSON reaches everything behind them.

use arbitrary::Arbitrary;
use ledger::log::header;
use ledger::{Owner, State};

/// A log and what became of it.
#[derive(Arbitrary, Debug)]
pub struct Story {
    entries: Vec<Entry>,
    /// The last of them were appended together.
    together: u8,
    /// One byte is changed.
    flipped: Option<(u16, u8)>,
    /// It ends early.
    ends: Option<u16>,
}

#[derive(Arbitrary, Debug)]
struct Entry {
    at: u8,
    lun: u8,
    path: u8,
    /// How often it is said: what is kept of history and owed attentions ends after some.
    times: u8,
    said: Said,
}

#[derive(Arbitrary, Debug)]
enum Said {
    Seen { node: u8 },
    Intent { action: u8, kind: u8, keys: (u8, u8), flags: u8 },
    Commit { key: Option<u8>, held: Option<u8>, flags: u8, generation: Option<u32> },
    Owed { sense: Option<[u8; 2]> },
    Reservation { kind: Option<u8> },
    State { state: u8, handover: Option<u128>, why: Option<String> },
    Newer { kind: u8, optional: bool },
    Raw(String),
}

impl Story {
    /// The bytes of the log.
    pub fn bytes(&self) -> Vec<u8> {
        let entries: Vec<&Entry> = self.entries.iter().take(50).collect();
        let (alone, together) = entries.split_at(entries.len().saturating_sub(self.together.into()));
        let mut log: Vec<u8> = header(&owner()).into_bytes();
        log.extend(alone.iter().flat_map(|entry| framed(entry.json().as_bytes()).repeat(entry.times())));
        if !together.is_empty() {
            let all: Vec<String> = together.iter().map(|entry| entry.json()).collect();
            log.extend(framed(format!("[{}]", all.join(",")).as_bytes()));
        }
        if let Some((at, by)) = self.flipped {
            let at = usize::from(at) % log.len();
            log[at] ^= by;
        }
        log.truncate(self.ends.map_or(log.len(), usize::from));
        log
    }
}

/// Whose log it is.
pub fn owner() -> Owner {
    Owner("fuzz".into())
}

/// A line with its checksum and its end.
pub fn framed(json: &[u8]) -> Vec<u8> {
    [format!("{:08x} ", crc32c::crc32c(json)).as_bytes(), json, b"\n"].concat()
}

impl Entry {
    fn times(&self) -> usize {
        if self.times < 192 { 1 } else { usize::from(self.times % 40) }
    }

    fn json(&self) -> String {
        let Self { at, lun, path, said, .. } = self;
        let Some(fields) = said.fields(path % 3) else { return said.raw() };
        format!(r#"{{"at":{at},"lun":"naa.{}",{fields}}}"#, lun % 3)
    }
}

impl Said {
    fn raw(&self) -> String {
        if let Self::Raw(text) = self { text.replace('\n', " ") } else { String::new() }
    }

    fn fields(&self, path: u8) -> Option<String> {
        let named = |kind| format!(r#""change":"{kind}","path":"p{path}""#);
        Some(match self {
            Self::Seen { node } => format!(r#"{},"node":"n{node}""#, named("seen")),
            Self::Intent { action, kind, keys: (own, new), flags } => format!(
                r#"{},"action":{action},"type":{kind},"reservation_key":"{}","service_action_key":"{}","aptpl":{},"all_target_ports":{},"unregister":{}"#,
                named("intent"),
                key(*own),
                key(*new),
                flags & 1 != 0,
                flags & 2 != 0,
                flags & 4 != 0
            ),
            Self::Commit { key: registered, held, flags, generation } => format!(
                r#"{},"key":{},"held":{},"aptpl":{},"all_target_ports":{},"generation":{}"#,
                named("commit"),
                quoted(registered.map(key)),
                bare(*held),
                flags & 1 != 0,
                flags & 2 != 0,
                bare(*generation)
            ),
            Self::Owed { sense } => {
                let sense = sense.map(|[a, b]| format!("{a:02x}{b:02x}"));
                format!(r#"{},"sense":{}"#, named("owed"), quoted(sense))
            }
            Self::Reservation { kind } => format!(r#""change":"reservation","type":{}"#, bare(*kind)),
            Self::State { state, handover, why } => format!(
                r#""change":"state","state":"{}","handover":{},"why":{}"#,
                State::ALL[usize::from(*state) % State::ALL.len()],
                quoted(handover.map(|id| format!("{id:032x}"))),
                why.as_ref().map_or("null".to_owned(), |why| format!("{why:?}"))
            ),
            Self::Newer { kind, optional } => {
                format!(r#"{},"optional":{optional},"extra":[1]"#, named(&format!("newer{}", kind % 3)))
            }
            Self::Raw(_) => return None,
        })
    }
}

fn key(number: u8) -> String {
    format!("0x{number:016x}")
}

fn quoted(text: Option<String>) -> String {
    text.map_or("null".to_owned(), |text| format!("\"{text}\""))
}

fn bare(number: Option<impl ToString>) -> String {
    number.map_or("null".to_owned(), |number| number.to_string())
}
