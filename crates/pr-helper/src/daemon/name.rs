//! Under which name the program was started: as itself, or in the place of `qemu-pr-helper`.

use std::ffi::{CStr, OsString};
use std::fmt;
use std::path::Path;

/// What messages are headed with, and where things are by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `tenure-pr-helper`, or any name that nobody knows.
    Tenure,
    /// `qemu-pr-helper`.
    Qemu,
}

impl Name {
    /// From the first argument.
    #[must_use]
    pub fn of(argument: Option<&OsString>) -> Self {
        match argument.and_then(|argument| Path::new(argument).file_name()) {
            Some(name) if name == "qemu-pr-helper" => Self::Qemu,
            _ => Self::Tenure,
        }
    }

    /// The name.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Tenure => "tenure-pr-helper",
            Self::Qemu => "qemu-pr-helper",
        }
    }

    /// What ps(1) shows of the process, of which the kernel keeps 15 bytes.
    pub(super) const fn short(self) -> &'static CStr {
        match self {
            Self::Tenure => c"tenure-pr-helpe",
            Self::Qemu => c"qemu-pr-helper",
        }
    }

    /// Where the socket is without `-k`.
    #[must_use]
    pub const fn socket(self) -> &'static str {
        match self {
            Self::Tenure => "/run/tenure/pr-helper.sock",
            Self::Qemu => "/var/run/qemu-pr-helper.sock",
        }
    }

    /// Where the pidfile is with `-d` and without `-f`.
    #[must_use]
    pub const fn pidfile(self) -> &'static str {
        match self {
            Self::Tenure => "/run/tenure/pr-helper.pid",
            Self::Qemu => "/var/run/qemu-pr-helper.pid",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
