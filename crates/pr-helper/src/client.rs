//! The agent's end of the helper's second socket (`agent`): a [`Nexus`] of a program that holds no privilege.
//!
//! The device is opened once, for reading and writing; the connection when the first command needs it, and again after it
//! was lost. What this side cannot have sent is [`TransportError::NotSent`]; once a byte of a request left, a lost
//! connection leaves the outcome unknown. The helper carries out one command at a time on a nexus: whatever it answers
//! later, every earlier command on that nexus has ended by then.

use crate::agent::Answer;
use crate::agent::frame::{
    FrameError, HELLO_LENGTH, Hello, REPLY_LENGTH, REQUEST_LENGTH, ReplyHeader, RequestHeader, Role,
};
use crate::socket::{self, Message, SocketError};
use ledger::HandoverId;
use nexus::linux::DEFAULT_TIMEOUT;
use nexus::{Nexus, TransportError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use scsi::{Completion, DataPhase, Request, opcode};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_millis(1);
/// Beyond every patience, and within what a clock can be asked to add.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The helper does not send this command, and why. The cause of a [`TransportError::NotSent`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tenure-pr-helper refuses: {0}")]
pub struct Refused(pub String);

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("cannot connect to tenure-pr-helper at {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("{} was closed without a word: this user is not the helper's --agent-user, or it has too many clients", .0.display())]
    Unwelcome(PathBuf),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<Lost> for io::Error {
    fn from(lost: Lost) -> Self {
        Self::other(lost)
    }
}

/// A logical unit through the helper, for one handover.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    device: OwnedFd,
    handover: HandoverId,
    timeout: Duration,
    stream: Option<UnixStream>,
}

impl Client {
    /// What a command may take unless the caller says otherwise: the helper's own patience with the device, which it needs
    /// the kernel to end, and once more.
    pub const TIMEOUT: Duration = DEFAULT_TIMEOUT.saturating_mul(2);

    /// The way through the helper's agent socket at `path`. `device`: the disk, opened for reading and writing. Nothing is
    /// sent yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, device: OwnedFd, handover: HandoverId) -> Self {
        Self { path: path.into(), device, handover, timeout: Self::TIMEOUT, stream: None }
    }

    /// Sets how long connecting may take, and a command: a millisecond to a day. One that takes longer has an unknown
    /// outcome, and the helper may still be busy with it.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout: timeout.clamp(SHORTEST, LONGEST), ..self }
    }

    /// The connection, taken out: it is put back after an exchange that ended well.
    fn connection(&mut self) -> Result<UnixStream, Lost> {
        match self.stream.take().filter(is_quiet) {
            Some(stream) => Ok(stream),
            None => self.connect(),
        }
    }

    fn connect(&self) -> Result<UnixStream, Lost> {
        let failed = |source| Lost::Connect { path: self.path.clone(), source };
        let stream = open(&self.path, self.timeout).map_err(|errno| failed(errno.into()))?;
        let mut hello = [0; HELLO_LENGTH];
        match Message::due(&stream, Instant::now() + self.timeout).read(&mut hello) {
            Err(SocketError::Ended | SocketError::Cut) => return Err(Lost::Unwelcome(self.path.clone())),
            read => read?,
        }
        let chosen = Hello::parse(&hello)?.choose()?;
        socket::write(&stream, &chosen.to_bytes(), self.timeout)?;
        Ok(stream)
    }

    /// Sends the request; an error means that no byte of it left.
    fn begin(&mut self, header: &RequestHeader) -> Result<(UnixStream, usize), Lost> {
        let stream = self.connection()?;
        let sent = socket::write_with_descriptor(&stream, &header.to_bytes(), &self.device, self.timeout)?;
        Ok((stream, sent))
    }

    /// The rest of the exchange, whose first bytes have left.
    fn finish(
        &mut self,
        stream: UnixStream,
        rest: &[u8],
        data_out: &[u8],
        allocation: u32,
    ) -> Result<Answer, Lost> {
        let deadline = Instant::now() + self.timeout;
        for part in [rest, data_out] {
            socket::write(&stream, part, deadline.saturating_duration_since(Instant::now()))?;
        }
        let mut message = Message::due(&stream, deadline);
        let mut header = [0; REPLY_LENGTH];
        message.read(&mut header)?;
        let header = ReplyHeader::parse(&header)?.for_allocation(allocation)?;
        let mut body = vec![0; header.follows()];
        message.read(&mut body)?;
        self.stream = Some(stream);
        Ok(header.answer(&body))
    }
}

impl Nexus for Client {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let not_sent = |error: io::Error| TransportError::NotSent(error);
        let header = header(self.handover, request).map_err(|error| not_sent(io::Error::other(error)))?;
        let (stream, sent) = self.begin(&header).map_err(|lost| not_sent(lost.into()))?;
        let bytes: [u8; REQUEST_LENGTH] = header.to_bytes();
        let rest = bytes.get(sent..).unwrap_or_default();
        let data_out = if let DataPhase::Out(list) = &request.data { list.as_slice() } else { &[] };
        match self.finish(stream, rest, data_out, header.allocation) {
            Ok(Answer::Completion(completion)) => Ok(completion),
            Ok(Answer::Refused(why)) => Err(not_sent(io::Error::other(Refused(why)))),
            Ok(Answer::NotSent(why)) => Err(not_sent(io::Error::other(why))),
            Ok(Answer::OutcomeUnknown(why)) => Err(TransportError::OutcomeUnknown(io::Error::other(why))),
            Err(lost) => Err(TransportError::OutcomeUnknown(lost.into())),
        }
    }
}

fn header(handover: HandoverId, request: &Request) -> Result<RequestHeader, FrameError> {
    let change = request.cdb.first() == Some(&opcode::PERSISTENT_RESERVE_OUT);
    let role = if change { Role::Change } else { Role::Query };
    let (data_out, allocation) = match &request.data {
        DataPhase::None => (0, 0),
        DataPhase::In(length) => (0, *length),
        DataPhase::Out(list) => (list.len(), 0),
    };
    RequestHeader::new(handover, role, &request.cdb, data_out, allocation)
}

/// Connects; a listener whose queue is full is waited for.
fn open(path: &std::path::Path, timeout: Duration) -> rustix::io::Result<UnixStream> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(timeout))?;
    connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream.into())
}

/// Nothing was heard since the last reply: no end, and no bytes that nobody asked for.
fn is_quiet(stream: &UnixStream) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&now)), Ok(0))
}

#[cfg(test)]
mod tests;
