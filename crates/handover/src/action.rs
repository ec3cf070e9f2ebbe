//! What a procedure asks for and what it is told: the sans-I/O face of this crate.
//!
//! A driver (the command line, the agent, the explorer) polls a [`Procedure`], carries out the actions and
//! reports what came of each. No clock, no thread and no socket is on this side of it.

use crate::journal::Entry;
use crate::verdict::Verdict;
use scsi::{Completion, Request};
use std::fmt;

/// One of the two hosts of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Where the guest runs now.
    Source,
    /// Where it is to run.
    Destination,
}

impl Side {
    /// The other host.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// One I_T nexus of a side; index 0 is the one that acts for the side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// Whose nexus.
    pub side: Side,
    /// Which of its nexuses, below [`MAX_PATHS`].
    pub index: u8,
}

/// Most paths a side may have; more is refused.
pub const MAX_PATHS: usize = 8;

impl Path {
    /// Path `index` of the source.
    #[must_use]
    pub const fn source(index: u8) -> Self {
        Self { side: Side::Source, index }
    }

    /// Path `index` of the destination.
    #[must_use]
    pub const fn destination(index: u8) -> Self {
        Self { side: Side::Destination, index }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => write!(f, "{}", self.side),
            index => write!(f, "{} path {index}", self.side),
        }
    }
}

/// Which command of the batch under way; numbers start anew with every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u8);

/// Something for the driver to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send one command on one nexus and report its [`Outcome`].
    Execute {
        /// To be named in the report.
        id: CommandId,
        /// Where to send it.
        path: Path,
        /// What to send.
        request: Request,
    },
    /// Make this entry durable on both hosts before any later action of the batch is begun.
    /// On failure do none of those and report [`Event::JournalFailed`]; success is not reported.
    Journal(Entry),
    /// Log out on this path for good: reported as done only when the target confirmed it and nothing on that
    /// host will log in again by itself. Method *identity* only.
    CloseSession {
        /// To be named in the report.
        id: CommandId,
        /// Whose session.
        path: Path,
    },
    /// Log in on this path with the initiator name and ISID of the guest. Method *identity* only.
    OpenSession {
        /// To be named in the report.
        id: CommandId,
        /// Whose session.
        path: Path,
    },
}

/// What came of an action. For a session action `Done` carries an empty GOOD completion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The device server answered, with whatever status.
    Done(Completion),
    /// It certainly was not executed and never will be.
    NotSent,
    /// It may have been executed, but will not be from now on: report this only when the session or task is gone.
    Unknown,
}

/// What a procedure is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An action of the batch under way has ended.
    Completed {
        /// Which.
        id: CommandId,
        /// How.
        outcome: Outcome,
    },
    /// The journal entry of the batch could not be made durable on both hosts; none of its actions was begun.
    JournalFailed,
    /// Go on after [`Step::PhaseDone`].
    Proceed,
    /// At [`Step::PhaseDone`] of `Prepare`: the guest's state changed meanwhile, read everything again.
    Refresh,
    /// Give the handover up. Before commit everything is undone; afterwards this is ignored.
    Abort,
}

/// The phases of a handover, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Read and choose; changes nothing. The guest runs.
    Plan,
    /// Read again, drain the destination's unit attentions. The guest runs; when this is done, pause it.
    Prepare,
    /// The guest is paused and drained: the destination registers, the source proves that it was not fenced.
    Freeze,
    /// The commit.
    Take,
    /// Further paths, and a look at the result. When this is done the guest may run at the destination.
    Verify,
    /// The source forgets.
    Release,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plan => "plan",
            Self::Prepare => "prepare",
            Self::Freeze => "freeze",
            Self::Take => "take",
            Self::Verify => "verify",
            Self::Release => "release",
        })
    }
}

/// The answer to a poll.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Do these: one batch, one round trip. Commands may run concurrently; a journal entry comes first.
    Run(Vec<Action>),
    /// Reports of the batch are outstanding.
    Wait,
    /// A phase is over; the procedure stands still until [`Event::Proceed`], `Refresh` or `Abort`.
    PhaseDone(Phase),
    /// The end; every further poll says the same.
    Finished(Verdict),
}

/// A procedure: poll it, do what it says, tell it what came of it.
pub trait Procedure {
    /// What to do now. A batch is handed out once; the other answers repeat until an event changes them.
    fn poll(&mut self) -> Step;

    /// Takes a report. Events that make no sense now (an unknown id, a second report) are ignored.
    fn handle(&mut self, event: Event);
}
