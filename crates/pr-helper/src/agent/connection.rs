//! One connection of an agent: its credentials, the hellos, and requests to the end.

use super::frame::{FrameError, HELLO_LENGTH, Hello, REQUEST_LENGTH, RequestHeader, encode_reply};
use super::{Attend, Command};
use crate::Caller;
use crate::server::Speak;
use crate::socket::{self, Message, SocketError};
use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Closed {
    /// The bytes are not the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A request without its descriptor.
    #[error("no file descriptor in a request")]
    NoDescriptor,
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// Speaks with agents.
pub(super) struct Agents {
    attend: Arc<dyn Attend>,
    uid: u32,
}

impl Speak for Agents {
    fn speak(&self, stream: &UnixStream, deadline: Duration) {
        let caller = Caller::certain(stream);
        let Some(caller) = caller.as_ref().filter(|caller| self.admits(caller.uid)) else {
            let (pid, uid) = caller.map_or((None, None), |caller| (caller.pid, Some(caller.uid)));
            let agent = self.uid;
            tracing::error!(pid, uid, agent, "somebody who is not the agent at the agent's socket: closing");
            return;
        };
        match self.converse(stream, caller, deadline) {
            Ok(never) => match never {},
            Err(Closed::Socket(SocketError::Ended)) => {}
            Err(why) => tracing::warn!(pid = caller.pid, "closing a connection of the agent: {why}"),
        }
    }
}

impl Agents {
    pub(super) fn new(attend: Arc<dyn Attend>, uid: u32) -> Self {
        Self { attend, uid }
    }

    /// Root could do all of this without being asked.
    const fn admits(&self, uid: u32) -> bool {
        uid == 0 || uid == self.uid
    }

    fn converse(
        &self,
        stream: &UnixStream,
        caller: &Caller,
        deadline: Duration,
    ) -> Result<Infallible, Closed> {
        socket::write(stream, &Hello::OWN.to_bytes(), deadline)?;
        let mut hello = [0; HELLO_LENGTH];
        Message::new(stream, deadline).read(&mut hello)?;
        Hello::parse(&hello)?.chosen()?;
        loop {
            let command = receive(stream, deadline)?;
            let allocation = command.allocation;
            let answer = self.attend.attend(caller, command);
            socket::write(stream, &encode_reply(&answer, allocation), deadline)?;
        }
    }
}

fn receive(stream: &UnixStream, deadline: Duration) -> Result<Command, Closed> {
    let mut message = Message::new(stream, deadline);
    let mut header = [0; REQUEST_LENGTH];
    message.read(&mut header)?;
    let header = RequestHeader::parse(&header)?;
    // At most `frame::DATA_OUT_MAX`, so the conversion is exact.
    let mut data_out = vec![0; usize::try_from(header.data_out).unwrap_or(0)];
    message.read(&mut data_out)?;
    Ok(Command {
        handover: header.handover,
        role: header.role,
        cdb: header.cdb().to_vec(),
        data_out,
        allocation: usize::try_from(header.allocation).unwrap_or(0),
        fd: message.take_descriptor().ok_or(Closed::NoDescriptor)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::*;
    use std::io::Read;

    struct Nobody;

    impl Attend for Nobody {
        fn attend(&self, _: &Caller, _: Command) -> Answer {
            panic!("nothing was asked")
        }
    }

    #[test]
    fn root_and_the_configured_user_are_the_agent_and_nobody_else() {
        let agents = Agents::new(Arc::new(Nobody), 1000);
        assert!(agents.admits(0) && agents.admits(1000));
        assert!(!agents.admits(1001) && !agents.admits(u32::MAX) && !agents.admits(65534));
        assert!(!Agents::new(Arc::new(Nobody), 0).admits(1));
    }

    /// What this process can see of itself: whether it is let in depends on who the agent is.
    #[test]
    fn the_kernels_word_on_the_peer_decides_and_a_stranger_gets_no_byte() {
        let own = rustix::process::geteuid().as_raw();
        for (agent, admitted) in [(own, true), (own + 1, own == 0)] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.shutdown(std::net::Shutdown::Write).unwrap();
            Agents::new(Arc::new(Nobody), agent).speak(&there, Duration::from_secs(10));
            drop(there);
            let mut got = Vec::new();
            here.read_to_end(&mut got).unwrap();
            assert_eq!(!got.is_empty(), admitted);
        }
    }
}
