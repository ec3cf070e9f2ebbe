//! `tenure handover plan|run`.

use std::str::FromStr;

/// A method by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodName(pub String);

impl FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}
