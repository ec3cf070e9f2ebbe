//! The helper that a trial is about, as a process of its own.

use crate::process::Background;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// Starts a helper, given with its arguments, and waits until it takes connections.
pub(crate) fn start(line: &str, socket: &Path) -> Result<Background> {
    let mut process = spawn(line, socket)?;
    ready(&mut process, socket)?;
    Ok(process)
}

/// Starts a helper and does not wait.
pub(crate) fn spawn(line: &str, socket: &Path) -> Result<Background> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().context("no helper")?);
    Background::start(command.args(words).arg("-k").arg(socket))
}

/// Waits until it takes connections.
pub(crate) fn ready(process: &mut Background, socket: &Path) -> Result<()> {
    crate::vm::connect(socket, process).context("the helper").map(drop)
}
