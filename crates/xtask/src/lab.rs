//! Trials in the lab's VM: `cargo xtask lab …`.

use crate::{shell, tools};
use ::lab::trial::Lab;
use anyhow::Result;
use clap::Subcommand;
use std::path::PathBuf;
use std::time::Duration;

/// What to try.
#[derive(Subcommand)]
pub(crate) enum Trial {
    /// Run one command in the VM, with LIO's disks there
    Run {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<String>,
    },
}

/// Runs one trial.
///
/// # Errors
/// If something cannot be installed, or the trial fails.
pub(crate) fn run(trial: &Trial) -> Result<()> {
    let mut lab = start()?;
    match trial {
        Trial::Run { argv } => {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            print!("{}", lab.vm().run(&argv, Duration::from_secs(3600))?.good()?);
        }
    }
    Ok(())
}

/// Boots the VM with this workspace's release programs in it.
fn start() -> Result<Lab> {
    tools::ensure(tools::LAB)?;
    shell::cargo(&["build", "--release", "-p", "tenure-lab"], &[])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);
    let cache = target.join("lab");
    std::fs::create_dir_all(&cache)?;
    Lab::start(&cache, &target.join("release"))
}
