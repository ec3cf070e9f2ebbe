//! The host and driver status that Linux puts beside the SCSI status (`include/scsi/scsi_status.h`; the
//! driver status left the kernel in 5.14, and is zero since but for DRIVER_SENSE).

use std::fmt;

/// `host_status`: what the host adapter's driver says became of the command. Unknown values survive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HostStatus(pub u16);

/// Defines the named codes and their names in one table.
macro_rules! host_status {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl HostStatus {
            $(#[doc = concat!($text, ".")] pub const $name: Self = Self($code);)*

            /// Symbol and meaning.
            #[must_use]
            pub const fn name(self) -> Option<(&'static str, &'static str)> {
                match self {
                    $(Self::$name => Some((concat!("DID_", stringify!($name)), $text)),)*
                    _ => None,
                }
            }
        }
    };
}

host_status! {
    OK = 0x00, "no error";
    NO_CONNECT = 0x01, "the device cannot be reached";
    BUS_BUSY = 0x02, "the bus stayed busy";
    TIME_OUT = 0x03, "timed out";
    BAD_TARGET = 0x04, "bad target";
    ABORT = 0x05, "aborted";
    PARITY = 0x06, "parity error";
    ERROR = 0x07, "internal error of the driver or an inconsistent answer";
    RESET = 0x08, "the bus or device was reset";
    BAD_INTR = 0x09, "unexpected interrupt";
    PASSTHROUGH = 0x0A, "passed through";
    SOFT_ERROR = 0x0B, "the driver wants a retry";
    IMM_RETRY = 0x0C, "the driver wants an immediate retry";
    REQUEUE = 0x0D, "the driver wants the command queued again";
    TRANSPORT_DISRUPTED = 0x0E, "the transport was disrupted";
    TRANSPORT_FAILFAST = 0x0F, "the transport gave up on the path";
    TARGET_FAILURE = 0x10, "the target failed permanently";
    NEXUS_FAILURE = 0x11, "reservation conflict";
    ALLOC_FAILURE = 0x12, "space allocation failed";
    MEDIUM_ERROR = 0x13, "medium error";
    TRANSPORT_MARGINAL = 0x14, "the transport calls the path marginal";
}

impl fmt::Display for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some((symbol, meaning)) => write!(f, "{symbol} ({:#04x}, {meaning})", self.0),
            None => write!(f, "{:#04x}", self.0),
        }
    }
}

impl fmt::Debug for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `driver_status`: bits 3-0 the error, bits 7-4 a suggestion that nothing uses any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DriverStatus(pub u16);

impl DriverStatus {
    /// No error.
    pub const OK: Self = Self(0x00);
    /// The command timed out (kernels before 5.14).
    pub const TIMEOUT: Self = Self(0x06);
    /// There is sense data; no error by itself.
    pub const SENSE: Self = Self(0x08);

    /// Without the suggestion.
    #[must_use]
    pub const fn error(self) -> Self {
        Self(self.0 & 0x0F)
    }
}

impl fmt::Display for DriverStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["OK", "BUSY", "SOFT", "MEDIA", "ERROR", "INVALID", "TIMEOUT", "HARD", "SENSE"]
            .map(Some)
            .into_iter();
        match names.chain([None]).nth(usize::from(self.error().0)).flatten() {
            Some(name) => write!(f, "DRIVER_{name} ({:#04x})", self.0),
            None => write!(f, "{:#04x}", self.0),
        }
    }
}

impl fmt::Debug for DriverStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
