//! One I_T_L nexus of a session as a [`Nexus`]: what `handover` and the command line send commands through.

use super::Session;
use crate::pdu::Lun;
use ::nexus::{Nexus, TransportError};
use scsi::{Completion, Request, TransportId};
use std::io;

/// A logical unit reached through a session; it keeps the session open.
#[derive(Clone, Debug)]
pub struct IscsiNexus {
    session: Session,
    lun: Lun,
}

impl IscsiNexus {
    pub(super) const fn new(session: Session, lun: Lun) -> Self {
        Self { session, lun }
    }

    /// The session underneath.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }
}

impl Nexus for IscsiNexus {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let nothing = || TransportError::NotSent(io::ErrorKind::InvalidInput.into());
        self.session.execute(&[(self.lun, request)]).pop().ok_or_else(nothing)?
    }

    fn execute_all(&mut self, requests: &[Request]) -> Vec<Result<Completion, TransportError>> {
        let commands: Vec<_> = requests.iter().map(|request| (self.lun, request)).collect();
        self.session.execute(&commands)
    }

    fn initiator_port(&self) -> Option<TransportId> {
        Some(self.session.initiator_port())
    }
}
