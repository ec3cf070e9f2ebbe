//! Who connected, as the kernel and /proc say.

use crate::Caller;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::fs;
use std::os::unix::net::UnixStream;

impl Caller {
    /// Who is at the other end. What cannot be told is left out: this is shown, never trusted.
    #[must_use]
    pub fn of(stream: &UnixStream) -> Self {
        Self::certain(stream).unwrap_or_default()
    }

    /// The same, where user and group decide something; `None` if the kernel does not tell.
    pub(crate) fn certain(stream: &UnixStream) -> Option<Self> {
        // Not rustix: it takes a process of another PID namespace, which has number 0 here, for impossible.
        let peer = getsockopt(stream, PeerCredentials).ok()?;
        let pid = u32::try_from(peer.pid()).ok().filter(|&pid| pid != 0);
        Some(Self { pid, uid: peer.uid(), gid: peer.gid(), name: pid.map(name).unwrap_or_default() })
    }
}

fn name(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}
