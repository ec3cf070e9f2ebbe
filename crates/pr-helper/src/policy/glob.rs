//! Shell-like patterns over names: `*` stands for any run of characters, `/` included, `?` for any one.

use serde::Deserialize;

/// One pattern, or a list of which any may match.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a pattern or a list of patterns")]
pub enum Globs {
    /// One pattern.
    One(String),
    /// Any of these.
    Any(Vec<String>),
}

impl Globs {
    /// Whether any pattern matches the whole of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::One(pattern) => matches(pattern.as_bytes(), text.as_bytes()),
            Self::Any(patterns) => patterns.iter().any(|each| matches(each.as_bytes(), text.as_bytes())),
        }
    }
}

/// Only the last `*` is ever tried again: an earlier one can take no more than what the last could as well. So the time
/// is at most the product of the lengths, whatever a guest's names are.
fn matches(mut pattern: &[u8], mut text: &[u8]) -> bool {
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => (pattern, retry) = (rest, Some((rest, text))),
            ([p, rest @ ..], [t, after @ ..]) if *p == b'?' || p == t => (pattern, text) = (rest, after),
            ([], []) => return true,
            _ => {
                let Some((star, [_, longer @ ..])) = retry else { return false };
                (pattern, text, retry) = (star, longer, Some((star, longer)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &str, text: &str) -> bool {
        Globs::One(pattern.into()).matches(text)
    }

    #[test]
    fn a_pattern_covers_the_whole_name() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "a/b"),
            ("a?c", "abc"),
            ("*ab", "aab"),
            ("a*b*c", "a-b-b-c"),
            ("**", "x"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", ""), ("a", "ab"), ("?", ""), ("a*b", "abc"), ("*a*b", "ba")]
        {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_cost_no_exponential_time() {
        assert!(!glob(&"*a".repeat(200), &"b".repeat(20_000)));
        assert!(!glob(&format!("{}b", "a*".repeat(200)), &"a".repeat(20_000)));
    }
}
