//! What moving the reservations of 1, 16 and 64 disks adds to the time that a guest stands still in a live migration, with
//! QEMU's own `migrate-pr`, on a target that delays every command.
//!
//! The same pair of QEMUs moves the same guest with `migrate-pr` on and off in turn; the difference of two neighbouring runs is
//! its share. How long its commands took, by QEMU's own trace, stands beside it.

mod incumbent;

use super::spread;
use crate::{interop, lab, shell};
use ::lab::qemu::{Backports, Moved};
use ::lab::served::Served;
use ::lab::tenure::Tenure;
use anyhow::Result;
use scsi::pr::{Key, ReservationType};
use std::time::Duration;

/// The target delays each command by this.
const DELAY_MS: u32 = 2;
const ROUNDS: usize = 7;
const DISKS: [u8; 3] = [1, 16, 64];
/// The guest's key, and what it holds on each disk.
const KEY: Key = Key(0x6E57);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

/// So many disks, and what was measured, round by round.
#[derive(Default)]
struct Cell {
    disks: u8,
    on: Vec<Moved>,
    off: Vec<Moved>,
}

/// Prints a block for each number of disks.
pub(super) fn print() -> Result<()> {
    shell::cargo(&["build", "--release", "-q", "-p", "tenure"], &[])?;
    let tenure = Tenure::at(&interop::tenure());
    let program = match Backports::fetch(&lab::cache()?) {
        Ok(program) => program,
        Err(error) => {
            println!("QEMU 11.1 of Debian trixie-backports: skipped: {error:#}");
            return Ok(());
        }
    };
    let mut cells = DISKS.map(|disks| Cell { disks, ..Cell::default() });
    for round in 0..ROUNDS {
        for cell in &mut cells {
            cell.measure(&program, &tenure, round)?;
        }
    }
    println!(
        "reservations of many disks in a live migration; the target delays each command by {DELAY_MS} ms; \
         medians of {ROUNDS} rounds (min to max), in ms"
    );
    cells.iter().for_each(Cell::print);
    Ok(())
}

/// One target that serves so many disks.
fn serve(tenure: &Tenure, disks: u8) -> Result<Served> {
    let lun = format!("memory=16M,delay={DELAY_MS}ms");
    tenure.target(&vec![lun.as_str(); usize::from(disks)])
}

impl Cell {
    /// Every side once, in an order that is another in each round.
    fn measure(&mut self, program: &Backports, tenure: &Tenure, round: usize) -> Result<()> {
        let mut order = [true, false];
        order.rotate_left(round % 2);
        for migrate_pr in order {
            let moved = incumbent::migrate(program, tenure, self.disks, migrate_pr)?;
            if migrate_pr { &mut self.on } else { &mut self.off }.push(moved);
        }
        Ok(())
    }

    /// What the reservations added to the downtime, round by round.
    fn shares(&self) -> Vec<f64> {
        let share = |(on, off): (&Moved, &Moved)| milliseconds(on.downtime) - milliseconds(off.downtime);
        self.on.iter().zip(&self.off).map(share).collect()
    }

    fn print(&self) {
        println!("disks: {}", self.disks);
        let downtime = |moved: &[Moved]| figure(moved.iter().map(|moved| milliseconds(moved.downtime)));
        println!("  {:<40} {}", "QEMU, downtime with migrate-pr=off", downtime(&self.off));
        println!("  {:<40} {}", "QEMU, downtime with migrate-pr=on", downtime(&self.on));
        println!("  {:<40} {}", "QEMU, share of the reservations", figure(self.shares()));
        let commands = self.on.iter().map(|moved| moved.commands).max().unwrap_or_default();
        let busy = figure(self.on.iter().map(|moved| milliseconds(moved.busy)));
        println!("  {:<40} {busy}", format!("QEMU, its {commands} commands by its trace"));
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Median, minimum and maximum.
fn figure(values: impl IntoIterator<Item = f64>) -> String {
    let (low, middle, high) = spread(&mut values.into_iter().collect::<Vec<_>>());
    format!("{middle:>8.2} ({low:.2} to {high:.2})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(milliseconds: u64) -> Moved {
        Moved { downtime: Duration::from_millis(milliseconds), commands: 3, busy: Duration::ZERO }
    }

    #[test]
    fn a_share_is_the_difference_within_one_round() {
        let cell = Cell { disks: 1, on: vec![moved(9), moved(30)], off: vec![moved(3), moved(20)] };
        let shares = cell.shares();
        assert!((shares[0] - 6.0).abs() < 1e-9 && (shares[1] - 10.0).abs() < 1e-9, "{shares:?}");
    }
}
