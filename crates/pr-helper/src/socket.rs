//! A connected Unix stream socket, read with the file descriptors that come along (`SCM_RIGHTS`) and with a deadline.
//!
//! Used by `server`, `agent` and `client`. No descriptor outlives the call that may not keep it, however many a client sends.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Room for one descriptor more than is accepted; the kernel closes what does not fit, and says so.
const CONTROL_LENGTH: usize = rustix::cmsg_space!(ScmRights(2));

/// Why nothing more can be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// The peer closed between two messages: the regular end.
    #[error("the client closed the connection")]
    Ended,
    /// The peer closed inside a message.
    #[error("the client closed the connection inside a message")]
    Cut,
    /// The peer began a message, or got a reply, and stalled.
    #[error("the client stalled")]
    Stalled,
    /// A second descriptor came with one message.
    #[error("more than one file descriptor in a request")]
    Descriptors,
    /// Anything else.
    #[error("socket")]
    Io(#[from] io::Error),
}

impl From<Errno> for SocketError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// One message under way: from its first byte on it has a deadline, and it carries at most one descriptor.
pub(crate) struct Message<'a> {
    stream: &'a UnixStream,
    limit: Duration,
    deadline: Option<Instant>,
    descriptor: Option<OwnedFd>,
}

impl<'a> Message<'a> {
    /// A message that has not begun; its sender may take all the time in the world to do so, and then `limit`.
    pub(crate) const fn new(stream: &'a UnixStream, limit: Duration) -> Self {
        Self { stream, limit, deadline: None, descriptor: None }
    }

    /// A message that is waited for, until `deadline`.
    pub(crate) const fn due(stream: &'a UnixStream, deadline: Instant) -> Self {
        Self { stream, limit: Duration::ZERO, deadline: Some(deadline), descriptor: None }
    }

    /// The descriptor that came along so far.
    pub(crate) const fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Fills `buffer` with the next bytes of the message.
    pub(crate) fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), SocketError> {
        while !buffer.is_empty() {
            let length = self.read_some(buffer)?;
            if length == 0 {
                return Err(if self.deadline.is_some() { SocketError::Cut } else { SocketError::Ended });
            }
            self.deadline.get_or_insert_with(|| Instant::now() + self.limit);
            buffer = buffer.get_mut(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, SocketError> {
        let Some(deadline) = self.deadline else { return self.receive(buffer, RecvFlags::empty()) };
        loop {
            match self.receive(buffer, RecvFlags::DONTWAIT) {
                Err(SocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.stream, PollFlags::IN, deadline)?;
                }
                done => return done,
            }
        }
    }

    /// One `recvmsg`, and what to do with the descriptors it gave.
    fn receive(&mut self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, SocketError> {
        let mut space = [MaybeUninit::uninit(); CONTROL_LENGTH];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(self.stream, &mut [IoSliceMut::new(buffer)], &mut control, flags)
        })?;
        let mut too_many = received.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
            for descriptor in descriptors {
                too_many |= self.descriptor.is_some();
                self.descriptor.get_or_insert(descriptor);
            }
        }
        if too_many { Err(SocketError::Descriptors) } else { Ok(received.bytes) }
    }
}

/// Sends all of `bytes` within `limit`.
pub(crate) fn write(stream: &UnixStream, mut bytes: &[u8], limit: Duration) -> Result<(), SocketError> {
    let mut deadline = None;
    while !bytes.is_empty() {
        match send(stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + limit);
                wait(stream, PollFlags::OUT, deadline)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Sends the first of `bytes` with a descriptor within `limit`; how many were sent. An error: none were.
pub(crate) fn write_with_descriptor(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: impl AsFd,
    limit: Duration,
) -> Result<usize, SocketError> {
    let deadline = Instant::now() + limit;
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(stream, PollFlags::OUT, deadline)?,
            sent => return Ok(sent?),
        }
    }
}

/// Waits until `fd` is ready, at most until `deadline`.
fn wait(fd: impl AsFd, ready: PollFlags, deadline: Instant) -> Result<(), SocketError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(SocketError::Stalled);
    }
    let timeout = Timespec::try_from(left).map_err(|_| SocketError::Stalled)?;
    match poll(&mut [PollFd::new(&fd, ready)], Some(&timeout)) {
        Ok(0) => Err(SocketError::Stalled),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
