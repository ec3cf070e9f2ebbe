//! PERSISTENT RESERVE IN and OUT command descriptor blocks (SPC-4 6.15.1, 6.16.1).
//! Any service action, scope and type is accepted here; which are legal is the device server's decision.

use super::types::{InAction, OutAction, ReservationType, Scope};
use crate::bytes::array;
use crate::field::FieldError;
use crate::opcode;

/// PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrInCdb {
    /// What to read.
    pub action: InAction,
    /// Largest reply in bytes; zero is legal.
    pub allocation_length: u16,
    /// CONTROL byte.
    pub control: u8,
}

impl PrInCdb {
    /// Reads a CDB of at least 10 bytes.
    ///
    /// # Errors
    /// A field error for byte 0 if the CDB is short or the operation code another.
    pub fn parse(cdb: &[u8]) -> Result<Self, FieldError> {
        let [opcode::PERSISTENT_RESERVE_IN, action, _, _, _, _, _, high, low, control] =
            array(cdb, 0).ok_or(FieldError::cdb(0))?
        else {
            return Err(FieldError::cdb(0));
        };
        let allocation_length = u16::from_be_bytes([high, low]);
        Ok(Self { action: InAction(action & 0x1F), allocation_length, control })
    }

    /// The ten bytes of this command.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 10] {
        let [high, low] = self.allocation_length.to_be_bytes();
        let action = self.action.0 & 0x1F;
        [opcode::PERSISTENT_RESERVE_IN, action, 0, 0, 0, 0, 0, high, low, self.control]
    }
}

/// PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrOutCdb {
    /// What to do.
    pub action: OutAction,
    /// SCOPE.
    pub scope: Scope,
    /// TYPE.
    pub kind: ReservationType,
    /// Length of the data-out parameter list in bytes; all four bytes count.
    pub parameter_list_length: u32,
    /// CONTROL byte.
    pub control: u8,
}

impl PrOutCdb {
    /// Reads a CDB of at least 10 bytes.
    ///
    /// # Errors
    /// A field error for byte 0 if the CDB is short or the operation code another.
    pub fn parse(cdb: &[u8]) -> Result<Self, FieldError> {
        let [opcode::PERSISTENT_RESERVE_OUT, action, what, _, _, l0, l1, l2, l3, control] =
            array(cdb, 0).ok_or(FieldError::cdb(0))?
        else {
            return Err(FieldError::cdb(0));
        };
        Ok(Self {
            action: OutAction(action & 0x1F),
            scope: Scope(what >> 4),
            kind: ReservationType(what & 0x0F),
            parameter_list_length: u32::from_be_bytes([l0, l1, l2, l3]),
            control,
        })
    }

    /// The ten bytes of this command.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 10] {
        let [l0, l1, l2, l3] = self.parameter_list_length.to_be_bytes();
        let what = (self.scope.0 << 4) | (self.kind.0 & 0x0F);
        let action = self.action.0 & 0x1F;
        [opcode::PERSISTENT_RESERVE_OUT, action, what, 0, 0, l0, l1, l2, l3, self.control]
    }
}
