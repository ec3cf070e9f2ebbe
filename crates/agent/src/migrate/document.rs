//! What a migration is ordered with, what it tells while it runs, and what it ends with: the forms on the control socket and
//! of `tenure migrate --json`. Times are in microseconds, memory in bytes.

use super::site::Lun;
use crate::ownership::OnDoubt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// The command `migrate` of the control socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Order {
    /// The guest.
    pub vm: String,
    /// The other host's name.
    pub to: String,
    /// Only look whether and how it could move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plan: bool,
    /// Where the destination's QEMU is to listen, in QEMU's form; none: as configured there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The name under which `getfd` gave, over the same connection, the descriptor that the source's QEMU sends into; none: it connects
    /// to where the destination's listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<String>,
    /// QEMU's migration capabilities, on both hosts.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub capabilities: Map<String, Value>,
    /// QEMU's migration parameters, on both hosts.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// How long the guest may stand still for the rest of its memory, in milliseconds (QEMU's `downtime-limit`).
    #[serde(default = "usual_downtime_limit")]
    pub downtime_limit: u64,
    /// This method of handover or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The guest's key may be unlisted for one command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_gap: bool,
    /// What to do where the destination's agent is lost before the guest was given to it.
    #[serde(default)]
    pub on_doubt: OnDoubt,
    /// Seconds after which a migration whose memory does not get through is given up; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Seconds that a lost peer is waited for.
    #[serde(default = "usual_wait")]
    pub wait: u64,
}

const fn usual_downtime_limit() -> u64 {
    300
}

/// Longer than a peer waits for a link that was cut without a word, and keeps the guest to itself.
const fn usual_wait() -> u64 {
    90
}

impl Order {
    /// To move `vm` to the host `to`, everything else as usual.
    #[must_use]
    pub fn new(vm: &str, to: &str) -> Self {
        Self {
            vm: vm.to_owned(),
            to: to.to_owned(),
            downtime_limit: usual_downtime_limit(),
            wait: usual_wait(),
            ..Self::default()
        }
    }

    pub(crate) const fn downtime_limit(&self) -> Duration {
        Duration::from_millis(self.downtime_limit)
    }
}

/// What happens while a migration runs: the event `MIGRATION_PROGRESS` of the control socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Progress {
    /// A part of it begins.
    Step {
        /// Which, for people.
        what: String,
    },
    /// Memory is sent.
    Memory {
        /// All of it.
        total: u64,
        /// Not sent yet.
        remaining: u64,
        /// Bytes in a second.
        rate: u64,
    },
    /// Something that a person should know.
    Note {
        /// What.
        text: String,
    },
}

/// How a migration ended: what `migrate` returns, and the document of `--json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of this document: 1.
    pub schema: u32,
    /// In one word.
    pub verdict: Verdict,
    /// The method of handover; where logical units differ, those that there are, with commas.
    #[serde(default)]
    pub method: Option<String>,
    /// Why, and what to do.
    pub reason: String,
    /// The PR OUT commands of the handover in their order, where they are known.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Exit status of the command.
    pub exit: u8,
    /// The handover's id; none where it was refused before one began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<String>,
    /// How long the guest stood still; none where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Downtime>,
    /// Each logical unit.
    #[serde(default)]
    pub luns: Vec<LunReport>,
}

/// How a migration ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It could move (`plan`).
    Possible,
    /// It stands still, and its reservation commands too, until it is taken (`handover freeze`).
    Frozen,
    /// The guest is at the destination with all that it had.
    Moved,
    /// It failed, and the guest is where it was, as it was.
    Kept,
    /// Nothing was begun, because it would be unsafe.
    Refused,
    /// The guest is where it should be, and another node has taken a registration from it.
    Fenced,
    /// The guest is where it should be, and a target forgot its registrations.
    Lost,
    /// The guest is paused, and the operator decides.
    InDoubt,
    /// It did not even begin.
    Failed,
}

impl Verdict {
    /// The exit status of a command that ends so.
    #[must_use]
    pub const fn exit(self) -> u8 {
        match self {
            Self::Possible | Self::Frozen | Self::Moved => 0,
            Self::Failed | Self::Lost => 1,
            Self::Refused => 4,
            Self::Kept => 5,
            Self::Fenced => 6,
            Self::InDoubt => 7,
        }
    }
}

/// One logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LunReport {
    /// Which.
    pub lun: String,
    /// The method of its handover.
    #[serde(default)]
    pub method: Option<String>,
    /// The guest's key (`0x` and 16 hexadecimal digits), where it is known.
    #[serde(default)]
    pub key: Option<String>,
    /// What became of it, or would, in words.
    pub result: String,
}

/// The guest's pause and its parts, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downtime {
    /// From `stop` at the source to the guest running at the destination.
    pub total: u64,
    /// The rest of the memory: from `stop` to QEMU standing before the switchover, beside the next part.
    pub memory: u64,
    /// Record and lock, on both hosts.
    pub freeze: u64,
    /// The handover's commands until the commit is done, without the journal.
    pub take: u64,
    /// Further paths and the last look, without the journal.
    pub verify: u64,
    /// The journals of both hosts, wherever they were waited for.
    pub journal: u64,
    /// The switchover of QEMU: device state.
    pub device_state: u64,
    /// From there to the guest running.
    pub cont: u64,
    /// Round trips to the target that the handover took, of all logical units together.
    pub round_trips: u32,
}

impl Report {
    /// A report without what is only known later.
    #[must_use]
    pub fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self {
            schema: 1,
            verdict,
            method: None,
            reason: reason.into(),
            commands: Vec::new(),
            exit: verdict.exit(),
            handover: None,
            downtime: None,
            luns: Vec::new(),
        }
    }
}

impl LunReport {
    /// Of a logical unit of which nothing is known yet.
    #[must_use]
    pub fn new(lun: &str) -> Self {
        Self { lun: lun.to_owned(), method: None, key: None, result: "not looked at".into() }
    }

    /// Of one that this host reaches.
    pub(crate) fn of(lun: &Lun) -> Self {
        Self { key: lun.key.map(|key| key.to_string()), ..Self::new(&lun.name) }
    }
}
