//! Where a command or its parameter list is wrong: the field pointer of SPC-4 4.5.2.4.2.
//! Every parser in this crate returns one, so that a device server can tell the initiator what to mend.

use crate::sense::{AdditionalSense, Sense, SenseKey};
use std::fmt;

/// The byte, and where it is known the bit, that a device server objects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldPointer {
    /// `true`: the field is in the CDB; `false`: in the data-out parameter list.
    pub in_cdb: bool,
    /// Byte offset from the start of the CDB or parameter list.
    pub byte: u16,
    /// Most significant bit of the field (0 to 7), if it is not a whole byte.
    pub bit: Option<u8>,
}

/// A field that a parser or a device server rejects, with the sense code the standard names for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldError {
    /// What to report, e.g. INVALID FIELD IN CDB.
    pub code: AdditionalSense,
    /// Where the fault is; `None` where the standard wants no pointer (parameter list length).
    pub pointer: Option<FieldPointer>,
}

impl FieldError {
    /// INVALID FIELD IN CDB at `byte`.
    #[must_use]
    pub const fn cdb(byte: u16) -> Self {
        let pointer = FieldPointer { in_cdb: true, byte, bit: None };
        Self { code: AdditionalSense::INVALID_FIELD_IN_CDB, pointer: Some(pointer) }
    }

    /// INVALID FIELD IN CDB at `bit` of `byte`.
    #[must_use]
    pub const fn cdb_bit(byte: u16, bit: u8) -> Self {
        let pointer = FieldPointer { in_cdb: true, byte, bit: Some(bit) };
        Self { code: AdditionalSense::INVALID_FIELD_IN_CDB, pointer: Some(pointer) }
    }

    /// INVALID FIELD IN PARAMETER LIST at `byte`.
    #[must_use]
    pub const fn parameter(byte: u16) -> Self {
        let pointer = FieldPointer { in_cdb: false, byte, bit: None };
        Self { code: AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, pointer: Some(pointer) }
    }

    /// INVALID FIELD IN PARAMETER LIST at `bit` of `byte`.
    #[must_use]
    pub const fn parameter_bit(byte: u16, bit: u8) -> Self {
        let pointer = FieldPointer { in_cdb: false, byte, bit: Some(bit) };
        Self { code: AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST, pointer: Some(pointer) }
    }

    /// PARAMETER LIST LENGTH ERROR.
    #[must_use]
    pub const fn list_length() -> Self {
        Self { code: AdditionalSense::PARAMETER_LIST_LENGTH_ERROR, pointer: None }
    }

    /// The same rejection under another sense code, for targets that name it differently.
    #[must_use]
    pub const fn with_code(self, code: AdditionalSense) -> Self {
        Self { code, ..self }
    }

    /// The sense data that reports this field: ILLEGAL REQUEST with the field pointer.
    #[must_use]
    pub fn sense(self) -> Sense {
        Sense { field_pointer: self.pointer, ..Sense::new(SenseKey::ILLEGAL_REQUEST, self.code) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        let Some(at) = self.pointer else { return Ok(()) };
        let place = if at.in_cdb { "CDB" } else { "parameter list" };
        write!(f, " (byte {} of the {place}", at.byte)?;
        if let Some(bit) = at.bit {
            write!(f, ", bit {bit}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for FieldError {}
