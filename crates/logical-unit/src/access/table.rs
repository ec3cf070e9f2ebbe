//! The conflict tables as data: the access of every operation code, by profile.
//!
//! Sources: SPC-4 table 44, SBC-4 table 13. Commands whose access depends on a service action or a bit
//! are decided by [`AccessTable::access`]. An operation code that nobody lists counts as a write.

use super::{Access, Standing};
use scsi::opcode as op;

/// The access of every operation code.
#[derive(Debug)]
pub struct AccessTable {
    by_opcode: [Access; 256],
    /// Whether START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL are told apart by their bits.
    by_bits: bool,
}

/// Operation codes that only this table needs.
mod more {
    pub(super) const RECEIVE_DIAGNOSTIC_RESULTS: u8 = 0x1C;
    pub(super) const VARIABLE_LENGTH: u8 = 0x7F;
    pub(super) const ACCESS_CONTROL_IN: u8 = 0x86;
    pub(super) const ACCESS_CONTROL_OUT: u8 = 0x87;
    pub(super) const READ_ATTRIBUTE: u8 = 0x8C;
    pub(super) const SECURITY_PROTOCOL_IN: u8 = 0xA2;
    pub(super) const SERVICE_ACTION_IN_12: u8 = 0xAB;
    pub(super) const READ_DEFECT_DATA_12: u8 = 0xB7;
    pub(super) const FORMAT_UNIT: u8 = 0x04;
    pub(super) const READ_32: u16 = 0x0009;
    pub(super) const VERIFY_32: u16 = 0x000A;
}

impl AccessTable {
    const fn unlisted(access: Access) -> Self {
        Self { by_opcode: [access; 256], by_bits: true }
    }

    #[expect(clippy::indexing_slicing, reason = "a byte indexes 256 entries, and the compiler evaluates it")]
    const fn with(mut self, codes: &[u8], access: Access) -> Self {
        let mut rest = codes;
        while let [code, more @ ..] = rest {
            self.by_opcode[*code as usize] = access;
            rest = more;
        }
        self
    }

    const fn ignoring_bits(self) -> Self {
        Self { by_bits: false, ..self }
    }

    /// The access of a command; an empty CDB counts as unlisted.
    #[must_use]
    pub fn access(&self, cdb: &[u8]) -> Access {
        let code = cdb.first().copied().unwrap_or(0xFF);
        let listed = self.by_opcode.get(usize::from(code)).copied().unwrap_or(Access::WRITE);
        match code {
            op::PREVENT_ALLOW_MEDIUM_REMOVAL | op::START_STOP_UNIT if self.by_bits => by_bits(cdb, listed),
            op::SERVICE_ACTION_IN_16 | more::SERVICE_ACTION_IN_12 | op::MAINTENANCE_IN => {
                by_service_action(code, byte(cdb, 1) & 0x1F, listed)
            }
            more::VARIABLE_LENGTH => match u16::from_be_bytes([byte(cdb, 8), byte(cdb, 9)]) {
                more::READ_32 | more::VERIFY_32 => Access::READ,
                _ => listed,
            },
            _ => listed,
        }
    }
}

fn byte(cdb: &[u8], at: usize) -> u8 {
    cdb.get(at).copied().unwrap_or(0)
}

/// Allowing removal and a plain start disturb nobody.
fn by_bits(cdb: &[u8], listed: Access) -> Access {
    let (code, bits) = (byte(cdb, 0), byte(cdb, 4));
    match code {
        op::PREVENT_ALLOW_MEDIUM_REMOVAL if bits & 0x03 == 0 => Access::EVEN_RESERVED,
        op::START_STOP_UNIT if bits & 0xF1 == 0x01 => Access::ALWAYS,
        _ => listed,
    }
}

/// Operation codes whose commands differ by service action.
const fn by_service_action(code: u8, action: u8, listed: Access) -> Access {
    match (code, action) {
        // READ CAPACITY(16): for whoever lists READ CAPACITY(10) otherwise, the same holds.
        (op::SERVICE_ACTION_IN_16, 0x10) => listed,
        // REPORT REFERRALS.
        (op::SERVICE_ACTION_IN_16, 0x13) => Access::ALWAYS,
        // GET LBA STATUS.
        (op::SERVICE_ACTION_IN_16, 0x12) => Access::READ,
        // REPORT IDENTIFYING INFORMATION, TARGET PORT GROUPS, ALIASES, PRIORITY, TIMESTAMP.
        (op::MAINTENANCE_IN, 0x05 | 0x0A | 0x0B | 0x0E | 0x0F) => Access::EVEN_RESERVED,
        // REPORT SUPPORTED OPERATION CODES, TASK MANAGEMENT FUNCTIONS; MANAGEMENT PROTOCOL IN.
        (op::MAINTENANCE_IN, 0x0C | 0x0D | 0x10) => Access::READ,
        // READ MEDIA SERIAL NUMBER.
        (more::SERVICE_ACTION_IN_12, 0x01) => Access::ALWAYS,
        // READ LONG.
        (op::SERVICE_ACTION_IN_16, _) => Access::WRITE,
        _ => listed,
    }
}

const READS: [u8; 17] = [
    op::READ_6,
    op::READ_10,
    op::READ_12,
    op::READ_16,
    op::VERIFY_10,
    op::VERIFY_12,
    op::VERIFY_16,
    op::PRE_FETCH_10,
    op::PRE_FETCH_16,
    op::READ_DEFECT_DATA_10,
    more::READ_DEFECT_DATA_12,
    op::MODE_SENSE_6,
    op::MODE_SENSE_10,
    op::READ_BUFFER,
    more::READ_ATTRIBUTE,
    more::RECEIVE_DIAGNOSTIC_RESULTS,
    more::SECURITY_PROTOCOL_IN,
];

const STANDARD_TABLE: AccessTable = AccessTable::unlisted(Access::WRITE)
    .with(&READS, Access::READ)
    .with(&[op::TEST_UNIT_READY, more::ACCESS_CONTROL_IN, more::ACCESS_CONTROL_OUT], Access::ALWAYS)
    .with(&[op::LOG_SENSE, op::READ_CAPACITY_10, op::SERVICE_ACTION_IN_16], Access::EVEN_RESERVED);

/// The standard's table.
pub static STANDARD: AccessTable = STANDARD_TABLE;

/// No data-out: passes where a stranger may read, but not for a registrant beside Write Exclusive.
const NO_DATA: Access = Access::within(&[
    Standing::WRITE_EXCLUSIVE_STRANGER,
    Standing::SHARED_REGISTRANT,
    Standing::SHARED_WRITE_STRANGER,
]);

/// Decided by the direction of data.
pub static LIO: AccessTable = STANDARD_TABLE
    .with(&[op::READ_CAPACITY_10, op::SERVICE_ACTION_IN_16], Access::READ)
    .with(&[op::SYNCHRONIZE_CACHE_10, op::SYNCHRONIZE_CACHE_16, op::START_STOP_UNIT], NO_DATA)
    .ignoring_bits();

/// Some writes never conflict, some count as reads, MODE SENSE counts as a write.
pub static TGT: AccessTable = STANDARD_TABLE
    .with(&[op::WRITE_SAME_10, op::WRITE_SAME_16, op::UNMAP], Access::ALWAYS)
    .with(&[more::FORMAT_UNIT, op::SEND_DIAGNOSTIC], Access::ALWAYS)
    .with(&[op::WRITE_AND_VERIFY_10, op::WRITE_AND_VERIFY_12, op::WRITE_AND_VERIFY_16], Access::READ)
    .with(&[op::ORWRITE_16], Access::READ)
    .with(&[op::MODE_SENSE_6, op::MODE_SENSE_10], Access::WRITE);

/// Any registrant.
const REGISTRANTS: Access = Access::within(&[
    Standing::WRITE_EXCLUSIVE_REGISTRANT,
    Standing::EXCLUSIVE_ACCESS_REGISTRANT,
    Standing::SHARED_REGISTRANT,
]);

const WRITES: [u8; 17] = [
    op::WRITE_6,
    op::WRITE_10,
    op::WRITE_12,
    op::WRITE_16,
    op::WRITE_AND_VERIFY_10,
    op::WRITE_AND_VERIFY_12,
    op::WRITE_AND_VERIFY_16,
    op::WRITE_SAME_10,
    op::WRITE_SAME_16,
    op::UNMAP,
    op::COMPARE_AND_WRITE,
    op::ORWRITE_16,
    op::SYNCHRONIZE_CACHE_10,
    op::SYNCHRONIZE_CACHE_16,
    op::WRITE_ATOMIC_16,
    op::WRITE_BUFFER,
    op::SANITIZE,
];

/// A command that is not listed is the holder's alone.
pub static SPDK: AccessTable = AccessTable::unlisted(Access::HOLDER)
    .with(&READS, Access::READ)
    .with(&WRITES, Access::WRITE)
    .with(&[op::TEST_UNIT_READY, op::START_STOP_UNIT], Access::ALWAYS)
    .with(&[op::LOG_SENSE, op::READ_CAPACITY_10, op::SERVICE_ACTION_IN_16], Access::EVEN_RESERVED)
    .with(&[op::MODE_SELECT_6, op::MODE_SELECT_10, op::LOG_SELECT], REGISTRANTS)
    .ignoring_bits();
