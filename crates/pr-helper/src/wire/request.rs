//! The request's header: a CDB of 16 bytes (SPC-4 6.15, 6.16), which says what follows it.

use super::{DATA_LENGTH_MAX, WireError};

/// Bytes of the header; a shorter CDB is zero-padded.
pub const CDB_LENGTH: usize = 16;

const PERSISTENT_RESERVE_IN: u8 = 0x5E;
const PERSISTENT_RESERVE_OUT: u8 = 0x5F;
/// Vendor specific: QEMU's own.
const CLEANUP: u8 = 0xFF;

/// What is asked, and how long the data is. Lengths are at most [`DATA_LENGTH_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PERSISTENT RESERVE IN; the reply's payload is at most `allocation` bytes.
    In {
        /// ALLOCATION LENGTH.
        allocation: usize,
    },
    /// PERSISTENT RESERVE OUT, followed by `follows` bytes of parameter list.
    Out {
        /// Bytes on the stream: the lower half of PARAMETER LIST LENGTH, as QEMU sends them.
        follows: usize,
    },
    /// The client moved away.
    Cleanup,
}

/// A header that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The CDB.
    pub cdb: [u8; CDB_LENGTH],
    /// What it means for the stream.
    pub kind: Kind,
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`WireError::OperationCode`], [`WireError::Length`].
    pub const fn parse(cdb: [u8; CDB_LENGTH]) -> Result<Self, WireError> {
        let [code, _, _, _, _, _, _, high, low, ..] = cdb;
        let length = u16::from_be_bytes([high, low]) as usize;
        let kind = match code {
            // QEMU gives no length with it, and a stray one must not take the next request for data.
            CLEANUP => return Ok(Self { cdb, kind: Kind::Cleanup }),
            PERSISTENT_RESERVE_IN => Kind::In { allocation: length },
            PERSISTENT_RESERVE_OUT => Kind::Out { follows: length },
            other => return Err(WireError::OperationCode(other)),
        };
        if length > DATA_LENGTH_MAX { Err(WireError::Length(length)) } else { Ok(Self { cdb, kind }) }
    }

    /// Bytes of parameter list that follow on the stream.
    #[must_use]
    pub const fn follows(&self) -> usize {
        match self.kind {
            Kind::Out { follows } => follows,
            Kind::In { .. } | Kind::Cleanup => 0,
        }
    }

    /// Longest payload that the reply may have: QEMU takes a longer one for a broken server.
    #[must_use]
    pub const fn allocation(&self) -> usize {
        match self.kind {
            Kind::In { allocation } => allocation,
            Kind::Out { .. } | Kind::Cleanup => 0,
        }
    }

    /// `true` if the guest's parameter list is longer than what the protocol carries of it: PARAMETER LIST LENGTH has four
    /// bytes (SPC-4 6.16), of which QEMU sends as many as the lower two say. Such a list cannot be carried out as it was meant.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        let [_, _, _, _, _, high, low, ..] = self.cdb;
        matches!(self.kind, Kind::Out { .. }) && (high != 0 || low != 0)
    }
}
