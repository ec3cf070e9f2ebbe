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
    forget_package(command.current_dir(root()));
    command
}

/// What `cargo run` tells this program of its package. There are build scripts that are to be run again whenever it changes, and with them
/// half of the workspace is compiled again.
const OF_PACKAGE: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// A cargo that is started by this program is to find what one does that a person starts.
pub(crate) fn forget_package(cargo: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_PACKAGE.iter().any(|part| name.starts_with(part))) {
            cargo.env_remove(name);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_told_nothing_of_the_package_of_this_program() {
        let command = cargo_command();
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR"] {
            assert!(std::env::var_os(name).is_some(), "{name} is no longer there");
            assert!(removed.iter().any(|(there, _)| *there == name), "{name} is handed on");
        }
    }
}
