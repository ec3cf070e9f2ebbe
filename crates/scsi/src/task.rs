//! A command on its way to a logical unit and what came back: the values that the initiator side
//! (`nexus`, `handover`) and the device server (`logical-unit`) exchange.

use crate::sense::Sense;
use crate::status::Status;

/// The data phase that a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DataPhase {
    /// No data.
    None,
    /// Data from the logical unit, at most this many bytes.
    In(usize),
    /// Data to the logical unit.
    Out(Vec<u8>),
}

/// One command as an initiator sends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Command descriptor block; 6, 10, 12 or 16 bytes.
    pub cdb: Vec<u8>,
    /// What is transferred.
    pub data: DataPhase,
}

/// What the device server answered. Only a lost transport is an error, and that is not this type's matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Completion {
    /// SCSI status.
    pub status: Status,
    /// Raw sense data; empty unless the status is CHECK CONDITION (or the target sent some all the same).
    pub sense: Vec<u8>,
    /// Data-in, already cut to what was transferred.
    pub data: Vec<u8>,
}

impl Completion {
    /// GOOD with data-in.
    #[must_use]
    pub const fn good(data: Vec<u8>) -> Self {
        Self { status: Status::GOOD, sense: Vec::new(), data }
    }

    /// A status without sense and data.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self { status, sense: Vec::new(), data: Vec::new() }
    }

    /// CHECK CONDITION with fixed-format sense data.
    #[must_use]
    pub fn check(sense: &Sense) -> Self {
        Self { status: Status::CHECK_CONDITION, sense: sense.to_fixed(), data: Vec::new() }
    }

    /// The decoded sense data, if there is any.
    #[must_use]
    pub fn decoded_sense(&self) -> Option<Sense> {
        Sense::parse(&self.sense)
    }
}
