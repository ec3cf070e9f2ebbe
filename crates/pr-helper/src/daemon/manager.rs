//! The service manager that waits for word (sd_notify(3)). Connected to while sockets can still be made.

use super::error::StartError;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A way to it; leads nowhere if there is none.
#[derive(Debug)]
pub(super) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Connects to the socket of `NOTIFY_SOCKET`, a path or an abstract name.
    pub(super) fn connect(socket: Option<&OsStr>) -> Result<Self, StartError> {
        socket.map(open).transpose().map(Self).map_err(StartError::Manager)
    }

    /// Tells it. A manager that is gone, or too busy, stops nobody.
    pub(super) fn tell(&self, state: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(state.as_bytes())) {
            tracing::warn!(%error, "the service manager was not told {state}");
        }
    }
}

fn open(socket: &OsStr) -> io::Result<UnixDatagram> {
    let address = match socket.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }?;
    let datagrams = UnixDatagram::unbound()?;
    datagrams.connect_addr(&address)?;
    Ok(datagrams)
}
