//! An iSCSI initiator with a chosen nexus identity: initiator name and ISID come from the caller.
//!
//! [`Session::login`] opens one session over one connection; [`Session::nexus`] gives the way to a
//! logical unit as a [`Nexus`](::nexus::Nexus). Several logical units and threads may share a session. Nothing
//! logs in again by itself: a session whose identity has moved to another host must stay dead.
//!
//! Used by the command line, and later by the agent and the vhost-user device.

mod exchange;
mod handshake;
mod nexus;
mod outgoing;
mod reader;
mod session;
mod task;
pub mod url;

#[cfg(test)]
#[cfg(feature = "target")]
mod tests;

pub use self::nexus::IscsiNexus;
pub use session::{DiscoveredTarget, Session, SessionError, discover};
pub use url::{IscsiUrl, UrlError};

pub use crate::login::requester::LoginError;
pub use crate::login::{Chap, Credentials, DigestOffer, Proposal};
pub use crate::pdu::TaskResponse;

use scsi::{IscsiName, Isid};
use std::time::Duration;

/// How long a session waits for the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TCP connection, per address.
    pub connect: Duration,
    /// For the whole login phase.
    pub login: Duration,
    /// For one command, or one pipeline of commands, from hand-over to its last status.
    pub command: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(10),
            command: Duration::from_secs(30),
        }
    }
}

/// Which session to open.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// `HOST:PORT` of the target's portal, an IPv6 address in brackets.
    pub portal: String,
    /// Target name.
    pub target: IscsiName,
    /// Initiator name.
    pub initiator: IscsiName,
    /// Initiator session identifier; with the name it is the initiator port.
    pub isid: Isid,
    /// CHAP credentials.
    pub chap: Option<Chap>,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Wishes for digests, burst lengths and the like.
    pub proposal: Proposal,
}

impl SessionConfig {
    /// A session without authentication and digests, with the usual timeouts.
    #[must_use]
    pub fn new(portal: impl Into<String>, target: IscsiName, initiator: IscsiName, isid: Isid) -> Self {
        Self {
            portal: portal.into(),
            target,
            initiator,
            isid,
            chap: None,
            timeouts: Timeouts::default(),
            proposal: Proposal::default(),
        }
    }
}
