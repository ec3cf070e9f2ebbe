//! What moving the reservations of 1, 16 and 64 disks adds to the time that a guest stands still in a live migration, with
//! QEMU's own `migrate-pr` and with ours, on a target that delays every command.
//!
//! QEMU moves the same guest with `migrate-pr` on and off in turn; the difference of two neighbouring runs is its share. How
//! long its commands took, by QEMU's own trace, stands beside it. Ours is everything that two agents do between the stop
//! of the guest and its start, but for QEMU; what of this waits for disks is shown apart, because QEMU records nothing.

mod incumbent;

use super::spread;
use crate::{lab, programs};
use ::lab::agents::{Conducted, conduct};
use ::lab::qemu::{Backports, Moved};
use ::lab::served::Served;
use ::lab::tenure::Tenure;
use anyhow::Result;
use scsi::pr::{Key, ReservationType};
use std::time::Duration;
use tempfile::TempDir;

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
    ours: Vec<Conducted>,
}

/// What moves the reservations.
#[derive(Clone, Copy)]
enum Mover {
    Qemu,
    /// QEMU's migration without them: what there is to subtract.
    Nothing,
    Agents,
}

/// Prints a block for each number of disks.
pub(super) fn print() -> Result<()> {
    programs::build(None)?;
    let tenure = Tenure::at(&programs::tenure());
    let program = Backports::fetch(&lab::cache()?);
    if let Err(error) = &program {
        println!("QEMU 11.1 of Debian trixie-backports: skipped: {error:#}");
    }
    let program = program.ok();
    let mut cells = DISKS.map(|disks| Cell { disks, ..Cell::default() });
    for round in 0..ROUNDS {
        for cell in &mut cells {
            cell.measure(program.as_ref(), &tenure, round)?;
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
    /// Every mover once, in an order that is another in each round.
    fn measure(&mut self, program: Option<&Backports>, tenure: &Tenure, round: usize) -> Result<()> {
        let mut order = [Mover::Qemu, Mover::Nothing, Mover::Agents];
        order.rotate_left(round % 3);
        for mover in order {
            match (mover, program) {
                (Mover::Agents, _) => self.ours.push(agents(tenure, self.disks)?),
                (Mover::Qemu, Some(program)) => {
                    self.on.push(incumbent::migrate(program, tenure, self.disks, true)?);
                }
                (Mover::Nothing, Some(program)) => {
                    self.off.push(incumbent::migrate(program, tenure, self.disks, false)?);
                }
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// What QEMU's own moving of reservations added to the downtime, round by round.
    fn theirs(&self) -> Vec<f64> {
        let share = |(on, off): (&Moved, &Moved)| milliseconds(on.downtime) - milliseconds(off.downtime);
        self.on.iter().zip(&self.off).map(share).collect()
    }

    fn print(&self) {
        println!("disks: {}", self.disks);
        if !self.on.is_empty() {
            self.print_theirs();
        }
        self.print_ours();
        if !self.on.is_empty() {
            row("ratio of the shares, QEMU to tenure", self.ratios(|ours| ours.pause - ours.durable));
            row("the same with records and journal", self.ratios(|ours| ours.pause));
        }
    }

    fn print_theirs(&self) {
        let downtime = |moved: &[Moved]| moved.iter().map(|moved| milliseconds(moved.downtime)).collect();
        row("QEMU, downtime with migrate-pr=off", downtime(&self.off));
        row("QEMU, downtime with migrate-pr=on", downtime(&self.on));
        row("QEMU, share of the reservations", self.theirs());
        let commands = self.on.iter().map(|moved| moved.commands).max().unwrap_or_default();
        let busy = self.on.iter().map(|moved| milliseconds(moved.busy)).collect();
        row(&format!("QEMU, its {commands} commands by its trace"), busy);
    }

    fn print_ours(&self) {
        let of = |figure: fn(&Conducted) -> Duration| {
            self.ours.iter().map(|one| milliseconds(figure(one))).collect()
        };
        row("tenure, share without what waits for disks", of(|ours| ours.pause - ours.durable));
        let trips = self.ours.iter().map(Conducted::round_trips).max().unwrap_or_default();
        row(&format!("tenure, its {trips} round trips"), of(Conducted::commands));
        row("tenure, records and journal of both hosts", of(|ours| ours.durable));
    }

    /// Theirs to ours, round by round.
    fn ratios(&self, ours: fn(&Conducted) -> Duration) -> Vec<f64> {
        self.theirs().iter().zip(&self.ours).map(|(theirs, one)| theirs / milliseconds(ours(one))).collect()
    }
}

/// The state of both hosts is on the disk that this tree is on.
fn agents(tenure: &Tenure, disks: u8) -> Result<Conducted> {
    let served = serve(tenure, disks)?;
    let state = TempDir::new_in(programs::target())?;
    conduct(&served, u16::from(disks), state.path(), None)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Median, minimum and maximum.
fn row(name: &str, mut values: Vec<f64>) {
    let (low, middle, high) = spread(&mut values);
    println!("  {name:<44} {middle:>8.2} ({low:.2} to {high:.2})");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(milliseconds: u64) -> Moved {
        Moved { downtime: Duration::from_millis(milliseconds), commands: 3, busy: Duration::ZERO }
    }

    #[test]
    fn a_share_is_the_difference_within_one_round() {
        let (on, off) = (vec![moved(9), moved(30)], vec![moved(3), moved(20)]);
        let shares = Cell { disks: 1, on, off, ours: Vec::new() }.theirs();
        assert!((shares[0] - 6.0).abs() < 1e-9 && (shares[1] - 10.0).abs() < 1e-9, "{shares:?}");
    }
}
