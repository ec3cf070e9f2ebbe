//! EXTENDED COPY(LID1) and the commands that report on it (SPC-4 6.4, 6.17 to 6.20).

use super::service_action;
use crate::bytes::{be32, u8_at};
use crate::opcode;

/// EXTENDED COPY(LID1); what to copy is in the parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExtendedCopy {
    /// PARAMETER LIST LENGTH in bytes.
    pub length: u32,
}

impl ExtendedCopy {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 15)?;
        Some(Self { length: be32(cdb, 10)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut cdb = vec![opcode::THIRD_PARTY_COPY_OUT, service_action::EXTENDED_COPY_LID1];
        cdb.extend([0; 8]);
        cdb.extend(self.length.to_be_bytes());
        cdb.extend([0, 0]);
        cdb
    }
}

/// A report on copies: COPY STATUS, RECEIVE DATA, OPERATING PARAMETERS or FAILED SEGMENT DETAILS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReceiveCopyResults {
    /// Service action, 5 bits.
    pub action: u8,
    /// LIST IDENTIFIER of the copy; ignored by OPERATING PARAMETERS.
    pub list: u8,
    /// Largest reply in bytes.
    pub allocation_length: u32,
}

impl ReceiveCopyResults {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 15)?;
        let action = u8_at(cdb, 1)? & 0x1F;
        Some(Self { action, list: u8_at(cdb, 2)?, allocation_length: be32(cdb, 10)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut cdb = vec![opcode::THIRD_PARTY_COPY_IN, self.action & 0x1F, self.list];
        cdb.extend([0; 7]);
        cdb.extend(self.allocation_length.to_be_bytes());
        cdb.extend([0, 0]);
        cdb
    }
}
