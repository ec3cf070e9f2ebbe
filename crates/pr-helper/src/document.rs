//! Files that the operator writes, in TOML: the policy, the helper's and the agent's configuration. What is wrong is said with line and
//! column, and with what may have been meant.

use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, and what may have been meant.
        message: String,
    },
}

/// Reads a file.
///
/// # Errors
/// [`DocumentError`] with the place.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, DocumentError> {
    let unreadable = |source| DocumentError::Unreadable { path: path.into(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LARGEST) {
        return Err(unreadable(std::io::Error::other("larger than 1 MiB")));
    }
    parse(&text, path)
}

/// Reads a file's text; `path` is for messages.
///
/// # Errors
/// [`DocumentError::Wrong`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, DocumentError> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (line, column) = place(text, span.start);
        let message = explain(error.message(), text.get(span).unwrap_or_default());
        DocumentError::Wrong { path: path.into(), line, column, message }
    })
}

/// Line and column of a byte, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// The message, and for an unknown word the known one that looks most like it.
fn explain(message: &str, offending: &str) -> String {
    let message = message.replace("unknown field", "unknown key").replace("unknown variant", "unknown word");
    let word = offending.trim_matches(['"', '\'']);
    match message.split_once(", expected") {
        Some((_, known)) if message.starts_with("unknown") => {
            let nearest = known.split('`').skip(1).step_by(2).min_by_key(|known| distance(word, known));
            match nearest.filter(|near| distance(word, near) <= word.chars().count().max(3) / 2) {
                Some(near) => format!("{message}; did you mean `{near}`?"),
                None => message,
            }
        }
        _ => message,
    }
}

/// How many characters must be put in, taken out or replaced to make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, y) in row.iter_mut().zip(std::iter::once(' ').chain(b.chars())).skip(1) {
            let cost = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = cost.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
