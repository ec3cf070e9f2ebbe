//! The server of QEMU's protocol, and of the agent's (`agent`): one thread per connection, one command at a time on each, any number of logical units in parallel.
//!
//! A client may stay connected for ever without a request, as every QEMU does whose guest is at rest: it costs a stack that is
//! hardly touched and one of [`Limits::connections`].
//!
//! Holds under hostile clients: the number of connections and the stack of each are bounded, a request has a deadline from its
//! first byte on, and at most one descriptor and [`wire::DATA_LENGTH_MAX`](crate::wire::DATA_LENGTH_MAX) bytes are kept of it. A client that
//! goes away never stops the command it sent. Bytes that are not the protocol close the connection, as qemu-pr-helper does.

mod caller;
mod connection;
mod connections;

use crate::Serve;
use connection::Guests;
use connections::Connections;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Enough for a request and everything behind it; 4096 idle clients must not cost more than address space.
const STACK: usize = 128 * 1024;
/// Pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What one server grants its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; one more is closed at once.
    pub connections: usize,
    /// How long a message may take from its first byte to its last, and a reply to be taken.
    pub deadline: Duration,
    /// How long commands under way may take when the server is stopped.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // One SG_IO may take 30 s; a service manager waits 90 s before it kills.
        Self { connections: 4096, deadline: Duration::from_secs(30), drain: Duration::from_secs(60) }
    }
}

/// What is spoken on a connection.
pub(crate) trait Speak: Send + Sync {
    /// Serves one connection to its end. `deadline` is [`Limits::deadline`].
    fn speak(&self, stream: &UnixStream, deadline: Duration);
}

/// A server of one socket.
pub struct Server {
    speak: Arc<dyn Speak>,
    limits: Limits,
    connections: Arc<Connections>,
}

impl Server {
    /// A server of QEMU's protocol that has everything carried out by `serve`.
    #[must_use]
    pub fn new(serve: Arc<dyn Serve>, limits: Limits) -> Self {
        Self::speaking(Arc::new(Guests(serve)), limits)
    }

    /// A server of another protocol.
    pub(crate) fn speaking(speak: Arc<dyn Speak>, limits: Limits) -> Self {
        Self { speak, limits, connections: Arc::new(Connections::new(limits.connections)) }
    }

    /// Serves `listener` until `stop` can be read (a byte, or its end); then accepts nobody any more, waits for the commands
    /// under way and their replies, and returns.
    ///
    /// # Errors
    /// Those of [`Self::accept`] and [`Self::drain`].
    pub fn run(&self, listener: &UnixListener, stop: impl AsFd) -> io::Result<()> {
        self.accept(listener, stop)?;
        self.drain()
    }

    /// Serves the clients of `listener` until `stop` can be read, and goes on serving them.
    ///
    /// # Errors
    /// The listener is broken.
    pub fn accept(&self, listener: &UnixListener, stop: impl AsFd) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.accept_all(listener, &stop)
    }

    /// Ends every connection, each after the command it has under way and its reply. The listener should be closed before: a
    /// client in its queue would wait for a greeting that does not come.
    ///
    /// # Errors
    /// Commands are still under way after [`Limits::drain`].
    pub fn drain(&self) -> io::Result<()> {
        match self.connections.drain(self.limits.drain) {
            0 => Ok(()),
            left => Err(io::Error::new(io::ErrorKind::TimedOut, format!("commands still under way: {left}"))),
        }
    }

    fn accept_all(&self, listener: &UnixListener, stop: &impl AsFd) -> io::Result<()> {
        while !stopped_before_a_client(listener, stop)? {
            match listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(error) if is_shortage(&error) => {
                    tracing::error!(%error, "no connection can be accepted for now");
                    poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&ACCEPT_PAUSE))
                        .or_else(interrupted)?;
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the connection its thread; without one, or above the limit, it is closed.
    fn take(&self, stream: UnixStream) {
        let Some(admitted) = Connections::admit(&self.connections, stream) else {
            tracing::warn!(limit = self.limits.connections, "too many connections: closing the newest");
            return;
        };
        let (speak, deadline) = (Arc::clone(&self.speak), self.limits.deadline);
        let thread = thread::Builder::new().name("connection".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(move || speak.speak(admitted.stream(), deadline)) {
            tracing::error!(%error, "no thread for a connection: closing it");
        }
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
