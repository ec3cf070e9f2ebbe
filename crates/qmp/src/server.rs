//! A server on a Unix socket, for Tenure's control socket and for QEMU's stand-in in tests.
//!
//! One thread reads and carries out a connection's commands in their order, another one writes; so a long command can tell of its
//! progress by events, and nobody who emits an event waits for a client. Clients are bounded in number, in what they may
//! send ([`Limits`]) and in what they leave unread; one that exceeds a bound loses its connection. Before the negotiation
//! every other command is unknown, as with QEMU.

mod bind;
mod outbox;
mod session;
mod sessions;

pub use bind::{Bound, bind};
pub use session::{Caller, Session};

use crate::Limits;
use crate::message::{CommandError, Event, Greeting, Object, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use serde_json::Value;
use sessions::Sessions;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Between looks whether another client's turn has come.
const TURN: Duration = Duration::from_millis(2);

/// What a server does.
pub trait Service: Send + Sync {
    /// The first thing that a client is told.
    fn greeting(&self) -> Greeting;

    /// Whether this caller is served at all.
    fn admits(&self, _caller: &Caller) -> bool {
        true
    }

    /// Whether clients may send descriptors along: then `getfd` keeps one under a name, for [`Session::take_descriptor`].
    fn takes_descriptors(&self) -> bool {
        false
    }

    /// Carries a command out, on a thread that serves this session alone.
    ///
    /// # Errors
    /// It was refused, and the client is told why. [`CommandError::not_found`] if there is no such command.
    fn execute(&self, session: &Session, command: &str, arguments: Object) -> Result<Value, CommandError>;
}

/// What one server grants its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at a time; one more is closed at once, or waits.
    pub connections: usize,
    /// One more waits until another one is over, without a word, as with QEMU. The listener's backlog bounds how many.
    pub in_turn: bool,
    /// What each may send; `line` is also what it may leave unread, in bytes.
    pub client: Limits,
    /// How long the negotiation may take, and a client to take a message.
    pub deadline: Duration,
    /// How long commands under way may take when the server is stopped.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        let (deadline, drain) = (Duration::from_secs(10), Duration::from_secs(60));
        Self { connections: 64, in_turn: false, client: Limits::TENURE, deadline, drain }
    }
}

/// Tells events to all clients of a server that have negotiated. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Emitter(Arc<Sessions>);

impl Emitter {
    /// Tells one, with the time of now.
    pub fn emit(&self, event: &str, data: Object) {
        self.0.tell(&Event { event: event.to_owned(), data, timestamp: now() });
    }
}

/// A server of one socket.
pub struct Server {
    service: Arc<dyn Service>,
    limits: ServerLimits,
    sessions: Arc<Sessions>,
}

impl Server {
    /// A server that has everything carried out by `service`.
    #[must_use]
    pub fn new(service: Arc<dyn Service>, limits: ServerLimits) -> Self {
        let sessions = Arc::new(Sessions::new(limits.connections));
        Self { service, limits, sessions }
    }

    /// The way to tell events, for threads of their own.
    #[must_use]
    pub fn emitter(&self) -> Emitter {
        Emitter(Arc::clone(&self.sessions))
    }

    /// Serves `listener` until `stop` can be read (a byte, or its end); then accepts nobody any more, waits for the commands
    /// under way and their answers, and returns.
    ///
    /// # Errors
    /// The listener is broken, or commands are still under way after [`ServerLimits::drain`].
    pub fn run(&self, listener: &UnixListener, stop: impl AsFd) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        while !stopped_before_a_client(listener, &stop)? {
            if self.limits.in_turn && self.sessions.is_full() {
                // It stays in the backlog; whoever stops the server is seen at the next look.
                thread::sleep(TURN);
                continue;
            }
            match listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(error) if is_shortage(&error) => {
                    poll(&mut [PollFd::new(&stop, PollFlags::IN)], Some(&ACCEPT_PAUSE))
                        .or_else(interrupted)?;
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match self.sessions.drain(self.limits.drain) {
            0 => Ok(()),
            left => Err(io::Error::new(io::ErrorKind::TimedOut, format!("commands still under way: {left}"))),
        }
    }

    /// Gives the connection its thread; without one, above the limit, or from somebody who is not served, it is closed.
    fn take(&self, stream: UnixStream) {
        let Some(caller) = Caller::of(&stream).filter(|caller| self.service.admits(caller)) else { return };
        let Some(session) = self.sessions.admit(stream, caller, self.limits) else { return };
        let service = Arc::clone(&self.service);
        // Without a thread the session is dropped, and with it the connection.
        let _ = thread::Builder::new().name("session".into()).spawn(move || session.serve(&*service));
    }
}

/// Waits for a client or for `stop`, which goes first.
fn stopped_before_a_client(listener: &UnixListener, stop: &impl AsFd) -> io::Result<bool> {
    let mut waiting = [PollFd::new(stop, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
    poll(&mut waiting, None).or_else(interrupted)?;
    Ok(waiting.first().is_some_and(|stop| !stop.revents().is_empty()))
}

fn interrupted(errno: Errno) -> io::Result<usize> {
    if errno == Errno::INTR { Ok(0) } else { Err(errno.into()) }
}

fn is_shortage(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::AGAIN, Errno::INTR, Errno::CONNABORTED];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

/// -1 twice where the clock stands before the Epoch, as QEMU has it.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let seconds = since.and_then(|since| since.as_secs().try_into().ok()).unwrap_or(-1);
    Timestamp { seconds, microseconds: since.map_or(-1, |since| since.subsec_micros().into()) }
}

#[cfg(test)]
mod tests;
