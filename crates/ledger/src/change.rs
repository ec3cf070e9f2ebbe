//! What one line of the log says, and what it makes of the record.

use crate::names::{HandoverId, PathId};
use crate::record::State;
use handover::Tracked;
use scsi::pr::{Key, OutAction, ReservationType};

/// The part of a PERSISTENT RESERVE OUT that decides what it leaves behind (SPC-4 6.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Intended {
    /// Service action.
    pub action: OutAction,
    /// TYPE.
    pub kind: ReservationType,
    /// RESERVATION KEY.
    pub reservation_key: Key,
    /// SERVICE ACTION RESERVATION KEY.
    pub service_action_key: Key,
    /// APTPL.
    pub aptpl: bool,
    /// ALL_TG_PT.
    pub all_target_ports: bool,
    /// UNREG of REGISTER AND MOVE.
    pub unregister: bool,
}

/// One change of one logical unit's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A nexus was seen through this device node.
    Seen {
        /// The nexus.
        path: PathId,
        /// Its device node.
        node: String,
    },
    /// Written before a command that can change what is tracked.
    Intent {
        /// The nexus.
        path: PathId,
        /// The command.
        intended: Intended,
    },
    /// What the command, or a question to the device, left; ends the intent.
    Commit {
        /// The nexus.
        path: PathId,
        /// What it has now.
        tracked: Tracked,
        /// PRGENERATION, where it was read.
        generation: Option<u32>,
    },
    /// Own commands took a unit attention that the guest must be given (`sense` is added), or the guest was given the
    /// oldest (`None`).
    Owed {
        /// The nexus.
        path: PathId,
        /// Sense data.
        sense: Option<Vec<u8>>,
    },
    /// The logical unit's reservation was read: its type, whoever holds it; `None`: there is none.
    Reservation {
        /// TYPE.
        kind: Option<ReservationType>,
    },
    /// The state changed. [`State::Handover`] and [`State::Moved`] are ended only by a state of the same handover, or by
    /// another handover; anything else is remembered for then.
    State {
        /// The new state.
        state: State,
        /// The handover it belongs to; `None` for what a helper finds.
        handover: Option<HandoverId>,
        /// Why, in words, for people.
        why: Option<String>,
    },
}

impl Change {
    /// It is kept as history: what happened, not what was merely seen or owed.
    pub(crate) const fn is_history(&self) -> bool {
        matches!(self, Self::Intent { .. } | Self::Commit { .. } | Self::State { .. })
    }

    /// The nexus that it is about.
    #[must_use]
    pub const fn path(&self) -> Option<&PathId> {
        match self {
            Self::Seen { path, .. }
            | Self::Intent { path, .. }
            | Self::Commit { path, .. }
            | Self::Owed { path, .. } => Some(path),
            Self::Reservation { .. } | Self::State { .. } => None,
        }
    }
}
