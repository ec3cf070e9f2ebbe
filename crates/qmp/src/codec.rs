//! Lines to messages and back, over anything that can be read and written, with bounds and deadlines.
//!
//! [`Decoder`] does no I/O; [`Channel`] puts it on a stream. A message is refused before anything is built of it when it
//! exceeds the [`Limits`]; after a refusal nothing more is read: where the next message begins, nobody can know.

use crate::scan;
use crate::{Limits, Message, MessageError};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How much is read at a time.
const CHUNK: usize = 16 * 1024;
/// A buffer that a long message has left behind is given back above this size.
const KEPT: usize = 256 * 1024;

/// Why no message can be read, or none sent.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// No line end within the limit.
    #[error("a message longer than {0} bytes")]
    TooLong(usize),
    /// Arrays and objects inside each other beyond the limit.
    #[error("a message nested deeper than {0}")]
    TooDeep(usize),
    /// More values than the limit.
    #[error("a message of more than {0} values")]
    TooManyValues(usize),
    /// What came is not the protocol.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The stream ended inside a message.
    #[error("the connection was closed inside a message")]
    Cut,
    /// Nothing, or not all of it, could be read or written before the deadline.
    #[error("the other end is too slow")]
    Stalled,
    /// The stream is broken.
    #[error("the connection is broken")]
    Io(#[from] io::Error),
}

impl CodecError {
    fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Stalled,
            _ => Self::Io(error),
        }
    }
}

/// Bytes in, messages out.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    buffer: Vec<u8>,
    /// Where the first line that was not given out begins.
    start: usize,
    /// Up to here there is no line end from `start` on.
    searched: usize,
}

impl Decoder {
    /// An empty one.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// Takes the next bytes of the stream. Call [`Self::next`] until it has no more before the next ones: that is what
    /// bounds the memory.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until more bytes have come. Blank lines are passed over.
    ///
    /// # Errors
    /// The bytes are not the protocol, or exceed a limit. Nothing after them can be read.
    #[expect(clippy::should_implement_trait, reason = "what iterators call the end is no end here")]
    pub fn next(&mut self) -> Result<Option<Message>, CodecError> {
        let limits = self.limits;
        while let Some(line) = self.line()? {
            if !line.trim_ascii().is_empty() {
                scan::admit(line, &limits)?;
                return Ok(Some(Message::parse(line)?));
            }
        }
        Ok(None)
    }

    /// Whether the stream may end here: no message has begun.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.buffer.get(self.start..).unwrap_or_default().trim_ascii().is_empty()
    }

    fn line(&mut self) -> Result<Option<&[u8]>, CodecError> {
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(length) = unsearched.iter().position(|&byte| byte == b'\n') else {
            self.keep_the_rest();
            return if self.buffer.len() > self.limits.line { Err(self.too_long()) } else { Ok(None) };
        };
        let (start, end) = (self.start, self.searched + length);
        if end - start > self.limits.line {
            return Err(self.too_long());
        }
        (self.start, self.searched) = (end + 1, end + 1);
        Ok(self.buffer.get(start..end))
    }

    /// Moves an unfinished line to the front.
    fn keep_the_rest(&mut self) {
        self.buffer.drain(..self.start);
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer.shrink_to(CHUNK);
        }
        (self.start, self.searched) = (0, self.buffer.len());
    }

    const fn too_long(&self) -> CodecError {
        CodecError::TooLong(self.limits.line)
    }
}

/// A stream of bytes both ways whose calls can be limited in time. A call that exceeds its time fails with
/// [`io::ErrorKind::WouldBlock`] or [`io::ErrorKind::TimedOut`]; what it had read is not lost.
pub trait Stream: Read + Write {
    /// Limits the reads that follow; `None`: they may take for ever. Never zero.
    ///
    /// # Errors
    /// The stream is broken.
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Limits the writes that follow.
    ///
    /// # Errors
    /// The stream is broken.
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

macro_rules! stream {
    ($stream:ty) => {
        impl Stream for $stream {
            fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
                <$stream>::set_read_timeout(self, timeout)
            }

            fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
                <$stream>::set_write_timeout(self, timeout)
            }
        }
    };
}
stream!(UnixStream);
stream!(TcpStream);

/// Messages over a stream: one end of a connection, for one thread.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    limits: Limits,
    decoder: Decoder,
}

impl<S> Channel<S> {
    /// Puts messages on `stream`.
    pub const fn new(stream: S, limits: Limits) -> Self {
        Self { stream, limits, decoder: Decoder::new(limits) }
    }

    /// What it is on.
    pub const fn stream(&self) -> &S {
        &self.stream
    }

    /// What it is on.
    pub const fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: Stream> Channel<S> {
    /// The next message; `None` at the end of the stream. With a deadline the whole message has to be there by then: one
    /// that comes byte by byte is late too.
    ///
    /// # Errors
    /// [`CodecError`]. After [`CodecError::Stalled`] it may be called again.
    pub fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, CodecError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            self.stream.set_read_timeout(left(deadline)?)?;
            if !self.read_some()? {
                return if self.decoder.is_between_messages() { Ok(None) } else { Err(CodecError::Cut) };
            }
        }
    }

    /// Sends a message. After an error the other end cannot find the next one any more: close.
    ///
    /// # Errors
    /// [`CodecError`]; [`CodecError::TooLong`] if the other end would refuse it, and then nothing was sent.
    pub fn send(&mut self, message: &Message, deadline: Option<Instant>) -> Result<(), CodecError> {
        let line = message.to_line();
        if line.len() > self.limits.line {
            return Err(CodecError::TooLong(self.limits.line));
        }
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            self.stream.set_write_timeout(left(deadline)?)?;
            let written = self.write_some(rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        self.stream.flush().map_err(CodecError::from_io)
    }

    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, CodecError> {
        match self.stream.write(bytes) {
            Ok(0) => Err(CodecError::Io(io::ErrorKind::WriteZero.into())),
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(CodecError::from_io(error)),
        }
    }

    /// Whether anything more may come.
    fn read_some(&mut self) -> Result<bool, CodecError> {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.decoder.push(chunk.get(..length).unwrap_or_default());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(CodecError::from_io(error)),
        }
    }
}

/// The time that is left. Below a microsecond the kernel would take it for "for ever".
fn left(deadline: Option<Instant>) -> Result<Option<Duration>, CodecError> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match left {
        Some(left) if left < Duration::from_micros(1) => Err(CodecError::Stalled),
        left => Ok(left),
    }
}

#[cfg(test)]
mod tests;
