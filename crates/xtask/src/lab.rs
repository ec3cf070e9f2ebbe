//! Trials in the lab's VM: `cargo xtask lab …`.

use crate::report::{Done, Report};
use crate::{programs, tools, two_hosts};
use ::lab::front_end::kills::Kills;
use ::lab::linux_guest::{LinuxGuests, Sockets};
use ::lab::qemu::Front;
use ::lab::table::Policy;
use ::lab::tenure::Tenure;
use ::lab::trial::{INCUMBENT, Lab};
use anyhow::Result;
use clap::Subcommand;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Kills of the helper in a run of everything.
const KILLS: u32 = 25;
/// And of QEMU.
const KILLS_OF_QEMU: u32 = 3;
/// Moves of a guest of the vhost-user device.
const MOVES: u32 = 2;
/// Decides what is chosen at random where nobody says.
const SEED: u64 = 1;

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
    /// Kill the helper, and QEMU, under a stream of PR commands
    Kills {
        /// Kills of the helper
        #[arg(long, default_value_t = KILLS)]
        kills: u32,
        /// Kills of QEMU
        #[arg(long, default_value_t = KILLS_OF_QEMU)]
        of_qemu: u32,
        /// Decides what is chosen at random
        #[arg(long, default_value_t = SEED)]
        seed: u64,
    },
    /// Reset the VM under a stream of PR commands, and while the guest holds a reservation with APTPL
    Resets {
        /// Decides what is chosen at random
        #[arg(long, default_value_t = SEED)]
        seed: u64,
    },
    /// Boot two hosts with a disk in common, and say how long it took
    Hosts(two_hosts::Boot),
    /// Move a guest with a reservation between two hosts while it writes, watched by a third initiator, and judge it
    Migrate(two_hosts::Migrate),
    /// Boot Debian's kernel twice on the disks of `tenure device`, and use them: file system, fio, every reservation command, LUNs that come
    /// and go, fence_scsi
    Device {
        /// Move a guest so many times as well, while fio verifies in it
        #[arg(long, default_value_t = 0)]
        moves: u32,
        /// In the moves it is the same nexus on both sides, and holds a reservation
        #[arg(long, requires = "moves")]
        held: bool,
        /// Nothing but the moves
        #[arg(long, requires = "moves")]
        only_moves: bool,
        /// Where programs are that were built already
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// A guest of `tenure device` with a disk of the kernel's target: recorded, killed, fenced, and the disk gone and back
    Keeps,
    /// Kill `tenure device` under load, without a VM: no acknowledged write is lost or torn, and the reservation stays
    DeviceKills {
        /// How often
        #[arg(long, default_value_t = 100)]
        kills: u32,
        /// Decides when
        #[arg(long, default_value_t = SEED)]
        seed: u64,
        /// `--aio` of the device
        #[arg(long, default_value = "auto")]
        aio: String,
    },
    /// Compare our helper with QEMU's own over the whole table, through scsi-block and scsi-generic, under both policies
    Compare,
}

/// Runs one trial, or all; with `full` more of two hosts.
///
/// # Errors
/// If something cannot be installed, or a trial fails.
pub(crate) fn run(trial: Option<&Trial>, full: bool) -> Result<()> {
    match trial {
        None => {
            let mut report = Report::new(true);
            steps(&mut report, full);
            report.finish()
        }
        Some(Trial::Hosts(boot)) => boot.run(),
        Some(Trial::Migrate(migrate)) => migrate.run(),
        Some(Trial::Run { argv }) => {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            alone(|lab| lab.vm().run(&argv, Duration::from_secs(3600))?.good())
        }
        Some(Trial::Kills { kills, of_qemu, seed }) => alone(|lab| lab.kills(*kills, *of_qemu, *seed)),
        Some(Trial::Resets { seed }) => alone(|lab| lab.resets(*seed)),
        Some(Trial::Record { helper, front }) => {
            alone(|lab| Ok(serde_json::to_string_pretty(&lab.record(helper, *front)?)?))
        }
        Some(Trial::Device { moves, held, only_moves, programs }) => {
            let sockets = match (*moves, *held) {
                (0, _) => Sockets::One,
                (_, false) => Sockets::OfTwo,
                (_, true) => Sockets::Two,
            };
            println!("{}", device(*moves, sockets, *only_moves, programs.as_deref())?);
            Ok(())
        }
        Some(Trial::Keeps) => alone(Lab::keeps),
        Some(Trial::DeviceKills { kills, seed, aio }) => {
            let tenure = Tenure::at(&programs::build(None)?.join("tenure"));
            let directory = tempfile::TempDir::new_in(programs::target())?;
            let kills =
                Kills { tenure: &tenure, directory: directory.path(), kills: *kills, seed: *seed, aio };
            println!("{}", kills.play()?);
            Ok(())
        }
        Some(Trial::Compare) => alone(compare),
    }
}

/// Runs one trial in a VM of its own, and prints what it told.
fn alone(trial: impl FnOnce(&mut Lab) -> Result<String>) -> Result<()> {
    tools::ensure(tools::LAB)?;
    println!("{}", trial(&mut start()?)?.trim_end());
    Ok(())
}

/// All trials: in one VM, and of two hosts.
pub(crate) fn steps(report: &mut Report, full: bool) {
    let mut lab = None;
    report.step("lab: compare", || within(&mut lab, compare));
    report.step("lab: keeps", || within(&mut lab, Lab::keeps));
    report.step("lab: kills", || within(&mut lab, |lab| lab.kills(KILLS, KILLS_OF_QEMU, SEED)));
    report.step("lab: resets", || within(&mut lab, |lab| lab.resets(SEED)));
    drop(lab);
    report.step("lab: device", || {
        match tools::ensure(tools::LAB).and_then(|()| tools::ensure(tools::DISKS)) {
            Ok(()) => device(MOVES, Sockets::OfTwo, false, None).map(Done::Passed),
            Err(error) => Ok(Done::Skipped(error.to_string())),
        }
    });
    two_hosts::steps(report, full);
}

fn within(lab: &mut Option<Lab>, trial: impl FnOnce(&mut Lab) -> Result<String>) -> Result<Done> {
    if let Err(error) = tools::ensure(tools::LAB) {
        return Ok(Done::Skipped(error.to_string()));
    }
    let started = lab.take().map_or_else(start, Ok)?;
    let told = trial(lab.insert(started))?;
    println!("{told}");
    Ok(Done::Passed(told))
}

fn compare(lab: &mut Lab) -> Result<String> {
    let mut told = Vec::new();
    for front in [Front::Block, Front::Generic] {
        let incumbent = lab.record(INCUMBENT, front)?;
        for policy in [Policy::Open, Policy::Migrate] {
            told.push(lab.compare(&incumbent, front, policy)?);
        }
    }
    Ok(told.join("; "))
}

/// Guests with disks of `tenure device`.
fn device(moves: u32, sockets: Sockets, only_moves: bool, built: Option<&Path>) -> Result<String> {
    tools::ensure(tools::LAB)?;
    tools::ensure(tools::DISKS)?;
    tools::ensure(tools::TGT)?;
    let mut guests = LinuxGuests::boot(&cache()?, &programs::build(built)?, sockets)?;
    let mut told = Vec::new();
    if !only_moves {
        told.push(guests.here()?);
    }
    if moves > 0 {
        told.push(guests.moves(moves)?);
    }
    Ok(told.join("; "))
}

/// Boots the VM with this workspace's release programs in it.
fn start() -> Result<Lab> {
    Lab::start(&cache()?, &programs::build(None)?)
}

/// Where downloads are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    let cache = programs::target().join("lab");
    std::fs::create_dir_all(&cache)?;
    Ok(cache)
}
