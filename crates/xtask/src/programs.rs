//! This workspace's release programs. They are built all at once: cargo gives a package built alone other features of what it depends on,
//! and would compile that, and all that stands on it, anew.

use crate::shell;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Builds them, unless somebody did, and tells where they are.
///
/// # Errors
/// If they do not compile.
pub(crate) fn build(built: Option<&Path>) -> Result<PathBuf> {
    if let Some(built) = built {
        return Ok(built.to_path_buf());
    }
    shell::cargo(&["build", "--release", "-q", "--workspace"], &[])?;
    Ok(directory())
}

/// Where they are once they are built.
pub(crate) fn directory() -> PathBuf {
    target().join("release")
}

/// `tenure`, once it is built.
pub(crate) fn tenure() -> PathBuf {
    directory().join("tenure")
}

/// `explore`, once it is built.
pub(crate) fn explore() -> PathBuf {
    directory().join("explore")
}

/// Where cargo, and whoever keeps something from one run to the next, writes.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from)
}
