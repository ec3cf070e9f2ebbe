//! The way to a logical unit as an initiator: [`Nexus`] sends one command and gives back what the
//! device server answered. A SCSI status is a value; only a lost transport is an error.
//!
//! Implementations: Linux SG_IO (here), the iSCSI initiator (`iscsi`), the pr-helper's client (`pr-helper`).
//! Used by the command line, the agent and the vhost-user device to carry out what `handover` asks.

mod attention;
#[cfg(target_os = "linux")]
pub mod linux;

pub use attention::{Attended, retry_unit_attention, unit_attention};

use scsi::{Completion, Request, TransportId};

/// Why a command has no completion. The two cases differ in what may have happened on the device.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The command never left: the logical unit cannot have executed it.
    #[error("the logical unit cannot be reached")]
    NotSent(#[source] std::io::Error),
    /// The command may or may not have been executed. Probe; never guess.
    #[error("the transport was lost with the command under way; its outcome is unknown")]
    OutcomeUnknown(#[source] std::io::Error),
}

/// One I_T nexus to one logical unit.
pub trait Nexus: Send {
    /// Sends one command and waits for its completion, at most the nexus's timeout.
    /// A unit attention is returned like any other CHECK CONDITION; retrying is the caller's choice.
    ///
    /// # Errors
    /// [`TransportError`] if no completion arrived.
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError>;

    /// Sends commands that do not depend on each other, in one round trip where the transport can
    /// have several under way. The answers come in the order of `requests`.
    fn execute_all(&mut self, requests: &[Request]) -> Vec<Result<Completion, TransportError>> {
        requests.iter().map(|request| self.execute(request)).collect()
    }

    /// The initiator port's name, where this side knows it.
    fn initiator_port(&self) -> Option<TransportId> {
        None
    }
}
