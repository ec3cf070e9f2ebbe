//! Commands that only ask (SPC-4 6, SBC-4 5): what the device is, how large, which commands it knows.

use super::extent::Form;
use super::service_action;
use crate::bytes::{be16, be32, be64, u8_at};
use crate::opcode;

/// REQUEST SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestSense {
    /// DESC: descriptor format is wanted.
    pub descriptor: bool,
    /// Largest reply in bytes.
    pub allocation_length: u8,
}

impl RequestSense {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 5)?;
        Some(Self { descriptor: u8_at(cdb, 1)? & 0x01 != 0, allocation_length: u8_at(cdb, 4)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        vec![opcode::REQUEST_SENSE, u8::from(self.descriptor), 0, 0, self.allocation_length, 0]
    }
}

/// INQUIRY (SPC-4 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inquiry {
    /// EVPD: a vital product data page is wanted.
    pub evpd: bool,
    /// PAGE CODE; zero unless EVPD is set.
    pub page: u8,
    /// Largest reply in bytes.
    pub allocation_length: u16,
}

impl Inquiry {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 5)?;
        let evpd = u8_at(cdb, 1)? & 0x01 != 0;
        Some(Self { evpd, page: u8_at(cdb, 2)?, allocation_length: be16(cdb, 3)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let [high, low] = self.allocation_length.to_be_bytes();
        vec![opcode::INQUIRY, u8::from(self.evpd), self.page, high, low, 0]
    }
}

/// PAGE CONTROL of MODE SENSE: which values are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageControl {
    /// 00b: those in force.
    Current,
    /// 01b: a mask of the changeable bits.
    Changeable,
    /// 10b: defaults.
    Default,
    /// 11b: saved.
    Saved,
}

impl PageControl {
    const ALL: [Self; 4] = [Self::Current, Self::Changeable, Self::Default, Self::Saved];
}

/// MODE SENSE(6/10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModeSense {
    /// Six or ten bytes.
    pub form: Form,
    /// DBD: no block descriptor.
    pub disable_block_descriptor: bool,
    /// LLBAA: a long block descriptor is accepted (MODE SENSE(10)).
    pub long_lba_accepted: bool,
    /// PC.
    pub control: PageControl,
    /// PAGE CODE, 6 bits; 3Fh asks for all.
    pub page: u8,
    /// SUBPAGE CODE; FFh asks for all.
    pub subpage: u8,
    /// Largest reply in bytes.
    pub allocation_length: u16,
}

impl ModeSense {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let (flags, what) = (u8_at(cdb, 1)?, u8_at(cdb, 2)?);
        let (form, allocation_length) = match u8_at(cdb, 0)? {
            opcode::MODE_SENSE_6 => (Form::Six, u16::from(u8_at(cdb, 4)?)),
            _ => (Form::Ten, be16(cdb, 7)?),
        };
        u8_at(cdb, form.length() - 1)?;
        let control = PageControl::ALL.get(usize::from(what >> 6)).copied()?;
        Some(Self {
            form,
            disable_block_descriptor: flags & 0x08 != 0,
            long_lba_accepted: form == Form::Ten && flags & 0x10 != 0,
            control,
            page: what & 0x3F,
            subpage: u8_at(cdb, 3)?,
            allocation_length,
        })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let long = self.long_lba_accepted && self.form == Form::Ten;
        let flags = u8::from(self.disable_block_descriptor) << 3 | u8::from(long) << 4;
        let what = (self.control as u8) << 6 | self.page & 0x3F;
        let [high, low] = self.allocation_length.to_be_bytes();
        match self.form {
            Form::Six => vec![opcode::MODE_SENSE_6, flags, what, self.subpage, low, 0],
            _ => vec![opcode::MODE_SENSE_10, flags, what, self.subpage, 0, 0, 0, high, low, 0],
        }
    }
}

/// READ CAPACITY(16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadCapacity16 {
    /// Largest reply in bytes.
    pub allocation_length: u32,
}

impl ReadCapacity16 {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 15)?;
        Some(Self { allocation_length: be32(cdb, 10)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut cdb = vec![opcode::SERVICE_ACTION_IN_16, service_action::READ_CAPACITY_16];
        cdb.extend(0_u64.to_be_bytes());
        cdb.extend(self.allocation_length.to_be_bytes());
        cdb.extend([0, 0]);
        cdb
    }
}

/// READ DEFECT DATA(10/12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadDefectData {
    /// Ten or twelve bytes.
    pub form: Form,
    /// REQ_PLIST: the primary list is wanted.
    pub primary: bool,
    /// REQ_GLIST: the grown list is wanted.
    pub grown: bool,
    /// DEFECT LIST FORMAT, 3 bits.
    pub format: u8,
    /// ADDRESS DESCRIPTOR INDEX (12 bytes only).
    pub index: u32,
    /// Largest reply in bytes.
    pub allocation_length: u32,
}

impl ReadDefectData {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let (form, what, index, allocation_length) = match u8_at(cdb, 0)? {
            opcode::READ_DEFECT_DATA_10 => (Form::Ten, u8_at(cdb, 2)?, 0, be16(cdb, 7)?.into()),
            _ => (Form::Twelve, u8_at(cdb, 1)?, be32(cdb, 2)?, be32(cdb, 6)?),
        };
        u8_at(cdb, form.length() - 1)?;
        let (primary, grown) = (what & 0x10 != 0, what & 0x08 != 0);
        Some(Self { form, primary, grown, format: what & 0x07, index, allocation_length })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let what = u8::from(self.primary) << 4 | u8::from(self.grown) << 3 | self.format & 0x07;
        let [a0, a1, a2, a3] = self.allocation_length.to_be_bytes();
        let [i0, i1, i2, i3] = self.index.to_be_bytes();
        match self.form {
            Form::Ten => vec![opcode::READ_DEFECT_DATA_10, 0, what, 0, 0, 0, 0, a2, a3, 0],
            _ => vec![opcode::READ_DEFECT_DATA_12, what, i0, i1, i2, i3, a0, a1, a2, a3, 0, 0],
        }
    }
}

/// REPORT LUNS (SPC-4 6.33).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReportLuns {
    /// SELECT REPORT.
    pub select: u8,
    /// Largest reply in bytes.
    pub allocation_length: u32,
}

impl ReportLuns {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 11)?;
        Some(Self { select: u8_at(cdb, 2)?, allocation_length: be32(cdb, 6)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let [a0, a1, a2, a3] = self.allocation_length.to_be_bytes();
        vec![opcode::REPORT_LUNS, 0, self.select, 0, 0, 0, a0, a1, a2, a3, 0, 0]
    }
}

/// REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES (SPC-4 table 280), 3 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReportingOptions(pub u8);

impl ReportingOptions {
    /// All commands.
    pub const ALL: Self = Self(0);
    /// One operation code that has no service actions.
    pub const OPCODE: Self = Self(1);
    /// One operation code and service action.
    pub const SERVICE_ACTION: Self = Self(2);
    /// One operation code, with its service action if it has any; never an error.
    pub const EITHER: Self = Self(3);
}

/// REPORT SUPPORTED OPERATION CODES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SupportedOperations {
    /// RCTD: with command timeouts descriptors.
    pub timeouts: bool,
    /// REPORTING OPTIONS.
    pub options: ReportingOptions,
    /// REQUESTED OPERATION CODE.
    pub opcode: u8,
    /// REQUESTED SERVICE ACTION.
    pub action: u16,
    /// Largest reply in bytes.
    pub allocation_length: u32,
}

impl SupportedOperations {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let what = u8_at(cdb, 2)?;
        u8_at(cdb, 11)?;
        Some(Self {
            timeouts: what & 0x80 != 0,
            options: ReportingOptions(what & 0x07),
            opcode: u8_at(cdb, 3)?,
            action: be16(cdb, 4)?,
            allocation_length: be32(cdb, 6)?,
        })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let action = service_action::REPORT_SUPPORTED_OPERATION_CODES;
        let what = u8::from(self.timeouts) << 7 | self.options.0 & 0x07;
        let mut cdb = vec![opcode::MAINTENANCE_IN, action, what, self.opcode];
        cdb.extend(self.action.to_be_bytes());
        cdb.extend(self.allocation_length.to_be_bytes());
        cdb.extend([0, 0]);
        cdb
    }
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SupportedFunctions {
    /// REPD: with the extended data.
    pub extended: bool,
    /// Largest reply in bytes.
    pub allocation_length: u32,
}

impl SupportedFunctions {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 11)?;
        Some(Self { extended: u8_at(cdb, 2)? & 0x80 != 0, allocation_length: be32(cdb, 6)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let action = service_action::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS;
        let [a0, a1, a2, a3] = self.allocation_length.to_be_bytes();
        let extended = u8::from(self.extended) << 7;
        vec![opcode::MAINTENANCE_IN, action, extended, 0, 0, 0, a0, a1, a2, a3, 0, 0]
    }
}

/// GET LBA STATUS (SBC-4 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GetLbaStatus {
    /// STARTING LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// Largest reply in bytes.
    pub allocation_length: u32,
    /// REPORT TYPE; 0 is every extent.
    pub report_type: u8,
}

impl GetLbaStatus {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let allocation_length = be32(cdb, 10)?;
        u8_at(cdb, 15)?;
        Some(Self { lba: be64(cdb, 2)?, allocation_length, report_type: u8_at(cdb, 14)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut cdb = vec![opcode::SERVICE_ACTION_IN_16, service_action::GET_LBA_STATUS];
        cdb.extend(self.lba.to_be_bytes());
        cdb.extend(self.allocation_length.to_be_bytes());
        cdb.extend([self.report_type, 0]);
        cdb
    }
}
