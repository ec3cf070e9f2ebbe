//! The codes of persistent reservations: keys, types, scopes, service actions.

use std::fmt;

/// A reservation key; zero means "no key".
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

impl Key {
    /// No key: an unregistered nexus, or "unregister" as a new key.
    pub const NONE: Self = Self(0);

    /// Whether this is the zero key.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// TYPE of a persistent reservation (SPC-4 6.15.3.4); unknown codes survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationType(pub u8);

impl ReservationType {
    /// Write Exclusive.
    pub const WRITE_EXCLUSIVE: Self = Self(1);
    /// Exclusive Access.
    pub const EXCLUSIVE_ACCESS: Self = Self(3);
    /// Write Exclusive - Registrants Only.
    pub const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: Self = Self(5);
    /// Exclusive Access - Registrants Only.
    pub const EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: Self = Self(6);
    /// Write Exclusive - All Registrants.
    pub const WRITE_EXCLUSIVE_ALL_REGISTRANTS: Self = Self(7);
    /// Exclusive Access - All Registrants.
    pub const EXCLUSIVE_ACCESS_ALL_REGISTRANTS: Self = Self(8);
    /// The six types of the standard.
    pub const ALL: [Self; 6] = [Self(1), Self(3), Self(5), Self(6), Self(7), Self(8)];

    /// Whether the standard defines this code.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        matches!(self.0, 1 | 3 | 5..=8)
    }

    /// Every registrant holds the reservation (types 7 and 8).
    #[must_use]
    pub const fn is_all_registrants(self) -> bool {
        matches!(self.0, 7 | 8)
    }

    /// Registrants have access beside the single holder (types 5 and 6).
    #[must_use]
    pub const fn is_registrants_only(self) -> bool {
        matches!(self.0, 5 | 6)
    }

    /// Nexuses without access may not even read (types 3, 6 and 8).
    #[must_use]
    pub const fn excludes_reads(self) -> bool {
        matches!(self.0, 3 | 6 | 8)
    }
}

impl fmt::Display for ReservationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "Write Exclusive",
            3 => "Exclusive Access",
            5 => "Write Exclusive - Registrants Only",
            6 => "Exclusive Access - Registrants Only",
            7 => "Write Exclusive - All Registrants",
            8 => "Exclusive Access - All Registrants",
            other => return write!(f, "type {other:#x}"),
        })
    }
}

impl fmt::Debug for ReservationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.0)
    }
}

/// SCOPE of a persistent reservation; only the whole logical unit (0) is left in the standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(pub u8);

impl Scope {
    /// LU_SCOPE.
    pub const LOGICAL_UNIT: Self = Self(0);
}

/// Service action of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InAction(pub u8);

impl InAction {
    /// READ KEYS.
    pub const READ_KEYS: Self = Self(0);
    /// READ RESERVATION.
    pub const READ_RESERVATION: Self = Self(1);
    /// REPORT CAPABILITIES.
    pub const REPORT_CAPABILITIES: Self = Self(2);
    /// READ FULL STATUS.
    pub const READ_FULL_STATUS: Self = Self(3);
}

impl fmt::Display for InAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "READ KEYS",
            1 => "READ RESERVATION",
            2 => "REPORT CAPABILITIES",
            3 => "READ FULL STATUS",
            other => return write!(f, "PERSISTENT RESERVE IN {other:#04x}"),
        })
    }
}

impl fmt::Debug for InAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Service action of PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutAction(pub u8);

impl OutAction {
    /// REGISTER.
    pub const REGISTER: Self = Self(0);
    /// RESERVE.
    pub const RESERVE: Self = Self(1);
    /// RELEASE.
    pub const RELEASE: Self = Self(2);
    /// CLEAR.
    pub const CLEAR: Self = Self(3);
    /// PREEMPT.
    pub const PREEMPT: Self = Self(4);
    /// PREEMPT AND ABORT.
    pub const PREEMPT_AND_ABORT: Self = Self(5);
    /// REGISTER AND IGNORE EXISTING KEY.
    pub const REGISTER_AND_IGNORE: Self = Self(6);
    /// REGISTER AND MOVE.
    pub const REGISTER_AND_MOVE: Self = Self(7);
    /// REPLACE LOST RESERVATION.
    pub const REPLACE_LOST: Self = Self(8);

    /// The actions in which SCOPE and TYPE may count (SPC-4 table 230).
    #[must_use]
    pub const fn uses_type(self) -> bool {
        matches!(self.0, 1 | 2 | 4 | 5 | 8)
    }

    /// REGISTER and REGISTER AND IGNORE EXISTING KEY.
    #[must_use]
    pub const fn is_register(self) -> bool {
        matches!(self.0, 0 | 6)
    }

    /// PREEMPT and PREEMPT AND ABORT.
    #[must_use]
    pub const fn is_preempt(self) -> bool {
        matches!(self.0, 4 | 5)
    }
}

impl fmt::Display for OutAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "REGISTER",
            1 => "RESERVE",
            2 => "RELEASE",
            3 => "CLEAR",
            4 => "PREEMPT",
            5 => "PREEMPT AND ABORT",
            6 => "REGISTER AND IGNORE EXISTING KEY",
            7 => "REGISTER AND MOVE",
            8 => "REPLACE LOST RESERVATION",
            other => return write!(f, "PERSISTENT RESERVE OUT {other:#04x}"),
        })
    }
}

impl fmt::Debug for OutAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
