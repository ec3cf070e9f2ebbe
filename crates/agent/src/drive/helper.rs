//! The way through the host's privileged program: each command goes to `tenure-pr-helper` with the device's descriptor and
//! the handover's id, which the helper checks against the record.

use super::Error;
use ledger::HandoverId;
use pr_helper::Client;
use rustix::fs::{Mode, OFlags, open};
use std::path::PathBuf;
use std::time::Duration;

/// A device node, and the agent socket of the helper that serves its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperRoute {
    /// The helper's agent socket.
    pub socket: PathBuf,
    /// The device node.
    pub node: PathBuf,
    /// The handover in whose name commands are sent.
    pub handover: HandoverId,
}

impl HelperRoute {
    /// Opens the node; the helper is spoken to with the first command.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub(super) fn open(&self, timeout: Duration) -> Result<Client, Error> {
        // Nobody is waited for: a tape or a fifo in the node's place must not hold the agent up.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = open(&self.node, flags, Mode::empty())
            .map_err(|errno| Error::Open { node: self.node.clone(), source: errno.into() })?;
        Ok(Client::new(&self.socket, device, self.handover).with_timeout(timeout))
    }
}
