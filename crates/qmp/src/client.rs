//! A client: commands from any thread, answers by their ids, events to whoever listens.
//!
//! A thread reads. What the other end sends is believed as far as it is the protocol: an answer that nobody waits for, an
//! id that was never given out, bytes that are no message end the connection, and everybody who waits is told why.
//! Every wait has a deadline. Reconnecting is the caller's affair.

mod events;
mod pending;

pub use events::{Events, Heard};

use crate::codec::Channel;
use crate::message::{Command, CommandError, Greeting, Object, Printable};
use crate::socket::{self, Socket};
use crate::{CodecError, Limits, Message};
use pending::{Pending, Ticket};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens, or this user may not connect.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server says nothing. QEMU serves one client at a time on a monitor: the others wait.
    #[error("no greeting: another client may be connected, or the process hangs")]
    NoGreeting,
    /// It closed the connection at once.
    #[error("the connection was closed before a greeting: too many clients, or not for this user")]
    Closed,
    /// The first message is something else.
    #[error("it does not speak QMP: the first message is no greeting")]
    NoQmp,
    /// It does not speak the protocol, or exceeds a limit.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The negotiation failed.
    #[error("negotiation")]
    Negotiation(#[from] CallError),
    /// The system has no thread or descriptor left.
    #[error("connection")]
    System(#[source] io::Error),
}

/// Why a command has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The server refuses: it was not carried out.
    #[error("{command}: {error}")]
    Refused {
        /// The command.
        command: String,
        /// What it says.
        error: CommandError,
    },
    /// It was not sent.
    #[error("{command}: not sent: {why}")]
    NotSent {
        /// The command.
        command: String,
        /// Why not.
        why: Arc<str>,
    },
    /// It was sent, and the connection was lost before the answer: it may have been carried out.
    #[error("{command}: no answer: {why}")]
    Lost {
        /// The command.
        command: String,
        /// What happened to the connection.
        why: Arc<str>,
    },
    /// It was sent, and there was no answer in time: it may be carried out yet.
    #[error("{command}: no answer in time")]
    Overdue {
        /// The command.
        command: String,
    },
}

impl CallError {
    /// Whether the command may have been carried out all the same.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Overdue { .. })
    }

    /// What the server refused with.
    #[must_use]
    pub const fn refusal(&self) -> Option<&CommandError> {
        if let Self::Refused { error, .. } = self { Some(error) } else { None }
    }
}

/// How a connection begins.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Bounds on what the server may send.
    pub limits: Limits,
    /// The command that ends the negotiation.
    pub negotiate: &'static str,
    /// Its arguments.
    pub arguments: Object,
}

impl Default for Opening {
    fn default() -> Self {
        Self { limits: Limits::QEMU, negotiate: "qmp_capabilities", arguments: Object::new() }
    }
}

/// A connection past its negotiation.
#[derive(Debug)]
pub struct Client {
    greeting: Greeting,
    stream: Arc<UnixStream>,
    /// Whole messages are sent in turn.
    writing: Mutex<()>,
    pending: Arc<Pending>,
    reader: Option<JoinHandle<()>>,
}

impl Client {
    /// Connects to the socket at `path` and negotiates.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(path: &Path, opening: &Opening, deadline: Instant) -> Result<Self, ConnectError> {
        let failed =
            |error: rustix::io::Errno| ConnectError::Connect { path: path.to_owned(), source: error.into() };
        Self::over(open(path, deadline).map_err(failed)?, opening, deadline)
    }

    /// Negotiates on a connected socket.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn over(stream: UnixStream, opening: &Opening, deadline: Instant) -> Result<Self, ConnectError> {
        let stream = Arc::new(stream);
        let socket = Socket::new(Arc::clone(&stream), opening.limits.descriptors);
        let mut channel = Channel::new(socket, opening.limits);
        let greeting = greeting(&mut channel, deadline)?;
        let pending = Arc::new(Pending::new(opening.limits));
        let reader = read_in_background(channel, Arc::clone(&pending)).map_err(ConnectError::System)?;
        let client = Self { greeting, stream, writing: Mutex::new(()), pending, reader: Some(reader) };
        client.execute(opening.negotiate, opening.arguments.clone(), deadline)?;
        Ok(client)
    }

    /// What the server said of itself.
    #[must_use]
    pub const fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Executes a command and waits for what it returns.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn execute(&self, command: &str, arguments: Object, deadline: Instant) -> Result<Value, CallError> {
        self.call(command, arguments, None, deadline)
    }

    /// Executes a command that brings a file descriptor along, as `getfd` and `add-fd` do.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn execute_with_fd(
        &self,
        command: &str,
        arguments: Object,
        descriptor: impl AsFd,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        self.call(command, arguments, Some(descriptor.as_fd()), deadline)
    }

    /// The events from now on, until the result is dropped.
    #[must_use]
    pub fn events(&self) -> Events {
        self.pending.listen()
    }

    /// Why there is no connection any more; `None` while there is one.
    #[must_use]
    pub fn closed(&self) -> Option<Arc<str>> {
        self.pending.closed()
    }

    fn call(
        &self,
        command: &str,
        arguments: Object,
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        let ticket = self.pending.issue(command)?;
        self.send(&ticket, arguments, descriptor, deadline)?;
        ticket.wait(deadline)
    }

    fn send(
        &self,
        ticket: &Ticket<'_>,
        arguments: Object,
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let command =
            Command { execute: ticket.command().to_owned(), arguments, id: Some(ticket.id().into()) };
        let line = Message::Command(command).to_line();
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match socket::send(&self.stream, &line, descriptor, deadline) {
            Ok(()) => Ok(()),
            Err((0, error)) => Err(ticket.not_sent(&error.to_string())),
            Err((_, error)) => {
                // The server waits for the rest of a message that will not come.
                self.hang_up(&error.to_string());
                Err(ticket.lost())
            }
        }
    }

    fn hang_up(&self, why: &str) {
        self.pending.close(why);
        // Gone already, perhaps.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.hang_up("the client has closed it");
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn greeting(channel: &mut Channel<Socket>, deadline: Instant) -> Result<Greeting, ConnectError> {
    match channel.receive(Some(deadline)) {
        Ok(Some(Message::Greeting(greeting))) => Ok(greeting),
        Ok(Some(_)) => Err(ConnectError::NoQmp),
        Ok(None) => Err(ConnectError::Closed),
        Err(CodecError::Stalled) => Err(ConnectError::NoGreeting),
        Err(error) => Err(error.into()),
    }
}

fn read_in_background(mut channel: Channel<Socket>, pending: Arc<Pending>) -> io::Result<JoinHandle<()>> {
    let read = move || {
        let why = read(&mut channel, &pending);
        pending.close(&why);
        let _ = channel.stream().shutdown();
    };
    thread::Builder::new().name("qmp".into()).spawn(read)
}

/// Reads to the end of the connection, and says what that was.
fn read(channel: &mut Channel<Socket>, pending: &Pending) -> String {
    loop {
        match channel.receive(None) {
            Ok(Some(Message::Reply(reply))) => {
                if let Err(why) = pending.answer(reply) {
                    return why;
                }
            }
            Ok(Some(Message::Event(event))) => pending.tell(&event),
            Ok(Some(Message::Greeting(_))) => return "a second greeting".into(),
            Ok(Some(Message::Command(command))) => {
                return format!("the server sent a command, {}", Printable(&command.execute));
            }
            Ok(None) => return "the server closed the connection".into(),
            Err(error) => return chain(&error),
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Connects; a listener whose queue is full is waited for.
fn open(path: &Path, deadline: Instant) -> rustix::io::Result<UnixStream> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_timeout(&stream, rustix::net::sockopt::Timeout::Send, Some(left))?;
    connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests;
