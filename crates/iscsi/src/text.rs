//! `key=value` text of login and text PDUs (RFC 7143 6.1), with bounds: a peer cannot make it grow.
//! Used by the login of both sides, by SendTargets and by text negotiation.

/// Longest key name in bytes (RFC 7143 6.1).
const MAX_KEY: usize = 63;
/// Longest text of one negotiation step, over all its continued PDUs; far more than any login needs.
pub const MAX_TEXT: usize = 64 * 1024;

/// Text that is no list of `key=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not UTF-8.
    #[error("the text is not UTF-8")]
    Encoding,
    /// An item without `=`, or with an empty or over-long key.
    #[error("the text has an item that is not key=value")]
    Item,
    /// Longer than [`MAX_TEXT`].
    #[error("the text exceeds {MAX_TEXT} bytes")]
    TooLong,
}

/// Keys and values in their order; a key may stand there several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    pairs: Vec<(String, String)>,
}

impl Text {
    /// Reads NUL-terminated items; the last may lack its NUL.
    ///
    /// # Errors
    /// [`TextError`] if the bytes are no such list.
    pub fn parse(bytes: &[u8]) -> Result<Self, TextError> {
        if bytes.len() > MAX_TEXT {
            return Err(TextError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| TextError::Encoding)?;
        let items = text.split('\0').filter(|item| !item.is_empty());
        let pairs = items.map(parse_item).collect::<Result<_, _>>()?;
        Ok(Self { pairs })
    }

    /// Appends an item.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.pairs.push((key.to_owned(), value.into()));
    }

    /// This text with one more item.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.push(key, value);
        self
    }

    /// The value of the first item named `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Every item in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether a key stands there twice, which negotiation forbids (RFC 7143 6.2).
    #[must_use]
    pub fn has_duplicates(&self) -> bool {
        let mut keys: Vec<_> = self.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
    }

    /// The bytes of a data segment.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|(key, value)| format!("{key}={value}\0").into_bytes()).collect()
    }
}

fn parse_item(item: &str) -> Result<(String, String), TextError> {
    let (key, value) = item.split_once('=').ok_or(TextError::Item)?;
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(TextError::Item);
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Gathers text that a peer spreads over several PDUs with the C bit (RFC 7143 6.2).
#[derive(Debug, Default)]
pub struct Collector {
    bytes: Vec<u8>,
}

impl Collector {
    /// Adds one PDU's text; the whole once `more` is false.
    ///
    /// # Errors
    /// [`TextError`] if the whole is too long or no list of items.
    pub fn add(&mut self, data: &[u8], more: bool) -> Result<Option<Text>, TextError> {
        if self.bytes.len() + data.len() > MAX_TEXT {
            return Err(TextError::TooLong);
        }
        if more {
            self.bytes.extend_from_slice(data);
            return Ok(None);
        }
        if self.bytes.is_empty() {
            return Text::parse(data).map(Some);
        }
        self.bytes.extend_from_slice(data);
        Text::parse(&std::mem::take(&mut self.bytes)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn items_keep_their_order_and_values_may_hold_equal_signs() {
        let text = Text::parse(b"A=1\0B=x=y\0C=\0").unwrap();
        assert_eq!(text.iter().collect::<Vec<_>>(), [("A", "1"), ("B", "x=y"), ("C", "")]);
        assert_eq!(text.to_bytes(), b"A=1\0B=x=y\0C=\0");
    }

    #[test]
    fn items_without_a_proper_key_are_refused() {
        assert_eq!(Text::parse(b"novalue\0"), Err(TextError::Item));
        assert_eq!(Text::parse(b"=1\0"), Err(TextError::Item));
        assert_eq!(Text::parse(format!("{}=1", "k".repeat(64)).as_bytes()), Err(TextError::Item));
        assert_eq!(Text::parse(b"A=\xFF\0"), Err(TextError::Encoding));
    }

    #[test]
    fn duplicates_are_seen() {
        assert!(Text::default().with("A", "1").with("B", "2").with("A", "3").has_duplicates());
        assert!(!Text::default().with("A", "1").with("B", "2").has_duplicates());
    }

    #[test]
    fn an_item_split_over_pdus_is_joined() {
        let mut collector = Collector::default();
        assert_eq!(collector.add(b"Targ", true), Ok(None));
        let text = collector.add(b"et=a\0", false).unwrap().unwrap();
        assert_eq!(text.get("Target"), Some("a"));
        assert_eq!(collector.add(b"", false), Ok(Some(Text::default())), "nothing is left behind");
    }

    #[test]
    fn endless_continuation_is_refused() {
        let mut collector = Collector::default();
        let chunk = [b'a'; 8192];
        let outcome = (0..9).map(|_| collector.add(&chunk, true)).find(Result::is_err);
        assert_eq!(outcome, Some(Err(TextError::TooLong)));
    }

    proptest! {
        #[test]
        fn text_round_trips(pairs in prop::collection::vec(("[A-Za-z0-9.-]{1,63}", "[ -~]{0,40}"), 0..8)) {
            let text = Text { pairs };
            prop_assert_eq!(Text::parse(&text.to_bytes()), Ok(text));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Ok(text) = Text::parse(&bytes) {
                prop_assert_eq!(Text::parse(&text.to_bytes()), Ok(text));
            }
        }
    }
}
