//! The agent's way to a logical unit: a second socket of the helper, through which a handover sends its commands.
//!
//! The agent holds no privilege. It opens the device, and sends each command with the descriptor and the handover's id;
//! [`Client`](crate::Client) is its end. Here is the helper's: `frame` has the protocol, `connection` speaks it with
//! whom the kernel says to be root or the configured user, `allowed` lists the commands, and [`Attend`], which `service`
//! implements, checks the id against the record and sends.
//!
//! The connections are those of `server`, with its limits: hostile clients cost what they cost there.

pub mod allowed;
mod connection;
pub mod frame;

use crate::Caller;
use crate::server::{Limits, Server};
use connection::Agents;
use frame::Role;
use ledger::HandoverId;
use rustix::fd::OwnedFd;
use scsi::Completion;
use std::sync::Arc;

/// One command of a handover, as it came.
#[derive(Debug)]
pub struct Command {
    /// The handover.
    pub handover: HandoverId,
    /// What the agent takes it for.
    pub role: Role,
    /// The CDB.
    pub cdb: Vec<u8>,
    /// Data-out.
    pub data_out: Vec<u8>,
    /// Longest data-in.
    pub allocation: usize,
    /// The device, as the agent opened it.
    pub fd: OwnedFd,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The device server answered, whatever its status: unit attentions are the agent's to judge.
    Completion(Completion),
    /// The helper does not send it, and why. Never a status: a RESERVATION CONFLICT is the device's to give.
    Refused(String),
    /// The command never left this host.
    NotSent(String),
    /// It may or may not have been executed.
    OutcomeUnknown(String),
}

/// Carries out what an agent asks. One call per request, from many threads at once.
pub trait Attend: Send + Sync {
    /// Carries out one command of an agent whose credentials were checked.
    fn attend(&self, caller: &Caller, command: Command) -> Answer;
}

/// Limits of the agent's socket: one agent, and a connection for each path of each logical unit that moves.
#[must_use]
pub fn limits() -> Limits {
    Limits { connections: 512, ..Limits::default() }
}

/// A server for agents that run as root or as `uid`.
#[must_use]
pub fn server(attend: Arc<dyn Attend>, uid: u32, limits: Limits) -> Server {
    Server::speaking(Arc::new(Agents::new(attend, uid)), limits)
}
