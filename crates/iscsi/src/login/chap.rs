//! CHAP with MD5 (RFC 7143 12.1.3, RFC 1994), both ways. The challenge's bytes come from outside, so
//! that the login stays free of randomness.

use md5::{Digest, Md5};
use std::fmt;

/// Length of the challenges made here, in bytes.
pub const CHALLENGE_LENGTH: usize = 16;
/// Longest binary value accepted (RFC 7143 12.1.3 bounds CHAP_C at 1024 bytes).
const MAX_BINARY: usize = 1024;

/// A name and the secret that proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// CHAP_N.
    pub user: String,
    /// The shared secret; never shown by `Debug`.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Who proves what with CHAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chap {
    /// What the initiator proves to the target.
    pub initiator: Credentials,
    /// What the target proves to the initiator, if it is to (mutual CHAP).
    pub target: Option<Credentials>,
}

/// The MD5 response to a challenge (RFC 1994 4.1).
#[must_use]
pub fn response(identifier: u8, secret: &str, challenge: &[u8]) -> [u8; 16] {
    let mut digest = Md5::new();
    digest.update([identifier]);
    digest.update(secret.as_bytes());
    digest.update(challenge);
    digest.finalize().into()
}

/// Whether `answer` proves the secret; compared without leaving early.
#[must_use]
pub fn proves(answer: &[u8], identifier: u8, secret: &str, challenge: &[u8]) -> bool {
    let expected = response(identifier, secret, challenge);
    answer.len() == expected.len() && answer.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// A binary value in hexadecimal (RFC 7143 6.1).
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Reads a binary value in hexadecimal (`0x`) or base64 (`0b`); `None` if malformed or over 1024 bytes.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => decode_hex(digits),
        "0b" | "0B" => decode_base64(digits),
        _ => None,
    }?;
    (!bytes.is_empty() && bytes.len() <= MAX_BINARY).then_some(bytes)
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    if digits.len() > 2 * MAX_BINARY {
        return None;
    }
    let nibbles: Vec<u8> = digits.chars().map(|c| c.to_digit(16)?.try_into().ok()).collect::<Option<_>>()?;
    // An odd count of digits has an implied leading zero.
    Some(
        nibbles.rchunks(2).rev().map(|pair| pair.iter().fold(0, |byte, nibble| byte << 4 | nibble)).collect(),
    )
}

fn decode_base64(digits: &str) -> Option<Vec<u8>> {
    if digits.len() > 2 * MAX_BINARY || !digits.len().is_multiple_of(4) {
        return None;
    }
    let bare = digits.trim_end_matches('=');
    if digits.len() - bare.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(bare.len());
    for group in bare.as_bytes().chunks(4) {
        let bits = group.iter().try_fold(0u32, |bits, c| Some(bits << 6 | base64_digit(*c)?))?;
        let missing = 4 - group.len();
        let [_, triple @ ..] = (bits << (6 * missing)).to_be_bytes();
        bytes.extend(triple.iter().take(3 - missing.min(3)));
    }
    Some(bytes)
}

fn base64_digit(c: u8) -> Option<u32> {
    let value = match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn response_is_md5_of_identifier_secret_and_challenge() {
        // MD5 of the byte 61h and "bc" is MD5("abc"), whose value RFC 1321 A.5 gives.
        assert_eq!(encode(&response(b'a', "b", b"c")), "0x900150983cd24fb0d6963f7d28e17f72");
    }

    #[test]
    fn only_the_right_secret_proves() {
        let answer = response(7, "right horse", b"challenge");
        assert!(proves(&answer, 7, "right horse", b"challenge"));
        assert!(!proves(&answer, 7, "wrong horse", b"challenge"));
        assert!(!proves(&answer, 8, "right horse", b"challenge"));
        assert!(!proves(&answer[..15], 7, "right horse", b"challenge"));
        assert!(!proves(&[], 7, "right horse", b"challenge"));
    }

    #[test]
    fn base64_is_read_with_every_padding() {
        assert_eq!(decode("0bZm9vYmFy").as_deref(), Some(&b"foobar"[..]));
        assert_eq!(decode("0bZm9vYmE=").as_deref(), Some(&b"fooba"[..]));
        assert_eq!(decode("0bZm9vYg==").as_deref(), Some(&b"foob"[..]));
    }

    #[test]
    fn malformed_and_over_long_values_are_refused() {
        for text in ["", "0", "0x", "0xg0", "12", "0bZm9", "0bZ===", "0b====", "é0"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode(&format!("0x{}", "00".repeat(1025))), None);
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let shown = format!("{:?}", Credentials { user: "u".into(), secret: "hush".into() });
        assert!(!shown.contains("hush"));
    }

    proptest! {
        #[test]
        fn binary_values_round_trip(bytes in prop::collection::vec(any::<u8>(), 1..100)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = decode(&text);
            let _ = decode(&format!("0b{text}"));
        }
    }
}
