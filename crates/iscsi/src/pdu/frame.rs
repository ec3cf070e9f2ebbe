//! Cutting a byte stream into PDUs and laying PDUs into one (RFC 7143 11.1): basic header, additional
//! header segments, digests, data, padding. Used by both halves of the crate.
//!
//! Every length comes from the peer, so nothing is believed beyond [`Framing::max_data`]; a PDU is
//! borrowed from the receive buffer and costs no copy.

use super::{BHS_LENGTH, Bhs};

/// Longest additional header segments: TotalAHSLength counts 255 words.
pub const MAX_AHS: usize = 255 * 4;
/// Longest data segment: DataSegmentLength has 24 bits.
pub const MAX_DATA_SEGMENT: usize = (1 << 24) - 1;
const DIGEST_LENGTH: usize = 4;

/// Which digests a connection uses (RFC 7143 13.1); CRC32C where set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// HeaderDigest.
    pub header: bool,
    /// DataDigest.
    pub data: bool,
}

/// How to read a peer's PDUs.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// The negotiated digests; none during login.
    pub digests: Digests,
    /// The MaxRecvDataSegmentLength that this side declared.
    pub max_data: usize,
}

/// A stream that cannot be read on: the next PDU's bounds are unknown or unacceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header digest is wrong, so the header's lengths cannot be trusted.
    #[error("the header digest is wrong")]
    HeaderDigest,
    /// The data segment is longer than this side declared to accept.
    #[error("a data segment of {length} bytes exceeds the declared limit of {limit}")]
    DataTooLong {
        /// DataSegmentLength.
        length: usize,
        /// MaxRecvDataSegmentLength.
        limit: usize,
    },
}

/// One PDU, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Basic header segment.
    pub bhs: &'a Bhs,
    /// Additional header segments, padding included.
    pub ahs: &'a [u8],
    /// Data segment without padding.
    pub data: &'a [u8],
    /// Whether the data digest matched; `true` without digests.
    pub data_intact: bool,
    /// Bytes that the whole PDU took.
    pub length: usize,
}

/// The result of [`Framing::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The buffer starts with this PDU.
    Frame(Frame<'a>),
    /// More bytes are needed; at least this many must be in the buffer before asking again.
    Incomplete(usize),
}

impl Framing {
    /// The largest PDU that [`Framing::next`] accepts, in bytes: a receive buffer of this size always suffices.
    #[must_use]
    pub const fn max_pdu(&self) -> usize {
        BHS_LENGTH + MAX_AHS + 2 * DIGEST_LENGTH + self.max_data.next_multiple_of(4)
    }

    /// The PDU at the start of `buffer`.
    ///
    /// # Errors
    /// [`FrameError`] if the connection has to be closed.
    pub fn next<'a>(&self, buffer: &'a [u8]) -> Result<Parsed<'a>, FrameError> {
        let Some(bhs) = buffer.first_chunk::<BHS_LENGTH>() else {
            return Ok(Parsed::Incomplete(BHS_LENGTH));
        };
        let ahs_end = BHS_LENGTH + usize::from(bhs[4]) * 4;
        let header_end = ahs_end + if self.digests.header { DIGEST_LENGTH } else { 0 };
        let Some(header) = buffer.get(..header_end) else {
            return Ok(Parsed::Incomplete(header_end));
        };
        if self.digests.header && !digest_matches(header) {
            return Err(FrameError::HeaderDigest);
        }
        let length = data_length(bhs);
        if length > self.max_data {
            return Err(FrameError::DataTooLong { length, limit: self.max_data });
        }
        let ahs = buffer.get(BHS_LENGTH..ahs_end).unwrap_or_default();
        Ok(self.with_data(bhs, ahs, buffer, header_end, length))
    }

    fn with_data<'a>(
        &self,
        bhs: &'a Bhs,
        ahs: &'a [u8],
        buffer: &'a [u8],
        start: usize,
        length: usize,
    ) -> Parsed<'a> {
        let digest = self.digests.data && length > 0;
        let end = start + length.next_multiple_of(4) + if digest { DIGEST_LENGTH } else { 0 };
        let Some(segment) = buffer.get(start..end) else {
            return Parsed::Incomplete(end);
        };
        let data = segment.get(..length).unwrap_or_default();
        Parsed::Frame(Frame { bhs, ahs, data, data_intact: !digest || digest_matches(segment), length: end })
    }
}

/// DataSegmentLength of a header.
#[must_use]
pub fn data_length(bhs: &Bhs) -> usize {
    (usize::from(bhs[5]) << 16) | (usize::from(bhs[6]) << 8) | usize::from(bhs[7])
}

/// Whether the last four bytes are the CRC32C of what precedes them (RFC 7143 13.1: little-endian).
fn digest_matches(covered_and_digest: &[u8]) -> bool {
    covered_and_digest
        .split_last_chunk::<DIGEST_LENGTH>()
        .is_some_and(|(covered, digest)| crc32c::crc32c(covered).to_le_bytes() == *digest)
}

/// Appends a PDU without additional header segments to `out`; lengths, padding and digests are filled in.
/// Data beyond [`MAX_DATA_SEGMENT`] is cut: callers segment by what the peer declared.
pub fn encode(out: &mut Vec<u8>, bhs: &Bhs, data: &[u8], digests: Digests) {
    encode_with_ahs(out, bhs, &[], data, digests);
}

/// As [`encode`], with additional header segments; these are cut at [`MAX_AHS`].
pub fn encode_with_ahs(out: &mut Vec<u8>, bhs: &Bhs, ahs: &[u8], data: &[u8], digests: Digests) {
    let ahs = ahs.get(..MAX_AHS).unwrap_or(ahs);
    let data = data.get(..MAX_DATA_SEGMENT).unwrap_or(data);
    let mut bhs = *bhs;
    bhs[4] = u8::try_from(ahs.len().div_ceil(4)).unwrap_or(u8::MAX);
    [_, bhs[5], bhs[6], bhs[7]] = u32::try_from(data.len()).unwrap_or_default().to_be_bytes();
    let start = out.len();
    out.extend_from_slice(&bhs);
    extend_padded(out, ahs);
    if digests.header {
        append_digest(out, start);
    }
    let start = out.len();
    extend_padded(out, data);
    if digests.data && !data.is_empty() {
        append_digest(out, start);
    }
}

fn extend_padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    out.extend_from_slice([0; 3].get(..padding).unwrap_or_default());
}

fn append_digest(out: &mut Vec<u8>, start: usize) {
    let digest = crc32c::crc32c(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&digest.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framing(header: bool, data: bool) -> Framing {
        Framing { digests: Digests { header, data }, max_data: 8192 }
    }

    fn frame<'a>(framing: &Framing, bytes: &'a [u8]) -> Frame<'a> {
        match framing.next(bytes) {
            Ok(Parsed::Frame(frame)) => frame,
            other => panic!("no frame: {other:?}"),
        }
    }

    #[test]
    fn crc32c_is_the_rfcs_and_stands_little_endian() {
        // RFC 7143 appendix A.4: 32 bytes of zero have the digest aa 36 91 8a.
        let mut bytes = vec![0; 32];
        append_digest(&mut bytes, 0);
        assert_eq!(bytes[32..], [0xAA, 0x36, 0x91, 0x8A]);
    }

    #[test]
    fn wrong_header_digest_ends_the_connection() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &[0; 48], b"abc", Digests { header: true, data: true });
        bytes[20] ^= 1;
        assert_eq!(framing(true, true).next(&bytes), Err(FrameError::HeaderDigest));
    }

    #[test]
    fn wrong_data_digest_is_told_but_keeps_the_frame() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &[0; 48], b"abc", Digests { header: true, data: true });
        bytes[52] ^= 1;
        assert!(!frame(&framing(true, true), &bytes).data_intact);
    }

    #[test]
    fn over_long_data_segment_is_refused_from_the_header_alone() {
        let mut bhs = [0; 48];
        [bhs[5], bhs[6], bhs[7]] = [0, 0x20, 1];
        let error = framing(false, false).next(&bhs);
        assert_eq!(error, Err(FrameError::DataTooLong { length: 8193, limit: 8192 }));
    }

    proptest! {
        #[test]
        fn frames_round_trip(
            bhs: [u8; 32], ahs in prop::collection::vec(any::<u8>(), 0..MAX_AHS),
            data in prop::collection::vec(any::<u8>(), 0..8192), header: bool, digest: bool, tail: [u8; 5],
        ) {
            let mut full = [7; 48];
            full[16..].copy_from_slice(&bhs);
            let framing = framing(header, digest);
            let mut bytes = Vec::new();
            encode_with_ahs(&mut bytes, &full, &ahs, &data, framing.digests);
            let length = bytes.len();
            prop_assert!(length <= framing.max_pdu());
            bytes.extend(tail);
            let frame = frame(&framing, &bytes);
            prop_assert_eq!(frame.length, length);
            prop_assert_eq!(frame.data, &data[..]);
            prop_assert!(frame.ahs.starts_with(&ahs) && frame.ahs.len() < ahs.len() + 4);
            prop_assert_eq!(&frame.bhs[8..], &full[8..]);
            prop_assert!(frame.data_intact);
        }

        #[test]
        fn a_cut_frame_asks_for_more_and_never_too_much(
            data in prop::collection::vec(any::<u8>(), 0..600), header: bool, digest: bool, cut in 0usize..700,
        ) {
            let framing = framing(header, digest);
            let mut bytes = Vec::new();
            encode(&mut bytes, &[0; 48], &data, framing.digests);
            let cut = cut % bytes.len();
            match framing.next(&bytes[..cut]) {
                Ok(Parsed::Incomplete(needed)) => prop_assert!(needed > cut && needed <= bytes.len()),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), header: bool, data: bool) {
            if let Ok(Parsed::Frame(frame)) = framing(header, data).next(&bytes) {
                prop_assert!(frame.length <= bytes.len());
            }
        }
    }
}
