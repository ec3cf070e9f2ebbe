//! Word to the service manager (sd_notify(3)): one datagram each, to a path or an abstract name.
//!
//! For units of `Type=notify-reload`, with a watchdog where the manager asks for one. The caller reads the environment.

use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A way to the service manager; leads nowhere if there is none.
#[derive(Debug, Default)]
pub struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Connects to the socket that `NOTIFY_SOCKET` names.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn connect(socket: Option<&OsStr>) -> io::Result<Self> {
        socket.map(open).transpose().map(Self)
    }

    /// Everything is served.
    ///
    /// # Errors
    /// Nobody was told; which need stop nobody, here and below.
    pub fn ready(&self) -> io::Result<()> {
        self.tell("READY=1")
    }

    /// The configuration is being read again; [`Manager::ready`] ends that.
    ///
    /// # Errors
    /// Nobody was told.
    pub fn reloading(&self) -> io::Result<()> {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"))
    }

    /// It ends.
    ///
    /// # Errors
    /// Nobody was told.
    pub fn stopping(&self) -> io::Result<()> {
        self.tell("STOPPING=1")
    }

    /// It is alive.
    ///
    /// # Errors
    /// Nobody was told.
    pub fn alive(&self) -> io::Result<()> {
        self.tell("WATCHDOG=1")
    }

    fn tell(&self, state: &str) -> io::Result<()> {
        match &self.0 {
            Some(socket) => socket.send(state.as_bytes()).map(drop),
            None => Ok(()),
        }
    }
}

/// How often the manager must hear that the program is alive: half of what `WATCHDOG_USEC` says, if it is said to this
/// process (`WATCHDOG_PID`).
#[must_use]
pub fn watchdog(microseconds: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let for_us = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let microseconds = microseconds?.parse().ok().filter(|&limit: &u64| limit > 0 && for_us)?;
    Some(Duration::from_micros(microseconds / 2).max(Duration::from_millis(1)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_hears_each_state_in_its_words() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::connect(Some(path.as_os_str())).unwrap();
        manager.ready().unwrap();
        manager.reloading().unwrap();
        manager.alive().unwrap();
        manager.stopping().unwrap();
        assert_eq!(heard(&socket), "READY=1");
        let reloading = heard(&socket);
        let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(since.parse::<u64>().unwrap() > 0);
        assert_eq!(heard(&socket), "WATCHDOG=1");
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn an_abstract_name_is_taken_and_no_manager_is_no_trouble() {
        let name = format!("tenure-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let manager = Manager::connect(Some(OsStr::new(&format!("@{name}")))).unwrap();
        manager.ready().unwrap();
        assert_eq!(heard(&socket), "READY=1");
        Manager::connect(None).unwrap().ready().unwrap();
        assert!(Manager::connect(Some(OsStr::new("/nowhere/at/all"))).is_err());
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_by_whom_it_watches() {
        let half = Some(Duration::from_secs(10));
        assert_eq!(watchdog(Some("20000000"), None, 7), half);
        assert_eq!(watchdog(Some("20000000"), Some("7"), 7), half);
        for (limit, pid) in
            [(None, None), (Some("0"), None), (Some("x"), None), (Some("20000000"), Some("8"))]
        {
            assert_eq!(watchdog(limit, pid, 7), None, "{limit:?} {pid:?}");
        }
    }
}
