//! The bytes of the protocol between the agent and the helper, version 1. All integers are big-endian.
//!
//! Each side begins with a [`Hello`]: the helper with the newest version it speaks, then the agent with the one it chose.
//! After that the agent sends requests, one at a time, each answered by one reply:
//!
//! | request | bytes | |
//! |---|---|---|
//! | handover | 16 | the id in the record |
//! | role | 1 | 0 query, 1 change: what the agent takes the command for |
//! | CDB length | 1 | 1 to 16 |
//! | reserved | 2 | zero |
//! | data-out length | 4 | at most 8192 |
//! | allocation | 4 | longest data-in, at most 65536 |
//! | CDB | 16 | filled up with zeros |
//! | data-out | as many as said | |
//!
//! Exactly one descriptor, the device, comes with the bytes of a request (`SCM_RIGHTS`).
//!
//! | reply | bytes | |
//! |---|---|---|
//! | kind | 1 | 0 completion, 1 refused, 2 not sent, 3 outcome unknown |
//! | status | 1 | SCSI status of a completion, else zero |
//! | sense length | 2 | at most 252 |
//! | length | 4 | of the data-in (at most 65536), or of the reason in UTF-8 (at most 1024) |
//! | sense data, then data-in or reason | as many as said | |
//!
//! Pure. No input panics; what cannot be framed is an error, after which the stream cannot be read on.

#[cfg(test)]
mod tests;

use super::Answer;
use ledger::HandoverId;
use scsi::{Completion, Status};

/// The protocol's version.
pub const VERSION: u16 = 1;
/// Bytes of a [`Hello`].
pub const HELLO_LENGTH: usize = 8;
/// Bytes of a [`RequestHeader`].
pub const REQUEST_LENGTH: usize = 44;
/// Bytes of a [`ReplyHeader`].
pub const REPLY_LENGTH: usize = 8;
/// Longest CDB.
pub const CDB_LENGTH_MAX: usize = 16;
/// Longest data-out: a parameter list.
pub const DATA_OUT_MAX: usize = 8192;
/// Longest data-in.
pub const DATA_IN_MAX: usize = 65536;
/// Longest sense data (SPC-4 4.5.1).
pub const SENSE_LENGTH_MAX: usize = 252;
/// Longest reason.
pub const REASON_LENGTH_MAX: usize = 1024;

const MAGIC: [u8; 6] = *b"tenure";

/// Bytes that are not the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something else is spoken at the other end.
    #[error("the other end does not speak the protocol of tenure-pr-helper's agent socket")]
    Magic,
    /// A version that this side does not speak.
    #[error("the other end wants version {0} of the protocol, and this one speaks version {VERSION}")]
    Version(u16),
    /// A role that is none.
    #[error("a request has no role {0}")]
    Role(u8),
    /// A reserved field that is not zero.
    #[error("a reserved field is not zero")]
    Reserved,
    /// Longer than may be.
    #[error("{what} of {length} bytes is above the protocol's limit, or empty")]
    Length {
        /// Of what.
        what: &'static str,
        /// How long.
        length: u32,
    },
    /// A reply of no kind.
    #[error("a reply has no kind {0}")]
    Kind(u8),
}

/// The first bytes of each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest version it speaks, or the one it chose.
    pub version: u16,
}

impl Hello {
    /// What the helper begins with.
    pub const OWN: Self = Self { version: VERSION };

    /// The bytes as sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HELLO_LENGTH] {
        let mut bytes = [0; HELLO_LENGTH];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 6, &self.version.to_be_bytes());
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`FrameError::Magic`].
    pub fn parse(bytes: &[u8; HELLO_LENGTH]) -> Result<Self, FrameError> {
        if *bytes.first_chunk().unwrap_or(&[0; 6]) != MAGIC {
            return Err(FrameError::Magic);
        }
        Ok(Self { version: u16::from_be_bytes(field(bytes, 6)) })
    }

    /// The version to speak with somebody who speaks all versions up to this one.
    ///
    /// # Errors
    /// [`FrameError::Version`] if there is none.
    pub fn choose(self) -> Result<Self, FrameError> {
        let version = self.version.min(VERSION);
        Self { version }.chosen()
    }

    /// The version that the other side chose.
    ///
    /// # Errors
    /// [`FrameError::Version`] if this side does not speak it.
    pub const fn chosen(self) -> Result<Self, FrameError> {
        if self.version == VERSION { Ok(self) } else { Err(FrameError::Version(self.version)) }
    }
}

/// What the agent takes a command for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It reads.
    Query,
    /// It may change what is registered.
    Change,
}

/// The fixed part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The handover it belongs to.
    pub handover: HandoverId,
    /// What the agent takes it for.
    pub role: Role,
    cdb: [u8; CDB_LENGTH_MAX],
    cdb_length: u8,
    /// Bytes of data-out that follow, at most [`DATA_OUT_MAX`].
    pub data_out: u32,
    /// Longest data-in, at most [`DATA_IN_MAX`].
    pub allocation: u32,
}

impl RequestHeader {
    /// The header of this command.
    ///
    /// # Errors
    /// [`FrameError::Length`] if the protocol cannot carry it.
    pub fn new(
        handover: HandoverId,
        role: Role,
        cdb: &[u8],
        data_out: usize,
        allocation: usize,
    ) -> Result<Self, FrameError> {
        let mut padded = [0; CDB_LENGTH_MAX];
        put(&mut padded, 0, cdb);
        let word = |length| u32::try_from(length).unwrap_or(u32::MAX);
        let cdb_length = u8::try_from(cdb.len()).unwrap_or(u8::MAX);
        let (data_out, allocation) = (word(data_out), word(allocation));
        Self { handover, role, cdb: padded, cdb_length, data_out, allocation }.checked()
    }

    /// The CDB, without what fills it up.
    #[must_use]
    pub fn cdb(&self) -> &[u8] {
        self.cdb.get(..usize::from(self.cdb_length)).unwrap_or_default()
    }

    /// The bytes as sent.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; REQUEST_LENGTH] {
        let mut bytes = [0; REQUEST_LENGTH];
        put(&mut bytes, 0, &self.handover.0.to_be_bytes());
        put(&mut bytes, 16, &[u8::from(self.role == Role::Change), self.cdb_length]);
        put(&mut bytes, 20, &self.data_out.to_be_bytes());
        put(&mut bytes, 24, &self.allocation.to_be_bytes());
        put(&mut bytes, 28, &self.cdb);
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`FrameError::Role`], [`FrameError::Reserved`], [`FrameError::Length`].
    pub fn parse(bytes: &[u8; REQUEST_LENGTH]) -> Result<Self, FrameError> {
        let [role, cdb_length, reserved @ ..]: [u8; 4] = field(bytes, 16);
        if reserved != [0, 0] {
            return Err(FrameError::Reserved);
        }
        let header = Self {
            handover: HandoverId(u128::from_be_bytes(field(bytes, 0))),
            role: match role {
                0 => Role::Query,
                1 => Role::Change,
                other => return Err(FrameError::Role(other)),
            },
            cdb: field(bytes, 28),
            cdb_length,
            data_out: u32::from_be_bytes(field(bytes, 20)),
            allocation: u32::from_be_bytes(field(bytes, 24)),
        };
        header.checked()
    }

    fn checked(self) -> Result<Self, FrameError> {
        let length = u32::from(self.cdb_length);
        let padding = self.cdb.get(usize::from(self.cdb_length)..);
        let Some(padding) = padding.filter(|_| length > 0) else {
            return Err(FrameError::Length { what: "a CDB", length });
        };
        if padding.iter().any(|&byte| byte != 0) {
            return Err(FrameError::Reserved);
        }
        limit("data-out", self.data_out, DATA_OUT_MAX)?;
        limit("data-in", self.allocation, DATA_IN_MAX)?;
        Ok(self)
    }
}

/// What kind of reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The device answered.
    Completion,
    /// The helper does not send this.
    Refused,
    /// The command never left.
    NotSent,
    /// It may or may not have been executed.
    OutcomeUnknown,
}

/// The fixed part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// What kind.
    pub kind: Kind,
    /// SCSI status; GOOD but for a completion.
    pub status: Status,
    /// Bytes of sense data that follow, at most [`SENSE_LENGTH_MAX`].
    pub sense: u16,
    /// Bytes of data-in or of a reason behind it.
    pub length: u32,
}

impl ReplyHeader {
    /// Reads it.
    ///
    /// # Errors
    /// [`FrameError::Kind`], [`FrameError::Reserved`], [`FrameError::Length`].
    pub fn parse(bytes: &[u8; REPLY_LENGTH]) -> Result<Self, FrameError> {
        let [kind, status, high, low, ..] = *bytes;
        let kind = match kind {
            0 => Kind::Completion,
            1 => Kind::Refused,
            2 => Kind::NotSent,
            3 => Kind::OutcomeUnknown,
            other => return Err(FrameError::Kind(other)),
        };
        let sense = u16::from_be_bytes([high, low]);
        let header =
            Self { kind, status: Status(status), sense, length: u32::from_be_bytes(field(bytes, 4)) };
        if kind != Kind::Completion {
            limit("a reason", header.length, REASON_LENGTH_MAX)?;
            return if status == 0 && sense == 0 { Ok(header) } else { Err(FrameError::Reserved) };
        }
        limit("sense data", u32::from(sense), SENSE_LENGTH_MAX)?;
        limit("data-in", header.length, DATA_IN_MAX)?;
        Ok(header)
    }

    fn to_bytes(self) -> [u8; REPLY_LENGTH] {
        let kind = match self.kind {
            Kind::Completion => 0,
            Kind::Refused => 1,
            Kind::NotSent => 2,
            Kind::OutcomeUnknown => 3,
        };
        let mut bytes = [0; REPLY_LENGTH];
        put(&mut bytes, 0, &[kind, self.status.0]);
        put(&mut bytes, 2, &self.sense.to_be_bytes());
        put(&mut bytes, 4, &self.length.to_be_bytes());
        bytes
    }

    /// The same, if its data-in is no longer than was asked for.
    ///
    /// # Errors
    /// [`FrameError::Length`].
    pub fn for_allocation(self, allocation: u32) -> Result<Self, FrameError> {
        let length = self.length;
        if self.kind == Kind::Completion && length > allocation {
            return Err(FrameError::Length { what: "data-in", length });
        }
        Ok(self)
    }

    /// Bytes that follow.
    #[must_use]
    pub fn follows(&self) -> usize {
        usize::from(self.sense) + usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    /// The reply with the bytes that followed.
    #[must_use]
    pub fn answer(&self, body: &[u8]) -> Answer {
        let (sense, rest) = body.split_at_checked(usize::from(self.sense)).unwrap_or((body, &[]));
        let reason = || String::from_utf8_lossy(rest).into_owned();
        match self.kind {
            Kind::Completion => Answer::Completion(Completion {
                status: self.status,
                sense: sense.to_vec(),
                data: rest.to_vec(),
            }),
            Kind::Refused => Answer::Refused(reason()),
            Kind::NotSent => Answer::NotSent(reason()),
            Kind::OutcomeUnknown => Answer::OutcomeUnknown(reason()),
        }
    }
}

/// The whole reply. Data-in is cut to `allocation` bytes; sense data and reasons to what the protocol carries.
#[must_use]
pub fn encode_reply(answer: &Answer, allocation: usize) -> Vec<u8> {
    let (kind, status, sense, rest): (_, _, &[u8], &[u8]) = match answer {
        Answer::Completion(Completion { status, sense, data }) => {
            let data = cut(data, allocation.min(DATA_IN_MAX));
            (Kind::Completion, *status, cut(sense, SENSE_LENGTH_MAX), data)
        }
        Answer::Refused(why) => (Kind::Refused, Status::GOOD, &[], reason(why)),
        Answer::NotSent(why) => (Kind::NotSent, Status::GOOD, &[], reason(why)),
        Answer::OutcomeUnknown(why) => (Kind::OutcomeUnknown, Status::GOOD, &[], reason(why)),
    };
    // Both were cut to less, so the conversions are exact.
    let length = u32::try_from(rest.len()).unwrap_or(0);
    let header = ReplyHeader { kind, status, sense: u16::try_from(sense.len()).unwrap_or(0), length };
    [&header.to_bytes(), sense, rest].concat()
}

fn cut(bytes: &[u8], longest: usize) -> &[u8] {
    bytes.get(..longest).unwrap_or(bytes)
}

/// Cut between two characters.
fn reason(text: &str) -> &[u8] {
    cut(text.as_bytes(), text.floor_char_boundary(REASON_LENGTH_MAX))
}

fn limit(what: &'static str, length: u32, longest: usize) -> Result<(), FrameError> {
    if usize::try_from(length).is_ok_and(|length| length <= longest) {
        Ok(())
    } else {
        Err(FrameError::Length { what, length })
    }
}

/// `N` bytes from `at` on; zeros where there are none, which no caller asks for.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|found| found.try_into().ok()).unwrap_or([0; N])
}

/// Copies as much as there is room for.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = *from);
}
