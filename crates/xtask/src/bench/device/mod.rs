//! `tenure device` against what users would take instead, Debian's `qemu-storage-daemon` with its vhost-user-blk export, and against
//! rust-vmm's `vhost-device-scsi`: one synthetic front end, one file, one queue.
//!
//! The file lies in memory (a tmpfs), so that the device is measured and not the disk, and then where this tree is. Guests that run under
//! emulation would hide every difference. Also told: what it costs that a reservation is held, with the same guest holding it, and what the
//! account costs that is kept of reservations (`--only cost`).

mod cost;
mod guest;
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
/// What stands for a place where it is measured what reservations cost.
const COST: &str = "cost";
const DEPTHS: [usize; 3] = [1, 32, 128];

const LOADS: [Load; 4] = [
    Load { name: "4 KiB random read", kind: Kind::Read, length: 4096, is_random: true },
    Load { name: "4 KiB random write", kind: Kind::Write, length: 4096, is_random: true },
    Load { name: "128 KiB sequential read", kind: Kind::Read, length: 128 << 10, is_random: false },
    Load { name: "128 KiB sequential write", kind: Kind::Write, length: 128 << 10, is_random: false },
];

/// How much is measured. As it is said here it takes some three minutes; nine rounds of a second each take twenty.
#[derive(Clone, clap::Args)]
pub(crate) struct Effort {
    /// How often each is measured (`device` only)
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Milliseconds of each measurement (`device` only)
    #[arg(long, default_value_t = 300)]
    milliseconds: u64,
    /// Only places ("cost": what reservations cost), sides, loads and depths ("32 deep") with one of these texts in their names (`device` only; again for more)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// fio in a guest instead, against QEMU's own disk (`device` only)
    #[arg(long)]
    guest: bool,
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
    if effort.guest {
        return guest::print(effort.programs.as_deref());
    }
    tools::ensure(INCUMBENT)?;
    let programs = Programs::build(effort.programs.as_deref())?;
    let memory = || PathBuf::from("/dev/shm");
    let places = [("a tmpfs", memory()), ("this tree's disk", crate::programs::target()), (COST, memory())];
    let wanted = effort.wanted(places, |(name, _)| (*name).to_owned());
    for (place, directory) in wanted {
        let directory = TempDir::new_in(directory)?;
        if place == COST {
            let programs = programs.tenure.parent().context("the programs' directory")?;
            cost::print(programs, &directory.path().join("disk"), effort.rounds)?;
            continue;
        }
        println!(
            "a file of {} MiB on {place}; medians of {} rounds (min to max);",
            SIZE >> 20,
            effort.rounds
        );
        println!("direct I/O, but for vhost-device-scsi, which has none, and where it is said otherwise;");
        println!(
            "processor time of the back end, and how often the front end kicked and slept, for each request; ratios to \
             qemu-storage-daemon and vhost-device-scsi"
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

/// What one side has left behind: reservations beside the file, and pages in the cache, which the next one's direct I/O would have to write
/// back and drop.
fn forget(path: &Path) -> Result<()> {
    for entry in path.parent().into_iter().flat_map(std::fs::read_dir).flatten() {
        let beside = entry?.path();
        if beside != path {
            std::fs::remove_file(beside)?;
        }
    }
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).context("the benchmark's file")
}

fn table(programs: &Programs, file: &Path, effort: &Effort) -> Result<Vec<Cell>> {
    let mut cells = effort.cells();
    let time = Duration::from_millis(effort.milliseconds);
    let sides = effort.wanted(Side::ALL, |side| side.name().to_owned());
    for round in 0..effort.rounds {
        for turn in 0..sides.len() {
            // In an order that is another in each round, and every other time backwards: each has other neighbours.
            let turn = if round.is_multiple_of(2) { turn } else { sides.len() - 1 - turn };
            let Some(side) = sides.get((turn + round) % sides.len()) else { continue };
            // One at a time: a file that has two users is refused by all of them, and rightly.
            forget(file)?;
            let mut server = programs.start(*side, file).with_context(|| side.name())?;
            for cell in &mut cells {
                let measured = server.run(cell.load, cell.depth, SIZE, time).with_context(|| side.name())?;
                cell.measured.get_mut(*side as usize).into_iter().for_each(|all| all.push(measured));
            }
        }
    }
    Ok(cells)
}

impl Effort {
    fn cells(&self) -> Vec<Cell> {
        let cell = |load, depth| Cell { load, depth, measured: Default::default() };
        let depths = self.wanted(DEPTHS, |depth| format!("{depth} deep"));
        let loads = self.wanted(LOADS, |load| load.name.to_owned()).into_iter();
        loads.flat_map(|load| depths.iter().map(move |depth| cell(load, *depth))).collect()
    }

    /// Those whose names have one of the texts that are asked for; all where none has.
    fn wanted<T>(&self, all: impl IntoIterator<Item = T>, name: impl Fn(&T) -> String) -> Vec<T> {
        let named = |one: &T| self.only.iter().any(|text| name(one).contains(text));
        let (wanted, others): (Vec<T>, Vec<T>) = all.into_iter().partition(named);
        if wanted.is_empty() { others } else { wanted }
    }
}

impl Cell {
    fn print(&self) {
        println!("{}, depth {}", self.load.name, self.depth);
        let [daemon, rust_vmm, plain, ..] = &self.measured;
        for (side, ours) in Side::ALL.iter().zip(&self.measured).filter(|(_, ours)| !ours.is_empty()) {
            let of = |figure: fn(&Measured) -> f64| spread(&mut ours.iter().map(figure).collect::<Vec<_>>());
            let (low, rate, high) = of(|one| one.rate);
            let row = format!(
                "  {:<30} {rate:>7.0}/s ({low:.0} to {high:.0}) {:>6.1} MB/s  {:>6.2} µs CPU  p50 {:>6.0} µs  {:.2} kicks {:.2} waits",
                side.name(),
                rate * f64::from(self.load.length) / 1e6,
                of(|one| one.processor).1 * 1e6,
                of(|one| one.latency).1 * 1e6,
                of(|one| one.kicks).1,
                of(|one| one.waits).1,
            );
            let to = |theirs: &[Measured]| ratio(ours, theirs);
            match side {
                Side::StorageDaemon | Side::RustVmm => println!("{row}"),
                Side::Reserved => println!("{row}   {} of it without", to(plain)),
                Side::Tenure | Side::Threads | Side::Buffered => {
                    println!("{row}   {}  {}", to(daemon), to(rust_vmm))
                }
            }
        }
    }
}

/// Ours to theirs, round by round.
fn ratio(ours: &[Measured], theirs: &[Measured]) -> String {
    if theirs.is_empty() {
        return String::new();
    }
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a.rate / b.rate).collect();
    let (low, middle, high) = spread(&mut ratios);
    format!("{middle:.2} ({low:.2} to {high:.2})")
}
