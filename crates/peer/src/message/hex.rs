//! Numbers and bytes as hexadecimal text, which no JSON reader rounds.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Text that is not the hexadecimal form of what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// Not a key.
    #[error("a number of 64 bits is written 0x and 16 hexadecimal digits")]
    Word,
    /// Not a handover's id.
    #[error("the id of a handover is 32 hexadecimal digits")]
    Id,
    /// Not bytes.
    #[error("bytes are written as hexadecimal digits, two for each")]
    Bytes,
}

/// 64 bits as `0x%016x`: a reservation key, or a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(pub u64);

/// A handover, the same on both hosts: 128 random bits as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(pub u128);

/// Bytes as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.to_string()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        bytes.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl TryFrom<String> for Word {
    type Error = HexError;

    fn try_from(text: String) -> Result<Self, HexError> {
        let digits = text.strip_prefix("0x").filter(|digits| is_hex(digits, 16)).ok_or(HexError::Word)?;
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| HexError::Word)
    }
}

impl TryFrom<String> for Id {
    type Error = HexError;

    fn try_from(text: String) -> Result<Self, HexError> {
        let digits = Some(&text).filter(|digits| is_hex(digits, 32)).ok_or(HexError::Id)?;
        u128::from_str_radix(digits, 16).map(Self).map_err(|_| HexError::Id)
    }
}

impl TryFrom<String> for Bytes {
    type Error = HexError;

    fn try_from(text: String) -> Result<Self, HexError> {
        let pairs = text.as_bytes().chunks(2);
        pairs.map(|pair| byte(pair).ok_or(HexError::Bytes)).collect::<Result<_, _>>().map(Self)
    }
}

fn is_hex(digits: &str, length: usize) -> bool {
    digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

fn byte(pair: &[u8]) -> Option<u8> {
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    match pair {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    }
}
