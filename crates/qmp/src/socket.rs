//! A Unix stream socket with the file descriptors that come and go with its bytes (`SCM_RIGHTS`).

use crate::codec::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Room for the descriptors of one message; the kernel closes what does not fit, and says so.
const CONTROL_LENGTH: usize = rustix::cmsg_space!(ScmRights(8));

/// The reading end of a socket, and what came along.
#[derive(Debug)]
pub struct Socket {
    stream: Arc<UnixStream>,
    descriptors: VecDeque<OwnedFd>,
    limit: usize,
}

impl Socket {
    /// Reads `stream`; at most `limit` descriptors wait to be taken.
    #[must_use]
    pub const fn new(stream: Arc<UnixStream>, limit: usize) -> Self {
        Self { stream, descriptors: VecDeque::new(), limit }
    }

    /// The oldest descriptor that nobody has taken.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Ends the connection both ways.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Both)
    }

    /// What `message` brought. An error: it was too much.
    fn collect(&mut self, control: &mut RecvAncillaryBuffer<'_>, flags: ReturnFlags) -> io::Result<()> {
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > self.limit {
            self.descriptors.clear();
            return Err(io::Error::other("more file descriptors than anybody asked for"));
        }
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); CONTROL_LENGTH];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(buffer)];
        let received = recvmsg(&*self.stream, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        self.collect(&mut control, received.flags)?;
        Ok(received.bytes)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }
}

/// Sends all of `bytes` before `deadline`, a descriptor with the first of them. How much was sent when it failed.
pub(crate) fn send(
    stream: &UnixStream,
    bytes: &[u8],
    mut descriptor: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> Result<(), (usize, io::Error)> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match send_some(stream, rest, descriptor) {
            Ok(length) => {
                sent += length;
                descriptor = None;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(stream, deadline).map_err(|error| (sent, error))?,
            Err(errno) => return Err((sent, errno.into())),
        }
    }
    Ok(())
}

fn send_some(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors
        && !control.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(Errno::NOBUFS);
    }
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn wait(stream: &UnixStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    if left.is_zero() {
        return Err(late());
    }
    let timeout = Timespec::try_from(left).map_err(|_| late())?;
    match poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&timeout)) {
        Ok(0) => Err(late()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
