//! Running other programs: to their end with a verdict, with their output, or in the background.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository's top.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// Runs cargo at the top of the repository.
///
/// # Errors
/// If it cannot be run or ends non-zero.
pub(crate) fn cargo(args: &[&str], more: &[String]) -> Result<()> {
    run(cargo_command().args(args).args(more))
}

/// Cargo at the top of the repository.
pub(crate) fn cargo_command() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// Runs a command with this program's own output.
///
/// # Errors
/// If it cannot be run or ends non-zero.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| describe(command))?;
    ensure!(status.success(), "{}: {status}", describe(command));
    Ok(())
}

/// Runs a command and keeps its output.
///
/// # Errors
/// If it cannot be run.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| describe(command))
}

/// Runs a command that must succeed and gives its standard output.
///
/// # Errors
/// If it cannot be run or ends non-zero; the message has its standard error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", describe(command), output.status, told.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program and its arguments.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Where a program is, if it is installed.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}
