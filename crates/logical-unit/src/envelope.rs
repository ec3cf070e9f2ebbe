//! What every file and message of a logical unit's, and of a guest's device, is wrapped in: magic (8 bytes), format version (2 bytes), length
//! of the body (4 bytes), CRC32C of the body (4 bytes), body; all numbers big-endian. Used by [`crate::aptpl`], [`crate::snapshot`] and the
//! device's own records, whose formats the bodies are.
//!
//! Guarantees: what is damaged, cut off, newer or too long is refused before its body is looked at.

use thiserror::Error;

/// Bytes before the body.
pub const HEADER: usize = 18;

/// A kind of content.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// What it begins with.
    pub magic: [u8; 8],
    /// The format version that is written; older ones are read.
    pub version: u16,
    /// Bytes that a body has at most.
    pub longest: usize,
}

/// Why bytes are no such content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// It is shorter or longer than it says, or too long.
    #[error("it is cut short, too long, or has bytes behind its end")]
    Length,
    /// It begins otherwise.
    #[error("it does not begin as it should")]
    Magic,
    /// A later format, or none at all.
    #[error("its format version {0} is newer than this program knows: update it")]
    Version(u16),
    /// The checksum does not match.
    #[error("its checksum does not match its content")]
    Checksum,
}

impl Envelope {
    /// The bytes around `body`, which is no longer than [`Self::longest`].
    #[must_use]
    pub fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_be_bytes());
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(crc32c::crc32c(body).to_be_bytes());
        out.extend(body);
        out
    }

    /// The body.
    ///
    /// # Errors
    /// What it is not.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<Reader<'a>, EnvelopeError> {
        let mut header = Reader(bytes);
        if header.array()? != self.magic {
            return Err(EnvelopeError::Magic);
        }
        let version = header.u16()?;
        if version == 0 || version > self.version {
            return Err(EnvelopeError::Version(version));
        }
        let length = header.length()?;
        let checksum = header.u32()?;
        let body = header.0;
        if length != body.len() || length > self.longest {
            return Err(EnvelopeError::Length);
        }
        if crc32c::crc32c(body) != checksum {
            return Err(EnvelopeError::Checksum);
        }
        Ok(Reader(body))
    }
}

/// What is left to read of some bytes. Everything fails with [`EnvelopeError::Length`] where there are too few.
#[derive(Clone, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], EnvelopeError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(EnvelopeError::Length)?;
        self.0 = rest;
        Ok(head)
    }

    /// The next bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeError> {
        self.take(N)?.try_into().map_err(|_| EnvelopeError::Length)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, EnvelopeError> {
        self.array().map(|[byte]| byte)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Result<u16, EnvelopeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, EnvelopeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, EnvelopeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Behind a byte that says how many.
    pub fn short(&mut self) -> Result<&'a [u8], EnvelopeError> {
        let length = self.byte()?;
        self.take(length.into())
    }

    /// Nothing is left.
    pub fn end(&self) -> Result<(), EnvelopeError> {
        if self.0.is_empty() { Ok(()) } else { Err(EnvelopeError::Length) }
    }

    /// The next four bytes, of something that is in memory.
    pub fn length(&mut self) -> Result<usize, EnvelopeError> {
        usize::try_from(self.u32()?).map_err(|_| EnvelopeError::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: Envelope = Envelope { magic: *b"TENURETT", version: 2, longest: 5 };

    fn open(bytes: &[u8]) -> Result<&[u8], EnvelopeError> {
        NOTE.open(bytes).map(|body| body.0)
    }

    #[test]
    fn what_is_sealed_is_opened_and_nothing_else_is() {
        let sealed = NOTE.seal(b"note");
        assert_eq!(&sealed[..14], b"TENURETT\0\x02\0\0\0\x04", "version 1 of the envelope");
        assert_eq!(open(&sealed), Ok(&b"note"[..]));
        for at in 0..sealed.len() {
            assert_eq!(open(&sealed[..at]), Err(EnvelopeError::Length), "cut at {at}");
            let mut damaged = sealed.clone();
            damaged[at] ^= 4;
            assert!(open(&damaged).is_err(), "byte {at}");
        }
        assert_eq!(open(&NOTE.seal(b"longer")), Err(EnvelopeError::Length));
    }

    #[test]
    fn an_older_format_is_read_and_a_newer_one_or_none_is_not() {
        let of = |version| Envelope { version, ..NOTE }.seal(b"");
        assert_eq!(open(&of(1)), Ok(&[][..]));
        assert_eq!(open(&of(3)), Err(EnvelopeError::Version(3)));
        assert_eq!(open(&of(0)), Err(EnvelopeError::Version(0)));
    }
}
