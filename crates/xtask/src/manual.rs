//! Man pages and completions, made from the command tree.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use pr_helper::daemon::CommandLine;
use std::path::Path;

/// Writes the man pages and the completions of three shells to `out`.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let (mut command, mut helper) = (tenure::cli::Cli::command(), CommandLine::command());
    clap_mangen::generate_to(command.clone(), out)?;
    // A program that the system runs, not a person: section 8.
    clap_mangen::Man::new(helper.clone()).section("8").generate_to(out)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "tenure", out)?;
        clap_complete::generate_to(shell, &mut helper, "tenure-pr-helper", out)?;
    }
    println!("{}", out.display());
    Ok(())
}
