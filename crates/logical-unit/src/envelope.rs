//! What every file and message of this crate is wrapped in: magic (8 bytes), format version (2 bytes), length of the body (4 bytes), CRC32C of
//! the body (4 bytes), body; all numbers big-endian. Used by [`crate::aptpl`] and [`crate::snapshot`], whose formats the bodies are.
//!
//! Guarantees: what is damaged, cut off, newer or too long is refused before its body is looked at.

use crate::aptpl::{ImageError, Reader};

/// Bytes before the body.
pub(crate) const HEADER: usize = 18;

/// A kind of content.
pub(crate) struct Envelope {
    pub(crate) magic: [u8; 8],
    /// The one that is written; older ones are read.
    pub(crate) version: u16,
    /// Bytes that a body has at most.
    pub(crate) longest: usize,
}

impl Envelope {
    pub(crate) fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_be_bytes());
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(crc32c::crc32c(body).to_be_bytes());
        out.extend(body);
        out
    }

    /// The body.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<Reader<'a>, ImageError> {
        let mut header = Reader(bytes);
        if header.array().ok_or(ImageError::Length)? != self.magic {
            return Err(ImageError::Magic);
        }
        let version = header.u16()?;
        if version == 0 || version > self.version {
            return Err(ImageError::Version(version));
        }
        let (length, checksum, body) = (header.u32()?, header.u32()?, header.0);
        if usize::try_from(length) != Ok(body.len()) || body.len() > self.longest {
            return Err(ImageError::Length);
        }
        if crc32c::crc32c(body) != checksum {
            return Err(ImageError::Checksum);
        }
        Ok(Reader(body))
    }
}
