//! What the fuzz targets share: the round trip assertion, structured commands, and I_T nexuses.

pub mod command;
pub mod names;
pub mod story;

use std::fmt::Debug;

/// Asserts that what `parse` understands of `bytes` survives `emit` and a second `parse`; returns it.
pub fn settles<T: PartialEq + Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
    emit: impl Fn(&T) -> Vec<u8>,
) -> Option<T> {
    let value = parse(bytes)?;
    let emitted = emit(&value);
    assert_eq!(parse(&emitted).as_ref(), Some(&value), "from {bytes:02x?} through {emitted:02x?}");
    Some(value)
}
