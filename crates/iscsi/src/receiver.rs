//! The receive buffer of a connection: many PDUs per system call, each read where it lies. Used by both halves.

use std::io::{self, Read};

/// Bytes received and not yet consumed, in a buffer that grows only as far as its owner asks.
#[derive(Debug)]
pub(crate) struct Receiver {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Receiver {
    /// An empty buffer of `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { buffer: vec![0; capacity], start: 0, end: 0 }
    }

    /// What is there.
    pub(crate) fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops `count` bytes from the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Makes sure that `needed` bytes, pending ones included, fit.
    pub(crate) fn make_room(&mut self, needed: usize) {
        if self.start + needed > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if needed > self.buffer.len() {
            self.buffer.resize(needed, 0);
        }
    }

    /// One read into the free space; 0 is the end of the stream.
    pub(crate) fn read_from(&mut self, mut source: impl Read) -> io::Result<usize> {
        let (pending, free) = (self.end - self.start, self.buffer.len() - self.end);
        if free < self.buffer.len() / 2 {
            // A short tail would make for short reads, and these for many system calls.
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, pending);
        }
        if self.end == self.buffer.len() {
            self.make_room(pending + 1);
        }
        let count = source.read(self.buffer.get_mut(self.end..).unwrap_or_default())?;
        self.end += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the pieces in which bytes come and go, none is lost, doubled or out of order.
        #[test]
        fn bytes_pass_in_order(bytes: Vec<u8>, takes in prop::collection::vec(0usize..9, 1..9)) {
            let mut receiver = Receiver::new(7);
            let (mut source, mut seen) = (&bytes[..], Vec::new());
            for take in takes.iter().cycle().take(10 * bytes.len() + 10) {
                receiver.read_from(&mut source).unwrap();
                let take = (*take).min(receiver.pending().len());
                seen.extend_from_slice(&receiver.pending()[..take]);
                receiver.consume(take);
            }
            seen.extend_from_slice(receiver.pending());
            seen.extend_from_slice(source);
            prop_assert_eq!(seen, bytes);
        }
    }

    #[test]
    fn room_is_made_without_losing_what_is_pending() {
        let mut receiver = Receiver::new(4);
        receiver.read_from(&b"abcd"[..]).unwrap();
        receiver.consume(3);
        receiver.make_room(6);
        receiver.read_from(&b"efghi"[..]).unwrap();
        assert_eq!(receiver.pending(), b"defghi");
    }
}
