//! Both helpers under the same load: `tenure-pr-helper` and Debian's `qemu-pr-helper`, as programs, with all they do.
//!
//! Behind both is the same disk that is not there: a library that answers SG_IO at once, loaded into either. It can take
//! over only calls through the C library, so ours is built to make them that way for once. The clients are threads here, the
//! same for both; each sends one command at a time to a disk of its own.

mod client;
mod load;
mod memory;
mod server;

use super::spread;
use crate::tools::{self, Tool};
use anyhow::Result;
use load::{Measured, TRAFFIC, Traffic};
use server::{Programs, Server, Side};
use std::time::Duration;

const INCUMBENT: &[Tool] = &[Tool { what: "qemu-pr-helper", package: "qemu-system-common" }];
const ROUNDS: usize = 5;
const CLIENTS: [usize; 3] = [1, 16, 64];

/// One kind of traffic from so many clients, and what was measured on each side, round by round.
struct Cell {
    traffic: &'static Traffic,
    clients: usize,
    measured: [Vec<Measured>; Side::ALL.len()],
}

/// Prints a table of requests per second and latencies, and one of memory.
pub(super) fn print() -> Result<()> {
    tools::ensure(INCUMBENT)?;
    let programs = Programs::build()?;
    let mut cells: Vec<Cell> = TRAFFIC
        .iter()
        .flat_map(|traffic| CLIENTS.map(|clients| Cell { traffic, clients, measured: Default::default() }))
        .collect();
    for round in 0..ROUNDS {
        measure(&programs, round, &mut cells)?;
    }
    println!(
        "helpers over disks that answer at once: requests per second, the helper's processor time for each,"
    );
    println!(
        "latency; medians of {ROUNDS} rounds (min to max), and ratios to qemu-pr-helper in the same round"
    );
    cells.iter().for_each(Cell::print);
    println!();
    memory::print(&programs)
}

/// Every cell on every side, in an order that is another in each round.
fn measure(programs: &Programs, round: usize, cells: &mut [Cell]) -> Result<()> {
    let servers: Vec<Server> = Side::ALL.iter().map(|side| programs.start(*side)).collect::<Result<_>>()?;
    for cell in cells {
        for turn in 0..Side::ALL.len() {
            let side = (turn + round) % Side::ALL.len();
            if let (Some(server), Some(measured)) = (servers.get(side), cell.measured.get_mut(side)) {
                measured.push(load::run(server, cell.clients, cell.traffic)?);
            }
        }
    }
    Ok(())
}

impl Cell {
    fn print(&self) {
        println!("{}, clients: {}", self.traffic.name, self.clients);
        let [theirs, ..] = &self.measured;
        for (side, ours) in Side::ALL.iter().zip(&self.measured) {
            let of = |figure: fn(&Measured) -> f64| spread(&mut ours.iter().map(figure).collect::<Vec<_>>());
            let (low, rate, high) = of(|one| one.rate);
            let row = format!(
                "  {:<34} {rate:>6.0}/s ({low:.0} to {high:.0}) {:>6.1} µs   p50 {:>5}   p99 {:>5}",
                side.name(),
                of(|one| one.processor.as_secs_f64() * 1e6).1,
                time(of(|one| one.p50.as_secs_f64()).1),
                time(of(|one| one.p99.as_secs_f64()).1)
            );
            let ratios = |figure| ratio(ours, theirs, figure);
            match side {
                Side::Incumbent => println!("{row}"),
                _ => println!(
                    "{row}   {}   p99 {}",
                    ratios(|one| one.rate),
                    ratios(|one| one.p99.as_secs_f64())
                ),
            }
        }
    }
}

/// Ours to theirs, round by round.
fn ratio(ours: &[Measured], theirs: &[Measured], figure: fn(&Measured) -> f64) -> String {
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| figure(a) / figure(b)).collect();
    let (low, middle, high) = spread(&mut ratios);
    format!("{middle:.2} ({low:.2} to {high:.2})")
}

fn time(seconds: f64) -> String {
    format!("{:.0?}", Duration::from_secs_f64(seconds))
}
