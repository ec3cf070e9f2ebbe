//! From one stand-in to the other: JSON lines over TCP, a Unix socket or a descriptor.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

/// What goes over the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Parcel {
    /// The source begins; whether the destination is to answer.
    Begin {
        /// With the capability return-path.
        answer: bool,
    },
    /// The devices: everything the destination needs.
    Devices {
        /// Whether the guest ran when it was stopped for this.
        ran: bool,
    },
    /// The destination has loaded them.
    Loaded,
    /// The destination could not.
    Failed,
}

/// Where a migration goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(String),
    Unix(PathBuf),
    Descriptor(String),
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(uri: &str) -> Result<Self> {
        match uri.split_once(':').context("Parameter 'uri' expects a valid migration protocol")? {
            ("tcp", address) => Ok(Self::Tcp(address.to_owned())),
            ("unix", path) => Ok(Self::Unix(path.into())),
            ("fd", name) => Ok(Self::Descriptor(name.to_owned())),
            _ => bail!("Parameter 'uri' expects a valid migration protocol"),
        }
    }
}

/// A listening destination.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// Already connected.
    Descriptor(OwnedFd),
}

impl Listener {
    /// Listens; also, how QEMU describes where.
    pub(super) fn bind(address: &Address, descriptor: Option<OwnedFd>) -> Result<(Self, Value)> {
        match (address, descriptor) {
            (Address::Tcp(address), _) => {
                let listener = TcpListener::bind(address.as_str()).context(address.clone())?;
                let at = listener.local_addr()?;
                let (host, port) = (at.ip().to_string(), at.port().to_string());
                Ok((Self::Tcp(listener), json!({ "type": "inet", "host": host, "port": port })))
            }
            (Address::Unix(path), _) => {
                let _ = std::fs::remove_file(path);
                let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
                Ok((Self::Unix(listener), json!({ "type": "unix", "path": path })))
            }
            (Address::Descriptor(name), Some(descriptor)) => {
                Ok((Self::Descriptor(descriptor), json!({ "type": "fd", "str": name })))
            }
            (Address::Descriptor(name), None) => bail!("File descriptor named '{name}' has not been found"),
        }
    }

    pub(super) fn accept(self) -> Result<Link> {
        match self {
            Self::Tcp(listener) => Link::tcp(listener.accept()?.0),
            Self::Unix(listener) => Link::new(listener.accept()?.0.into()),
            Self::Descriptor(descriptor) => Link::new(descriptor),
        }
    }
}

/// A link between the two.
#[derive(Debug)]
pub(super) struct Link {
    out: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Link {
    pub(super) fn connect(address: &Address, descriptor: Option<OwnedFd>) -> Result<Self> {
        match (address, descriptor) {
            (Address::Tcp(address), _) => Self::tcp(TcpStream::connect(address.as_str())?),
            (Address::Unix(path), _) => Self::new(UnixStream::connect(path)?.into()),
            (Address::Descriptor(_), Some(descriptor)) => Self::new(descriptor),
            (Address::Descriptor(name), None) => bail!("File descriptor named '{name}' has not been found"),
        }
    }

    fn tcp(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Self::new(stream.into())
    }

    /// Any stream socket: what is called a Unix one here reads and writes all of them alike.
    fn new(descriptor: OwnedFd) -> Result<Self> {
        let out = UnixStream::from(descriptor);
        Ok(Self { lines: BufReader::new(out.try_clone()?), out })
    }

    pub(super) fn send(&self, parcel: &Parcel) -> Result<()> {
        let line = serde_json::to_string(parcel)? + "\n";
        Ok((&self.out).write_all(line.as_bytes())?)
    }

    pub(super) fn receive(&mut self) -> Result<Parcel> {
        let mut line = String::new();
        let length = self.lines.by_ref().take(4096).read_line(&mut line)?;
        anyhow::ensure!(length > 0, "the other end is gone");
        Ok(serde_json::from_str(&line)?)
    }

    /// Whether the other end is there, as far as a write would find out.
    pub(super) fn is_alive(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let descriptor = self.out.as_fd();
        let mut polled = [PollFd::new(&descriptor, PollFlags::empty())];
        let _ = poll(&mut polled, Some(&now));
        let gone = PollFlags::HUP | PollFlags::ERR;
        !polled.iter().any(|polled| polled.revents().intersects(gone))
    }
}
