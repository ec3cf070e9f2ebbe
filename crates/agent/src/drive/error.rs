//! Why a way to a logical unit cannot be opened or used, or a procedure not be driven.

use iscsi::initiator::SessionError;
use nexus::linux::OpenError;
use std::error::Error as StdError;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// Why the driver or one of its ways failed. Causes are told by [`StdError::source`], not repeated in the message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device node cannot be opened.
    #[error(transparent)]
    Node(#[from] OpenError),
    /// The target did not confirm the logout.
    #[error(transparent)]
    Logout(#[from] SessionError),
    /// The target cannot be logged in to.
    #[error("{device}")]
    Login {
        /// The DEVICE, without its secret.
        device: String,
        /// What came of it.
        source: SessionError,
    },
    /// Another link of the same initiator port has just failed to log in.
    #[error("{0}")]
    Again(String),
    /// There is no session to end.
    #[error("there is no session")]
    NoSession,
    /// The device node cannot be opened.
    #[error("cannot open {}", node.display())]
    Open {
        /// The node.
        node: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The session is the kernel's and cannot be ended here.
    #[error("this session belongs to the kernel")]
    NotOurs,
    /// An entry cannot be made durable.
    #[error("the journal cannot be written")]
    Journal(#[source] Box<dyn StdError + Send + Sync>),
    /// The procedure waits for reports that it already has: a defect of it.
    #[error("the procedure waits for reports that it already has")]
    Stuck,
    /// A path that nobody made.
    #[error("there is no {0}")]
    NoPath(handover::Path),
}

/// A message with all its causes, in one line.
#[must_use]
pub fn told(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
