//! `agent-on-a-leash`: `tenure agent` with the same configuration, which stands still at each step of a handover until whoever listens
//! on the socket lets it go on.

use clap::Parser;
use lab::leash::Leash;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tenure::cli::AgentArgs;
use tenure::command::agent::run_observed;
use tenure::console::{Console, Verbosity};

#[derive(Parser)]
struct Options {
    /// Who holds the leash
    #[arg(long)]
    leash: PathBuf,
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
    match run_observed(&options.agent, &mut console, Some(leash)) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            console.error(failure.to_string());
            ExitCode::from(failure.exit as u8)
        }
    }
}
