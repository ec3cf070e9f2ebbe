//! Why a migration does not go on, and what of the parts that it uses comes to that.

use super::MachineError;
use super::site::{CallError, Trouble};
use crate::conduct::{NotDurable, Stop};
use crate::ownership::Forbidden;

/// Why a migration does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fail {
    /// It would be unsafe, and nothing was begun.
    #[error("{0}")]
    Refused(String),
    /// Something on the way; what was begun is undone.
    #[error("{0}")]
    Failed(String),
    /// The other host's agent does not answer.
    #[error("{0}")]
    Lost(String),
    /// It was asked to end.
    #[error("it was cancelled")]
    Cancelled,
    /// QEMU stopped the guest before this program did, so that it may let it run again by itself.
    #[error("QEMU switched over before the guest was stopped")]
    TooFast,
}

impl From<Trouble> for Fail {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble.to_string())
    }
}

impl From<MachineError> for Fail {
    fn from(error: MachineError) -> Self {
        Self::Failed(format!("at the source: {error}"))
    }
}

impl From<CallError> for Fail {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Lost(_) => Self::Lost(error.to_string()),
            CallError::Refused(_) | CallError::Unwelcome(_) | CallError::Unfit => {
                Self::Failed(error.to_string())
            }
        }
    }
}

impl From<NotDurable> for Fail {
    fn from(error: NotDurable) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Forbidden> for Fail {
    fn from(error: Forbidden) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Stop> for Fail {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Lost(_) => Self::Lost(stop.to_string()),
            _ => Self::Failed(stop.to_string()),
        }
    }
}

impl Fail {
    /// What the other host refuses before anything was begun is a refusal.
    pub(super) fn of_opening(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Self::Refused(refusal.desc),
            other => other.into(),
        }
    }
}
