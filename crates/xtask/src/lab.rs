//! Trials in the lab's VM: `cargo xtask lab …`.

use crate::report::{Done, Report};
use crate::{programs, tools, two_hosts};
use ::lab::front_end::kills::Kills;
use ::lab::linux_guest::{LinuxGuests, Reconnects, TwoDevices};
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
/// Moves of a guest of the vhost-user device, and in a run of everything that takes its time.
const MOVES: u32 = 2;
const ALL_MOVES: u32 = 10;
/// Kills of the vhost-user device without a guest, and with one.
const DEVICE_KILLS: u32 = 100;
const GUEST_KILLS: u32 = 10;
/// Decides what is chosen at random where nobody says.
const SEED: u64 = 1;

/// What to try.
#[derive(Subcommand)]
pub(crate) enum Trial {
    /// Run one command in the VM, with LIO's disks there
    Run {
        /// Where programs are that were built already
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
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
    /// and go, fence_scsi; and move guests
    Device {
        /// Live migrations of a guest between two QEMUs, and as many between two devices, while fio verifies in it and it holds reservations
        #[arg(long, default_value_t = MOVES)]
        moves: u32,
        /// Nothing but the moves
        #[arg(long)]
        only_moves: bool,
        /// Nothing but the moves between two devices
        #[arg(long, conflicts_with = "only_moves")]
        only_between: bool,
        /// Where programs are that were built already
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// A guest of `tenure device` with a disk of the kernel's target: recorded, killed, fenced, the disk gone and back, and moved from QEMU to QEMU,
    /// at one device and between two
    Keeps {
        /// Moves while it holds a reservation; in one more it is fenced
        #[arg(long, default_value_t = ALL_MOVES)]
        moves: u32,
        /// Only stories in whose names this is, such as "two devices, disks"
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// Where programs are that were built already
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// What the kernel's target keeps of an initiator port that logs out, or whose session is lost
    Logins {
        /// Where programs are that were built already
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// Kill `tenure device` under load, without a VM: no acknowledged write is lost or torn, and the reservation stays
    DeviceKills {
        /// How often
        #[arg(long, default_value_t = DEVICE_KILLS)]
        kills: u32,
        /// Decides when
        #[arg(long, default_value_t = SEED)]
        seed: u64,
        /// `--aio` of the device
        #[arg(long, default_value = "auto")]
        aio: String,
        /// Where the program was built, instead of building it
        #[arg(long, value_name = "DIRECTORY")]
        programs: Option<PathBuf>,
    },
    /// Kill `tenure device` under fio in a Linux guest, which is in QEMU 11.1: that one connects again
    GuestKills {
        /// How often
        #[arg(long, default_value_t = GUEST_KILLS)]
        kills: u32,
        /// Decides when
        #[arg(long, default_value_t = SEED)]
        seed: u64,
        /// Where programs are that were built already
        #[arg(long, value_name = "DIRECTORY")]
        programs: Option<PathBuf>,
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
        Some(Trial::Run { programs, argv }) => {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            alone_with(programs.as_deref(), |lab| lab.vm().run(&argv, Duration::from_secs(3600))?.good())
        }
        Some(Trial::Kills { kills, of_qemu, seed }) => alone(|lab| lab.kills(*kills, *of_qemu, *seed)),
        Some(Trial::Resets { seed }) => alone(|lab| lab.resets(*seed)),
        Some(Trial::Record { helper, front }) => {
            alone(|lab| Ok(serde_json::to_string_pretty(&lab.record(helper, *front)?)?))
        }
        Some(Trial::Device { moves, only_moves, only_between, programs }) => {
            let programs = programs::build(programs.as_deref())?;
            if !only_between {
                println!("{}", device(&programs, *moves, *only_moves)?);
            }
            println!("{}", between_devices(&programs, *moves)?);
            Ok(())
        }
        Some(Trial::Keeps { moves, only, programs }) => {
            alone_with(programs.as_deref(), |lab| lab.keeps(*moves, only))
        }
        Some(Trial::Logins { programs }) => alone_with(programs.as_deref(), Lab::logins),
        Some(Trial::DeviceKills { kills, seed, aio, programs }) => {
            println!("{}", device_kills(&programs::build(programs.as_deref())?, *kills, *seed, aio)?);
            Ok(())
        }
        Some(Trial::GuestKills { kills, seed, programs }) => {
            let programs = programs::build(programs.as_deref())?;
            println!("{}", guest_kills(&programs, *kills, *seed)?);
            Ok(())
        }
        Some(Trial::Compare) => alone(|lab| compare(lab, true)),
    }
}

/// Runs one trial in a VM of its own, and prints what it told.
fn alone(trial: impl FnOnce(&mut Lab) -> Result<String>) -> Result<()> {
    alone_with(None, trial)
}

/// With programs that were built already, if they are.
fn alone_with(built: Option<&Path>, trial: impl FnOnce(&mut Lab) -> Result<String>) -> Result<()> {
    tools::ensure(tools::LAB)?;
    println!("{}", trial(&mut start(built)?)?.trim_end());
    Ok(())
}

/// All trials: in one VM, and of two hosts.
pub(crate) fn steps(report: &mut Report, full: bool) {
    let mut lab = None;
    report.step("lab: compare", || within(&mut lab, |lab| compare(lab, full)));
    report.step("lab: keeps", || within(&mut lab, |lab| lab.keeps(ALL_MOVES, "")));
    report.step("lab: logins", || within(&mut lab, Lab::logins));
    report.step("lab: kills", || within(&mut lab, |lab| lab.kills(KILLS, KILLS_OF_QEMU, SEED)));
    report.step("lab: resets", || within(&mut lab, |lab| lab.resets(SEED)));
    drop(lab);
    let moves = if full { ALL_MOVES } else { MOVES };
    report.step("lab: device", || with_disks(|| device(&programs::build(None)?, moves, false)));
    report.step("lab: between devices", || with_disks(|| between_devices(&programs::build(None)?, moves)));
    report.step("lab: device kills", || {
        device_kills(&programs::build(None)?, DEVICE_KILLS, SEED, "auto").map(Done::Passed)
    });
    if full {
        report.step("lab: guest kills", || {
            with_disks(|| guest_kills(&programs::build(None)?, GUEST_KILLS, SEED))
        });
    }
    two_hosts::steps(report, full);
}

fn within(lab: &mut Option<Lab>, trial: impl FnOnce(&mut Lab) -> Result<String>) -> Result<Done> {
    if let Err(error) = tools::ensure(tools::LAB) {
        return Ok(Done::Skipped(error.to_string()));
    }
    let started = lab.take().map_or_else(|| start(None), Ok)?;
    let told = trial(lab.insert(started))?;
    println!("{told}");
    Ok(Done::Passed(told))
}

/// A helper does not see which of QEMU's devices a command came through: only with `full` each policy through both.
fn compare(lab: &mut Lab, full: bool) -> Result<String> {
    let both = &[Policy::Open, Policy::Migrate][..];
    let some = if full { both } else { &[Policy::Migrate] };
    let mut told = Vec::new();
    for (front, policies) in [(Front::Block, both), (Front::Generic, some)] {
        let incumbent = lab.record(INCUMBENT, front)?;
        for policy in policies {
            told.push(lab.compare(&incumbent, front, *policy)?);
        }
    }
    Ok(told.join("; "))
}

/// A trial of guests with disks of `tenure device`, where there is all that it takes.
fn with_disks(trial: impl FnOnce() -> Result<String>) -> Result<Done> {
    match guests_tools() {
        Ok(()) => trial().map(Done::Passed),
        Err(error) => Ok(Done::Skipped(error.to_string())),
    }
}

fn guests_tools() -> Result<()> {
    [tools::LAB, tools::DISKS, tools::TGT].into_iter().try_for_each(tools::ensure)
}

/// Guests of one device: what they do where they are, and the moves of one of them.
fn device(programs: &Path, moves: u32, only_moves: bool) -> Result<String> {
    guests_tools()?;
    let mut guests = LinuxGuests::boot(&cache()?, programs)?;
    let mut told = Vec::new();
    if !only_moves {
        told.push(guests.here()?);
    }
    told.push(guests.moves(moves)?);
    Ok(told.join("; "))
}

/// A guest that moves between two devices.
fn between_devices(programs: &Path, moves: u32) -> Result<String> {
    guests_tools()?;
    TwoDevices::boot(&cache()?, programs)?.moves(moves)
}

/// The device dies under a front end that has no guest.
fn device_kills(programs: &Path, kills: u32, seed: u64, aio: &str) -> Result<String> {
    let tenure = Tenure::at(&programs.join("tenure"));
    let directory = tempfile::TempDir::new_in(programs::target())?;
    Kills { tenure: &tenure, directory: directory.path(), kills, seed, aio }.play()
}

/// And under one that has.
fn guest_kills(programs: &Path, kills: u32, seed: u64) -> Result<String> {
    guests_tools()?;
    Reconnects::boot(&cache()?, programs)?.kills(kills, seed)
}

/// Boots the VM with this workspace's release programs in it, unless others are named.
fn start(built: Option<&Path>) -> Result<Lab> {
    Lab::start(&cache()?, &programs::build(built)?)
}

/// Where downloads are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    let cache = programs::target().join("lab");
    std::fs::create_dir_all(&cache)?;
    Ok(cache)
}
