//! `tenure-lab`: what runs inside the lab's VM, as its agent and as the programs that the agent starts.
//!
//! It changes the running kernel's SCSI target and is meant for the VM alone. `cargo xtask lab` starts it.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lab::crash::{self, Setting};
use lab::hosts::{attach, leash};
use lab::lio::Access;
use lab::qemu::{Front, Machine, migration};
use lab::tenure::Tenure;
use lab::{guest, kept, lio, logins, table, vm};
use std::path::PathBuf;
use std::process::ExitCode;

/// Size of a logical unit.
const MEGABYTES: u64 = 64;

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
        /// Where LIO keeps what must survive power loss
        #[arg(long)]
        keep: PathBuf,
        /// How many initiator ports
        #[arg(long, default_value_t = 2)]
        nexuses: u8,
        /// To everybody over iSCSI as well, as the target of this name on port 3260
        #[arg(long)]
        target: Option<String>,
    },
    /// Serve a file through LIO over iSCSI, on port 3260
    Serve {
        /// The file; created if absent
        #[arg(long)]
        backing: PathBuf,
        /// Where LIO keeps what must survive power loss
        #[arg(long)]
        keep: PathBuf,
        /// The target's name
        #[arg(long)]
        target: String,
        /// Who may log in
        #[arg(long = "initiator")]
        initiators: Vec<String>,
    },
    /// Log in with the kernel's initiator, and print the disk
    Attach {
        /// `HOST:PORT`
        #[arg(long)]
        portal: String,
        /// The target's name
        #[arg(long)]
        target: String,
        /// This host's name
        #[arg(long)]
        initiator: String,
    },
    /// Become QEMU with one disk
    Qemu(Machine),
    /// Be the guest of such a QEMU: write, read back, and log
    Guest(guest::Setting),
    /// Send a guest to another QEMU, up to the pause before the switchover
    Migrate {
        /// QEMU's control socket
        socket: PathBuf,
        /// Where the other QEMU waits
        uri: String,
    },
    /// Let such a guest go
    Switch {
        /// QEMU's control socket
        socket: PathBuf,
    },
    /// Let a QEMU that waits take a guest
    Incoming {
        /// QEMU's control socket
        socket: PathBuf,
        /// Where it waits
        uri: String,
    },
    /// Let the guest that came run
    Continue {
        /// QEMU's control socket
        socket: PathBuf,
    },
    /// Cancel a migration under way
    Cancel {
        /// QEMU's control socket
        socket: PathBuf,
    },
    /// Hold the leash of an agent
    Leash(leash::Setting),
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
    /// Kill the helper, then QEMU, again and again in the course of commands
    Kills {
        #[command(flatten)]
        setting: Setting,
        /// Kills of the helper
        #[arg(long)]
        kills: u32,
        /// Kills of QEMU
        #[arg(long)]
        of_qemu: u32,
    },
    /// Be a guest of `tenure device` with a disk of this kernel's, and another node at it
    Kept {
        /// The program `tenure`
        #[arg(long)]
        tenure: PathBuf,
        /// The guest's disk: /dev/sdX or /dev/sgN
        #[arg(long)]
        lun: String,
        /// The disk of another initiator port
        #[arg(long)]
        other: String,
        /// Take the disk away, and give it back
        #[arg(long)]
        gone: bool,
        /// Move it so many times from QEMU to QEMU instead
        #[arg(long, conflicts_with = "gone")]
        moves: Option<u32>,
        /// Between two devices; at the second of them the disk is this one
        #[arg(long, requires = "moves")]
        there: Option<String>,
    },
    /// Look what this kernel's target keeps of an initiator port that has no session
    Logins {
        /// The disk of another initiator port
        #[arg(long)]
        other: String,
    },
    /// Send commands until the VM is reset
    Stream {
        #[command(flatten)]
        setting: Setting,
        /// A file to make once it has begun
        #[arg(long)]
        marker: PathBuf,
    },
    /// After such a reset: let the helper find out what is true, and reserve with APTPL
    Recover {
        #[command(flatten)]
        setting: Setting,
    },
    /// After another reset: the reservation is still there, and known
    StillOurs {
        #[command(flatten)]
        setting: Setting,
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
        Task::Lio { backing, keep, nexuses, target } => {
            for disk in lio::up(&backing, MEGABYTES, nexuses, &keep)? {
                println!("{} {}", disk.block.display(), disk.generic.display());
            }
            target.map_or(Ok(()), |name| lio::also(&name, &Access::Everybody))
        }
        Task::Serve { backing, keep, target, initiators } => {
            lio::serve(&backing, MEGABYTES, &keep, &target, &initiators)
        }
        Task::Attach { portal, target, initiator } => {
            println!("{}", attach::attach(&portal, &target, &initiator)?.display());
            Ok(())
        }
        Task::Qemu(machine) => match machine.exec()? {},
        Task::Guest(setting) => guest::run(&setting),
        Task::Migrate { socket, uri } => migration::out(&socket, &uri),
        Task::Switch { socket } => migration::switch(&socket),
        Task::Incoming { socket, uri } => migration::incoming(&socket, &uri),
        Task::Continue { socket } => migration::go_on(&socket),
        Task::Cancel { socket } => migration::cancel(&socket),
        Task::Leash(setting) => match leash::hold(&setting)? {},
        Task::Record { helper, front, guest, peer } => {
            println!("{}", serde_json::to_string(&table::record(&helper, front, &guest, &peer)?)?);
            Ok(())
        }
        Task::Kills { setting, kills, of_qemu } => tell(crash::kills(&setting, kills, of_qemu)),
        Task::Kept { tenure, lun, other, gone, moves, there } => {
            let tenure = Tenure::at(&tenure);
            tell(match (moves, there) {
                (Some(moves), Some(there)) => kept::moves::between(&tenure, [&lun, &there], &other, moves),
                (Some(moves), None) => kept::moves::run(&tenure, &lun, &other, moves),
                _ if gone => kept::come_and_go(&tenure, lun.as_ref(), &other),
                _ => kept::run(&tenure, &lun, &other),
            })
        }
        Task::Logins { other } => tell(logins(&other)),
        Task::Stream { setting, marker } => tell(crash::stream(&setting, &marker)),
        Task::Recover { setting } => tell(crash::recover(&setting)),
        Task::StillOurs { setting } => tell(crash::still_ours(&setting)),
    }
}

fn tell(told: Result<String>) -> Result<()> {
    println!("{}", told?);
    Ok(())
}

/// Initiators that the target lists, and those that it makes up as they come.
fn logins(other: &str) -> Result<String> {
    let initiator = "iqn.2026-11.example.tenure:moving";
    let listed = [initiator.to_owned()];
    let mut told = Vec::new();
    for (name, access) in [("listed", Access::Listed(&listed)), ("everybody", Access::Everybody)] {
        let target = format!("iqn.2026-11.example.tenure:{name}");
        lio::also(&target, &access)?;
        let port = format!("iscsi://127.0.0.1/{target}/0?initiator={initiator}&isid=800000000010");
        told.push(format!("{name}: {}", logins::judged(&port, other).context(name)?));
    }
    Ok(told.join("; "))
}
