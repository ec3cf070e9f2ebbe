//! Connecting and logging in, with deadlines: the I/O around [`Requester`]. Used by [`super::session`].

use super::{LoginError, SessionConfig, SessionError};
use crate::login::chap::CHALLENGE_LENGTH;
use crate::login::requester::{Established, LoginPlan, Requester, Step};
use crate::pdu::frame::{Digests, Frame, Framing, Parsed, encode};
use crate::pdu::{Header, LoginRequest, LoginResponse, Opcode};
use crate::receiver::Receiver;
use rustix::rand::{GetRandomFlags, getrandom};
use scsi::IscsiName;
use std::io::{self, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Targets may answer with more text than they may be sent; this is all we read of it.
const LOGIN_FRAMING: Framing =
    Framing { digests: Digests { header: false, data: false }, max_data: 64 * 1024 };
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A connection in its full feature phase.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) receiver: Receiver,
    pub(super) established: Established,
}

/// Connects to the portal and logs in to `target`, or for discovery if there is none.
pub(super) fn open(config: &SessionConfig, target: Option<&IscsiName>) -> Result<Connection, SessionError> {
    let stream = connect(&config.portal, config.timeouts.connect).map_err(SessionError::Connect)?;
    stream.set_nodelay(true).map_err(SessionError::Connect)?;
    abort_on_close(&stream).map_err(SessionError::Connect)?;
    let mut requester = Requester::new(LoginPlan {
        initiator: config.initiator.clone(),
        isid: config.isid,
        target: target.cloned(),
        chap: config.chap.clone(),
        proposal: config.proposal,
        challenge: random().map_err(SessionError::Transport)?,
    });
    let mut receiver = Receiver::new(RECEIVE_BUFFER);
    let deadline = Instant::now() + config.timeouts.login;
    let (mut request, mut data) = requester.start();
    loop {
        send(&stream, &request, &data, deadline).map_err(SessionError::Transport)?;
        match receive(&stream, &mut receiver, &mut requester, deadline)? {
            Step::Send(next, text) => (request, data) = (next, text),
            Step::Done(established) => {
                stream.set_read_timeout(None).map_err(SessionError::Transport)?;
                let write = Some(config.timeouts.command.max(Duration::from_millis(1)));
                stream.set_write_timeout(write).map_err(SessionError::Transport)?;
                return Ok(Connection { stream, receiver, established });
            }
        }
    }
}

fn connect(portal: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, format!("{portal} has no address"));
    for address in portal.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// However the socket is closed, by a crash of the process too, what the target has not received yet is discarded: a
/// command left over from a lost session must not reach it when the network is back.
pub(super) fn abort_on_close(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn random() -> io::Result<[u8; CHALLENGE_LENGTH]> {
    let mut bytes = [0; CHALLENGE_LENGTH];
    match getrandom(&mut bytes, GetRandomFlags::empty())? {
        CHALLENGE_LENGTH => Ok(bytes),
        _ => Err(io::Error::other("the system has no random bytes")),
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn send(mut stream: &TcpStream, request: &LoginRequest, data: &[u8], deadline: Instant) -> io::Result<()> {
    let mut bytes = Vec::new();
    encode(&mut bytes, &request.emit(), data, Digests::default());
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&bytes)
}

fn receive(
    stream: &TcpStream,
    receiver: &mut Receiver,
    requester: &mut Requester,
    deadline: Instant,
) -> Result<Step, SessionError> {
    loop {
        let next = LOGIN_FRAMING.next(receiver.pending());
        match next.map_err(|_| LoginError::Protocol("an over-long login response"))? {
            Parsed::Frame(frame) => {
                let step = respond(requester, &frame)?;
                let length = frame.length;
                receiver.consume(length);
                return Ok(step);
            }
            Parsed::Incomplete(needed) => receiver.make_room(needed),
        }
        let left = remaining(deadline).map_err(SessionError::Transport)?;
        stream.set_read_timeout(Some(left)).map_err(SessionError::Transport)?;
        match receiver.read_from(stream) {
            Ok(0) => return Err(SessionError::Transport(ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(SessionError::Transport(ErrorKind::TimedOut.into()));
            }
            Err(error) => return Err(SessionError::Transport(error)),
        }
    }
}

fn respond(requester: &mut Requester, frame: &Frame<'_>) -> Result<Step, LoginError> {
    if Opcode::of(frame.bhs) != Opcode::LOGIN_RESPONSE {
        return Err(LoginError::Protocol("the answer to a login request is no login response"));
    }
    requester.handle(&LoginResponse::parse(frame.bhs), frame.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn nothing_is_delivered_after_the_connection_was_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut initiator = connect(&address.to_string(), Duration::from_secs(10)).unwrap();
        abort_on_close(&initiator).unwrap();
        let (mut target, _) = listener.accept().unwrap();
        initiator.set_nonblocking(true).unwrap();
        // Until the kernels of both ends hold as much as they can.
        while initiator.write(&[0; 1 << 16]).is_ok() {}
        initiator.shutdown(std::net::Shutdown::Both).unwrap();
        drop(initiator);
        let end = target.read_to_end(&mut Vec::new());
        assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
}
