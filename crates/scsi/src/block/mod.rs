//! The command descriptor blocks of a direct access device (SPC-4 6, SBC-4 5), apart from reservations.
//!
//! [`Command`] is what a device server receives. Parsing takes any values; which combinations are legal
//! is the device server's decision. Reserved and obsolete bits are ignored on receipt and sent as zero.

mod control;
mod copy;
mod extent;
mod medium;
mod query;

pub use control::{ModeSelect, PreventAllow, Sanitize, SendDiagnostic, StartStop, Unmap};
pub use copy::{ExtendedCopy, ReceiveCopyResults};
pub use extent::{Extent, Form};
pub use medium::{Access, Operation};
pub use query::{
    GetLbaStatus, Inquiry, ModeSense, PageControl, ReadCapacity16, ReadDefectData, ReportLuns,
    ReportingOptions, RequestSense, SupportedFunctions, SupportedOperations,
};

use crate::bytes::u8_at;
use crate::field::FieldError;
use crate::opcode;
use crate::sense::AdditionalSense;

/// Service actions that share an operation code.
pub mod service_action {
    #![expect(missing_docs, reason = "the names are the standard's")]
    pub const READ_CAPACITY_16: u8 = 0x10;
    pub const GET_LBA_STATUS: u8 = 0x12;
    pub const REPORT_SUPPORTED_OPERATION_CODES: u8 = 0x0C;
    pub const REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS: u8 = 0x0D;
    pub const SANITIZE_OVERWRITE: u8 = 0x01;
    pub const SANITIZE_BLOCK_ERASE: u8 = 0x02;
    pub const SANITIZE_CRYPTOGRAPHIC_ERASE: u8 = 0x03;
    pub const SANITIZE_EXIT_FAILURE_MODE: u8 = 0x1F;
    pub const EXTENDED_COPY_LID1: u8 = 0x00;
    pub const COPY_STATUS_LID1: u8 = 0x00;
    pub const RECEIVE_DATA_LID1: u8 = 0x01;
    pub const OPERATING_PARAMETERS: u8 = 0x03;
    pub const FAILED_SEGMENT_DETAILS_LID1: u8 = 0x04;
}

/// One command of a direct access device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// TEST UNIT READY.
    TestUnitReady,
    /// REQUEST SENSE.
    RequestSense(RequestSense),
    /// INQUIRY.
    Inquiry(Inquiry),
    /// MODE SENSE(6/10).
    ModeSense(ModeSense),
    /// MODE SELECT(6/10).
    ModeSelect(ModeSelect),
    /// START STOP UNIT.
    StartStop(StartStop),
    /// PREVENT ALLOW MEDIUM REMOVAL.
    PreventAllow(PreventAllow),
    /// SEND DIAGNOSTIC.
    SendDiagnostic(SendDiagnostic),
    /// READ CAPACITY(10).
    ReadCapacity10,
    /// READ CAPACITY(16).
    ReadCapacity16(ReadCapacity16),
    /// GET LBA STATUS.
    GetLbaStatus(GetLbaStatus),
    /// READ DEFECT DATA(10/12).
    ReadDefectData(ReadDefectData),
    /// REPORT LUNS.
    ReportLuns(ReportLuns),
    /// REPORT SUPPORTED OPERATION CODES.
    SupportedOperations(SupportedOperations),
    /// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
    SupportedFunctions(SupportedFunctions),
    /// Everything that reads, writes, compares or flushes blocks named in its CDB.
    Access(Access),
    /// UNMAP.
    Unmap(Unmap),
    /// SANITIZE.
    Sanitize(Sanitize),
    /// EXTENDED COPY(LID1).
    ExtendedCopy(ExtendedCopy),
    /// RECEIVE COPY STATUS, DATA, OPERATING PARAMETERS and FAILED SEGMENT DETAILS.
    ReceiveCopyResults(ReceiveCopyResults),
}

impl Command {
    /// Reads a CDB.
    ///
    /// # Errors
    /// INVALID COMMAND OPERATION CODE for an operation code that is not here; INVALID FIELD IN CDB with a
    /// pointer to the service action if that is unknown, to byte 0 if the CDB is cut.
    pub fn parse(cdb: &[u8]) -> Result<Self, FieldError> {
        let cut = FieldError::cdb(0);
        if let Some(access) = Access::parse(cdb) {
            return access.map(Self::Access).ok_or(cut);
        }
        Self::parse_other(cdb)?.ok_or(cut)
    }

    /// The inner `None` is a cut CDB.
    fn parse_other(cdb: &[u8]) -> Result<Option<Self>, FieldError> {
        use opcode as op;
        let code = u8_at(cdb, 0).ok_or(FieldError::cdb(0))?;
        Ok(match code {
            op::TEST_UNIT_READY => u8_at(cdb, 5).map(|_| Self::TestUnitReady),
            op::REQUEST_SENSE => RequestSense::parse(cdb).map(Self::RequestSense),
            op::INQUIRY => Inquiry::parse(cdb).map(Self::Inquiry),
            op::MODE_SENSE_6 | op::MODE_SENSE_10 => ModeSense::parse(cdb).map(Self::ModeSense),
            op::MODE_SELECT_6 | op::MODE_SELECT_10 => ModeSelect::parse(cdb).map(Self::ModeSelect),
            op::START_STOP_UNIT => StartStop::parse(cdb).map(Self::StartStop),
            op::PREVENT_ALLOW_MEDIUM_REMOVAL => PreventAllow::parse(cdb).map(Self::PreventAllow),
            op::SEND_DIAGNOSTIC => SendDiagnostic::parse(cdb).map(Self::SendDiagnostic),
            op::READ_CAPACITY_10 => u8_at(cdb, 9).map(|_| Self::ReadCapacity10),
            op::READ_DEFECT_DATA_10 | op::READ_DEFECT_DATA_12 => {
                ReadDefectData::parse(cdb).map(Self::ReadDefectData)
            }
            op::REPORT_LUNS => ReportLuns::parse(cdb).map(Self::ReportLuns),
            op::UNMAP => Unmap::parse(cdb).map(Self::Unmap),
            op::SANITIZE => Sanitize::parse(cdb).map(Self::Sanitize),
            op::SERVICE_ACTION_IN_16
            | op::MAINTENANCE_IN
            | op::THIRD_PARTY_COPY_OUT
            | op::THIRD_PARTY_COPY_IN => return Self::parse_service_action(cdb, code),
            _ => {
                let code = AdditionalSense::INVALID_COMMAND_OPERATION_CODE;
                return Err(FieldError { code, pointer: None });
            }
        })
    }

    fn parse_service_action(cdb: &[u8], code: u8) -> Result<Option<Self>, FieldError> {
        use {opcode as op, service_action as sa};
        let action = u8_at(cdb, 1).ok_or(FieldError::cdb(0))? & 0x1F;
        Ok(match (code, action) {
            (op::SERVICE_ACTION_IN_16, sa::READ_CAPACITY_16) => {
                ReadCapacity16::parse(cdb).map(Self::ReadCapacity16)
            }
            (op::SERVICE_ACTION_IN_16, sa::GET_LBA_STATUS) => {
                GetLbaStatus::parse(cdb).map(Self::GetLbaStatus)
            }
            (op::MAINTENANCE_IN, sa::REPORT_SUPPORTED_OPERATION_CODES) => {
                SupportedOperations::parse(cdb).map(Self::SupportedOperations)
            }
            (op::MAINTENANCE_IN, sa::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS) => {
                SupportedFunctions::parse(cdb).map(Self::SupportedFunctions)
            }
            (op::THIRD_PARTY_COPY_OUT, sa::EXTENDED_COPY_LID1) => {
                ExtendedCopy::parse(cdb).map(Self::ExtendedCopy)
            }
            (op::THIRD_PARTY_COPY_IN, 0 | 1 | 3 | 4) => {
                ReceiveCopyResults::parse(cdb).map(Self::ReceiveCopyResults)
            }
            _ => return Err(FieldError::cdb_bit(1, 4)),
        })
    }

    /// The bytes of this command.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::TestUnitReady => vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0],
            Self::RequestSense(command) => command.to_bytes(),
            Self::Inquiry(command) => command.to_bytes(),
            Self::ModeSense(command) => command.to_bytes(),
            Self::ModeSelect(command) => command.to_bytes(),
            Self::StartStop(command) => command.to_bytes(),
            Self::PreventAllow(command) => command.to_bytes(),
            Self::SendDiagnostic(command) => command.to_bytes(),
            Self::ReadCapacity10 => vec![opcode::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Self::ReadCapacity16(command) => command.to_bytes(),
            Self::GetLbaStatus(command) => command.to_bytes(),
            Self::ReadDefectData(command) => command.to_bytes(),
            Self::ReportLuns(command) => command.to_bytes(),
            Self::SupportedOperations(command) => command.to_bytes(),
            Self::SupportedFunctions(command) => command.to_bytes(),
            Self::Access(command) => command.to_bytes(),
            Self::Unmap(command) => command.to_bytes(),
            Self::Sanitize(command) => command.to_bytes(),
            Self::ExtendedCopy(command) => command.to_bytes(),
            Self::ReceiveCopyResults(command) => command.to_bytes(),
        }
    }
}

#[cfg(test)]
mod tests;
