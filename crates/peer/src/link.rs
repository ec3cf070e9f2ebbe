//! The caller's end of a link: one request at a time, each with a deadline; pings while there is nothing to say.

use crate::hello::{self, Agreed, HelloError};
use crate::trust::{Distrust, check_name};
use crate::wire::{Timed, Wire};
use crate::{Address, Credentials, HostName, LIMITS, Patience, Refusal, Reply, Request, Terms};
use qmp::{Channel, CodecError, Command, Greeting, Message};
use rustix::net::sockopt;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long a farewell may take.
pub(crate) const FAREWELL: Duration = Duration::from_millis(200);

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It is not in the configuration.
    #[error("{0} is not configured as a peer")]
    NoPeer(HostName),
    /// Over TCP there is no link without a certificate.
    #[error("this host has no certificate, and {0} is reached over TCP")]
    NoCredentials(HostName),
    /// Nobody answers there.
    #[error("{peer} at {address} cannot be reached")]
    Connect {
        /// Whom it was to reach.
        peer: HostName,
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// One of the two does not believe the other.
    #[error("what answers at {address} is not taken for {peer}: {source}")]
    Distrust {
        /// Whom it was to reach.
        peer: HostName,
        /// Where.
        address: Address,
        /// Why not.
        source: Distrust,
    },
    /// It was, and said why not.
    #[error("{peer} turns this host away: {source}")]
    TurnedAway {
        /// Whom it was to reach.
        peer: HostName,
        /// Its words.
        source: Refusal,
    },
    /// It is not the agent it should be, or too old or new.
    #[error("{peer} at {address}: {source}")]
    Hello {
        /// Whom it was to reach.
        peer: HostName,
        /// Where.
        address: Address,
        /// What is wrong.
        source: HelloError,
    },
    /// It stalled, or sent what is no message.
    #[error("{peer} at {address}: {source}")]
    Codec {
        /// Whom it was to reach.
        peer: HostName,
        /// Where.
        address: Address,
        /// What is wrong.
        source: CodecError,
    },
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer refuses and has changed nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// Nothing of it left this host.
    #[error("nothing was sent: {0}")]
    NotSent(Lost),
    /// It may have been carried out, or not, or still be.
    #[error("no answer: {0}")]
    Unanswered(Lost),
}

/// What became of the link.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Before this call.
    #[error("the link is lost")]
    Before,
    /// The other end closed it.
    #[error("the peer closed the link")]
    Closed,
    /// It broke, or stalled, or brought what is no message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The peer does not keep to the protocol.
    #[error("the peer does not keep to the protocol: {0}")]
    Protocol(String),
}

/// A link to a peer. Dropping it says farewell and closes it.
#[derive(Debug)]
pub struct Link {
    line: Arc<Mutex<Line>>,
    agreed: Agreed,
    /// Ends the keeper when it is dropped.
    _keeper: mpsc::Sender<()>,
}

impl Link {
    /// Connects to the peer of that name, proves both names and negotiates.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(terms: &Terms, name: &HostName) -> Result<Self, ConnectError> {
        let Some(peer) = terms.peer(name) else {
            return Err(ConnectError::NoPeer(name.clone()));
        };
        let attempt = Attempt { terms, name, address: &peer.address };
        let wire = attempt.wire()?;
        let (line, agreed) = attempt.greet(wire)?;
        let line = Arc::new(Mutex::new(line));
        let keeper = keep(Arc::downgrade(&line), terms.patience.ping);
        Ok(Self { line, agreed, _keeper: keeper })
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Sends a request and waits for its reply. After an error other than a refusal the link is lost.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&self, request: &Request, within: Duration) -> Result<Reply, CallError> {
        let by = Instant::now().checked_add(within);
        lock(&self.line).call(request, by)
    }

    /// Nothing can be sent any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        lock(&self.line).channel.is_none()
    }
}

fn lock(line: &Mutex<Line>) -> std::sync::MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pings while nobody calls, so that the other end knows that there is somebody. Ends with the link.
fn keep(line: Weak<Mutex<Line>>, every: Duration) -> mpsc::Sender<()> {
    let (keeper, ended) = mpsc::channel();
    thread::spawn(move || {
        while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let Some(line) = line.upgrade() else { return };
            // Whoever has it is calling.
            let Ok(mut line) = line.try_lock() else { continue };
            // A lost link is the next caller's to notice.
            if line.idle() >= every && line.call(&Request::Ping, Instant::now().checked_add(every)).is_err() {
                return;
            }
        }
    });
    keeper
}

/// An open channel, for one call at a time.
#[derive(Debug)]
struct Line {
    channel: Option<Channel<Wire>>,
    /// Of the last request.
    id: u64,
    last: Instant,
}

impl Line {
    fn idle(&self) -> Duration {
        self.last.elapsed()
    }

    fn call(&mut self, request: &Request, by: Option<Instant>) -> Result<Reply, CallError> {
        let result = self.exchange(request, by);
        self.last = Instant::now();
        if matches!(result, Err(CallError::Unanswered(_))) {
            self.close();
        }
        result
    }

    fn exchange(&mut self, request: &Request, by: Option<Instant>) -> Result<Reply, CallError> {
        self.id += 1;
        let command = command(request, self.id).map_err(CallError::NotSent)?;
        let channel = self.channel.as_mut().ok_or(CallError::NotSent(Lost::Before))?;
        match channel.send(&command, by) {
            Err(error @ CodecError::TooLong(_)) => return Err(CallError::NotSent(error.into())),
            sent => sent.map_err(|error| CallError::Unanswered(error.into()))?,
        }
        let result = answer(channel, self.id, by).map_err(CallError::Unanswered)?;
        let value = result.map_err(|error| CallError::Refused(error.into()))?;
        let reply = request.parse_reply(value);
        reply.map_err(|refusal| CallError::Unanswered(Lost::Protocol(refusal.desc)))
    }

    fn close(&mut self) {
        if let Some(mut channel) = self.channel.take() {
            channel.stream_mut().close(FAREWELL);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

fn command(request: &Request, id: u64) -> Result<Message, Lost> {
    let Ok(Value::Object(mut members)) = serde_json::to_value(request) else {
        return Err(Lost::Protocol("it has no form in JSON".to_owned()));
    };
    let arguments = match members.remove("arguments") {
        Some(Value::Object(arguments)) => arguments,
        _ => qmp::Object::new(),
    };
    Ok(Message::Command(Command { execute: request.name().to_owned(), arguments, id: Some(id.into()) }))
}

/// What comes back for `id`. One request is outstanding at a time: anything else is no answer.
fn answer(
    channel: &mut Channel<Wire>,
    id: u64,
    by: Option<Instant>,
) -> Result<Result<Value, qmp::CommandError>, Lost> {
    match channel.receive(by)?.ok_or(Lost::Closed)? {
        Message::Reply(reply) if reply.id == Some(id.into()) => Ok(reply.result),
        Message::Reply(_) => Err(Lost::Protocol("an answer that nobody asked for".to_owned())),
        _ => Err(Lost::Protocol("a message that is no answer".to_owned())),
    }
}

/// One attempt to connect.
struct Attempt<'a> {
    terms: &'a Terms,
    name: &'a HostName,
    address: &'a Address,
}

impl Attempt<'_> {
    fn wire(&self) -> Result<Wire, ConnectError> {
        let failed =
            |source| ConnectError::Connect { peer: self.name.clone(), address: self.address.clone(), source };
        match self.address {
            Address::Tcp(address) => {
                let credentials = self.terms.credentials.as_ref();
                let credentials =
                    credentials.ok_or_else(|| ConnectError::NoCredentials(self.name.clone()))?;
                let socket = connect(address, &self.terms.patience).map_err(failed)?;
                self.secure(socket, credentials)
            }
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).map_err(failed)?;
                local(socket).map_err(failed)?.map_err(|distrust| self.distrust(distrust))
            }
        }
    }

    /// TLS, with the peer's name proved.
    fn secure(&self, socket: TcpStream, credentials: &Credentials) -> Result<Wire, ConnectError> {
        let name = self.name.to_server_name().map_err(|error| self.tls(&error))?;
        let connection = ClientConnection::new(Arc::clone(&credentials.client), name);
        let mut stream = StreamOwned::new(connection.map_err(|error| self.tls(&error))?, Timed::new(socket));
        stream.sock.due(Instant::now().checked_add(self.terms.patience.hello));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| self.failed(CodecError::Io(error)))?;
        }
        check_name(stream.conn.peer_certificates(), self.name).map_err(|error| self.distrust(error))?;
        Ok(Wire::Caller(Box::new(stream)))
    }

    fn greet(&self, wire: Wire) -> Result<(Line, Agreed), ConnectError> {
        let by = Instant::now() + self.terms.patience.hello;
        let mut channel = Channel::new(wire, LIMITS);
        let greeting = self.greeting(&mut channel, by)?;
        let chosen = hello::choose(&self.terms.local, self.name, greeting);
        let (agreed, command) = chosen.map_err(|source| ConnectError::Hello {
            peer: self.name.clone(),
            address: self.address.clone(),
            source,
        })?;
        channel.send(&Message::Command(command), Some(by)).map_err(|error| self.failed(error))?;
        match self.receive(&mut channel, by)? {
            Message::Reply(reply) => {
                reply.result.map_err(|error| self.turned_away(error))?;
            }
            _ => return Err(self.tls(&"no answer to the negotiation")),
        }
        Ok((Line { channel: Some(channel), id: 0, last: Instant::now() }, agreed))
    }

    fn greeting(&self, channel: &mut Channel<Wire>, by: Instant) -> Result<Greeting, ConnectError> {
        match self.receive(channel, by)? {
            Message::Greeting(greeting) => Ok(greeting),
            Message::Reply(qmp::Reply { result: Err(error), .. }) => Err(self.turned_away(error)),
            _ => Err(self.tls(&"there is no greeting")),
        }
    }

    fn receive(&self, channel: &mut Channel<Wire>, by: Instant) -> Result<Message, ConnectError> {
        let received = channel.receive(Some(by)).map_err(|error| self.failed(error))?;
        received.ok_or_else(|| self.failed(CodecError::Cut))
    }

    fn turned_away(&self, error: qmp::CommandError) -> ConnectError {
        ConnectError::TurnedAway { peer: self.name.clone(), source: error.into() }
    }

    fn tls(&self, error: &dyn std::fmt::Display) -> ConnectError {
        self.distrust(Distrust::Tls(error.to_string()))
    }

    fn distrust(&self, source: Distrust) -> ConnectError {
        ConnectError::Distrust { peer: self.name.clone(), address: self.address.clone(), source }
    }

    fn failed(&self, error: CodecError) -> ConnectError {
        match Distrust::of_codec(&error) {
            Some(distrust) => self.distrust(distrust),
            None => ConnectError::Codec {
                peer: self.name.clone(),
                address: self.address.clone(),
                source: stalled(error),
            },
        }
    }
}

/// A deadline that TLS ran into is one like any other.
pub(crate) fn stalled(error: CodecError) -> CodecError {
    match error {
        CodecError::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            CodecError::Stalled
        }
        error => error,
    }
}

/// Tries each of the host's addresses in turn, all within the time for one.
fn connect(address: &str, patience: &Patience) -> io::Result<TcpStream> {
    let by = Instant::now() + patience.connect;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return set_up(&socket, patience).map(|()| socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Small messages leave at once, and the kernel notices a host that is gone, also while nothing is said.
pub(crate) fn set_up(socket: &TcpStream, patience: &Patience) -> io::Result<()> {
    let second = Duration::from_secs(1);
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, patience.ping.max(second))?;
    sockopt::set_tcp_keepintvl(socket, (patience.ping / 3).max(second))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    let timeout = u32::try_from(patience.idle.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(socket, timeout)?)
}

/// A socket on this host whose other end may be trusted; a name in the file system alone does not say that.
pub(crate) fn local(socket: UnixStream) -> io::Result<Result<Wire, Distrust>> {
    let other = sockopt::socket_peercred(&socket)?.uid;
    let own = rustix::process::geteuid();
    let trusted = other.is_root() || other == own;
    Ok(if trusted { Ok(Wire::Local(Timed::new(socket))) } else { Err(Distrust::User(other.as_raw())) })
}
