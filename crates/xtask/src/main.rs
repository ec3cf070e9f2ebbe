//! The project's chores, `cargo xtask …`: thin entry points, each a few commands with a verdict.
//!
//! `cargo xtask test` is everything that must pass; it ends non-zero if anything did not.

mod bench;
mod crash;
mod fuzz;
mod interop;
mod lab;
mod manual;
mod product;
mod programs;
mod report;
mod shell;
mod suite;
mod tools;
mod two_hosts;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, lints, all tests, explorer, peers, lab, fuzzing and demo, with a table at the end
    Test {
        /// Fail instead of skipping what this machine cannot run
        #[arg(long)]
        no_skip: bool,
    },
    /// Software that nobody here wrote, against `tenure target`, and handovers on other targets
    Interop {
        /// Fail instead of skipping what this machine cannot run
        #[arg(long)]
        no_skip: bool,
        /// Only steps in whose names this is
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// Where programs are that were built already
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// Run every fuzz target
    Fuzz {
        /// Seconds for each
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Search the states of a handover; see `cargo xtask explore --help`
    #[command(disable_help_flag = true)]
    Explore {
        /// Passed on to the explorer
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Real QEMU and the kernel's own target in VMs: one trial, or all; as root it installs the packages it needs
    Lab {
        /// Every reservation type and every scenario between two hosts, too
        #[arg(long)]
        full: bool,
        #[command(subcommand)]
        trial: Option<lab::Trial>,
    },
    /// A migration between two hosts that are processes, in which somebody dies at each step once
    Crash(crash::CrashArgs),
    /// Every scenario x role x reservation type x kind of target, as migrations between two agents of this machine
    Product(product::ProductArgs),
    /// Compare with tgt, qemu-pr-helper, QEMU's migrate-pr and other vhost-user devices in one run, and print the ratios
    Bench {
        /// Only this part
        part: Option<bench::Part>,
        #[command(flatten)]
        effort: bench::Effort,
    },
    /// Write man pages and shell completions
    Man {
        /// Where to
        #[arg(long, default_value = "target/man")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test { no_skip } => suite::test(no_skip),
        Task::Interop { no_skip, only, programs } => suite::interop(no_skip, &only, programs.as_deref()),
        Task::Fuzz { seconds } => suite::fuzz(seconds),
        Task::Explore { args } => {
            programs::build(None).and_then(|_| shell::run(Command::new(programs::explore()).args(&args)))
        }
        Task::Lab { trial, full } => lab::run(trial.as_ref(), full),
        Task::Crash(args) => crash::run(&args),
        Task::Product(args) => product::run(&args),
        Task::Bench { part, effort } => bench::run(part, &effort),
        Task::Man { out } => manual::write(&out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
