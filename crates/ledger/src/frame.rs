//! The frame of a line in this project's durable text files, `CRC32C SP JSON LF`: the checksum in eight hexadecimal digits over
//! the JSON text. The ledger's logs have it, and the agent's journals and documents.

/// Why a line is not one that was written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is longer than the file's lines may be.
    #[error("too long")]
    TooLong,
    /// It is not text.
    #[error("not UTF-8")]
    NotText,
    /// It does not begin with a checksum.
    #[error("no checksum")]
    NoSum,
    /// The text is not the one that was summed.
    #[error("wrong checksum")]
    WrongSum,
}

/// Checksum, text and end. `json` has no line end in it.
#[must_use]
pub fn framed(json: &str) -> String {
    format!("{} {json}\n", sum(json))
}

/// The JSON text of a line without its end, which has fewer than `longest` bytes.
///
/// # Errors
/// [`Damage`].
pub fn checked(line: &[u8], longest: usize) -> Result<&str, Damage> {
    if line.len() >= longest {
        return Err(Damage::TooLong);
    }
    let text = std::str::from_utf8(line).map_err(|_| Damage::NotText)?;
    let (found, json) = text.split_once(' ').ok_or(Damage::NoSum)?;
    if found == sum(json) { Ok(json) } else { Err(Damage::WrongSum) }
}

/// The first line without its end, and what follows it; `None` if no line ends.
#[must_use]
pub fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at_checked(end)?;
    Some((line, rest.get(1..)?))
}

fn sum(json: &str) -> String {
    format!("{:08x}", crc32c::crc32c(json.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_frame_is_the_published_one() {
        // CRC32C's check value.
        assert_eq!(framed("123456789"), "e3069283 123456789\n");
        assert_eq!(checked(b"e3069283 123456789", 19), Ok("123456789"));
    }

    #[test]
    fn what_is_no_whole_line_is_told_from_one() {
        assert_eq!(checked(b"e3069283 123456789", 18), Err(Damage::TooLong));
        assert_eq!(checked(b"e3069283 \xff", 99), Err(Damage::NotText));
        assert_eq!(checked(b"e3069283", 99), Err(Damage::NoSum));
        assert_eq!(checked(b"e3069283 123456789 ", 99), Err(Damage::WrongSum));
        assert_eq!(checked(b"E3069283 123456789", 99), Err(Damage::WrongSum));
        assert_eq!(cut(b"ab"), None);
    }

    proptest! {
        #[test]
        fn a_line_comes_back_as_it_was_and_no_changed_byte_goes_unseen(json in "[ -~]{0,40}", at in 0usize..50, to in any::<u8>()) {
            let line = framed(&json);
            let (first, rest) = cut(line.as_bytes()).unwrap();
            prop_assert_eq!((checked(first, 99), rest), (Ok(&*json), &b""[..]));
            let mut changed = first.to_vec();
            let at = at % changed.len();
            prop_assume!(changed[at] != to);
            changed[at] = to;
            prop_assert!(checked(&changed, 99).is_err());
        }
    }
}
