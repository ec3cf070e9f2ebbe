//! What the agents of two hosts say to each other about a handover, version 1.
//!
//! The agent of the source host leads: it sends every [`Request`], the agent of the destination host follows and answers.
//! Only recovery may begin at either. A request names its handover; whoever gets it checks that it opened this handover
//! with this peer ([`sequence`](crate::sequence)). Within a known version an unknown field is refused: it may matter.
//! Forms: keys are `0x%016x`, ids 32 hexadecimal digits, bytes hexadecimal text; an absent field is its default.

mod check;
mod hex;
mod parts;

pub use check::{
    CheckError, MOST_DECISIONS, MOST_DEVICE_STATE, MOST_LUNS, MOST_NAME, MOST_OWED, MOST_PARAMETERS,
    MOST_PORTS, MOST_REPORTS,
};
pub use hex::{Bytes, HexError, Id, Word};
pub use parts::{
    Completion, Decision, Guest, Mark, Offer, Options, Outcome, Owed, Paths, Port, Record, Remains, Report,
};
use qmp::CommandError;
use qmp::message::Printable;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The versions of these messages that this program speaks, newest last.
pub const VERSIONS: &[u32] = &[1];

/// What the leader asks of the follower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "execute", content = "arguments", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Nothing; the link lives.
    Ping,
    /// A handover begins: [`Reply::Opened`].
    Open(Open),
    /// Make the entries of this round durable: [`Reply::Done`] once they are, `JournalFailed` if they cannot be.
    Journal(Advance),
    /// Carry out your part of this round: [`Reply::Outcomes`].
    Round(Advance),
    /// There is no further round for now; take the outcomes of the last one: [`Reply::Standing`].
    Settle(Advance),
    /// The units of this list moved while others were kept: hand them back in a second group whose source you are.
    Back(Back),
    /// The guest is stopped: write the handover into the ledger's record and lock it: [`Reply::Done`].
    Freeze(About),
    /// Unit attentions that the guest is owed at its new place: [`Reply::Done`] once they are recorded.
    Attentions(Attentions),
    /// Make your QEMU listen for the guest: [`Reply::Listening`].
    Incoming(Incoming),
    /// The source will not run the guest any more: run it. [`Reply::Ran`] once it does.
    Go(About),
    /// Give it up: [`Reply::Aborted`].
    Abort(Abort),
    /// What your journal has on this guest: [`Reply::State`]. Also from a follower to its leader.
    State(State),
    /// Put an interrupted handover in order together: [`Reply::Opened`]. Also from a follower to its leader.
    Recover(Recover),
    /// The handover is over: [`Reply::Done`] once this is durable.
    Close(Close),
    /// From the host that a guest was frozen for to the one where it stands: lead its handover here. [`Reply::Taken`] at its end.
    Take(Take),
    /// From the device of the host that a guest arrives at to the device of the host it left: [`Reply::Device`].
    Device(Device),
}

/// What the follower answers. Which form it has depends on the request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// It is done, and durable where the request says so.
    Done(Done),
    /// To [`Request::Open`] and [`Request::Recover`].
    Opened(Opened),
    /// To [`Request::Round`].
    Outcomes(Outcomes),
    /// To [`Request::Settle`].
    Standing(Standing),
    /// To [`Request::Incoming`].
    Listening(Listening),
    /// To [`Request::Go`].
    Ran(Ran),
    /// To [`Request::Abort`].
    Aborted(Aborted),
    /// To [`Request::State`].
    State(Records),
    /// To [`Request::Take`].
    Taken(Taken),
    /// To [`Request::Device`].
    Device(DeviceState),
}

/// The follower does not do what it was asked, and changed nothing for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// What kind of refusal, one word (`Refused`, `OutOfOrder`, `UnknownHandover`, `CommandNotFound`, …).
    pub class: String,
    /// Why, for people.
    pub desc: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(class: &str, desc: impl Into<String>) -> Self {
        Self { class: class.to_owned(), desc: desc.into() }
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        let desc = Printable(&error.desc).to_string();
        Self { class: Printable(error.class.as_str()).to_string(), desc }
    }
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        Self { class: refusal.class.into(), desc: refusal.desc }
    }
}

/// See [`Request::Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The new handover.
    pub handover: Id,
    /// Whom it moves.
    pub guest: Guest,
    /// The guest's logical units.
    pub luns: Vec<Offer>,
    /// What the operator wants.
    #[serde(default)]
    pub options: Options,
}

/// What a message says that is only about its handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Which.
    pub handover: Id,
}

/// One step of the two replicas. The outcomes and decisions are those since the last message of this kind, so that a round
/// with journal entries has them in [`Request::Journal`] and none in [`Request::Round`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance {
    /// Which handover.
    pub handover: Id,
    /// The round, from 1 on and without a gap; in [`Request::Settle`] the last one.
    pub round: u64,
    /// The leader's digest of the round (in [`Request::Settle`] of where it stands); the follower's must be the same.
    pub digest: Word,
    /// The outcomes of the leader's actions in the round before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<Report>,
    /// What the leader told its replica after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
}

/// See [`Request::Back`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Back {
    /// Which handover.
    pub handover: Id,
    /// The units to hand back: their places in the offer, with a new nonce for each.
    pub units: Vec<BackUnit>,
}

/// A unit of [`Back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackUnit {
    /// Its place in the offer.
    pub unit: u16,
    /// A random key that nobody uses.
    pub nonce: Word,
}

/// See [`Request::Attentions`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attentions {
    /// Which handover.
    pub handover: Id,
    /// What is owed.
    pub owed: Vec<Owed>,
}

/// See [`Request::Incoming`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incoming {
    /// Which handover.
    pub handover: Id,
    /// Where to listen, in QEMU's form; none: where the follower's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// QEMU's migration capabilities.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub capabilities: Map<String, Value>,
    /// QEMU's migration parameters.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
}

/// See [`Request::Abort`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// Which handover.
    pub handover: Id,
    /// Why, for the follower's log.
    pub why: String,
}

/// See [`Request::State`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Of which guest.
    pub guest: Guest,
    /// Of this handover alone; none: the last one with the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Id>,
}

/// See [`Request::Recover`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// Of which guest.
    pub guest: Guest,
    /// The caller's journal on it.
    pub record: Record,
    /// The guest cannot be resumed at the source any more: rather finish than undo.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefer_destination: bool,
    /// The guest was given back to the source and may run there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept_at_source: bool,
}

/// See [`Request::Close`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// Which handover.
    pub handover: Id,
    /// How it ended, in words.
    pub verdict: String,
}

/// See [`Request::Take`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Take {
    /// Which guest.
    pub guest: Guest,
}

/// See [`Request::Device`]: of a handover between two devices (`tenure device`), which no agent leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Which handover; with [`DeviceStep::Give`] the one in which the asking device gave the guest away, 0 where it expects it.
    pub handover: Id,
    /// The guest's name.
    pub guest: String,
    /// What is asked for.
    pub step: DeviceStep,
    /// The newest format of a device's state that the asking device reads.
    pub format: u16,
}

/// A step of a handover between two devices; all of them may be asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceStep {
    /// Whether the guest could be given, while it runs, and with which state. Nothing changes.
    Look,
    /// Its rings run at the asking device: give its state, and serve it no more while this is under way.
    Give,
    /// Whether this handover is still under way. Nothing changes.
    Check,
    /// The state is in force at the asking device: never serve the guest again, unless it is given back.
    Commit,
}

/// See [`Reply::Device`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceState {
    /// To [`DeviceStep::Give`] and [`DeviceStep::Look`]: the device's state.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub state: Bytes,
    /// To [`DeviceStep::Give`]: the handover in which it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Id>,
    /// With a state: how often the guest has changed hands.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// To [`DeviceStep::Give`] and [`DeviceStep::Look`]: the guest is at another host, of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// See [`Reply::Taken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// How it ended, for the operator: the document of `tenure migrate --json`.
    pub report: Map<String, Value>,
}

/// See [`Reply::Done`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {}

/// See [`Reply::Opened`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    /// The follower's paths, in the order of the offer.
    pub luns: Vec<Paths>,
    /// In a recovery: the follower's journal; none if it knows nothing of this handover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
    /// How the guest stands in the follower's QEMU (`loading`, `paused`, `running` or `unknown`); none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
}

/// See [`Reply::Outcomes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcomes {
    /// The round they belong to.
    pub round: u64,
    /// The outcomes of the follower's actions in it.
    pub outcomes: Vec<Report>,
    /// The follower cannot take the guest any more: the leader gives up if it still can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wants_out: bool,
}

/// See [`Reply::Standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The follower's digest of where its replica stands.
    pub digest: Word,
}

/// See [`Reply::Listening`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listening {
    /// Where the source's QEMU is to connect.
    pub uri: String,
}

/// See [`Reply::Ran`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// The guest's run state: running, or paused if it came paused.
    pub guest: String,
}

/// See [`Reply::Aborted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aborted {
    /// The follower has journalled that it never will run the guest; otherwise it had journalled `go` before.
    pub given_up: bool,
}

/// See [`Reply::State`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// The journal; none if it knows nothing of this handover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
    /// How the guest stands in this host's QEMU (`loading`, `paused`, `running` or `unknown`); none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
}

impl Request {
    /// Reads a command of QMP's form.
    ///
    /// # Errors
    /// `CommandNotFound`, or `GenericError` that names the field, or the limit.
    pub fn parse(execute: &str, arguments: Map<String, Value>) -> Result<Self, Refusal> {
        if !NAMES.contains(&execute) {
            return Err(Refusal::new(
                "CommandNotFound",
                format!("the command {} is not known", short(execute)),
            ));
        }
        let mut command = Map::new();
        command.insert("execute".into(), execute.into());
        if execute != "ping" || !arguments.is_empty() {
            command.insert("arguments".into(), Value::Object(arguments));
        }
        let request: Self = serde_json::from_value(Value::Object(command))
            .map_err(|error| Refusal::new("GenericError", format!("{execute}: {error}")))?;
        request.check().map_err(|error| Refusal::new("GenericError", format!("{execute}: {error}")))?;
        Ok(request)
    }

    /// The command's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Open(_) => "open",
            Self::Journal(_) => "journal",
            Self::Round(_) => "round",
            Self::Settle(_) => "settle",
            Self::Back(_) => "back",
            Self::Freeze(_) => "freeze",
            Self::Attentions(_) => "attentions",
            Self::Incoming(_) => "incoming",
            Self::Go(_) => "go",
            Self::Abort(_) => "abort",
            Self::State(_) => "state",
            Self::Recover(_) => "recover",
            Self::Close(_) => "close",
            Self::Take(_) => "take",
            Self::Device(_) => "device",
        }
    }

    /// The step of the replicas that it is, if it is one.
    #[must_use]
    pub const fn advance(&self) -> Option<&Advance> {
        match self {
            Self::Journal(advance) | Self::Round(advance) | Self::Settle(advance) => Some(advance),
            _ => None,
        }
    }

    /// Which of the link's handovers it is about; [`Request::State`] may ask for any.
    #[must_use]
    pub const fn handover(&self) -> Option<Id> {
        match self {
            Self::Ping | Self::Take(_) | Self::Device(_) => None,
            Self::Open(open) => Some(open.handover),
            Self::Journal(advance) | Self::Round(advance) | Self::Settle(advance) => Some(advance.handover),
            Self::Back(back) => Some(back.handover),
            Self::Freeze(about) | Self::Go(about) => Some(about.handover),
            Self::Attentions(attentions) => Some(attentions.handover),
            Self::Incoming(incoming) => Some(incoming.handover),
            Self::Abort(abort) => Some(abort.handover),
            Self::State(state) => state.handover,
            Self::Recover(recover) => Some(recover.record.handover),
            Self::Close(close) => Some(close.handover),
        }
    }

    /// Reads the reply to this request.
    ///
    /// # Errors
    /// If it has not the form that belongs to it, or exceeds a limit.
    pub fn parse_reply(&self, value: Value) -> Result<Reply, Refusal> {
        let wrong =
            |error: String| Refusal::new("GenericError", format!("the reply to {}: {error}", self.name()));
        let reply = self.reply_of(value).map_err(|error| wrong(error.to_string()))?;
        reply.check().map_err(|error| wrong(error.to_string()))?;
        Ok(reply)
    }

    fn reply_of(&self, value: Value) -> Result<Reply, serde_json::Error> {
        Ok(match self {
            Self::Open(_) | Self::Recover(_) => Reply::Opened(serde_json::from_value(value)?),
            Self::Round(_) => Reply::Outcomes(serde_json::from_value(value)?),
            Self::Settle(_) => Reply::Standing(serde_json::from_value(value)?),
            Self::Incoming(_) => Reply::Listening(serde_json::from_value(value)?),
            Self::Go(_) => Reply::Ran(serde_json::from_value(value)?),
            Self::Abort(_) => Reply::Aborted(serde_json::from_value(value)?),
            Self::State(_) => Reply::State(serde_json::from_value(value)?),
            Self::Take(_) => Reply::Taken(serde_json::from_value(value)?),
            Self::Device(_) => Reply::Device(serde_json::from_value(value)?),
            Self::Ping
            | Self::Journal(_)
            | Self::Back(_)
            | Self::Freeze(_)
            | Self::Attentions(_)
            | Self::Close(_) => Reply::Done(serde_json::from_value(value)?),
        })
    }
}

const NAMES: [&str; 16] = [
    "ping",
    "open",
    "journal",
    "round",
    "settle",
    "back",
    "freeze",
    "attentions",
    "incoming",
    "go",
    "abort",
    "state",
    "recover",
    "close",
    "take",
    "device",
];

/// Enough of a foreign text to recognize it.
fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
