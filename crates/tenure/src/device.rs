//! DEVICE: the way to one logical unit as a person writes it.

use crate::exit::Failure;
use nexus::Nexus;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// `/dev/sdX`, `/dev/sgN` or an `iscsi://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A block or SCSI generic device of this machine.
    Local(PathBuf),
    /// A logical unit behind an iSCSI session of our own.
    Iscsi(String),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("iscsi://") {
            return Ok(Self::Iscsi(text.to_owned()));
        }
        if text.starts_with('/') {
            return Ok(Self::Local(text.into()));
        }
        Err("a DEVICE is /dev/sdX, /dev/sgN or iscsi://HOST[:PORT]/IQN/LUN?initiator=IQN&isid=HEX12".into())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Iscsi(url) => f.write_str(url),
        }
    }
}

impl Device {
    /// Opens the way to the logical unit; `timeout` bounds the login and every command.
    ///
    /// # Errors
    /// If the device cannot be opened or the target cannot be logged in to.
    pub fn open(&self, timeout: Duration) -> Result<Box<dyn Nexus>, Failure> {
        let _ = timeout;
        Err(anyhow::anyhow!("{self}: cannot be opened yet").into())
    }
}

/// An initiator port as text.
pub(crate) fn initiator_port(text: &str) -> Result<scsi::TransportId, String> {
    let _ = text;
    Err("not there yet".into())
}
