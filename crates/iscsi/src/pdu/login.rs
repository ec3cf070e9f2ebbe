//! Login Request and Login Response (RFC 7143 11.12, 11.13).

use super::Bhs;
use super::wire::{Field, bytes_at, flags, header, put};
use scsi::Isid;
use std::fmt;

/// A stage of the login phase (RFC 7143 6.3); the two-bit codes of CSG and NSG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// 0: security negotiation.
    Security,
    /// 1: operational parameter negotiation.
    Operational,
    /// 3: full feature phase.
    FullFeature,
}

impl Stage {
    const fn from_code(code: u8) -> Option<Self> {
        match code & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

flags! {
    /// Flags and stages of both login PDUs (RFC 7143 11.12.1 to 11.12.3).
    LoginFlags {
        /// T: ready to leave the current stage.
        TRANSIT = 0x80;
        /// C: the text goes on in the next PDU.
        CONTINUE = 0x40;
    }
}

impl LoginFlags {
    /// No transit: negotiation goes on in `current`.
    #[must_use]
    pub const fn stay(current: Stage) -> Self {
        Self(current.code() << 2)
    }

    /// Transit from `current` to `next`.
    #[must_use]
    pub const fn transit(current: Stage, next: Stage) -> Self {
        Self(Self::TRANSIT.0 | (current.code() << 2) | next.code())
    }

    /// CSG; `None` for the reserved code.
    #[must_use]
    pub const fn current(self) -> Option<Stage> {
        Stage::from_code(self.0 >> 2)
    }

    /// NSG; `None` for the reserved code. Means something only with `TRANSIT`.
    #[must_use]
    pub const fn next(self) -> Option<Stage> {
        Stage::from_code(self.0)
    }
}

header! {
    /// Login Request (RFC 7143 11.12).
    LoginRequest = LOGIN_REQUEST {
        /// Always set.
        immediate: bool = 0;
        /// Flags and stages.
        flags: LoginFlags = 1;
        /// Highest protocol version of the initiator.
        version_max: u8 = 2;
        /// Lowest protocol version of the initiator.
        version_min: u8 = 3;
        /// Initiator session identifier.
        isid: Isid = 8;
        /// Target session identifying handle; 0 for a new session.
        tsih: u16 = 14;
        /// Names the login.
        initiator_task_tag: u32 = 16;
        /// Connection identifier.
        cid: u16 = 20;
        /// First CmdSN of the session.
        cmd_sn: u32 = 24;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
    }
}

/// Status class (high byte) and detail (low byte) of a login response (RFC 7143 11.13.5); unknown values survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoginStatus(pub u16);

/// Defines the named status values and their display in one table.
macro_rules! statuses {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl LoginStatus {
            $(#[doc = $text] pub const $name: Self = Self($code);)*

            const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000, "success";
    TARGET_MOVED_TEMPORARILY = 0x0101, "target moved temporarily";
    TARGET_MOVED_PERMANENTLY = 0x0102, "target moved permanently";
    INITIATOR_ERROR = 0x0200, "initiator error";
    AUTHENTICATION_FAILURE = 0x0201, "authentication failure";
    AUTHORIZATION_FAILURE = 0x0202, "not authorized";
    TARGET_NOT_FOUND = 0x0203, "target not found";
    TARGET_REMOVED = 0x0204, "target removed";
    UNSUPPORTED_VERSION = 0x0205, "unsupported version";
    TOO_MANY_CONNECTIONS = 0x0206, "too many connections";
    MISSING_PARAMETER = 0x0207, "missing parameter";
    CANNOT_INCLUDE_IN_SESSION = 0x0208, "connection cannot be included in the session";
    SESSION_TYPE_NOT_SUPPORTED = 0x0209, "session type not supported";
    SESSION_DOES_NOT_EXIST = 0x020A, "session does not exist";
    INVALID_DURING_LOGIN = 0x020B, "invalid during login";
    TARGET_ERROR = 0x0300, "target error";
    SERVICE_UNAVAILABLE = 0x0301, "service unavailable";
    OUT_OF_RESOURCES = 0x0302, "out of resources";
}

impl LoginStatus {
    /// Status-Class: 0 success, 1 redirection, 2 initiator error, 3 target error.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.0.to_be_bytes()[0]
    }
}

impl fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({:04x}h)", self.0),
            None => write!(f, "login status {:04x}h", self.0),
        }
    }
}

impl fmt::Debug for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Field for LoginStatus {
    fn read(bhs: &Bhs, at: usize) -> Self {
        Self(u16::from_be_bytes(bytes_at(bhs, at)))
    }

    fn write(&self, bhs: &mut Bhs, at: usize) {
        put(bhs, at, self.0.to_be_bytes());
    }
}

header! {
    /// Login Response (RFC 7143 11.13).
    LoginResponse = LOGIN_RESPONSE {
        /// Flags and stages.
        flags: LoginFlags = 1;
        /// Highest protocol version of the target.
        version_max: u8 = 2;
        /// The version that both will speak.
        version_active: u8 = 3;
        /// Echo of the request's.
        isid: Isid = 8;
        /// The target's handle, in the last response of a new session.
        tsih: u16 = 14;
        /// Echo of the request's.
        initiator_task_tag: u32 = 16;
        /// Status sequence number.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
        /// Status class and detail.
        status: LoginStatus = 36;
    }
}
