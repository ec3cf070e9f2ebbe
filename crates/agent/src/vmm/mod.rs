//! What the agent does with one QEMU, over QMP: who it is and whether it can be moved ([`plan`](Vmm::findings)), how its guest stands,
//! and the steps of a live migration.
//!
//! A [`Vmm`] is one connection. It is not made anew by itself: behind the same socket there may be another QEMU by
//! then, and a step of a migration is for the one that it began with. No step decides anything: who may run the guest is
//! [`ownership`](crate::ownership)'s affair.

mod disks;
mod findings;
mod guest;
mod transfer;

pub use disks::{Backing, Disk, MigratePr};
pub use findings::{Finding, Role};
pub use guest::Left;
pub(crate) use transfer::fits;
pub use transfer::{HELD, Limits, Progress, Stage, Stopped, travels};

use qmp::qemu::{Qemu, QemuError};
use qmp::{CallError, ConnectError, Events, Heard};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take to answer a command. It answers from its main loop, which long I/O can hold up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often, and how long each time, it is looked whether somebody listens after a connection was lost.
const PROBES: u32 = 20;
const PROBE: Duration = Duration::from_millis(100);

/// Events taken at once; QEMU says a handful in a migration. One that goes on talking is not heard to its end.
const MOST_EVENTS: usize = 10_000;

/// Why QEMU did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmmError {
    /// Nobody listens on its socket: the process is gone.
    #[error("QEMU is gone: {0}")]
    Gone(String),
    /// No answer in time, a lost connection, or an answer that makes no sense: whether it was done is not known.
    #[error("QEMU does not answer: {0}")]
    Silent(String),
    /// It said no: it was not done.
    #[error("QEMU refused: {0}")]
    Refused(String),
    /// It was not asked: it must not be done with the guest in this state, or in a migration of ours.
    #[error("{0}")]
    Unfit(String),
}

/// One QEMU.
#[derive(Debug)]
pub struct Vmm {
    path: PathBuf,
    qemu: Qemu,
    events: Events,
    /// The guest was let run, or may have been, since [`Vmm::watch_still`].
    ran: AtomicBool,
}

impl Vmm {
    /// Connects to the QMP socket at `path`. `patience` is for connecting, and for each command.
    ///
    /// # Errors
    /// [`VmmError::Gone`] if nobody listens there; [`VmmError::Silent`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, VmmError> {
        let qemu = Qemu::connect(path, patience).map_err(|error| from_connect(&error))?;
        let events = qemu.events();
        Ok(Self { path: path.to_owned(), qemu, events, ran: AtomicBool::new(false) })
    }

    /// The QEMU itself, for what has no name here.
    #[must_use]
    pub const fn qemu(&self) -> &Qemu {
        &self.qemu
    }

    /// Returns when QEMU tells of a change, or at `until`, of which a QEMU that is gone tells nothing more. What changed is to be asked
    /// for: an event may have been missed, and one that lies changes nothing.
    pub fn wait(&self, until: Instant) {
        if !self.hear(until) {
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    /// From now on [`Vmm::ran`] tells whether the guest ran.
    pub fn watch_still(&self) {
        self.hear_all();
        self.ran.store(false, Ordering::SeqCst);
    }

    /// Whether the guest was let run since [`Vmm::stop`], as far as QEMU had told before its last answer; also where that was
    /// missed. No state says so afterwards: a migration that stops a guest again leaves it as one that never ran.
    #[must_use]
    pub fn ran(&self) -> bool {
        self.hear_all();
        self.ran.load(Ordering::SeqCst)
    }

    fn hear_all(&self) {
        let now = Instant::now();
        if (0..MOST_EVENTS).all(|_| self.hear(now)) {
            self.ran.store(true, Ordering::SeqCst);
        }
    }

    /// Takes the next event; whether there was one.
    fn hear(&self, until: Instant) -> bool {
        let heard = self.events.next(until);
        let (told, ran) = match &heard {
            Heard::Event(event) => (true, event.event == "RESUME"),
            Heard::Missed(_) => (true, true),
            Heard::Silence | Heard::Closed => (false, false),
        };
        self.ran.fetch_or(ran, Ordering::SeqCst);
        told
    }

    /// Its UUID, in lower case.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn uuid(&self) -> Result<String, VmmError> {
        self.ask(Qemu::uuid)
    }

    /// Asks, and finds out after a lost connection whether anybody is there yet.
    fn ask<T>(&self, ask: impl FnOnce(&Qemu) -> Result<T, QemuError>) -> Result<T, VmmError> {
        ask(&self.qemu).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &QemuError) -> VmmError {
        let text = error.to_string();
        if let QemuError::Call(error) = error {
            if error.refusal().is_some() {
                return VmmError::Refused(text);
            }
            // A QEMU that is late is there; whether one that closed the connection is, its socket tells.
            let broken = matches!(error, CallError::NotSent { .. } | CallError::Lost { .. });
            if broken && nobody_listens(&self.path) {
                return VmmError::Gone(text);
            }
        }
        VmmError::Silent(text)
    }
}

/// A listening socket is closed with its process at the latest, by QEMU with its name; libvirt opens it for QEMU and keeps none.
/// A process on its way out may have closed a connection and not its socket yet: one that is accepted then ends at once.
fn nobody_listens(path: &Path) -> bool {
    for _ in 0..PROBES {
        match UnixStream::connect(path) {
            Ok(stream) if ends_at_once(&stream) => thread::sleep(PROBE / 10),
            Ok(_) => return false,
            Err(error) => return is_absence(&error),
        }
    }
    false
}

/// QEMU greets or is busy; either is a sign of life.
fn ends_at_once(mut stream: &UnixStream) -> bool {
    let limited = stream.set_read_timeout(Some(PROBE)).is_ok();
    match stream.read(&mut [0]) {
        _ if !limited => false,
        Ok(length) => length == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn from_connect(error: &ConnectError) -> VmmError {
    use std::error::Error as _;
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    let text = format!("{error}{cause}");
    match error {
        ConnectError::Connect { source, .. } if is_absence(source) => VmmError::Gone(text),
        _ => VmmError::Silent(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    /// Greets, lets one client negotiate, and is gone.
    fn gone(path: &Path) -> thread::JoinHandle<io::Result<()>> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            stream.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n")?;
            BufReader::new(stream.try_clone()?).read_line(&mut String::new())?;
            stream.write_all(b"{\"return\": {}, \"id\": 0}\r\n")
        })
    }

    #[test]
    fn a_qemu_that_is_gone_is_waited_for_no_faster_than_one_that_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let qemu = gone(&path);
        let vmm = Vmm::connect(&path, Duration::from_secs(20)).unwrap();
        qemu.join().unwrap().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while vmm.events.next(end) != Heard::Closed {
            assert!(Instant::now() < end, "nobody says that it is gone");
        }
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_millis(50);
            vmm.wait(until);
            assert!(Instant::now() >= until, "whoever looks at it again and again does nothing else");
        }
    }
}
