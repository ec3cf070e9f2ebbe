//! Trials in the lab's VM: `cargo xtask lab …`.

use crate::{shell, tools};
use ::lab::qemu::Front;
use ::lab::table::Policy;
use ::lab::trial::{INCUMBENT, Lab};
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
    /// Print what QEMU's own helper, or another, answers to the table of PR commands
    Record {
        /// The helper and its arguments, as seen in the VM; `-k SOCKET` is added
        #[arg(long, default_value = INCUMBENT)]
        helper: String,
        /// scsi-block or scsi-generic
        #[arg(long, default_value = "scsi-block")]
        front: Front,
    },
    /// Compare a helper with QEMU's own over the whole table, through scsi-block and scsi-generic
    Compare {
        /// The helper and its arguments, as seen in the VM; `-k SOCKET` is added
        #[arg(long, default_value = "/lab/programs/tenure-pr-helper --state /run/tenure")]
        helper: String,
        /// The helper's policy masks nothing
        #[arg(long)]
        open: bool,
    },
}

/// Runs one trial, or all.
///
/// # Errors
/// If something cannot be installed, or a trial fails.
pub(crate) fn run(trial: Option<&Trial>) -> Result<()> {
    let mut lab = start()?;
    match trial {
        Some(trial) => one(&mut lab, trial),
        None => all(&mut lab),
    }
}

/// The table answers the same each time, which is what comparing helpers by it rests on.
fn all(lab: &mut Lab) -> Result<()> {
    for front in [Front::Block, Front::Generic] {
        println!("{INCUMBENT}, {}", lab.compare(INCUMBENT, front, Policy::Open)?);
    }
    Ok(())
}

fn one(lab: &mut Lab, trial: &Trial) -> Result<()> {
    match trial {
        Trial::Run { argv } => {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            print!("{}", lab.vm().run(&argv, Duration::from_secs(3600))?.good()?);
        }
        Trial::Record { helper, front } => {
            println!("{}", serde_json::to_string_pretty(&lab.record(helper, *front)?)?);
        }
        Trial::Compare { helper, open } => {
            let policy = if *open { Policy::Open } else { Policy::Migrate };
            for front in [Front::Block, Front::Generic] {
                println!("{}", lab.compare(helper, front, policy)?);
            }
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
