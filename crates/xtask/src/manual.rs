//! Man pages and completions, made from the command tree.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// Writes `*.1` and the completions of three shells to `out`.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let mut command = tenure::cli::Cli::command();
    clap_mangen::generate_to(command.clone(), out)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "tenure", out)?;
    }
    println!("{}", out.display());
    Ok(())
}
