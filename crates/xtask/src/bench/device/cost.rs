//! What reservations cost a command of a guest's disk: the check of them, and the account that is kept of them, on and off.
//!
//! Told in instructions of the device's process, which valgrind counts: rates and times of equal paths differ by more than what is looked
//! for here. Counted are user space's alone, of two runs of different lengths, and what starting and ending takes is in both.

use super::side::reserve;
use crate::tools::{self, Tool};
use anyhow::{Context, Result};
use lab::front_end::Shape;
use lab::front_end::load::{Job, Kind, Until, run};
use lab::front_end::scsi::{REQUESTS, VirtioScsi, setting};
use lab::process::Background;
use lab::tenure::Tenure;
use logical_unit::access::{AccessGate, Decision, Standing};
use logical_unit::profile::SPC;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

const VALGRIND: &[Tool] = &[Tool { what: "valgrind", package: "valgrind" }];
/// Bytes of the disk.
const SIZE: u64 = 64 << 20;
const LENGTH: u32 = 4096;
/// Requests of the shorter run, and of the longer one.
const REQUESTS_OF_RUNS: [u64; 2] = [200, 1700];
const SHAPE: Shape =
    Shape { size: 128, requests: 128, room: LENGTH, segment: LENGTH, indirect: true, event_idx: true };
/// READ(10) of 4 KiB.
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const CHECKS: u32 = 20_000_000;

/// What a device is measured with.
struct Setup<'a> {
    lun: &'a str,
    /// The directory of the account that is kept.
    account: Option<&'a Path>,
    /// The guest is registered and holds a reservation.
    reserved: bool,
}

/// Prints the rows; `programs`: where our own programs are, `file`: a path for the disk's file.
pub(super) fn print(programs: &Path, file: &Path, rounds: usize) -> Result<()> {
    tools::ensure(VALGRIND)?;
    println!(
        "what reservations cost a command of {LENGTH} bytes: instructions of the device's process for each, one at a time; the least of {rounds} rounds"
    );
    println!("{:<10} {:<56} {:>9} {:>9}   more", "", "", "without", "with");
    fs::File::create(file)?.set_len(SIZE)?;
    let lun = format!("file={}", file.display());
    let target = Tenure::at(&programs.join("tenure")).target(&[&format!("memory={SIZE}")])?;
    let remote = target.device(0, "trial");
    let (state, program) = (TempDir::new()?, programs.join("device-on-trial"));
    for (name, kind) in [("READ", Kind::Read), ("WRITE", Kind::Write)] {
        let plain = Setup { lun: &lun, account: None, reserved: false };
        let both = [&plain, &Setup { reserved: true, ..plain }];
        row((&program, rounds), (name, kind), "a file; a reservation is held", both)?;
        let plain = Setup { lun: &remote, account: None, reserved: false };
        let both = [&plain, &Setup { account: Some(state.path()), ..plain }];
        row(
            (&program, rounds),
            (name, kind),
            "an iscsi:// LUN; account is kept of what is registered",
            both,
        )?;
    }
    println!("the check of a command alone: {:.1} ns", check());
    Ok(())
}

fn row(
    (program, rounds): (&Path, usize),
    (name, kind): (&str, Kind),
    what: &str,
    both: [&Setup<'_>; 2],
) -> Result<()> {
    let mut least = [f64::INFINITY; 2];
    for _ in 0..rounds {
        // Threads that find nothing to do look once more: the least is what has to be done.
        for (least, setup) in least.iter_mut().zip(both) {
            *least = least.min(each(program, setup, kind)?);
        }
    }
    let [without, with] = least;
    println!("{name:<10} {what:<56} {without:>9.0} {with:>9.0}   {:+.2} %", (with / without - 1.0) * 100.0);
    Ok(())
}

/// Instructions of one request.
fn each(program: &Path, setup: &Setup<'_>, kind: Kind) -> Result<f64> {
    let [few, many] = REQUESTS_OF_RUNS;
    let more = count(program, setup, kind, many)?.saturating_sub(count(program, setup, kind, few)?);
    Ok(more as f64 / (many - few) as f64)
}

/// Instructions of a whole run of so many requests.
fn count(program: &Path, setup: &Setup<'_>, kind: Kind, requests: u64) -> Result<u64> {
    let directory = TempDir::new()?;
    let (socket, told) = (directory.path().join("trial.sock"), directory.path().join("counted"));
    let mut command = Command::new("valgrind");
    command.args(["-q", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", told.display()));
    // Without io_uring, whose waits valgrind does not let other threads go on beside.
    command.arg(program).args(["--aio", "threads", "--lun", setup.lun]).arg("--socket").arg(&socket);
    if let Some(account) = setup.account {
        command.arg("--account").arg(account);
    }
    let (mut process, _) = Background::start_and_read_line(&mut command)?;
    let mut driver = VirtioScsi::connect(&socket, &setting(1, SHAPE))?;
    let dialect = driver.dialect(0)?;
    if setup.reserved {
        reserve(&mut driver)?;
    }
    let until = Until::Requests(requests);
    let job = Job { kind, length: LENGTH, depth: 1, span: SIZE, random: Some(7), until };
    run(driver.front.ring(REQUESTS)?, &dialect, &job)?;
    drop(driver);
    process.stop()?;
    let told = fs::read_to_string(&told).context("what valgrind has counted")?;
    let all = told.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    all.context("valgrind has counted nothing")
}

/// Nanoseconds of the check by which a READ of a registered nexus passes a reservation.
fn check() -> f64 {
    let gate = AccessGate::new(Standing::SHARED_REGISTRANT);
    let begin = Instant::now();
    let passed = (0..CHECKS).filter(|_| {
        let decision = black_box(&gate).decide(black_box(&SPC), black_box(&READ));
        decision == Decision::Execute
    });
    black_box(passed.count());
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(CHECKS)
}
