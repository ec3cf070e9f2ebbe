//! `tenure-lab`: what runs inside the lab's VM, as its agent and as the programs that the agent starts.
//!
//! It changes the running kernel's SCSI target and is meant for the VM alone. `cargo xtask lab` starts it.

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::qemu::Front;
use lab::{lio, table, vm};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "tenure-lab",
    about = "The part of the lab that runs inside its VM",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Obey commands from outside, as the VM's first process
    Agent {
        /// The virtio-serial port
        port: PathBuf,
    },
    /// Serve a file through LIO to several initiator ports of this kernel, and print their disks
    Lio {
        /// The file; created if absent
        #[arg(long)]
        backing: PathBuf,
        /// How many initiator ports
        #[arg(long, default_value_t = 2)]
        nexuses: u8,
    },
    /// Send the table of commands through QEMU and a helper, and print what came back
    Record {
        /// The helper and its arguments; `-k SOCKET` is added
        #[arg(long)]
        helper: String,
        /// scsi-block or scsi-generic
        #[arg(long)]
        front: Front,
        /// The guest's disk: /dev/sdX, or /dev/sgN for scsi-generic
        #[arg(long)]
        guest: PathBuf,
        /// The disk of another initiator port
        #[arg(long)]
        peer: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenure-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Agent { port } => vm::agent::serve(&port),
        Task::Lio { backing, nexuses } => {
            for disk in lio::up(&backing, 64, nexuses)? {
                println!("{} {}", disk.block.display(), disk.generic.display());
            }
            Ok(())
        }
        Task::Record { helper, front, guest, peer } => {
            println!("{}", serde_json::to_string(&table::record(&helper, front, &guest, &peer)?)?);
            Ok(())
        }
    }
}
