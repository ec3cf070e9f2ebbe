//! What the guest's nexus is to the reservation (SPC-4 5.13.7, 5.13.9): decides which methods fit.

use scsi::pr::ReservationType;
use std::fmt;

/// The source's standing on the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Registered; there is no reservation.
    Registrant,
    /// Registered; another nexus is the single holder.
    Member(ReservationType),
    /// Registered under an all registrants type, hence one of the holders.
    AllRegistrants(ReservationType),
    /// The single reservation holder.
    Holder(ReservationType),
    /// Registered, and a nexus with this key is the single holder: the source or one that shares its key.
    HolderOrSharer(ReservationType),
    /// Not registered: never was, or was fenced.
    Unregistered,
}

impl Role {
    /// The type of the reservation, whoever holds it.
    #[must_use]
    pub const fn kind(self) -> Option<ReservationType> {
        match self {
            Self::Registrant | Self::Unregistered => None,
            Self::Member(kind)
            | Self::AllRegistrants(kind)
            | Self::Holder(kind)
            | Self::HolderOrSharer(kind) => Some(kind),
        }
    }

    /// The source is, or may be, the single holder.
    #[must_use]
    pub const fn may_hold(self) -> bool {
        matches!(self, Self::Holder(_) | Self::HolderOrSharer(_))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registrant => f.write_str("registrant, no reservation"),
            Self::Member(kind) => write!(f, "registrant beside another holder of {kind}"),
            Self::AllRegistrants(kind) => write!(f, "one of the holders of {kind}"),
            Self::Holder(kind) => write!(f, "holder of {kind}"),
            Self::HolderOrSharer(kind) => write!(f, "holder of {kind}, or a nexus sharing its key is"),
            Self::Unregistered => f.write_str("not registered"),
        }
    }
}
