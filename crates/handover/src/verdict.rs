//! How a handover or a recovery ends, and why (the exit states of `tenure`). Values, so that a search can compare them;
//! the text for people is their `Display`.

use std::fmt;

/// The end of a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The destination has the registration and whatever it held; the guest may run there and only there.
    Moved,
    /// The handover was undone (or never began to change anything): the guest stays with the source.
    KeptAtSource {
        /// What made it turn back.
        cause: Cause,
        /// The destination could not be reached and may still carry the guest's key; recovery removes it.
        leftover: bool,
    },
    /// Another nexus removed the guest's registration. Nobody may resume it registered.
    Fenced {
        /// The source still holds the reservation under the nonce (types 5 and 6, fenced inside the nonce window).
        nonce_left: bool,
    },
    /// The target forgot its registrations (power loss without APTPL). Not a fencing.
    Lost,
    /// It cannot be told who has the registration; nobody may resume until recovery or the operator decides.
    InDoubt(Doubt),
    /// Unsafe or impossible; nothing on the device was changed.
    Refused(Reason),
}

/// Why a handover turned back to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The driver asked for it.
    Aborted,
    /// The journal could not be written.
    JournalFailed,
    /// The source could not be reached for its proof.
    SourceUnreachable,
    /// The destination could not be reached.
    DestinationUnreachable,
    /// The device server rejected a command of the method.
    Rejected,
    /// The state changed so that no allowed method is safe any more.
    NoSafeMethod(Reason),
    /// A recovery found the handover unfinished and undid it.
    Recovered,
}

/// Why nobody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Doubt {
    /// The source cannot be reached, and its last command may or may not have been executed.
    SourceUnreachable,
    /// The destination cannot be reached, and its last command may or may not have been executed.
    DestinationUnreachable,
    /// The device shows something that neither side brought about.
    Mismatch,
    /// The journal could not be written at a point where turning back is unsafe.
    JournalFailed,
    /// Persistent reservation commands conflict for everybody (an SPC-2 RESERVE is active).
    ConflictForAll,
}

/// Why a handover is refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The two devices are not the same logical unit (VPD page 83h).
    DifferentUnits,
    /// It cannot be told whether the two devices are the same logical unit.
    UnknownUnit,
    /// Source and destination are the same I_T nexus: there is nothing to move.
    SameNexus,
    /// The source has no registration, and no key was given.
    NotRegistered,
    /// READ FULL STATUS shows the source's nexus with another key than the one that was given.
    OtherKey,
    /// Another session of the source's name has the registration, and this target ties it to the session.
    OtherSession,
    /// The destination has the key already, and the source has none.
    AlreadyThere,
    /// No key was given and READ FULL STATUS does not tell it.
    KeyUnknown,
    /// The nonce is zero, the guest's key, or a key that somebody has registered.
    NonceTaken,
    /// READ KEYS could not tell all keys.
    TooManyKeys,
    /// A side has no path or too many.
    Paths,
    /// The destination's nexus carries a registration with another key: another guest uses it.
    DestinationOccupied,
    /// The device answers persistent reservation commands with an error.
    NotSupported,
    /// A nexus that is needed cannot be reached.
    Unreachable,
    /// The source cannot be reached, and the short absence of the key was not allowed.
    AbsenceNotAllowed,
    /// Another nexus shares the key, and the method would remove its registration.
    KeyShared,
    /// The source is the single holder, and the method moves no reservation.
    SourceHolds,
    /// The source is not the single holder, and the method moves nothing else.
    SourceDoesNotHold,
    /// It cannot be told whether the source or a nexus that shares its key is the holder.
    HolderUnknown,
    /// The target removes the sender of a PREEMPT with its own key, or nobody knows that it does not.
    SenderNotKept,
    /// REGISTER AND MOVE is not supported, not reported, or broken on this target.
    MoveUnusable,
    /// The destination's TransportID or relative target port is not known.
    PortUnknown,
    /// The source does not see that the port which the destination gives as its own is.
    PortUnproved,
    /// The identity is not the guest's alone, or the source's session is not ours to close.
    IdentityNotOurs,
    /// On this target a registration does not survive a new login, even under the same name and ISID.
    IdentityNotKept,
    /// The method needs a living source.
    SourceNeeded,
    /// A fencing could not be told from our own command on this target.
    ProofMissing,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved => f.write_str("moved to the destination"),
            Self::KeptAtSource { cause, leftover } => {
                write!(f, "kept at the source: {cause}")?;
                f.write_str(if *leftover { "; the destination may still carry the key" } else { "" })
            }
            Self::Fenced { nonce_left: false } => {
                f.write_str("fenced: another node removed the registration")
            }
            Self::Fenced { nonce_left: true } => f.write_str(
                "fenced while the source held the reservation under the nonce, which it still does",
            ),
            Self::Lost => f.write_str("lost: the target forgot its registrations"),
            Self::InDoubt(doubt) => write!(f, "in doubt: {doubt}"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aborted => "given up on request",
            Self::JournalFailed => "the journal could not be written",
            Self::SourceUnreachable => "the source could not be reached",
            Self::DestinationUnreachable => "the destination could not be reached",
            Self::Rejected => "the device server rejected a command",
            Self::NoSafeMethod(reason) => return write!(f, "no safe method is left, {reason}"),
            Self::Recovered => "an unfinished handover was undone",
        })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceUnreachable => {
                "the source cannot be reached and its last command has no known outcome"
            }
            Self::DestinationUnreachable => {
                "the destination cannot be reached and its last command has no known outcome"
            }
            Self::Mismatch => "the device does not show what was moved",
            Self::JournalFailed => "the journal could not be written at a point of no return",
            Self::ConflictForAll => {
                "reservation commands conflict for everybody (an SPC-2 RESERVE is active)"
            }
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DifferentUnits => "the two devices are different logical units",
            Self::UnknownUnit => {
                "the devices do not tell whether they are the same logical unit (VPD page 83h)"
            }
            Self::SameNexus => "source and destination are the same I_T nexus; there is nothing to move",
            Self::NotRegistered => "the source has no registration",
            Self::OtherKey => {
                "the source is registered with another key than the one that was given; give the key that READ FULL \
                 STATUS shows for it"
            }
            Self::OtherSession => {
                "another session of the source's name has the registration, and this target ties it to that session: \
                 only that session can hand it over; or unregister there, and register at the destination"
            }
            Self::AlreadyThere => {
                "the destination has the key already and the source has none, so there is nothing to move: it was \
                 moved before, or the source was fenced since"
            }
            Self::KeyUnknown => "this target cannot tell the source's key; give it",
            Self::NonceTaken => "the nonce is in use as a key; choose another",
            Self::TooManyKeys => "there are more keys than READ KEYS can return",
            Self::Paths => "each side needs one to eight paths",
            Self::DestinationOccupied => {
                "the destination's nexus is registered with another key, probably for another guest; \
                 give this guest a nexus of its own"
            }
            Self::NotSupported => "the device rejects persistent reservation commands",
            Self::Unreachable => "the logical unit cannot be reached",
            Self::AbsenceNotAllowed => {
                "the source cannot be reached; moving without it leaves the key unlisted for one command, \
                 which must be allowed explicitly"
            }
            Self::KeyShared => "another node shares the key and would lose its registration",
            Self::SourceHolds => {
                "the source is the reservation holder, and this method moves registrations only"
            }
            Self::SourceDoesNotHold => "the source is not the single reservation holder",
            Self::HolderUnknown => {
                "it cannot be told whether the source or a node sharing its key is the holder"
            }
            Self::SenderNotKept => {
                "this target is not known to keep the sender of a PREEMPT with its own key"
            }
            Self::MoveUnusable => {
                "REGISTER AND MOVE is not reported as supported or is known to be broken here"
            }
            Self::PortUnknown => "the destination's TransportID or relative target port is not known",
            Self::PortUnproved => {
                "the source does not see the destination register where the registration would be moved to"
            }
            Self::IdentityNotOurs => "the initiator name and ISID do not belong to this guest alone",
            Self::IdentityNotKept => "this target loses a registration when its initiator logs in again",
            Self::SourceNeeded => "this method needs the source",
            Self::ProofMissing => "on this target a fencing could not be told from our own command",
        })
    }
}
