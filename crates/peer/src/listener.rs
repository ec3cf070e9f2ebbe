//! The listener's end: takes links of peers, checks who they are, and hands their requests to a service in order.
//!
//! A thread for each link. Strangers cost a thread until a deadline, and there is a limit to them; a peer may have a few
//! links. The order of requests is kept here ([`Sequence`]): a service sees nothing out of it.

use crate::hello::{self, Agreed};
use crate::link::{self, FAREWELL, stalled};
use crate::sequence::Sequence;
use crate::trust::{Distrust, find_peer};
use crate::wire::{Timed, Wire};
use crate::{Address, HostName, LIMITS, Refusal, Reply, Request, SharedTerms, Terms};
use qmp::{Channel, CodecError, Command, CommandError, ErrorClass, Message};
use rustls::{ServerConnection, StreamOwned};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

mod accept;
mod guests;

pub use accept::{BindError, Listener};
pub use guests::LinkEnd;
use guests::{Guest, Guests};

/// Who is served.
pub trait Service: Send + Sync + 'static {
    /// A peer has a link: its requests go to the session, one after the other. `link` ends it.
    fn session(&self, peer: &Agreed, link: LinkEnd) -> Box<dyn Session>;

    /// Somebody was not let in, for the log. Many may come.
    fn turned_away(&self, from: &str, why: &TurnedAway);
}

/// One link's requests.
pub trait Session: Send {
    /// Carries out a request that is in order.
    ///
    /// # Errors
    /// The refusal that the peer is told. Whoever refuses has changed nothing: the next request is admitted as if this one
    /// had not come. Only a refused step of the replicas counts as one.
    fn handle(&mut self, request: Request) -> Result<Reply, Refusal>;

    /// The link is no more; `why` is empty if the peer closed it.
    fn ended(&mut self, why: Option<&CodecError>);
}

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
pub enum TurnedAway {
    /// It is not believed.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// There are too many links already.
    #[error("too many links")]
    TooMany,
    /// It stalled, broke off, or sent what is no message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The negotiation failed.
    #[error("{0}")]
    Hello(CommandError),
    /// The system has no more for it.
    #[error("connection")]
    System(#[from] io::Error),
}

/// Who a link's other end can be.
enum Seen {
    /// The certificate says so.
    Peer(HostName),
    /// Whoever it claims to be, of those on this host.
    Local,
}

/// A connection that has just been made.
enum Fresh {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves one connection to its end.
fn serve(fresh: Fresh, terms: &Terms, service: &dyn Service, guest: &mut Guest) -> Result<(), TurnedAway> {
    let by = Instant::now() + terms.patience.hello;
    let (mut wire, seen) = secure(fresh, terms, by)?;
    let seen = match seen {
        Ok(seen) => seen,
        Err(distrust) => {
            turn_away(wire, &distrust, by);
            return Err(distrust.into());
        }
    };
    if let Seen::Peer(name) = &seen
        && !guest.admit(name)
    {
        wire.close(FAREWELL);
        return Err(TurnedAway::TooMany);
    }
    let mut channel = Channel::new(wire, LIMITS);
    let agreed = agree(&mut channel, terms, &seen, by)?;
    if matches!(seen, Seen::Local) && !guest.admit(&agreed.host) {
        return Err(TurnedAway::TooMany);
    }
    let mut session = service.session(&agreed, guest.end());
    let ended = converse(&mut channel, terms, session.as_mut());
    session.ended(ended.err().as_ref());
    channel.stream_mut().close(FAREWELL);
    Ok(())
}

type Secured = (Wire, Result<Seen, Distrust>);

/// TLS or the kernel's word for the other end's user.
fn secure(fresh: Fresh, terms: &Terms, by: Instant) -> Result<Secured, TurnedAway> {
    let socket = match fresh {
        Fresh::Unix(socket) => return Ok((link::local(socket)??, Ok(Seen::Local))),
        Fresh::Tcp(socket) => socket,
    };
    link::set_up(&socket, &terms.patience)?;
    let credentials =
        terms.credentials.as_ref().ok_or_else(|| Distrust::Tls("no certificate here".into()))?;
    let connection = ServerConnection::new(Arc::clone(&credentials.server));
    let connection = connection.map_err(|error| Distrust::Tls(error.to_string()))?;
    let mut stream = StreamOwned::new(connection, Timed::new(socket));
    stream.sock.due(Some(by));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| {
            Distrust::of(&error).map_or_else(|| stalled(CodecError::Io(error)).into(), TurnedAway::from)
        })?;
    }
    let seen = find_peer(stream.conn.peer_certificates(), terms).map(Seen::Peer);
    Ok((Wire::Listener(Box::new(stream)), seen))
}

/// Tells a host that proved its name why it is not served.
fn turn_away(wire: Wire, distrust: &Distrust, by: Instant) {
    let mut channel = Channel::new(wire, LIMITS);
    // It is only a courtesy.
    let _ = channel.send(&reply(None, Err(Refusal::new("NotAPeer", distrust.to_string()))), Some(by));
    channel.stream_mut().close(FAREWELL);
}

/// The greeting and the negotiation.
fn agree(channel: &mut Channel<Wire>, terms: &Terms, seen: &Seen, by: Instant) -> Result<Agreed, TurnedAway> {
    channel.send(&Message::Greeting(hello::greeting(&terms.local)), Some(by))?;
    let Some(Message::Command(command)) = channel.receive(Some(by))? else {
        return Err(CodecError::Cut.into());
    };
    let agreed = hello::agree(&terms.local, &command, |claim| claimed(terms, seen, claim));
    let result = agreed.as_ref().map(|_| Reply::Done(Default::default()));
    let result = result.map_err(|error| Refusal::from(error.clone()));
    channel.send(&reply(command.id, result), Some(by))?;
    agreed.map_err(TurnedAway::Hello)
}

/// Whether the other end may call itself that.
fn claimed(terms: &Terms, seen: &Seen, claim: &str) -> Result<HostName, CommandError> {
    let refused = || CommandError {
        class: ErrorClass::from("NotAPeer".to_owned()),
        desc: Distrust::Claim(claim.chars().take(80).collect()).to_string(),
    };
    let name: HostName = claim.parse().map_err(|_| refused())?;
    let may = match seen {
        Seen::Peer(proved) => *proved == name,
        Seen::Local => terms.peer(&name).is_some_and(|peer| matches!(peer.address, Address::Unix(_))),
    };
    if may { Ok(name) } else { Err(refused()) }
}

/// Request and reply, until the peer closes the link or breaks the protocol.
fn converse(channel: &mut Channel<Wire>, terms: &Terms, session: &mut dyn Session) -> Result<(), CodecError> {
    let mut sequence = Sequence::new();
    loop {
        let by = Instant::now() + terms.patience.idle;
        let command = match channel.receive(Some(by))? {
            None => return Ok(()),
            Some(Message::Command(command)) => command,
            Some(_) => return Err(CodecError::Message(qmp::MessageError::Unknown)),
        };
        let Command { execute, arguments, id } = command;
        let result =
            Request::parse(&execute, arguments).and_then(|request| in_order(&mut sequence, request, session));
        channel.send(&reply(id, result), Some(Instant::now() + terms.patience.hello))?;
    }
}

fn in_order(sequence: &mut Sequence, request: Request, session: &mut dyn Session) -> Result<Reply, Refusal> {
    let before = *sequence;
    sequence.admit(&request)?;
    if request == Request::Ping {
        return Ok(Reply::Done(Default::default()));
    }
    let counts = request.advance().is_some();
    session.handle(request).inspect_err(|_| {
        if !counts {
            *sequence = before;
        }
    })
}

fn reply(id: Option<serde_json::Value>, result: Result<Reply, Refusal>) -> Message {
    let result = result.and_then(|reply| {
        serde_json::to_value(&reply).map_err(|error| Refusal::new("GenericError", error.to_string()))
    });
    Message::Reply(qmp::Reply { id, result: result.map_err(CommandError::from) })
}
