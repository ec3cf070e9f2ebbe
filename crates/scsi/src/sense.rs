//! Sense data (SPC-4 4.5): fixed and descriptor format, both ways.
//!
//! Device servers build it from a [`crate::FieldError`] or a named code; initiators decode what came
//! back. Codes and keys that are not named here survive; descriptors that nobody here needs are skipped.

#[cfg(test)]
mod tests;

use crate::bytes::{be16, be32, be64, u8_at};
use crate::field::FieldPointer;
use std::fmt;

/// Sense key (SPC-4 4.5.6); unknown keys survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SenseKey(pub u8);

impl SenseKey {
    /// Nothing to report.
    pub const NO_SENSE: Self = Self(0x0);
    /// Succeeded after recovery by the device server.
    pub const RECOVERED_ERROR: Self = Self(0x1);
    /// The logical unit is not accessible now.
    pub const NOT_READY: Self = Self(0x2);
    /// The medium failed.
    pub const MEDIUM_ERROR: Self = Self(0x3);
    /// The hardware failed.
    pub const HARDWARE_ERROR: Self = Self(0x4);
    /// A field of the CDB or parameter list is wrong.
    pub const ILLEGAL_REQUEST: Self = Self(0x5);
    /// Something happened on the logical unit since the last command of this I_T nexus.
    pub const UNIT_ATTENTION: Self = Self(0x6);
    /// The medium is protected.
    pub const DATA_PROTECT: Self = Self(0x7);
    /// A copy command was aborted.
    pub const COPY_ABORTED: Self = Self(0xA);
    /// The device server aborted the command.
    pub const ABORTED_COMMAND: Self = Self(0xB);
    /// Data compared unequal.
    pub const MISCOMPARE: Self = Self(0xE);
}

impl fmt::Display for SenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::NO_SENSE => "NO SENSE",
            Self::RECOVERED_ERROR => "RECOVERED ERROR",
            Self::NOT_READY => "NOT READY",
            Self::MEDIUM_ERROR => "MEDIUM ERROR",
            Self::HARDWARE_ERROR => "HARDWARE ERROR",
            Self::ILLEGAL_REQUEST => "ILLEGAL REQUEST",
            Self::UNIT_ATTENTION => "UNIT ATTENTION",
            Self::DATA_PROTECT => "DATA PROTECT",
            Self::COPY_ABORTED => "COPY ABORTED",
            Self::ABORTED_COMMAND => "ABORTED COMMAND",
            Self::MISCOMPARE => "MISCOMPARE",
            Self(other) => return write!(f, "sense key {other:#03x}"),
        };
        f.write_str(name)
    }
}

impl fmt::Debug for SenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Additional sense code and its qualifier (SPC-4 annex F).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdditionalSense {
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

/// Defines the named codes and their display in one table.
macro_rules! additional_sense {
    ($($name:ident = $asc:literal / $ascq:literal, $text:literal;)*) => {
        impl AdditionalSense {
            $(#[doc = $text] pub const $name: Self = Self { asc: $asc, ascq: $ascq };)*

            fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

additional_sense! {
    NONE = 0x00 / 0x00, "NO ADDITIONAL SENSE INFORMATION";
    NOT_READY_BECOMING_READY = 0x04 / 0x01, "LOGICAL UNIT IS IN PROCESS OF BECOMING READY";
    INITIALIZING_COMMAND_REQUIRED = 0x04 / 0x02, "LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED";
    SANITIZE_IN_PROGRESS = 0x04 / 0x1B, "LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS";
    LOGICAL_UNIT_COMMUNICATION_FAILURE = 0x08 / 0x00, "LOGICAL UNIT COMMUNICATION FAILURE";
    WRITE_ERROR = 0x0C / 0x00, "WRITE ERROR";
    INVALID_TARGET_DESCRIPTOR_TYPE = 0x26 / 0x07, "UNSUPPORTED TARGET DESCRIPTOR TYPE CODE";
    TOO_MANY_TARGET_DESCRIPTORS = 0x26 / 0x06, "TOO MANY TARGET DESCRIPTORS";
    TOO_MANY_SEGMENT_DESCRIPTORS = 0x26 / 0x08, "TOO MANY SEGMENT DESCRIPTORS";
    UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE = 0x26 / 0x09, "UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE";
    INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = 0x0E / 0x03, "INVALID FIELD IN COMMAND INFORMATION UNIT";
    SOFTWARE_WRITE_PROTECTED = 0x27 / 0x02, "LOGICAL UNIT SOFTWARE WRITE PROTECTED";
    UNRECOVERED_READ_ERROR = 0x11 / 0x00, "UNRECOVERED READ ERROR";
    PARAMETER_LIST_LENGTH_ERROR = 0x1A / 0x00, "PARAMETER LIST LENGTH ERROR";
    MISCOMPARE_DURING_VERIFY = 0x1D / 0x00, "MISCOMPARE DURING VERIFY OPERATION";
    SANITIZE_FAILED = 0x31 / 0x03, "SANITIZE COMMAND FAILED";
    INVALID_COMMAND_OPERATION_CODE = 0x20 / 0x00, "INVALID COMMAND OPERATION CODE";
    LBA_OUT_OF_RANGE = 0x21 / 0x00, "LOGICAL BLOCK ADDRESS OUT OF RANGE";
    INVALID_FIELD_IN_CDB = 0x24 / 0x00, "INVALID FIELD IN CDB";
    LOGICAL_UNIT_NOT_SUPPORTED = 0x25 / 0x00, "LOGICAL UNIT NOT SUPPORTED";
    INVALID_FIELD_IN_PARAMETER_LIST = 0x26 / 0x00, "INVALID FIELD IN PARAMETER LIST";
    INVALID_RELEASE = 0x26 / 0x04, "INVALID RELEASE OF PERSISTENT RESERVATION";
    WRITE_PROTECTED = 0x27 / 0x00, "WRITE PROTECTED";
    SPACE_ALLOCATION_FAILED = 0x27 / 0x07, "SPACE ALLOCATION FAILED WRITE PROTECT";
    MEDIUM_MAY_HAVE_CHANGED = 0x28 / 0x00, "NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED";
    POWER_ON_OR_RESET = 0x29 / 0x00, "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED";
    POWER_ON = 0x29 / 0x01, "POWER ON OCCURRED";
    BUS_RESET = 0x29 / 0x02, "SCSI BUS RESET OCCURRED";
    TARGET_RESET = 0x29 / 0x03, "BUS DEVICE RESET FUNCTION OCCURRED";
    INTERNAL_RESET = 0x29 / 0x04, "DEVICE INTERNAL RESET";
    NEXUS_LOSS = 0x29 / 0x07, "I_T NEXUS LOSS OCCURRED";
    MODE_PARAMETERS_CHANGED = 0x2A / 0x01, "MODE PARAMETERS CHANGED";
    RESERVATIONS_PREEMPTED = 0x2A / 0x03, "RESERVATIONS PREEMPTED";
    RESERVATIONS_RELEASED = 0x2A / 0x04, "RESERVATIONS RELEASED";
    REGISTRATIONS_PREEMPTED = 0x2A / 0x05, "REGISTRATIONS PREEMPTED";
    ACCESS_STATE_CHANGED = 0x2A / 0x06, "ASYMMETRIC ACCESS STATE CHANGED";
    CAPACITY_CHANGED = 0x2A / 0x09, "CAPACITY DATA HAS CHANGED";
    COPY_TARGET_UNREACHABLE = 0x0D / 0x02, "COPY TARGET DEVICE NOT REACHABLE";
    COMMANDS_CLEARED = 0x2F / 0x00, "COMMANDS CLEARED BY ANOTHER INITIATOR";
    PREVIOUS_RESERVATION_CONFLICT = 0x2C / 0x09, "PREVIOUS RESERVATION CONFLICT STATUS";
    SAVING_PARAMETERS_NOT_SUPPORTED = 0x39 / 0x00, "SAVING PARAMETERS NOT SUPPORTED";
    MEDIUM_NOT_PRESENT = 0x3A / 0x00, "MEDIUM NOT PRESENT";
    INQUIRY_DATA_CHANGED = 0x3F / 0x03, "INQUIRY DATA HAS CHANGED";
    REPORTED_LUNS_CHANGED = 0x3F / 0x0E, "REPORTED LUNS DATA HAS CHANGED";
    INTERNAL_TARGET_FAILURE = 0x44 / 0x00, "INTERNAL TARGET FAILURE";
    RESERVATION_INFORMATION_LOST = 0x44 / 0x01, "PERSISTENT RESERVATION INFORMATION LOST";
    PROTOCOL_SERVICE_CRC_ERROR = 0x47 / 0x05, "PROTOCOL SERVICE CRC ERROR";
    MEDIUM_REMOVAL_PREVENTED = 0x53 / 0x02, "MEDIUM REMOVAL PREVENTED";
    INSUFFICIENT_RESERVATION_RESOURCES = 0x55 / 0x02, "INSUFFICIENT RESERVATION RESOURCES";
    INSUFFICIENT_REGISTRATION_RESOURCES = 0x55 / 0x04, "INSUFFICIENT REGISTRATION RESOURCES";
}

impl AdditionalSense {
    /// A code by its numbers.
    #[must_use]
    pub const fn new(asc: u8, ascq: u8) -> Self {
        Self { asc, ascq }
    }
}

impl fmt::Display for AdditionalSense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "additional sense {:02x}h/{:02x}h", self.asc, self.ascq),
        }
    }
}

impl fmt::Debug for AdditionalSense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}/{:02x}", self.asc, self.ascq)
    }
}

/// Decoded sense data. Fields that the standard leaves out are `None`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code and qualifier.
    pub code: AdditionalSense,
    /// `true` for a deferred error (response codes 71h, 73h): it belongs to an earlier command.
    pub deferred: bool,
    /// INFORMATION, e.g. the logical block address or the offset of a miscompare.
    pub information: Option<u64>,
    /// Which field was wrong; only with ILLEGAL REQUEST.
    pub field_pointer: Option<FieldPointer>,
}

impl Sense {
    /// Current sense data without further fields.
    #[must_use]
    pub const fn new(key: SenseKey, code: AdditionalSense) -> Self {
        Self { key, code, deferred: false, information: None, field_pointer: None }
    }

    /// A unit attention condition.
    #[must_use]
    pub const fn unit_attention(code: AdditionalSense) -> Self {
        Self::new(SenseKey::UNIT_ATTENTION, code)
    }

    /// Reads fixed (70h, 71h) or descriptor (72h, 73h) sense data; `None` for anything else.
    /// A buffer cut short yields the fields it still holds.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let response = u8_at(bytes, 0)? & 0x7F;
        match response {
            0x70 | 0x71 => Self::parse_fixed(bytes, response == 0x71),
            0x72 | 0x73 => Self::parse_descriptor(bytes, response == 0x73),
            _ => None,
        }
    }

    /// Fixed format, 18 bytes (SPC-4 4.5.3). INFORMATION above 32 bits cannot be told and is left invalid.
    #[must_use]
    pub fn to_fixed(&self) -> Vec<u8> {
        let mut out = vec![0; 18];
        let (valid, information) = match self.information.map(u32::try_from) {
            Some(Ok(value)) => (0x80, value),
            _ => (0, 0),
        };
        out.splice(0..1, [valid | if self.deferred { 0x71 } else { 0x70 }]);
        out.splice(2..3, [self.key.0 & 0x0F]);
        out.splice(3..7, information.to_be_bytes());
        out.splice(7..8, [10]);
        out.splice(12..14, [self.code.asc, self.code.ascq]);
        out.splice(15..18, self.sense_key_specific());
        out
    }

    /// Descriptor format (SPC-4 4.5.2).
    #[must_use]
    pub fn to_descriptor(&self) -> Vec<u8> {
        let response = if self.deferred { 0x73 } else { 0x72 };
        let mut out = vec![response, self.key.0 & 0x0F, self.code.asc, self.code.ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            out.extend([0x00, 0x0A, 0x80, 0x00]);
            out.extend(information.to_be_bytes());
        }
        if self.field_pointer.is_some() {
            out.extend([0x02, 0x06, 0x00, 0x00]);
            out.extend(self.sense_key_specific());
            out.push(0);
        }
        let additional = u8::try_from(out.len().saturating_sub(8)).unwrap_or(u8::MAX);
        out.splice(7..8, [additional]);
        out
    }

    fn parse_fixed(bytes: &[u8], deferred: bool) -> Option<Self> {
        let end = 8 + usize::from(u8_at(bytes, 7).unwrap_or(0));
        let bytes = bytes.get(..end).unwrap_or(bytes);
        let key = SenseKey(u8_at(bytes, 2)? & 0x0F);
        let code = AdditionalSense::new(u8_at(bytes, 12).unwrap_or(0), u8_at(bytes, 13).unwrap_or(0));
        let valid = u8_at(bytes, 0)? & 0x80 != 0;
        let information = if valid { be32(bytes, 3).map(u64::from) } else { None };
        let field_pointer = bytes.get(15..).and_then(|specific| parse_field_pointer(key, specific));
        Some(Self { key, code, deferred, information, field_pointer })
    }

    fn parse_descriptor(bytes: &[u8], deferred: bool) -> Option<Self> {
        let key = SenseKey(u8_at(bytes, 1)? & 0x0F);
        let code = AdditionalSense::new(u8_at(bytes, 2).unwrap_or(0), u8_at(bytes, 3).unwrap_or(0));
        let mut sense = Self { deferred, ..Self::new(key, code) };
        let end = 8 + usize::from(u8_at(bytes, 7).unwrap_or(0));
        let mut rest = bytes.get(8..end.min(bytes.len())).unwrap_or_default();
        while let [kind, length, body @ ..] = rest {
            let (body, next) = body.split_at_checked(usize::from(*length)).unwrap_or((body, &[]));
            match kind {
                0x00 if u8_at(body, 0).is_some_and(|b| b & 0x80 != 0) => sense.information = be64(body, 2),
                0x02 => sense.field_pointer = body.get(2..).and_then(|s| parse_field_pointer(key, s)),
                _ => {}
            }
            rest = next;
        }
        Some(sense)
    }

    fn sense_key_specific(&self) -> [u8; 3] {
        let Some(at) = self.field_pointer else { return [0; 3] };
        let [high, low] = at.byte.to_be_bytes();
        let bit = at.bit.map_or(0, |bit| 0x08 | (bit & 0x07));
        [0x80 | if at.in_cdb { 0x40 } else { 0 } | bit, high, low]
    }
}

/// SENSE KEY SPECIFIC of ILLEGAL REQUEST (SPC-4 4.5.2.4.2).
fn parse_field_pointer(key: SenseKey, specific: &[u8]) -> Option<FieldPointer> {
    let flags = u8_at(specific, 0)?;
    if key != SenseKey::ILLEGAL_REQUEST || flags & 0x80 == 0 {
        return None;
    }
    let bit = (flags & 0x08 != 0).then_some(flags & 0x07);
    Some(FieldPointer { in_cdb: flags & 0x40 != 0, byte: be16(specific, 1)?, bit })
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.deferred {
            f.write_str("deferred ")?;
        }
        write!(f, "{}: {} ({:?})", self.key, self.code, self.code)
    }
}
