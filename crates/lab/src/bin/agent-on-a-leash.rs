//! `agent-on-a-leash`: `tenure agent` with the same configuration, which stands still at each step of a handover until whoever listens
//! on the socket lets it go on.

use agent::guests::Surroundings;
use clap::Parser;
use lab::helped::FileDisks;
use lab::leash::Leash;
use pr_helper::opening::{LinuxDevices, OpenLun};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tenure::cli::AgentArgs;
use tenure::command::agent::run_amid;
use tenure::console::{Console, Verbosity};

#[derive(Parser)]
struct Options {
    /// Who holds the leash
    #[arg(long)]
    leash: PathBuf,
    /// Device nodes are files that stand for disks
    #[arg(long)]
    file_disks: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut console = Console::standard(Verbosity::Normal);
    let leash = match Leash::connect(&options.leash) {
        Ok(leash) => Arc::new(leash),
        Err(error) => {
            eprintln!("agent-on-a-leash: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let devices: Arc<dyn OpenLun> =
        if options.file_disks { Arc::new(FileDisks) } else { Arc::new(LinuxDevices::default()) };
    let surroundings = Surroundings { observer: Some(leash), devices };
    match run_amid(&options.agent, &mut console, surroundings) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            console.error(failure.to_string());
            ExitCode::from(failure.exit as u8)
        }
    }
}
