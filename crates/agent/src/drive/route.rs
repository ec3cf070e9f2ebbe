//! Which way a link takes: a DEVICE of its own, a session that several links share, or the privileged helper.

use super::helper::HelperRoute;
use super::port::{InitiatorPort, Lent};
use super::{Device, Error, Opened};
use scsi::TransportId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a link comes to its logical unit.
#[derive(Clone, Debug)]
pub enum Route {
    /// By itself.
    Device(Device),
    /// Through the session that all links of an initiator port share.
    Shared {
        /// The port.
        port: Arc<InitiatorPort>,
        /// The logical unit behind it.
        lun: u64,
    },
    /// Through the host's helper.
    Helper(HelperRoute),
}

impl From<Device> for Route {
    fn from(device: Device) -> Self {
        Self::Device(device)
    }
}

impl Route {
    /// Opens the way; `patience` bounds connecting and the login, `timeout` every command. Where the way is a shared session,
    /// one with a number above `after`.
    ///
    /// # Errors
    /// Like [`Device::open`].
    pub(super) fn open(&self, after: u64, patience: Duration, timeout: Duration) -> Result<Opened, Error> {
        match self {
            Self::Device(device) => device.open_within(patience, timeout),
            Self::Shared { port, lun } => {
                let Lent { session, number } = port.session(after, patience)?;
                Ok(Opened::Shared { nexus: session.nexus(*lun), number })
            }
            Self::Helper(route) => Ok(Opened::Helper(route.open(timeout)?)),
        }
    }

    /// The initiator port, where it is known without asking anybody.
    #[must_use]
    pub fn initiator_port(&self) -> Option<TransportId> {
        match self {
            Self::Device(device) => device.initiator_port(),
            Self::Shared { port, .. } => Some(port.transport_id()),
            Self::Helper(_) => None,
        }
    }

    /// The session is this process's own, so that it can end it for good, and nobody but another of its name can take over.
    #[must_use]
    pub const fn session_is_ours(&self) -> bool {
        match self {
            Self::Device(device) => device.session_is_ours(),
            Self::Shared { .. } => true,
            Self::Helper(_) => false,
        }
    }

    /// Opening this way does not prove that a command which may still be executed is over, or, through the helper, that
    /// anybody is there: it counts only once a command is answered.
    pub(super) const fn needs_answer(&self, dangles: bool) -> bool {
        match self {
            Self::Device(_) => dangles,
            Self::Shared { .. } => false,
            Self::Helper(_) => true,
        }
    }

    /// Until when the outage that began now, or before, is waited for.
    pub(super) fn outage(&self, own: &mut Option<Instant>, timeout: Duration) -> Instant {
        match self {
            Self::Shared { port, .. } => port.outage(timeout),
            Self::Device(_) | Self::Helper(_) => *own.get_or_insert_with(|| Instant::now() + timeout),
        }
    }
}
