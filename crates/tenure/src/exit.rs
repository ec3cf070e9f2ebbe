//! Exit statuses, the same for every command, and the failure that carries one.

use serde::Serialize;
use std::fmt;

/// Exit status of `tenure`; part of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed; nothing is known to be half done.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// The logical unit answered RESERVATION CONFLICT.
    Conflict = 3,
    /// Refused because it would be unsafe; the reason says what to do.
    Refused = 4,
    /// Failed, and everything is as it was before.
    RolledBack = 5,
    /// Another initiator removed the guest's registration; it is not restored.
    Fenced = 6,
    /// Nobody may resume the guest until the operator decides.
    InDoubt = 7,
}

/// The statuses as `--help` shows them.
pub const TABLE: &str = "\
Exit status:
  0  done
  1  failed
  2  usage
  3  reservation conflict
  4  refused because unsafe; the reason says what to do
  5  failed and rolled back
  6  the guest is fenced
  7  in doubt: nobody resumed, the operator decides";

/// Why a command ended otherwise than [`Exit::Done`], in words for the person who called it.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// What went wrong, with its causes.
    pub reason: anyhow::Error,
}

/// What `--json` prints of a command that failed before it had its own document.
#[derive(Debug, Serialize)]
pub struct Document {
    schema: u32,
    error: String,
    exit: u8,
}

impl Failure {
    /// The failure for programs.
    #[must_use]
    pub fn document(&self) -> Document {
        Document { schema: 1, error: self.to_string(), exit: self.exit as u8 }
    }

    /// A failure with a status and a reason.
    pub fn new(exit: Exit, reason: impl fmt::Display) -> Self {
        Self { exit, reason: anyhow::anyhow!("{reason}") }
    }

    /// The request makes no sense.
    pub fn usage(reason: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, reason)
    }

    /// The request is refused because it would be unsafe.
    pub fn refused(reason: impl fmt::Display) -> Self {
        Self::new(Exit::Refused, reason)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(reason: anyhow::Error) -> Self {
        Self { exit: Exit::Failed, reason }
    }
}

impl From<agent::drive::Error> for Failure {
    fn from(reason: agent::drive::Error) -> Self {
        Self { exit: Exit::Failed, reason: reason.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.reason)
    }
}
