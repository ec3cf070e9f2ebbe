//! The bytes of virtio-scsi (virtio 1.2 5.6), little-endian: configuration space, requests and responses of the three kinds of queues,
//! and LUNs. No I/O. Used by the queues, by the lab's front end and by fuzzing.
//!
//! Codes are open: what is unknown survives reading and writing. What is malformed is an error that says why, never a panic. The layout is
//! the one without VIRTIO_SCSI_F_T10_PI, which is not offered.

/// A number that others may have more values of than are named here.
macro_rules! code {
    ($(#[$doc:meta])* $name:ident: $number:ty { $($(#[$value_doc:meta])* $value:ident = $code:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub $number);

        impl $name {
            $($(#[$value_doc])* pub const $value: Self = Self($code);)*
        }
    };
}

mod config;
mod control;
mod event;
mod lun;
mod request;

#[cfg(test)]
mod tests;

pub use config::{CDB_SIZE_DEFAULT, CDB_SIZE_MAX, Config, SENSE_SIZE_DEFAULT, SENSE_SIZE_MAX};
pub use control::{AsyncEvents, AsyncReply, CONTROL_LENGTH_MAX, Control, Subtype};
pub use event::{Event, EventKind, Reason};
pub use lun::{Address, Lun};
pub use request::{Request, RequestHeader, Response, TaskAttribute};

/// A single request may have both data-out and data-in (virtio 1.2 5.6.3).
pub const F_INOUT: u64 = 1 << 0;
/// Events tell of logical units that come and go.
pub const F_HOTPLUG: u64 = 1 << 1;
/// Events tell of changed parameters.
pub const F_CHANGE: u64 = 1 << 2;
/// Requests carry protection information; never offered here.
pub const F_T10_PI: u64 = 1 << 3;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than the structure has.
    #[error("{length} bytes where {needed} are needed")]
    Short {
        /// How many the structure has.
        needed: usize,
        /// How many there are.
        length: usize,
    },
    /// A control request of a type that virtio-scsi does not have.
    #[error("no control request has type {0}")]
    ControlType(u32),
    /// The first byte of a LUN is neither 01h nor C1h.
    #[error("a LUN begins with 01h or C1h, not {0:02X}h")]
    LunFormat(u8),
    /// Peripheral addressing of another bus.
    #[error("a LUN of bus {0}")]
    LunBus(u8),
    /// An addressing method that a single level does not have here.
    #[error("a LUN with addressing {0:02X}h")]
    LunMethod(u8),
    /// Bytes of a LUN that must be zero are not.
    #[error("a LUN with more levels than one")]
    LunLevels,
    /// A read or write beyond the configuration space.
    #[error("{length} bytes at {offset} are not in the configuration space")]
    ConfigRange {
        /// Where it begins.
        offset: u32,
        /// Bytes.
        length: usize,
    },
    /// A write that changes what the driver may not change.
    #[error("a read-only field of the configuration space")]
    ReadOnly,
    /// A sense or CDB size that no device has.
    #[error("{0} bytes of sense or CDB")]
    Size(u32),
}

code! {
    /// What came of a request (virtio 1.2 5.6.6.1).
    ResponseCode: u8 {
        /// Executed; the status says how. Of a task management function: FUNCTION COMPLETE.
        OK = 0;
        /// More data than the buffers have room for.
        OVERRUN = 1;
        /// A task management function ended it.
        ABORTED = 2;
        /// Nobody is at that address.
        BAD_TARGET = 3;
        /// A reset ended it.
        RESET = 4;
        /// Try again later.
        BUSY = 5;
        /// The way to the logical unit failed.
        TRANSPORT_FAILURE = 6;
        /// The target failed, on every path.
        TARGET_FAILURE = 7;
        /// This nexus failed; another path may do.
        NEXUS_FAILURE = 8;
        /// It failed.
        FAILURE = 9;
        /// FUNCTION SUCCEEDED: the queried task exists.
        FUNCTION_SUCCEEDED = 10;
        /// FUNCTION REJECTED.
        FUNCTION_REJECTED = 11;
        /// INCORRECT LOGICAL UNIT NUMBER.
        INCORRECT_LUN = 12;
    }
}

/// `N` bytes at `offset`.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Error> {
    let short = Error::Short { needed: offset.saturating_add(N), length: bytes.len() };
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().ok_or(short)
}

/// Joins arrays into one; what does not fit is left out, what is missing is zero. Lengths are constants of this module and tested.
fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut joined = [0; N];
    for (to, from) in joined.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    joined
}
