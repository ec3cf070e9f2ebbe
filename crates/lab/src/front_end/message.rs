//! The vhost-user protocol as a front end speaks it: a header of twelve bytes in the machine's order, a payload, descriptors
//! beside it (vhost-user specification, "Message specification").
//!
//! By hand and not with the crate that the device uses, so that a misunderstanding does not agree with itself; and everything can be said, what is
//! wrong too. Used by `connection`, and by tests that lie.

use anyhow::{Context, Result, bail, ensure};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::IoSliceMut;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an answer may take; a ring that is asked to stop finishes its requests first.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most descriptors of one message.
const DESCRIPTORS: usize = 8;
/// The longest payload that is believed.
const PAYLOAD: usize = 4096;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// What a front end asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// Which virtio and vhost features there are.
    pub const GET_FEATURES: Self = Self(1);
    /// Those of them that hold.
    pub const SET_FEATURES: Self = Self(2);
    /// The beginning of a session.
    pub const SET_OWNER: Self = Self(3);
    /// All of the guest's memory.
    pub const SET_MEM_TABLE: Self = Self(5);
    /// Where pages that are written are marked.
    pub const SET_LOG_BASE: Self = Self(6);
    /// How many descriptors a ring has.
    pub const SET_VRING_NUM: Self = Self(8);
    /// Where a ring is.
    pub const SET_VRING_ADDR: Self = Self(9);
    /// Where in the available ring to begin.
    pub const SET_VRING_BASE: Self = Self(10);
    /// Stop a ring, and say where.
    pub const GET_VRING_BASE: Self = Self(11);
    /// What the driver signals by; starts a ring.
    pub const SET_VRING_KICK: Self = Self(12);
    /// What the device signals by.
    pub const SET_VRING_CALL: Self = Self(13);
    /// What the device signals errors by.
    pub const SET_VRING_ERR: Self = Self(14);
    /// Which protocol features there are.
    pub const GET_PROTOCOL_FEATURES: Self = Self(15);
    /// Those of them that hold.
    pub const SET_PROTOCOL_FEATURES: Self = Self(16);
    /// How many rings there are at most.
    pub const GET_QUEUE_NUM: Self = Self(17);
    /// Let a ring run, or not.
    pub const SET_VRING_ENABLE: Self = Self(18);
    /// Read the config space.
    pub const GET_CONFIG: Self = Self(24);
    /// Write it.
    pub const SET_CONFIG: Self = Self(25);
    /// Make memory in which requests under way are noted.
    pub const GET_INFLIGHT_FD: Self = Self(31);
    /// Use such memory.
    pub const SET_INFLIGHT_FD: Self = Self(32);
    /// Forget everything but the session.
    pub const RESET_DEVICE: Self = Self(34);
    /// How many regions of memory there may be.
    pub const GET_MAX_MEM_SLOTS: Self = Self(36);
    /// One more region of memory.
    pub const ADD_MEM_REG: Self = Self(37);
    /// One less.
    pub const REM_MEM_REG: Self = Self(38);
}

/// What a back end answers.
#[derive(Debug)]
pub struct Reply {
    /// The payload.
    pub payload: Vec<u8>,
    /// The descriptors that came along.
    pub descriptors: Vec<OwnedFd>,
}

impl Reply {
    /// The payload's first eight bytes.
    ///
    /// # Errors
    /// If it is shorter.
    pub fn number(&self) -> Result<u64> {
        let bytes = self.payload.first_chunk().copied().context("a reply without a number")?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// A connection to a back end.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    /// Every message is acknowledged (REPLY_ACK was agreed upon).
    pub(super) acknowledged: bool,
}

impl Link {
    /// Over this socket.
    ///
    /// # Errors
    /// If it is no socket.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, acknowledged: false })
    }

    /// The socket: it hangs up when the back end is gone.
    #[must_use]
    pub const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Says something that has no answer but an acknowledgement, where that was agreed upon.
    ///
    /// # Errors
    /// If the back end is gone or refuses.
    pub fn tell(&mut self, code: Code, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        if !self.acknowledged {
            return self.send(code, VERSION, payload, descriptors);
        }
        self.send(code, VERSION | NEED_REPLY, payload, descriptors)?;
        let answer = self.receive(code)?.number()?;
        ensure!(answer == 0, "{code:?} is refused: {answer:#x}");
        Ok(())
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If the back end is gone, or answers something else.
    pub fn ask(&mut self, code: Code, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<Reply> {
        self.send(code, VERSION, payload, descriptors)?;
        self.receive(code)
    }

    /// Sends a message as it is given, and waits for nothing.
    ///
    /// # Errors
    /// If the back end is gone.
    pub fn send(
        &mut self,
        code: Code,
        flags: u32,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let mut bytes = header(code, flags, u32::try_from(payload.len())?).to_vec();
        bytes.extend_from_slice(payload);
        self.send_bytes(&bytes, descriptors).with_context(|| format!("{code:?}"))
    }

    /// Sends what may be no message at all.
    ///
    /// # Errors
    /// If the back end is gone.
    pub fn send_bytes(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let pushed = control.push(SendAncillaryMessage::ScmRights(descriptors));
            ensure!(pushed, "more than {DESCRIPTORS} descriptors");
        }
        let sent = sendmsg(self.stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(self.stream.write_all(bytes.get(sent..).unwrap_or_default())?)
    }

    fn receive(&mut self, code: Code) -> Result<Reply> {
        let mut head = [0; 12];
        let descriptors = self.receive_head(&mut head).with_context(|| format!("{code:?} has no answer"))?;
        let [answered, flags, length] = words(head);
        ensure!(answered == code.0, "{code:?} is answered with {answered}");
        ensure!(flags & (REPLY | 3) == REPLY | VERSION, "{code:?} is answered with flags {flags:#x}");
        let length = usize::try_from(length)?;
        ensure!(length <= PAYLOAD, "{code:?} is answered with {length} bytes");
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).with_context(|| format!("{code:?} has half an answer"))?;
        Ok(Reply { payload, descriptors })
    }

    fn receive_head(&mut self, head: &mut [u8; 12]) -> Result<Vec<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(self.stream.as_fd(), &mut [IoSliceMut::new(head)], &mut control, flags)?.bytes;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(given) = message {
                descriptors.extend(given);
            }
        }
        match head.get_mut(got..) {
            _ if got == 0 => bail!("the back end closed the connection"),
            Some(rest) => self.stream.read_exact(rest)?,
            None => {}
        }
        Ok(descriptors)
    }
}

/// The header of a message.
#[must_use]
pub fn header(code: Code, flags: u32, length: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (place, word) in bytes.chunks_exact_mut(4).zip([code.0, flags, length]) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn words(bytes: [u8; 12]) -> [u32; 3] {
    let mut words = [0; 3];
    for (word, place) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = place.first_chunk().copied().map_or(0, u32::from_ne_bytes);
    }
    words
}

/// Numbers one after another, as most payloads are.
pub(super) fn payload(short: &[u32], long: &[u64]) -> Vec<u8> {
    let short = short.iter().flat_map(|word| word.to_ne_bytes());
    short.chain(long.iter().flat_map(|word| word.to_ne_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::thread;

    fn pair() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link::new(ours).unwrap(), theirs)
    }

    #[test]
    fn a_message_is_header_payload_and_descriptors_at_its_first_byte() {
        let (mut link, theirs) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        link.send(Code::SET_VRING_KICK, 1, &5u64.to_ne_bytes(), &[null.as_fd()]).unwrap();
        let mut back = Link::new(theirs).unwrap();
        let mut head = [0; 12];
        let descriptors = back.receive_head(&mut head).unwrap();
        assert_eq!((words(head), descriptors.len()), ([12, 1, 8], 1));
        assert_ne!(descriptors[0].as_raw_fd(), null.as_raw_fd());
    }

    fn answer(bytes: &'static [u8]) -> Result<Reply> {
        let (mut link, mut theirs) = pair();
        let peer = thread::spawn(move || {
            let _ = theirs.read_exact(&mut [0; 12]);
            theirs.write_all(bytes).unwrap();
        });
        let reply = link.ask(Code::GET_FEATURES, &[], &[]);
        peer.join().unwrap();
        reply
    }

    #[test]
    fn an_answer_is_one_to_the_question_and_of_a_bounded_length() {
        let reply = answer(b"\x01\0\0\0\x05\0\0\0\x08\0\0\0\x07\0\0\0\0\0\0\0").unwrap();
        assert_eq!(reply.number().unwrap(), 7);
        for bad in [
            &b"\x02\0\0\0\x05\0\0\0\0\0\0\0"[..],
            b"\x01\0\0\0\x01\0\0\0\0\0\0\0",
            b"\x01\0\0\0\x05\0\0\0\xff\xff\xff\xff",
            b"\x01\0\0\0\x05\0\0\0\x08\0\0\0\x07",
            b"\x01\0\0",
            b"",
        ] {
            assert!(answer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_where_everything_is_acknowledged() {
        for (verdict, fine) in [(0u64, true), (1, false)] {
            let (mut link, theirs) = pair();
            link.acknowledged = true;
            let peer = thread::spawn(move || {
                let mut back = Link::new(theirs).unwrap();
                let mut head = [0; 12];
                back.receive_head(&mut head).unwrap();
                assert_eq!(words(head), [3, VERSION | NEED_REPLY, 0]);
                back.send(Code::SET_OWNER, VERSION | REPLY, &verdict.to_ne_bytes(), &[]).unwrap();
            });
            assert_eq!(link.tell(Code::SET_OWNER, &[], &[]).is_ok(), fine);
            peer.join().unwrap();
        }
    }
}
