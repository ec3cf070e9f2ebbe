//! The bytes of QEMU's pr-manager protocol (QEMU `docs/interop/pr-helper.rst`, and where it is silent, what
//! qemu-pr-helper does): the features words, the request's header, the reply. All integers are big-endian.
//!
//! Pure. Read by `server`, written by QEMU (and by tests, which read replies); no input panics, and what cannot be framed is an error, after which
//! the stream cannot be read on.

mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use reply::{REPLY_LENGTH, ReplyHeader, SENSE_LENGTH, encode_reply};
pub use request::{CDB_LENGTH, Header, Kind};

/// Longest parameter list, and longest allocation length.
pub const DATA_LENGTH_MAX: usize = 8192;
/// Bytes of a features word.
pub const FEATURES_LENGTH: usize = 4;

/// The features word: the server says what it supports, the client what of it it will use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// The client may send operation code FFh when it moved away.
    pub const CLEANUP: Self = Self(1);
    /// What this server supports.
    pub const OFFERED: Self = Self::CLEANUP;

    /// Reads a word.
    #[must_use]
    pub const fn parse(bytes: [u8; FEATURES_LENGTH]) -> Self {
        Self(u32::from_be_bytes(bytes))
    }

    /// The word as sent.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; FEATURES_LENGTH] {
        self.0.to_be_bytes()
    }

    /// The word the client sent, if it asks for nothing that was not offered.
    ///
    /// # Errors
    /// [`WireError::Features`] with the bits that were not.
    pub const fn accept(self, offered: Self) -> Result<Self, WireError> {
        match self.0 & !offered.0 {
            0 => Ok(self),
            unknown => Err(WireError::Features(unknown)),
        }
    }
}

/// Bytes that are not the protocol: the server closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Features that were not offered.
    #[error("features {0:#x} are asked for and were not offered")]
    Features(u32),
    /// Neither PERSISTENT RESERVE IN or OUT nor CLEANUP.
    #[error("operation code {0:02x}h is neither PERSISTENT RESERVE IN nor OUT")]
    OperationCode(u8),
    /// Longer than [`DATA_LENGTH_MAX`].
    #[error("a length of {0} bytes is above the protocol's 8192")]
    Length(usize),
    /// A negative or impossible number in a reply.
    #[error("the reply announces {0} bytes")]
    Reply(i32),
    /// A status that no SCSI device gives.
    #[error("the reply's result {0} is not a SCSI status")]
    Status(i32),
}
