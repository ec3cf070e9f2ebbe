//! What has to be known of a logical unit whose guest takes its initiator port to another host: what ends with the session and
//! what would get lost with it. Used by `tenure device` before it logs out here and after it logged in there.

use super::{Inner, IscsiUnit, Target};
use nexus::{TransportError, unit_attention};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Status, opcode};
use std::sync::atomic::Ordering;

/// More than any device queues (SAM-5 leaves that open).
const MOST_ATTENTIONS: usize = 32;

impl Target {
    /// Whether there is a session, or could be made now.
    #[must_use]
    pub fn reach(&self) -> bool {
        matches!(self.session(), Ok(Some(_)))
    }
}

impl IscsiUnit {
    /// The guest has reserved it by RESERVE(6) or RESERVE(10): the target forgets that with the session (SPC-2 5.5.1).
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.reserved.load(Ordering::Acquire)
    }

    /// Takes the unit attentions that wait for the guest, which runs no command: their sense data, oldest first. They are the caller's to
    /// keep.
    ///
    /// # Errors
    /// The device did not answer, or never came to an end. What was taken comes along all the same.
    pub fn take_attentions(&self) -> (Vec<Vec<u8>>, Result<(), TransportError>) {
        let mut taken = Vec::new();
        while taken.len() < MOST_ATTENTIONS {
            match self.0.send(&ready(), &|| false) {
                Ok(ended) if unit_attention(&ended).is_some() => taken.push(ended.sense),
                Ok(_) => return (taken, Ok(())),
                Err(error) => return (taken, Err(error)),
            }
        }
        (taken, Ok(()))
    }
}

/// Whether this is what every new session of an initiator port is told: 29h/07h I_T NEXUS LOSS OCCURRED, or 29h/00h from
/// targets that do not say it more exactly.
#[must_use]
pub fn is_of_a_login(sense: &[u8]) -> bool {
    let ended = Completion { status: Status::CHECK_CONDITION, sense: sense.to_vec(), data: Vec::new() };
    let code = unit_attention(&ended);
    code.is_some_and(|code| [AdditionalSense::NEXUS_LOSS, AdditionalSense::POWER_ON_OR_RESET].contains(&code))
}

fn ready() -> Request {
    Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None }
}

impl Inner {
    /// A command of the guest's ended: it may have reserved the logical unit, or released it.
    pub(super) fn note_reserve(&self, request: &Request, ended: &Completion) {
        let reserved = match request.cdb.first() {
            Some(&(opcode::RESERVE_6 | opcode::RESERVE_10)) => true,
            Some(&(opcode::RELEASE_6 | opcode::RELEASE_10)) => false,
            _ => return,
        };
        if ended.status.is_good() {
            self.reserved.store(reserved, Ordering::Release);
        }
    }
}
