//! Sets of reservation keys as the operator writes them: `KEY`, or `KEY/MASK` for every key that agrees with KEY in the
//! bits set in MASK.

use scsi::pr::Key;
use serde::Deserialize;

/// One key, or all that agree with it under a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyPattern {
    value: u64,
    mask: u64,
}

impl KeyPattern {
    /// Whether this key belongs to the set.
    #[must_use]
    pub const fn contains(self, key: Key) -> bool {
        (key.0 ^ self.value) & self.mask == 0
    }

    /// Whether every key does.
    #[must_use]
    pub const fn is_all(self) -> bool {
        self.mask == 0
    }
}

impl TryFrom<String> for KeyPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number =
            |part: &str| part.parse::<Key>().map(|key| key.0).map_err(|error| format!("`{text}`: {error}"));
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (number(value)?, number(mask)?),
            None => (number(&text)?, u64::MAX),
        };
        if value & !mask != 0 {
            return Err(
                "the key has bits that its mask leaves open; clear them, or set them in the mask".into()
            );
        }
        Ok(Self { value, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Result<KeyPattern, String> {
        KeyPattern::try_from(text.to_owned())
    }

    #[test]
    fn a_key_alone_is_itself_and_a_mask_opens_the_rest() {
        let (one, many) = (pattern("0xa").unwrap(), pattern("0x1200/0xff00").unwrap());
        assert!(one.contains(Key(10)) && !one.contains(Key(11)) && !one.contains(Key(1 << 63 | 10)));
        assert!(many.contains(Key(0x1234)) && many.contains(Key(0xF_1200)) && !many.contains(Key(0x1334)));
        assert!(pattern("0/0").unwrap().contains(Key(77)));
    }

    #[test]
    fn what_can_match_nothing_or_is_no_key_is_refused() {
        for bad in ["", "x", "0x", "-1", "0x1/", "/1", "0x1/0x2", "1/2/3", "0x10000000000000000"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
