//! The command line `tenure`: the command tree, what is printed, and the glue between the engines.
//!
//! The engines live in their own crates and know no terminal; here is everything that does. Data goes
//! to standard output, everything else to standard error, and every command ends with an
//! [`exit::Exit`]. `main.rs` is one line so that all of this can be tested.
#![forbid(unsafe_code)]

pub mod cli;
pub mod command;
pub mod console;
pub mod exit;
pub mod journal;

use clap::Parser;
use cli::{Cli, Command};
use console::Console;
use exit::{Exit, Failure};
use std::ffi::OsString;

/// Runs `tenure` with these arguments, the program's name first.
pub fn main(args: impl Iterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let mut console = Console::standard(cli.voice.level());
    match run(&cli, &mut console) {
        Ok(exit) => exit,
        Err(failure) => {
            console.error(failure.to_string());
            if cli.command.json() {
                // The status tells the same, if nobody can be told.
                let _ = console.json(&failure.document());
            }
            failure.exit
        }
    }
}

/// Runs one parsed command.
///
/// # Errors
/// [`Failure`] with the exit status and the reason to show.
pub fn run(cli: &Cli, console: &mut Console) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Pr(args) => command::pr::run(args, console),
        Command::Target(args) => command::target::run(args, console),
        Command::Device(args) => command::device::run(args, console),
        Command::Handover(args) => command::handover::run(args, console),
        Command::Migrate(args) => command::migrate::run(args, console),
        Command::Status(args) => command::status::run(args, console),
        Command::Audit(args) => command::audit::run(args, console),
        Command::Agent(args) => command::agent::run(args, console),
        Command::Export(args) => command::export::run(args, console),
        Command::Import(args) => command::import::run(args, console),
        Command::Certs(args) => command::certs::run(args, console),
        Command::Demo(args) => command::demo::run(args, console),
        Command::Doctor(args) => command::doctor::run(args, console),
    }
}

/// Help and version are answers; everything else clap reports is a usage error.
fn explain(error: &clap::Error) -> Exit {
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}
