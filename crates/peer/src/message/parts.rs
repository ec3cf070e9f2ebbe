//! What messages are made of. Field names are the protocol's; see the golden file for each form in JSON.

use super::hex::{Bytes, Id, Word};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A guest, by the name under which both hosts are configured for it, and by what tells it from another of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its name.
    pub vm: String,
    /// Between agents its UUID, in QEMU's form; between devices which custody's handover brought it where it is, 32 hexadecimal digits.
    pub uuid: String,
}

/// One path of a side, as the target knows it; what is missing restricts the methods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The initiator port, in the text form of a TransportID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    /// Relative target port identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
}

/// A logical unit of the guest, and everything about it that both replicas of the engine must know alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The logical unit: its best designator of VPD page 83h. Its place in the list is its number in every round.
    pub lun: String,
    /// The guest's key, where the source knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Word>,
    /// A random key that nobody uses.
    pub nonce: Word,
    /// The paths of the host that leads, one to eight: of the source between agents, of the destination between devices.
    pub ports: Vec<Port>,
    /// Initiator name and ISID belong to this guest alone, and the source will close its session for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub identity_is_ours: bool,
}

/// What the operator wants of the handover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// This method or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The guest's key may be unlisted for one command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_absence: bool,
    /// The guest was paused before the handover began, and is to stay so at its new place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stay_paused: bool,
    /// Only look whether the guest could move; nothing is journalled and nothing changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plan_only: bool,
    /// Somebody else moves the guest, and the agents drive no QEMU.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orchestrated: bool,
}

/// The other side's paths to a logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// The logical unit, as offered.
    pub lun: String,
    /// The paths, one to eight; none under method *identity*, which brings the source's along.
    pub ports: Vec<Port>,
}

/// What the leader told its replica since the round before, in this order, after that round's outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// A phase is over: go on with the next.
    Proceed,
    /// What the guest has changed since: read everything again.
    Refresh,
    /// Give up and undo.
    Abort,
    /// The entries of the round before could not be made durable on both hosts.
    JournalFailed,
}

/// A command's end as the device server told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completion {
    /// SCSI status.
    pub status: u8,
    /// Sense data.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub sense: Bytes,
    /// Data-in, cut to what was transferred.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The device server answered.
    Done(Completion),
    /// It was not executed and never will be.
    NotSent,
    /// It may have been executed, but will not be from now on.
    Unknown,
    /// It may still be executed at any time.
    Dangling,
}

/// The outcome of one action of a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The logical unit: its place in the offer.
    pub unit: u16,
    /// The action's number among those of this unit in this round.
    pub id: u8,
    /// What came of it.
    pub outcome: Outcome,
}

/// Sense data of unit attentions that handover commands took from the guest's nexus of one logical unit, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owed {
    /// The logical unit: its place in the offer.
    pub unit: u16,
    /// The sense data of each.
    pub sense: Vec<Bytes>,
}

/// What a journal says of how far a handover came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// Every logical unit was taken and verified at the destination.
    Taken,
    /// The destination may run the guest.
    Go,
    /// The destination runs the guest.
    Ran,
    /// The destination never will: it is being undone.
    Abort,
    /// The units that had moved were handed back.
    Back,
}

/// What a journal says of one logical unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remains {
    /// The logical unit.
    pub lun: String,
    /// This host's paths, as far as they are there now.
    pub ports: Vec<Port>,
    /// The last entry, in the journal's own form; none if nothing was changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Value>,
}

/// A handover as one host's journal has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which handover.
    pub handover: Id,
    /// This host led it from the source; otherwise it followed at the destination.
    pub led: bool,
    /// Marks in the order in which they were written.
    pub marks: Vec<Mark>,
    /// The logical units, in the order of the offer.
    pub luns: Vec<Remains>,
    /// How it ended, in words; none while it is unfinished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}
