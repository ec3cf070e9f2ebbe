//! One connection, from the features words to its end.

use super::Speak;
use crate::socket::{self, Message, SocketError};
use crate::wire::{CDB_LENGTH, FEATURES_LENGTH, Features, Header, Kind, WireError, encode_reply};
use crate::{Caller, Command, Serve};
use rustix::fd::OwnedFd;
use scsi::Completion;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Closed {
    /// The bytes are not the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A request without its descriptor.
    #[error("no file descriptor in a request")]
    NoDescriptor,
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// Speaks QEMU's protocol.
pub(super) struct Guests(pub(super) Arc<dyn Serve>);

/// What a connection's thread needs.
struct Connection<'a> {
    serve: &'a dyn Serve,
    deadline: Duration,
}

/// One request with all its bytes.
struct Request {
    header: Header,
    data_out: Vec<u8>,
    fd: OwnedFd,
}

impl Speak for Guests {
    fn speak(&self, stream: &UnixStream, deadline: Duration) {
        Connection { serve: &*self.0, deadline }.run(stream);
    }
}

impl Connection<'_> {
    /// Serves the connection to its end, and says why it ended.
    fn run(&self, stream: &UnixStream) {
        let caller = Caller::of(stream);
        tracing::trace!(name: "pr_helper_connect", pid = caller.pid, uid = caller.uid, client = ?caller.name);
        match self.converse(stream, &caller) {
            Ok(never) => match never {},
            Err(Closed::Socket(SocketError::Ended)) => {}
            Err(why) => {
                tracing::info!(pid = caller.pid, client = ?caller.name, "closing a connection: {why}");
            }
        }
        tracing::trace!(name: "pr_helper_disconnect", pid = caller.pid);
    }

    fn converse(&self, stream: &UnixStream, caller: &Caller) -> Result<std::convert::Infallible, Closed> {
        self.negotiate(stream)?;
        loop {
            let request = self.receive(stream)?;
            let header = request.header;
            let [cmd, sa, ..] = header.cdb;
            tracing::trace!(name: "pr_helper_execute", pid = caller.pid, cmd, sa = sa & 0x1F);
            let completion = self.carry_out(caller, request);
            tracing::trace!(name: "pr_helper_done", pid = caller.pid, cmd, sa = sa & 0x1F, status = completion.status.0);
            socket::write(stream, &encode_reply(&completion, header.allocation()), self.deadline)?;
        }
    }

    fn negotiate(&self, stream: &UnixStream) -> Result<Features, Closed> {
        socket::write(stream, &Features::OFFERED.to_bytes(), self.deadline)?;
        let mut word = [0; FEATURES_LENGTH];
        Message::new(stream, self.deadline).read(&mut word)?;
        Ok(Features::parse(word).accept(Features::OFFERED)?)
    }

    /// The next request. The order of the checks is qemu-pr-helper's.
    fn receive(&self, stream: &UnixStream) -> Result<Request, Closed> {
        let mut message = Message::new(stream, self.deadline);
        let mut cdb = [0; CDB_LENGTH];
        message.read(&mut cdb)?;
        let fd = message.take_descriptor().ok_or(Closed::NoDescriptor)?;
        let header = Header::parse(cdb)?;
        let mut data_out = vec![0; header.follows()];
        message.read(&mut data_out)?;
        match message.take_descriptor() {
            Some(_) => Err(SocketError::Descriptors.into()),
            None => Ok(Request { header, data_out, fd }),
        }
    }

    fn carry_out(&self, caller: &Caller, request: Request) -> Completion {
        let Request { header, data_out, fd } = request;
        match header.kind {
            Kind::Cleanup => self.serve.cleanup(caller, fd),
            Kind::Out { .. } | Kind::In { .. } => {
                self.serve.serve(caller, Command { cdb: header.cdb, data_out, fd })
            }
        }
    }
}
