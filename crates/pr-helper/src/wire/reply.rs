//! The reply: result, payload size, sense data, payload.

use super::{DATA_LENGTH_MAX, WireError};
use scsi::{Completion, Status};

/// Bytes of sense data, always sent, of meaning with CHECK CONDITION.
pub const SENSE_LENGTH: usize = 96;
/// Bytes of a reply before its payload.
pub const REPLY_LENGTH: usize = 8 + SENSE_LENGTH;

/// The reply to a command. Data-in is sent with GOOD only and at most `allocation` bytes of it; sense data is cut to, and
/// filled with zeros up to, [`SENSE_LENGTH`].
#[must_use]
pub fn encode_reply(completion: &Completion, allocation: usize) -> Vec<u8> {
    let sent = if completion.status.is_good() { completion.data.as_slice() } else { &[] };
    let payload = sent.get(..allocation.min(DATA_LENGTH_MAX)).unwrap_or(sent);
    let sense = completion.sense.get(..SENSE_LENGTH).unwrap_or(&completion.sense);
    // At most DATA_LENGTH_MAX where data-in obeys the limit of a CDB, so the conversion is exact.
    let size = u32::try_from(payload.len()).unwrap_or(0);
    let mut out = Vec::with_capacity(REPLY_LENGTH + payload.len());
    out.extend(u32::from(completion.status.0).to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend(sense);
    out.resize(REPLY_LENGTH, 0);
    out.extend(payload);
    out
}

/// The fixed part of a reply, as a client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// SCSI status.
    pub status: Status,
    /// Bytes of payload that follow, at most [`DATA_LENGTH_MAX`].
    pub payload: usize,
    /// Sense data; only with CHECK CONDITION does it mean anything.
    pub sense: [u8; SENSE_LENGTH],
}

impl ReplyHeader {
    /// Reads the fixed part.
    ///
    /// # Errors
    /// [`WireError::Status`] if the result is no status, [`WireError::Reply`] if the size is negative or above the maximum.
    pub fn parse(bytes: &[u8; REPLY_LENGTH]) -> Result<Self, WireError> {
        let ([a, b, c, d, e, f, g, h], sense) = split(bytes);
        let result = i32::from_be_bytes([*a, *b, *c, *d]);
        let size = i32::from_be_bytes([*e, *f, *g, *h]);
        let status = u8::try_from(result).map(Status).map_err(|_| WireError::Status(result))?;
        match usize::try_from(size) {
            Ok(payload) if payload <= DATA_LENGTH_MAX => Ok(Self { status, payload, sense: *sense }),
            _ => Err(WireError::Reply(size)),
        }
    }
}

/// Both parts of the fixed part, by their lengths alone.
fn split(bytes: &[u8; REPLY_LENGTH]) -> (&[u8; 8], &[u8; SENSE_LENGTH]) {
    const NO_NUMBERS: &[u8; 8] = &[0; 8];
    const NO_SENSE: &[u8; SENSE_LENGTH] = &[0; SENSE_LENGTH];
    (bytes.first_chunk().unwrap_or(NO_NUMBERS), bytes.last_chunk().unwrap_or(NO_SENSE))
}
