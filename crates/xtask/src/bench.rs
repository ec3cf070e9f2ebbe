//! Comparisons with tgt, measured in one run.

use anyhow::{Result, bail};

/// Runs everything and prints the ratios.
///
/// # Errors
/// If a program is missing or a run fails.
pub(crate) fn run() -> Result<()> {
    bail!("not there yet")
}
