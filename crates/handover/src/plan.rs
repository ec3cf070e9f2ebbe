//! Chooses the method from what was read, in the fixed order of preference, and says why, what it cannot promise,
//! and which commands will be sent. A forced method is held to the same conditions.

use crate::action::{Path, Phase};
use crate::method::Method;
use crate::role::Role;
use crate::verdict::Reason;
use scsi::Request;

/// A handover that is possible.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The method.
    pub method: Method,
    /// The source's role.
    pub role: Role,
    /// Why not an earlier method: each with its reason, in order.
    pub passed_over: Vec<(Method, Reason)>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
    /// The commands that will be sent when nothing goes wrong, in order.
    pub commands: Vec<PlannedCommand>,
}

/// One command of the preview.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlannedCommand {
    /// In which phase.
    pub phase: Phase,
    /// On which nexus.
    pub path: Path,
    /// In words.
    pub words: String,
    /// In bytes; `None` for a login or logout.
    pub request: Option<Request>,
}

/// What the operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Warning {
    /// No reservation keeps a source that wakes up from writing: its exclusion rests on the hosts alone.
    NotExcluded,
    /// The reservation keeps an unregistered source from writing, but not from reading.
    ReadsNotExcluded,
    /// Both hosts have the same name on the target: the device fences neither.
    SameIdentity,
    /// For one command the key is not listed, and a fencer could take the guest for fenced.
    KeyAbsent,
    /// For one command the source is listed with the nonce only.
    NonceWindow,
    /// Nothing is known of this target beyond what it reports.
    UnknownTarget,
    /// A node that registers the guest's key between the last look and the PREEMPT would lose its registration.
    LateSharer,
}
