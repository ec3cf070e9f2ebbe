//! DEVICE: the way to one logical unit as a person writes it, and the nexus behind it.

use super::port::Ports;
use super::{Error, Route};
use iscsi::initiator::{IscsiNexus, IscsiUrl, Session, SessionError, UrlError};
use nexus::linux::SgDevice;
use nexus::{Nexus, TransportError};
use pr_helper::Client;
use scsi::{Completion, IscsiName, Isid, Request, TransportId};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The ISID where a URL names none: always the same, because another one would be another I_T nexus.
const DEFAULT_ISID: Isid = Isid([0x80, 0x00, 0x00, 0x00, 0x00, 0x01]);

/// `/dev/sdX`, `/dev/sgN` or an `iscsi://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A block or SCSI generic device of this machine.
    Local(PathBuf),
    /// A logical unit behind an iSCSI session of our own.
    Iscsi(Box<IscsiUrl>),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("iscsi://") {
            let url = text.parse().map_err(|error: UrlError| error.to_string())?;
            return Ok(Self::Iscsi(Box::new(url)));
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
            // Never the secret: this goes to terminals and journals.
            Self::Iscsi(url) => {
                write!(f, "iscsi://{}/{}/{}", url.portal(), url.target, url.lun)?;
                let (initiator, isid) = identity(url);
                write!(f, "?initiator={initiator}&isid={isid}")
            }
        }
    }
}

/// The initiator port that a URL asks for.
fn identity(url: &IscsiUrl) -> (IscsiName, Isid) {
    (url.initiator.clone().unwrap_or_else(default_initiator), url.isid.unwrap_or(DEFAULT_ISID))
}

/// This host's initiator name where a URL names none.
fn default_initiator() -> IscsiName {
    let uname = rustix::system::uname();
    let host: String =
        uname.nodename().to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let name = IscsiName::new(&format!("iqn.2026-11.tenure:{host}"));
    #[expect(clippy::expect_used, reason = "a prefix and at most 64 letters and digits are a name")]
    name.expect("letters and digits")
}

impl Device {
    /// Opens the way to the logical unit; `timeout` bounds the login and every command.
    ///
    /// # Errors
    /// If the device cannot be opened or the target cannot be logged in to.
    pub fn open(&self, timeout: Duration) -> Result<Opened, Error> {
        self.open_within(timeout, timeout)
    }

    /// The same, where the connection and the login have their own bound, `patience`.
    ///
    /// # Errors
    /// Like [`Device::open`].
    pub fn open_within(&self, patience: Duration, timeout: Duration) -> Result<Opened, Error> {
        match self {
            Self::Local(path) => Ok(Opened::Local(SgDevice::open(path)?.with_timeout(timeout))),
            Self::Iscsi(url) => login(url, patience, timeout)
                .map_err(|source| Error::Login { device: self.to_string(), source }),
        }
    }

    /// The initiator port, where it is known without asking anybody.
    #[must_use]
    pub fn initiator_port(&self) -> Option<TransportId> {
        match self {
            Self::Local(_) => None,
            Self::Iscsi(url) => {
                let (name, isid) = identity(url);
                Some(TransportId::iscsi(name, isid))
            }
        }
    }

    /// The same way, where it is a session of our own by one that is shared with every other logical unit behind it.
    #[must_use]
    pub fn shared(&self, ports: &Ports, timeout: Duration) -> Route {
        match self {
            Self::Local(_) => Route::Device(self.clone()),
            Self::Iscsi(url) => {
                let (initiator, isid) = identity(url);
                Route::Shared { port: ports.of(url, &initiator, isid, timeout), lun: url.lun }
            }
        }
    }

    /// The session to the logical unit would be this program's own, so that it can end it for good.
    #[must_use]
    pub const fn session_is_ours(&self) -> bool {
        matches!(self, Self::Iscsi(_))
    }
}

fn login(url: &IscsiUrl, patience: Duration, timeout: Duration) -> Result<Opened, SessionError> {
    let (initiator, isid) = identity(url);
    let mut config = url.session(&initiator, isid);
    config.timeouts.connect = patience;
    config.timeouts.login = patience;
    config.timeouts.command = timeout;
    let session = Session::login(&config)?;
    let nexus = session.nexus(url.lun);
    Ok(Opened::Iscsi { session, nexus })
}

/// An open way to one logical unit.
#[derive(Debug)]
pub enum Opened {
    /// SG_IO.
    Local(SgDevice),
    /// An iSCSI session of our own.
    Iscsi {
        /// The session.
        session: Session,
        /// The logical unit in it.
        nexus: IscsiNexus,
    },
    /// A session of our own that other logical units use as well.
    Shared {
        /// The logical unit in it.
        nexus: IscsiNexus,
        /// Which of its sessions.
        number: u64,
    },
    /// The helper, which has the privilege.
    Helper(Client),
}

impl Opened {
    /// Ends the way for good; GOOD news only if the other end confirmed it.
    ///
    /// # Errors
    /// If the way is not ours to end, or the target did not confirm the logout.
    pub fn close(self) -> Result<(), Error> {
        match self {
            Self::Local(_) | Self::Helper(_) | Self::Shared { .. } => Err(Error::NotOurs),
            Self::Iscsi { session, nexus } => {
                drop(nexus);
                Ok(session.logout()?)
            }
        }
    }
}

impl Opened {
    /// Whether a command that has no answer is certainly over all the same: a shared session that is still open has aborted
    /// what took too long.
    pub(super) fn has_settled(&self) -> bool {
        matches!(self, Self::Shared { nexus, .. } if nexus.session().is_open())
    }

    /// The way is gone before anything is sent over it.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Shared { nexus, .. } if !nexus.session().is_open())
    }

    /// The shared session's number; 0 for other ways.
    pub(super) const fn number(&self) -> u64 {
        if let Self::Shared { number, .. } = self { *number } else { 0 }
    }
}

impl Nexus for Opened {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        match self {
            Self::Local(nexus) => nexus.execute(request),
            Self::Iscsi { nexus, .. } | Self::Shared { nexus, .. } => nexus.execute(request),
            Self::Helper(nexus) => nexus.execute(request),
        }
    }

    fn execute_all(&mut self, requests: &[Request]) -> Vec<Result<Completion, TransportError>> {
        match self {
            Self::Local(nexus) => nexus.execute_all(requests),
            Self::Iscsi { nexus, .. } | Self::Shared { nexus, .. } => nexus.execute_all(requests),
            Self::Helper(nexus) => nexus.execute_all(requests),
        }
    }

    fn initiator_port(&self) -> Option<TransportId> {
        match self {
            Self::Local(nexus) => nexus.initiator_port(),
            Self::Iscsi { nexus, .. } | Self::Shared { nexus, .. } => nexus.initiator_port(),
            Self::Helper(nexus) => nexus.initiator_port(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "iscsi://127.0.0.1:3260/iqn.2026-11.example:disk/0";

    #[test]
    fn a_device_is_a_path_or_a_url() {
        assert_eq!("/dev/sg2".parse(), Ok(Device::Local("/dev/sg2".into())));
        assert!(matches!(URL.parse(), Ok(Device::Iscsi(_))));
        for bad in ["sg2", "http://x", "", "iscsi://host", "iscsi://h/iqn.2026-11.x:y/0?isid=1"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_is_shown_with_its_identity_and_without_its_secret() {
        let device: Device =
            "iscsi://me%secret@127.0.0.1/iqn.2026-11.example:disk/0?initiator=iqn.2026-11.example:a"
                .parse()
                .unwrap();
        let shown = device.to_string();
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.ends_with("?initiator=iqn.2026-11.example:a&isid=800000000001"), "{shown}");
        assert_eq!(shown.parse::<Device>().unwrap().to_string(), shown);
    }

    #[test]
    fn the_same_url_is_the_same_nexus_every_time() {
        let port = || URL.parse::<Device>().unwrap().initiator_port();
        assert!(port().is_some());
        assert_eq!(port(), port());
    }
}
