//! One connection's socket, buffers and deadlines: many PDUs per read, one write per batch of answers.
//!
//! The socket never blocks the thread: a peer that takes no bytes is not read from either, and is
//! dropped in time; so is one that stops within a PDU, or that answers no ping.

use super::registry::Ticket;
use super::session::Session;
use super::{Limits, Shared};
use crate::login::responder::{Admitted, End, Reply, Responder};
use crate::login::{LOGIN_DATA_LIMIT, chap::CHALLENGE_LENGTH};
use crate::pdu::frame::{Digests, Framing, Parsed, encode};
use crate::pdu::{Header, LoginRequest, LoginStatus, Opcode};
use crate::receiver::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Room for a full pipeline of small writes in one read.
const RECEIVE_BUFFER: usize = 512 * 1024;
/// Answers beyond this wait for the peer to take those it has.
pub(super) const HIGH_WATER: usize = 1 << 20;
const LOGIN_FRAMING: Framing =
    Framing { digests: Digests { header: false, data: false }, max_data: LOGIN_DATA_LIMIT };
/// How long a connection that is being closed may take to carry its last bytes.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub(super) fn serve(stream: TcpStream, shared: &Shared, ticket: &Ticket) {
    // Whatever ends a connection ends it for good: there is nobody to tell.
    let _ = Connection::new(stream, shared.limits, ticket).and_then(|connection| connection.run(shared));
}

struct Connection<'a> {
    ticket: &'a Ticket,
    stream: TcpStream,
    limits: Limits,
    receiver: Receiver,
    out: Vec<u8>,
    written: usize,
    /// When the PDU now at the front of the receiver began.
    partial_since: Option<Instant>,
    /// When the peer last took bytes while there were some to take.
    blocked_since: Option<Instant>,
    heard: Instant,
    /// The end of the input was seen, though perhaps not reached.
    half_closed: bool,
}

/// What [`Connection::wait`] saw.
#[derive(PartialEq, Eq)]
enum Input {
    None,
    Received,
    End,
}

impl<'a> Connection<'a> {
    fn new(stream: TcpStream, limits: Limits, ticket: &'a Ticket) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            ticket,
            stream,
            limits,
            receiver: Receiver::new(LOGIN_FRAMING.max_pdu()),
            out: Vec::new(),
            written: 0,
            partial_since: None,
            blocked_since: None,
            heard: Instant::now(),
            half_closed: false,
        })
    }

    fn run(mut self, shared: &Shared) -> io::Result<()> {
        let Some(admitted) = self.login(shared)? else {
            return self.farewell();
        };
        let local = self.stream.local_addr()?;
        let mut session = Session::new(shared, self.ticket, &admitted, local);
        let outcome = self.full_feature(&mut session);
        session.end();
        if outcome.is_ok() { self.farewell() } else { outcome }
    }

    /// The login phase; `None` if it failed and the reason is in `out`.
    fn login(&mut self, shared: &Shared) -> io::Result<Option<Box<Admitted>>> {
        let [identifier, challenge @ ..] = random()?;
        let mut responder = Responder::new(shared.policy.clone(), challenge, identifier);
        let deadline = Instant::now() + self.limits.login;
        loop {
            match LOGIN_FRAMING.next(self.receiver.pending()).map_err(io::Error::other)? {
                Parsed::Incomplete(_) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || self.wait(Some(left), true)? == Input::End {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Parsed::Frame(frame) => {
                    if Opcode::of(frame.bhs) != Opcode::LOGIN_REQUEST {
                        return Err(ErrorKind::InvalidData.into());
                    }
                    let request = LoginRequest::parse(frame.bhs);
                    let reply = responder.handle(&request, frame.data);
                    let length = frame.length;
                    self.receiver.consume(length);
                    let reply = admit(shared, self.ticket, &responder, &request, reply);
                    encode(&mut self.out, &reply.response.emit(), &reply.data, Digests::default());
                    match reply.end {
                        End::Continue => self.flush()?,
                        End::Failed => return Ok(None),
                        End::Established(admitted) => return Ok(Some(admitted)),
                    }
                }
            }
        }
    }

    fn full_feature(&mut self, session: &mut Session<'_>) -> io::Result<()> {
        self.receiver.make_room(RECEIVE_BUFFER.max(session.framing().max_pdu()));
        let mut input = Input::Received;
        loop {
            let now = Instant::now();
            if input == Input::End || self.ticket.is_ended() {
                session.say_goodbye(&mut self.out);
                return self.flush();
            }
            if input == Input::Received {
                self.heard = now;
                session.heard();
            }
            // First those that wait, or new ones would fill what the peer has just made room for every time.
            session.execute_due(now, &mut self.out);
            let starved = self.process(session, now);
            session.execute_due(now, &mut self.out);
            self.flush()?;
            session.account(self.out.len());
            if session.is_closing() {
                return Ok(());
            }
            self.check_deadlines(session, now)?;
            let idle = starved || self.backlog() >= HIGH_WATER;
            let timeout = if idle { self.timeout(session.next_due(), now) } else { Some(Duration::ZERO) };
            input = self.wait(timeout, starved)?;
        }
    }

    /// Handles PDUs until none is whole (`true`) or the peer has to take answers first (`false`).
    fn process(&mut self, session: &mut Session<'_>, now: Instant) -> bool {
        while self.backlog() < HIGH_WATER && !session.is_closing() && !self.ticket.is_ended() {
            match session.framing().next(self.receiver.pending()) {
                Ok(Parsed::Frame(frame)) => {
                    let length = frame.length;
                    session.receive(&frame, now, &mut self.out);
                    self.receiver.consume(length);
                    self.partial_since = None;
                }
                Ok(Parsed::Incomplete(_)) => {
                    let partial = !self.receiver.pending().is_empty();
                    self.partial_since = partial.then(|| self.partial_since.unwrap_or(now));
                    return true;
                }
                Err(_) => session.close(),
            }
        }
        false
    }

    fn backlog(&self) -> usize {
        self.out.len() - self.written
    }

    fn check_deadlines(&mut self, session: &mut Session<'_>, now: Instant) -> io::Result<()> {
        let over = |since: Option<Instant>| since.is_some_and(|since| now - since >= self.limits.stall);
        if over(self.partial_since) || over(self.blocked_since) {
            return Err(ErrorKind::TimedOut.into());
        }
        let silence = now - self.heard;
        if silence >= 2 * self.limits.ping {
            return Err(ErrorKind::TimedOut.into());
        }
        if silence >= self.limits.ping {
            session.ping(&mut self.out);
            self.flush()?;
        }
        Ok(())
    }

    /// Time until something is to be done even if the peer stays silent.
    fn timeout(&self, due: Option<Instant>, now: Instant) -> Option<Duration> {
        let silence = now - self.heard;
        let ping = if silence < self.limits.ping { self.limits.ping } else { 2 * self.limits.ping };
        // As long as the peer has not taken enough nothing is executed, so that there is nothing to wake up for.
        let due = due.filter(|_| self.out.len() < HIGH_WATER);
        let stall = [self.partial_since, self.blocked_since].into_iter().flatten();
        stall
            .map(|since| since + self.limits.stall)
            .chain([self.heard + ping])
            .chain(due)
            .min()
            .map(|until| until.saturating_duration_since(now))
    }

    /// Waits until the peer sends (if `read`), takes what it has not taken yet, or the time is over.
    fn wait(&mut self, timeout: Option<Duration>, read: bool) -> io::Result<Input> {
        let read = read && self.backlog() < HIGH_WATER;
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, read);
        interest.set(PollFlags::OUT, self.backlog() > 0);
        // An end that comes from outside is to be seen although the peer is not read from.
        interest.set(PollFlags::RDHUP, !self.half_closed);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = [PollFd::new(&self.stream, interest)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events = fds.first().map_or(PollFlags::empty(), PollFd::revents);
        if events.contains(PollFlags::OUT) {
            self.flush()?;
        }
        self.half_closed |= events.contains(PollFlags::RDHUP);
        if self.ticket.is_ended() {
            return Ok(Input::End);
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Ok(Input::None);
        }
        match self.receiver.read_from(&self.stream) {
            Ok(0) => Ok(Input::End),
            Ok(_) => Ok(Input::Received),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(Input::None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes what the peer takes without waiting.
    fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match (&self.stream).write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    self.blocked_since = None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked_since.get_or_insert_with(Instant::now);
                    self.forget_written();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out.shrink_to(2 * HIGH_WATER);
        (self.written, self.blocked_since) = (0, None);
        Ok(())
    }

    /// Lets go of what the peer has taken although it has not taken all: one that always leaves something would
    /// otherwise have everything kept that was ever sent to it.
    fn forget_written(&mut self) {
        if self.written >= HIGH_WATER / 4 {
            self.out.drain(..self.written);
            self.out.shrink_to(2 * HIGH_WATER);
            self.written = 0;
        }
    }

    /// Carries the last bytes, for a while.
    fn farewell(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + FAREWELL;
        self.flush()?;
        while self.backlog() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.wait(Some(left), false)?;
            self.flush()?;
        }
        Ok(())
    }
}

/// A finished login becomes a session: an older one of the same initiator port ends first (RFC 7143 6.3.5).
fn admit(
    shared: &Shared,
    ticket: &Ticket,
    responder: &Responder,
    request: &LoginRequest,
    mut reply: Reply,
) -> Reply {
    let End::Established(admitted) = &reply.end else { return reply };
    if admitted.discovery {
        reply.response.tsih = 1;
        return reply;
    }
    let patience = shared.limits.login;
    match shared.registry.reinstate(ticket, &admitted.initiator, admitted.isid, patience) {
        Some(tsih) => {
            reply.response.tsih = tsih;
            reply
        }
        None => responder.refuse(request, LoginStatus::SERVICE_UNAVAILABLE),
    }
}

fn random() -> io::Result<[u8; CHALLENGE_LENGTH + 1]> {
    let mut bytes = [0; CHALLENGE_LENGTH + 1];
    let count = getrandom(&mut bytes, GetRandomFlags::empty())?;
    if count == bytes.len() { Ok(bytes) } else { Err(io::Error::other("the system has no random bytes")) }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;
    use rustix::net::sockopt::set_socket_send_buffer_size;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn answers_do_not_pile_up_for_a_peer_that_always_leaves_some() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_socket_send_buffer_size(&stream, 1 << 16).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let ticket = Registry::new(1).enter(stream.try_clone().unwrap()).unwrap();
        let mut connection = Connection::new(stream, Limits::default(), &ticket).unwrap();
        let mut piece = [0; HIGH_WATER / 64];
        for _ in 0..512 {
            while connection.backlog() < HIGH_WATER {
                connection.out.extend_from_slice(&piece);
            }
            connection.flush().unwrap();
            assert!(connection.backlog() > 0, "the peer took everything");
            assert!(connection.out.len() < 2 * HIGH_WATER, "{} bytes are kept", connection.out.len());
            peer.read_exact(&mut piece).unwrap();
        }
    }

    #[test]
    fn a_due_command_that_waits_for_a_slow_peer_does_not_keep_the_thread_busy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ticket = Registry::new(1).enter(stream.try_clone().unwrap()).unwrap();
        let mut connection = Connection::new(stream, Limits::default(), &ticket).unwrap();
        let now = Instant::now();
        assert_eq!(connection.timeout(Some(now), now), Some(Duration::ZERO), "it can be executed");
        (connection.out, connection.written) = (vec![0; HIGH_WATER], HIGH_WATER - 1);
        assert!(connection.timeout(Some(now), now) > Some(Duration::from_secs(1)), "it is not executed yet");
    }
}
