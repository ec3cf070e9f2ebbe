//! One client's connection.

use super::outbox::Outbox;
use super::sessions::Place;
use super::{ServerLimits, Service, now};
use crate::codec::Channel;
use crate::message::{Command, CommandError, Event, Object, Reply};
use crate::socket::{self, Socket};
use crate::{CodecError, Message};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fd::OwnedFd;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// The command that ends the negotiation, as with QEMU.
const NEGOTIATE: &str = "qmp_capabilities";

/// Who connected, as the kernel says (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The process; `None` for one of another PID namespace.
    pub pid: Option<u32>,
}

impl Caller {
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        // Not rustix: it takes a process of another PID namespace, which has number 0 here, for impossible.
        let peer = getsockopt(stream, PeerCredentials).ok()?;
        let pid = u32::try_from(peer.pid()).ok().filter(|&pid| pid != 0);
        Some(Self { uid: peer.uid(), gid: peer.gid(), pid })
    }
}

/// One client, as the service sees it.
#[derive(Debug)]
pub struct Session {
    caller: Caller,
    connection: Arc<Connection>,
    descriptors: Mutex<BTreeMap<String, OwnedFd>>,
}

impl Session {
    /// Who it is.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Tells this client an event, with the time of now. `false`: it is gone.
    pub fn emit(&self, event: &str, data: Object) -> bool {
        self.connection.tell(&Event { event: event.to_owned(), data, timestamp: now() })
    }

    /// Says any message to this client as it is: QEMU's stand-in also lies. `false`: it is gone.
    pub fn say(&self, message: &Message) -> bool {
        self.connection.put(message)
    }

    /// Whether the client can be told something yet.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.connection.closed.load(Ordering::Acquire)
    }

    /// The descriptor that the client gave under this name.
    pub fn take_descriptor(&self, name: &str) -> Option<OwnedFd> {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// Keeps a descriptor under a name; an older one of that name is closed.
    fn keep(&self, name: &str, descriptor: OwnedFd, limit: usize) -> Result<Value, CommandError> {
        let mut kept = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= limit && !kept.contains_key(name) {
            return Err(CommandError::generic("too many file descriptors"));
        }
        kept.insert(name.to_owned(), descriptor);
        Ok(Object::new().into())
    }
}

/// The way to a client, shared with whoever emits events.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Arc<UnixStream>,
    outbox: Outbox,
    negotiated: AtomicBool,
    closed: AtomicBool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, unread: usize) -> Self {
        let (negotiated, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { stream: Arc::new(stream), outbox: Outbox::new(unread), negotiated, closed }
    }

    /// Tells an event to a client that has negotiated. `false`: it is gone.
    pub(super) fn tell(&self, event: &Event) -> bool {
        !self.negotiated.load(Ordering::Acquire) || self.put(&Message::Event(event.clone()))
    }

    /// No command is read any more; those under way are answered.
    pub(super) fn stop_reading(&self) {
        // The client may have gone already.
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    fn put(&self, message: &Message) -> bool {
        let room = self.outbox.put(message.to_line());
        if !room {
            self.abandon();
        }
        room
    }

    /// Sends what is put in until nothing more comes, or the client does not take it.
    fn write(&self, limits: &ServerLimits) {
        while let Some(line) = self.outbox.take() {
            if socket::send(&self.stream, &line, None, Instant::now() + limits.deadline).is_err() {
                return self.abandon();
            }
        }
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
        self.outbox.abandon();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A session with its place among the others, on the way to its thread.
pub(super) struct Admitted {
    pub(super) place: Place,
    pub(super) caller: Caller,
    pub(super) limits: ServerLimits,
}

impl Admitted {
    /// Serves the client to its end.
    pub(super) fn serve(self, service: &dyn Service) {
        let connection = Arc::clone(self.place.connection());
        thread::scope(|scope| {
            let writer = thread::Builder::new().name("writer".into());
            let limits = self.limits;
            let at_writer = Arc::clone(&connection);
            if writer.spawn_scoped(scope, move || at_writer.write(&limits)).is_ok() {
                self.converse(service, &connection);
            }
            connection.outbox.end();
        });
        connection.closed.store(true, Ordering::Release);
    }

    fn converse(&self, service: &dyn Service, connection: &Arc<Connection>) {
        let mut limits = self.limits.client;
        if !service.takes_descriptors() {
            limits.descriptors = 0;
        }
        let mut channel =
            Channel::new(Socket::new(Arc::clone(&connection.stream), limits.descriptors), limits);
        let descriptors = Mutex::default();
        let session = Session { caller: self.caller, connection: Arc::clone(connection), descriptors };
        connection.put(&Message::Greeting(service.greeting()));
        let deadline = Instant::now() + self.limits.deadline;
        loop {
            let negotiated = connection.negotiated.load(Ordering::Acquire);
            let reply = match channel.receive((!negotiated).then_some(deadline)) {
                Ok(Some(Message::Command(command))) => {
                    session.answer(service, &mut channel, command, &limits)
                }
                Ok(Some(_)) => return complain(connection, "only commands are understood here"),
                Ok(None) | Err(CodecError::Cut | CodecError::Io(_)) => return,
                Err(CodecError::Stalled) => return complain(connection, "the negotiation took too long"),
                Err(error) => return complain(connection, &error.to_string()),
            };
            if !connection.put(&Message::Reply(reply)) {
                return;
            }
        }
    }
}

impl Session {
    fn answer(
        &self,
        service: &dyn Service,
        channel: &mut Channel<Socket>,
        command: Command,
        limits: &crate::Limits,
    ) -> Reply {
        let Command { execute, arguments, id } = command;
        let negotiated = self.connection.negotiated.load(Ordering::Acquire);
        let result = match execute.as_str() {
            NEGOTIATE if !negotiated => self.negotiate(&arguments),
            _ if !negotiated => Err(before_negotiation()),
            NEGOTIATE => Err(after_negotiation()),
            "getfd" if service.takes_descriptors() => self.getfd(channel, &arguments, limits.descriptors),
            command => service.execute(self, command, arguments),
        };
        Reply { id, result: result.and_then(|value| fitting(value, limits.line)) }
    }

    fn negotiate(&self, arguments: &Object) -> Result<Value, CommandError> {
        let enabled = arguments.get("enable").and_then(Value::as_array);
        if enabled.is_some_and(|list| !list.is_empty()) || arguments.keys().any(|name| name != "enable") {
            return Err(CommandError::generic("there is no such capability"));
        }
        self.connection.negotiated.store(true, Ordering::Release);
        Ok(Object::new().into())
    }

    fn getfd(
        &self,
        channel: &mut Channel<Socket>,
        arguments: &Object,
        limit: usize,
    ) -> Result<Value, CommandError> {
        let descriptor = channel.stream_mut().take_descriptor();
        let name = arguments.get("fdname").and_then(Value::as_str);
        let name = name.ok_or_else(|| CommandError::generic("Parameter 'fdname' is missing"))?;
        let missing = || CommandError::generic("No file descriptor supplied via SCM_RIGHTS");
        self.keep(name, descriptor.ok_or_else(missing)?, limit)
    }
}

/// A result that the client would refuse for its length is none.
fn fitting(value: Value, limit: usize) -> Result<Value, CommandError> {
    // Room for the id and the frame around it.
    let length = value.to_string().len() + 1024;
    if length > limit { Err(CommandError::generic("the result is too long")) } else { Ok(value) }
}

fn before_negotiation() -> CommandError {
    let desc = format!("Expecting capabilities negotiation with '{NEGOTIATE}'");
    CommandError { desc, ..CommandError::not_found("") }
}

fn after_negotiation() -> CommandError {
    let desc = "Capabilities negotiation is already complete, command ignored";
    CommandError { desc: desc.into(), ..CommandError::not_found("") }
}

/// The last word to a client that does not speak the protocol.
fn complain(connection: &Connection, why: &str) {
    let reply = Reply { id: None, result: Err(CommandError::generic(why)) };
    connection.put(&Message::Reply(reply));
}
