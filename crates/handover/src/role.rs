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

    /// The name in journals and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registrant => "registrant",
            Self::Member(_) => "member",
            Self::AllRegistrants(_) => "all-registrants",
            Self::Holder(_) => "holder",
            Self::HolderOrSharer(_) => "holder-or-sharer",
            Self::Unregistered => "unregistered",
        }
    }

    /// The role of this name, which has a type exactly if there is a reservation.
    #[must_use]
    pub fn by_name(name: &str, kind: Option<ReservationType>) -> Option<Self> {
        Some(match (name, kind) {
            ("registrant", None) => Self::Registrant,
            ("unregistered", None) => Self::Unregistered,
            ("member", Some(kind)) => Self::Member(kind),
            ("all-registrants", Some(kind)) => Self::AllRegistrants(kind),
            ("holder", Some(kind)) => Self::Holder(kind),
            ("holder-or-sharer", Some(kind)) => Self::HolderOrSharer(kind),
            _ => return None,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_reads_back_by_name_and_type() {
        let kind = ReservationType(7);
        for role in [
            Role::Registrant,
            Role::Unregistered,
            Role::Member(kind),
            Role::AllRegistrants(kind),
            Role::Holder(kind),
            Role::HolderOrSharer(kind),
        ] {
            assert_eq!(Role::by_name(role.name(), role.kind()), Some(role));
        }
        assert_eq!(Role::by_name("holder", None), None, "a holder of nothing");
        assert_eq!(Role::by_name("registrant", Some(kind)), None);
    }
}
