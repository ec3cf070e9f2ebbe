//! Why a guest's logical units cannot be found, or their records not be kept.

use crate::drive;
use ledger::{LunId, PathId};
use scsi::Completion;
use std::path::PathBuf;

/// What is wrong, and what to do about it. Causes are told by `source`, not repeated in the message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records cannot be read, written or locked.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The way to a logical unit cannot be opened.
    #[error(transparent)]
    Way(#[from] drive::Error),
    /// A device node leads to no logical unit that can be handed over.
    #[error("{}: {why}", node.display())]
    Node {
        /// The node.
        node: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// Where the helper's agent socket is cannot be told.
    #[error("the helper's agent socket in {}", path.display())]
    Socket {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The device does not tell which logical unit it is.
    #[error("{place} does not say which logical unit it is: {}", drive::words::status(answer))]
    Silent {
        /// The node or URL.
        place: String,
        /// What it said instead.
        answer: Box<Completion>,
    },
    /// It has no name by which two hosts could know that they mean the same one.
    #[error(
        "{0} has neither a designator nor a serial number: two hosts cannot tell that they mean the same logical unit"
    )]
    Nameless(String),
    /// The place leads elsewhere than it should.
    #[error("{place} is {}, and not {} as configured", found.0, wanted.0)]
    Other {
        /// The node or URL.
        place: String,
        /// What it is.
        found: LunId,
        /// What it should be.
        wanted: LunId,
    },
    /// Two ways to one logical unit are the same I_T nexus.
    #[error("{first} and {second} are one I_T nexus to {}: configure one of them", lun.0)]
    Twice {
        /// The logical unit.
        lun: LunId,
        /// One way.
        first: String,
        /// The other.
        second: String,
    },
    /// More ways to a logical unit than a handover takes.
    #[error("{} has more than {} paths", .0.0, handover::action::MAX_PATHS)]
    TooManyPaths(LunId),
    /// The guest is registered through a nexus that was not given.
    #[error(
        "the guest is registered on {} through the nexus `{}` as well, to which no device leads: add it to the guest's \
         devices",
        lun.0, path.0
    )]
    Unreachable {
        /// The logical unit.
        lun: LunId,
        /// The nexus.
        path: PathId,
    },
    /// The other host offers a logical unit that is not the guest's here.
    #[error("{} is not among the guest's devices on this host: add it to its configuration", .0.0)]
    NotHere(LunId),
    /// The guest changed its keys since the handover was planned.
    #[error("the guest changed its registration on {} meanwhile: plan again", .0.0)]
    Replan(LunId),
    /// Another handover, or an export, has the guest, or took it away since this one was planned.
    #[error(
        "another handover of {} is under way, or took it away meanwhile ({other}): tenure handover status says which; what \
         nobody carries on any more ends with tenure handover abort",
        lun.0
    )]
    UnderWay {
        /// The logical unit.
        lun: LunId,
        /// Which handover, and what its record says.
        other: String,
    },
    /// A defect.
    #[error("a thread that looked at the guest's devices died")]
    Died,
    /// Nobody says what the guest has.
    #[error("it is not known what the guest has on {}", .0.0)]
    Unsaid(LunId),
}
