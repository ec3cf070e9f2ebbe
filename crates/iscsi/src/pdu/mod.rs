//! iSCSI protocol data units (RFC 7143 clause 11): one file per family, each header both ways.
//!
//! A header is described once, as a table of fields and offsets, from which parsing and emitting are
//! made; so the two cannot disagree. Codes are open newtypes, and parsing a header cannot fail:
//! what a value means is for the login, the target and the initiator to judge. Lengths and digests
//! belong to [`frame`], which both halves of the crate use to cut a byte stream into PDUs.

mod command;
mod control;
mod data;
pub mod frame;
mod login;
mod logout;
mod lun;
mod nop;
mod task;
mod text;
mod wire;

#[cfg(test)]
mod tests;

pub use command::{CommandFlags, ResponseCode, ResponseFlags, ScsiCommand, ScsiResponse};
pub use control::{AsyncEvent, AsyncMessage, Reject, RejectReason, SnackRequest};
pub use data::{DataFlags, DataIn, DataOut, R2t};
pub use login::{LoginFlags, LoginRequest, LoginResponse, LoginStatus, Stage};
pub use logout::{LogoutReason, LogoutRequest, LogoutResponse, LogoutResult};
pub use lun::Lun;
pub use nop::{NopIn, NopOut};
pub use task::{TaskFunction, TaskManagementRequest, TaskManagementResponse, TaskResponse};
pub use text::{TextFlags, TextRequest, TextResponse};

use std::fmt;

/// Length of a basic header segment in bytes (RFC 7143 11.1).
pub const BHS_LENGTH: usize = 48;

/// A basic header segment as it stands on the wire, big-endian.
pub type Bhs = [u8; BHS_LENGTH];

/// "No task": the reserved value of initiator and target transfer tags (RFC 7143 11.2.1.8, 11.7.4).
pub const NO_TAG: u32 = 0xFFFF_FFFF;

/// The six-bit operation code of a PDU (RFC 7143 11.2.1.2); unknown codes survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Opcode(pub u8);

/// Defines the named opcodes and their display in one table.
macro_rules! opcodes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl Opcode {
            $(#[doc = $text] pub const $name: Self = Self($code);)*

            const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    NOP_OUT = 0x00, "NOP-Out";
    SCSI_COMMAND = 0x01, "SCSI Command";
    TASK_MANAGEMENT_REQUEST = 0x02, "Task Management Function Request";
    LOGIN_REQUEST = 0x03, "Login Request";
    TEXT_REQUEST = 0x04, "Text Request";
    DATA_OUT = 0x05, "SCSI Data-Out";
    LOGOUT_REQUEST = 0x06, "Logout Request";
    SNACK_REQUEST = 0x10, "SNACK Request";
    NOP_IN = 0x20, "NOP-In";
    SCSI_RESPONSE = 0x21, "SCSI Response";
    TASK_MANAGEMENT_RESPONSE = 0x22, "Task Management Function Response";
    LOGIN_RESPONSE = 0x23, "Login Response";
    TEXT_RESPONSE = 0x24, "Text Response";
    DATA_IN = 0x25, "SCSI Data-In";
    LOGOUT_RESPONSE = 0x26, "Logout Response";
    READY_TO_TRANSFER = 0x31, "Ready To Transfer";
    ASYNC_MESSAGE = 0x32, "Asynchronous Message";
    REJECT = 0x3F, "Reject";
}

impl Opcode {
    /// The opcode of a header.
    #[must_use]
    pub const fn of(bhs: &Bhs) -> Self {
        Self(bhs[0] & 0x3F)
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "opcode {:#04x}", self.0),
        }
    }
}

impl fmt::Debug for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A typed header: every field but the lengths, which [`frame`] fills in.
pub trait Header: Sized {
    /// The opcode of this PDU.
    const OPCODE: Opcode;

    /// Reads the fields; reserved bytes and bits outside the fields are ignored.
    fn parse(bhs: &Bhs) -> Self;

    /// Writes the fields; everything else is zero.
    fn emit(&self) -> Bhs;
}

/// Whether serial number `a` is at or before `b` in 32-bit serial arithmetic (RFC 7143 4.2.2, RFC 1982).
#[must_use]
pub const fn serial_at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 0x8000_0000
}
