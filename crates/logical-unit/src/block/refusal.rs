//! Why the block device server does not answer GOOD, and how that becomes a completion.

use scsi::{AdditionalSense, Completion, FieldError, Sense, SenseKey};
use std::io;

/// The sense data that a command ends with instead of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) Sense);

/// Data-in, or why there is none.
pub(crate) type Answer = Result<Vec<u8>, Refusal>;

impl Refusal {
    pub(crate) const fn new(key: SenseKey, code: AdditionalSense) -> Self {
        Self(Sense::new(key, code))
    }

    pub(crate) const fn illegal(code: AdditionalSense) -> Self {
        Self::new(SenseKey::ILLEGAL_REQUEST, code)
    }

    /// The store could not read.
    pub(crate) fn unread(_error: &io::Error) -> Self {
        Self::new(SenseKey::MEDIUM_ERROR, AdditionalSense::UNRECOVERED_READ_ERROR)
    }

    /// The store could not write. A full file system is told apart: thin provisioning has run out (SBC-4 4.7.3.6).
    pub(crate) fn unwritten(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::new(SenseKey::DATA_PROTECT, AdditionalSense::SPACE_ALLOCATION_FAILED)
            }
            _ => Self::new(SenseKey::MEDIUM_ERROR, AdditionalSense::WRITE_ERROR),
        }
    }

    /// CHECK CONDITION; the sense data has fixed format.
    pub(crate) fn completion(&self) -> Completion {
        Completion::check(&self.0)
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self(error.sense())
    }
}

/// Data-in cut to the allocation length; lengths inside it keep telling the whole (SPC-4 4.3.5.6).
pub(crate) fn cut(mut data: Vec<u8>, allocation_length: impl TryInto<usize>) -> Answer {
    data.truncate(allocation_length.try_into().unwrap_or(usize::MAX));
    Ok(data)
}
