//! Commands that change how the device behaves or what it keeps (SPC-4 6.9, 6.28, SBC-4 5).

use super::extent::Form;
use crate::bytes::{be16, u8_at};
use crate::opcode;

/// MODE SELECT(6/10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModeSelect {
    /// Six or ten bytes.
    pub form: Form,
    /// PF: the list has the standard's page format.
    pub page_format: bool,
    /// SP: also save the pages.
    pub save: bool,
    /// PARAMETER LIST LENGTH in bytes.
    pub length: u16,
}

impl ModeSelect {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let flags = u8_at(cdb, 1)?;
        let (form, length) = match u8_at(cdb, 0)? {
            opcode::MODE_SELECT_6 => (Form::Six, u16::from(u8_at(cdb, 4)?)),
            _ => (Form::Ten, be16(cdb, 7)?),
        };
        u8_at(cdb, form.length() - 1)?;
        Some(Self { form, page_format: flags & 0x10 != 0, save: flags & 0x01 != 0, length })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let flags = u8::from(self.page_format) << 4 | u8::from(self.save);
        let [high, low] = self.length.to_be_bytes();
        match self.form {
            Form::Six => vec![opcode::MODE_SELECT_6, flags, 0, 0, low, 0],
            _ => vec![opcode::MODE_SELECT_10, flags, 0, 0, 0, 0, 0, high, low, 0],
        }
    }
}

/// START STOP UNIT (SBC-4 5.25).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StartStop {
    /// IMMED.
    pub immediate: bool,
    /// POWER CONDITION MODIFIER, 4 bits.
    pub modifier: u8,
    /// POWER CONDITION, 4 bits.
    pub power_condition: u8,
    /// NO_FLUSH.
    pub no_flush: bool,
    /// LOEJ.
    pub load_eject: bool,
    /// START.
    pub start: bool,
}

impl StartStop {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let what = u8_at(cdb, 4)?;
        u8_at(cdb, 5)?;
        Some(Self {
            immediate: u8_at(cdb, 1)? & 0x01 != 0,
            modifier: u8_at(cdb, 3)? & 0x0F,
            power_condition: what >> 4,
            no_flush: what & 0x04 != 0,
            load_eject: what & 0x02 != 0,
            start: what & 0x01 != 0,
        })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let what = self.power_condition << 4
            | u8::from(self.no_flush) << 2
            | u8::from(self.load_eject) << 1
            | u8::from(self.start);
        vec![opcode::START_STOP_UNIT, u8::from(self.immediate), 0, self.modifier & 0x0F, what, 0]
    }
}

/// PREVENT ALLOW MEDIUM REMOVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PreventAllow {
    /// PREVENT, 2 bits; 00b allows.
    pub prevent: u8,
}

impl PreventAllow {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 5)?;
        Some(Self { prevent: u8_at(cdb, 4)? & 0x03 })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        vec![opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, self.prevent & 0x03, 0]
    }
}

/// SEND DIAGNOSTIC (SPC-4 6.42).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SendDiagnostic {
    /// SELF-TEST CODE, 3 bits.
    pub self_test_code: u8,
    /// PF.
    pub page_format: bool,
    /// SELFTEST: run the default self-test.
    pub self_test: bool,
    /// DEVOFFL.
    pub device_offline: bool,
    /// UNITOFFL.
    pub unit_offline: bool,
    /// PARAMETER LIST LENGTH in bytes.
    pub length: u16,
}

impl SendDiagnostic {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let flags = u8_at(cdb, 1)?;
        u8_at(cdb, 5)?;
        Some(Self {
            self_test_code: flags >> 5,
            page_format: flags & 0x10 != 0,
            self_test: flags & 0x04 != 0,
            device_offline: flags & 0x02 != 0,
            unit_offline: flags & 0x01 != 0,
            length: be16(cdb, 3)?,
        })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let flags = self.self_test_code << 5
            | u8::from(self.page_format) << 4
            | u8::from(self.self_test) << 2
            | u8::from(self.device_offline) << 1
            | u8::from(self.unit_offline);
        let [high, low] = self.length.to_be_bytes();
        vec![opcode::SEND_DIAGNOSTIC, flags, 0, high, low, 0]
    }
}

/// UNMAP (SBC-4 5.32); the blocks are in the parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unmap {
    /// ANCHOR.
    pub anchor: bool,
    /// GROUP NUMBER, 6 bits.
    pub group: u8,
    /// PARAMETER LIST LENGTH in bytes.
    pub length: u16,
}

impl Unmap {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        u8_at(cdb, 9)?;
        Some(Self { anchor: u8_at(cdb, 1)? & 0x01 != 0, group: u8_at(cdb, 6)? & 0x3F, length: be16(cdb, 7)? })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let [high, low] = self.length.to_be_bytes();
        vec![opcode::UNMAP, u8::from(self.anchor), 0, 0, 0, 0, self.group & 0x3F, high, low, 0]
    }
}

/// SANITIZE (SBC-4 5.24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sanitize {
    /// IMMED.
    pub immediate: bool,
    /// AUSE: a failure may be left without a successful sanitize.
    pub allow_unrestricted_exit: bool,
    /// SERVICE ACTION, 5 bits.
    pub action: u8,
    /// PARAMETER LIST LENGTH in bytes.
    pub length: u16,
    /// The bits of bytes 1 to 6 that the standard reserves, so that a strict device server can refuse them.
    pub reserved: bool,
}

impl Sanitize {
    pub(super) fn parse(cdb: &[u8]) -> Option<Self> {
        let flags = u8_at(cdb, 1)?;
        u8_at(cdb, 9)?;
        Some(Self {
            immediate: flags & 0x80 != 0,
            allow_unrestricted_exit: flags & 0x20 != 0,
            action: flags & 0x1F,
            length: be16(cdb, 7)?,
            reserved: flags & 0x40 != 0 || cdb.get(2..7)?.iter().any(|byte| *byte != 0),
        })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let flags = u8::from(self.immediate) << 7
            | u8::from(self.reserved) << 6
            | u8::from(self.allow_unrestricted_exit) << 5
            | self.action & 0x1F;
        let [high, low] = self.length.to_be_bytes();
        vec![opcode::SANITIZE, flags, 0, 0, 0, 0, 0, high, low, 0]
    }
}
