//! Checked big-endian reads: a short buffer yields `None`, never a panic. Used by every parser here.
//! Also the one place where parameter data is cut to an allocation length.

/// Cuts parameter data to the ALLOCATION LENGTH of its CDB, in bytes (SPC-4 4.2.5.6). Zero is legal, and
/// no byte that is sent changes: length fields keep telling how much there would have been.
#[must_use]
pub fn truncate(mut data: Vec<u8>, allocation_length: usize) -> Vec<u8> {
    data.truncate(allocation_length);
    data
}

/// The `N` bytes at `at`, if the buffer holds them all.
pub(crate) fn array<const N: usize>(buffer: &[u8], at: usize) -> Option<[u8; N]> {
    buffer.get(at..)?.first_chunk().copied()
}

pub(crate) fn u8_at(buffer: &[u8], at: usize) -> Option<u8> {
    buffer.get(at).copied()
}

pub(crate) fn be16(buffer: &[u8], at: usize) -> Option<u16> {
    array(buffer, at).map(u16::from_be_bytes)
}

pub(crate) fn be32(buffer: &[u8], at: usize) -> Option<u32> {
    array(buffer, at).map(u32::from_be_bytes)
}

pub(crate) fn be64(buffer: &[u8], at: usize) -> Option<u64> {
    array(buffer, at).map(u64::from_be_bytes)
}
