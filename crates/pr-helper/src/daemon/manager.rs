//! The service manager that waits for word (sd_notify(3)). Connected to while sockets can still be made.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A way to it; leads nowhere if there is none.
#[derive(Debug)]
pub(super) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Connects to the socket of `NOTIFY_SOCKET`, a path or an abstract name. One that cannot be reached is somebody else's, as
    /// far as can be told, and no reason not to serve.
    pub(super) fn connect(socket: Option<&OsStr>) -> Self {
        let connected = socket.map(open).transpose();
        Self(connected.unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET names a service manager that cannot be reached");
            None
        }))
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
