//! Keys and reservation types as people type them; used by the command line.

use super::types::{Key, ReservationType};
use std::str::FromStr;

/// Why a text is not a reservation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reservation key is a number of at most 64 bits, decimal or hexadecimal with 0x")]
pub struct ParseKeyError;

impl FromStr for Key {
    type Err = ParseKeyError;

    /// Reads `0x` and 1 to 16 hexadecimal digits, or a decimal number.
    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        // `from_str_radix` takes a sign and any number of leading zeros.
        if digits.len() > 20 || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(ParseKeyError);
        }
        u64::from_str_radix(digits, radix).map(Self).map_err(|_| ParseKeyError)
    }
}

/// Why a text is not a reservation type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reservation type is 1 or WE, 3 or EA, 5 or WE-RO, 6 or EA-RO, 7 or WE-AR, 8 or EA-AR")]
pub struct ParseTypeError;

impl FromStr for ReservationType {
    type Err = ParseTypeError;

    /// Reads the code as a decimal number, the short name (`WE-RO`) or the standard's name, without
    /// regard to case.
    fn from_str(text: &str) -> Result<Self, ParseTypeError> {
        let typed = |kind: &Self| {
            text.parse() == Ok(kind.0)
                || text.eq_ignore_ascii_case(kind.short_name())
                || text.eq_ignore_ascii_case(&kind.to_string())
        };
        Self::ALL.into_iter().find(typed).ok_or(ParseTypeError)
    }
}

impl ReservationType {
    /// The usual abbreviation, e.g. `WE-RO`; `?` for a code the standard does not define.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self.0 {
            1 => "WE",
            3 => "EA",
            5 => "WE-RO",
            6 => "EA-RO",
            7 => "WE-AR",
            8 => "EA-AR",
            _ => "?",
        }
    }
}
