//! What a service action answers, decoded.

use scsi::Completion;
use scsi::pr::{Capabilities, FullStatus, ReadKeys, ReadReservation};

/// How to read a command's data-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// It has none.
    Nothing,
    /// READ KEYS.
    Keys,
    /// READ RESERVATION.
    Reservation,
    /// REPORT CAPABILITIES.
    Capabilities,
    /// READ FULL STATUS.
    FullStatus,
}

/// Decoded data-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// None was asked for, or the command did not end GOOD.
    Nothing,
    /// Registered keys.
    Keys(ReadKeys),
    /// The reservation.
    Reservation(ReadReservation),
    /// Capabilities.
    Capabilities(Capabilities),
    /// Registrations.
    FullStatus(FullStatus),
    /// GOOD, but the data makes no sense.
    Unreadable,
}

impl Answer {
    /// Decodes what came with GOOD.
    pub(super) fn new(reads: Reads, completion: &Completion) -> Self {
        if !completion.status.is_good() {
            return Self::Nothing;
        }
        let data = &completion.data;
        let decoded = match reads {
            Reads::Nothing => Some(Self::Nothing),
            Reads::Keys => ReadKeys::parse(data).map(Self::Keys),
            Reads::Reservation => ReadReservation::parse(data).map(Self::Reservation),
            Reads::Capabilities => Capabilities::parse(data).map(Self::Capabilities),
            Reads::FullStatus => FullStatus::parse(data).map(Self::FullStatus),
        };
        decoded.unwrap_or(Self::Unreadable)
    }
}
