//! Reads a policy and says where and how it is wrong.

use super::Rules;
use crate::document;
use std::path::Path;

pub use crate::document::DocumentError as PolicyError;

impl Rules {
    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`] with the place.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        document::load(path)
    }

    /// Reads a policy's text; `path` is for messages.
    ///
    /// # Errors
    /// [`PolicyError::Wrong`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, PolicyError> {
        document::parse(text, path)
    }
}
