//! SCSI status codes (SAM-5 5.3). A status is a value that a device server returned, never an error of ours.

use std::fmt;

/// The status byte of a completed command; unknown codes survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(pub u8);

impl Status {
    /// The command completed without error.
    pub const GOOD: Self = Self(0x00);
    /// Sense data says what happened.
    pub const CHECK_CONDITION: Self = Self(0x02);
    /// The condition of a PRE-FETCH was met.
    pub const CONDITION_MET: Self = Self(0x04);
    /// The device server is busy; try again.
    pub const BUSY: Self = Self(0x08);
    /// A reservation of another I_T nexus forbids the command.
    pub const RESERVATION_CONFLICT: Self = Self(0x18);
    /// No room in the task set; try again.
    pub const TASK_SET_FULL: Self = Self(0x28);
    /// An auto contingent allegiance is active.
    pub const ACA_ACTIVE: Self = Self(0x30);
    /// Another I_T nexus aborted the command.
    pub const TASK_ABORTED: Self = Self(0x40);

    /// Whether the command completed GOOD.
    #[must_use]
    pub const fn is_good(self) -> bool {
        self.0 == Self::GOOD.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::GOOD => "GOOD",
            Self::CHECK_CONDITION => "CHECK CONDITION",
            Self::CONDITION_MET => "CONDITION MET",
            Self::BUSY => "BUSY",
            Self::RESERVATION_CONFLICT => "RESERVATION CONFLICT",
            Self::TASK_SET_FULL => "TASK SET FULL",
            Self::ACA_ACTIVE => "ACA ACTIVE",
            Self::TASK_ABORTED => "TASK ABORTED",
            Self(other) => return write!(f, "status {other:#04x}"),
        };
        f.write_str(name)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
