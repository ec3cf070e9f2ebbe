//! `tenure device` against what users would take instead, Debian's `qemu-storage-daemon` with its vhost-user-blk export, and against
//! rust-vmm's `vhost-device-scsi`: one synthetic front end, one file, one queue.
//!
//! The file lies in memory (a tmpfs), so that the device is measured and not the disk, and then where this tree is. Guests that run under
//! emulation would hide every difference. Also told: what it costs that a reservation is held, with the same guest holding it.

mod side;

use super::spread;
use crate::tools::{self, Tool};
use anyhow::{Context, Result};
use lab::front_end::load::Kind;
use side::{Load, Measured, Programs, Side};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const INCUMBENT: &[Tool] = &[Tool { what: "qemu-storage-daemon", package: "qemu-system-common" }];
/// Bytes of the file.
const SIZE: u64 = 1 << 30;
const DEPTHS: [usize; 3] = [1, 32, 128];

const LOADS: [Load; 4] = [
    Load { name: "4 KiB random read", kind: Kind::Read, length: 4096, is_random: true },
    Load { name: "4 KiB random write", kind: Kind::Write, length: 4096, is_random: true },
    Load { name: "128 KiB sequential read", kind: Kind::Read, length: 128 << 10, is_random: false },
    Load { name: "128 KiB sequential write", kind: Kind::Write, length: 128 << 10, is_random: false },
];

/// How much is measured.
#[derive(Clone, clap::Args)]
pub(crate) struct Effort {
    /// How often each is measured (`device` only)
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of each measurement (`device` only)
    #[arg(long, default_value_t = 500)]
    milliseconds: u64,
    /// Where `tenure` was built, instead of building it (`device` only)
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
}

/// One load at one depth, and what was measured on each side, round by round.
struct Cell {
    load: Load,
    depth: usize,
    measured: [Vec<Measured>; Side::ALL.len()],
}

/// Prints a table for each place that the file can have.
pub(super) fn print(effort: &Effort) -> Result<()> {
    tools::ensure(INCUMBENT)?;
    let programs = Programs::build(effort.programs.as_deref())?;
    for (place, directory) in [
        ("a tmpfs", TempDir::new_in("/dev/shm")?),
        ("this tree's disk", TempDir::new_in(crate::programs::target())?),
    ] {
        println!(
            "a file of {} MiB on {place}, direct I/O; medians of {} rounds (min to max);",
            SIZE >> 20,
            effort.rounds
        );
        println!(
            "processor time of the back end for each request; ratios to qemu-storage-daemon and vhost-device-scsi"
        );
        let file = directory.path().join("disk");
        fill(&file)?;
        table(&programs, &file, effort)?.iter().for_each(Cell::print);
        println!();
    }
    Ok(())
}

/// Every block is written: to read a hole would be to measure something else.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let block = vec![0xA5; 1 << 20];
    (0..SIZE >> 20).try_for_each(|_| file.write_all(&block))?;
    file.sync_all().context("the benchmark's file")
}

fn table(programs: &Programs, file: &Path, effort: &Effort) -> Result<Vec<Cell>> {
    let cell = |load, depth| Cell { load, depth, measured: Default::default() };
    let mut cells: Vec<Cell> = LOADS.iter().flat_map(|load| DEPTHS.map(|depth| cell(*load, depth))).collect();
    let time = Duration::from_millis(effort.milliseconds);
    for round in 0..effort.rounds {
        for turn in 0..Side::ALL.len() {
            // In an order that is another in each round.
            let index = (turn + round) % Side::ALL.len();
            let Some(side) = Side::ALL.get(index) else { continue };
            // One at a time: a file that has two users is refused by all of them, and rightly.
            let mut server = programs.start(*side, file).with_context(|| side.name())?;
            for cell in &mut cells {
                let measured = server.run(cell.load, cell.depth, SIZE, time).with_context(|| side.name())?;
                cell.measured.get_mut(index).into_iter().for_each(|all| all.push(measured));
            }
        }
    }
    Ok(cells)
}

impl Cell {
    fn print(&self) {
        println!("{}, depth {}", self.load.name, self.depth);
        let [daemon, rust_vmm, plain, ..] = &self.measured;
        for (side, ours) in Side::ALL.iter().zip(&self.measured) {
            let of = |figure: fn(&Measured) -> f64| spread(&mut ours.iter().map(figure).collect::<Vec<_>>());
            let (low, rate, high) = of(|one| one.rate);
            let row = format!(
                "  {:<27} {rate:>7.0}/s ({low:.0} to {high:.0}) {:>6.1} MB/s  {:>6.2} µs CPU  p50 {:>6.0} µs",
                side.name(),
                rate * f64::from(self.load.length) / 1e6,
                of(|one| one.processor).1 * 1e6,
                of(|one| one.latency).1 * 1e6,
            );
            let to = |theirs: &[Measured]| ratio(ours, theirs);
            match side {
                Side::StorageDaemon | Side::RustVmm => println!("{row}"),
                Side::Reserved => println!("{row}   {} of it without", to(plain)),
                Side::Tenure | Side::Threads => println!("{row}   {}  {}", to(daemon), to(rust_vmm)),
            }
        }
    }
}

/// Ours to theirs, round by round.
fn ratio(ours: &[Measured], theirs: &[Measured]) -> String {
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a.rate / b.rate).collect();
    let (low, middle, high) = spread(&mut ratios);
    format!("{middle:.2} ({low:.2} to {high:.2})")
}
