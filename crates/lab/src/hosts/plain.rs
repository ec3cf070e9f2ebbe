//! A guest that moves between the hosts without a reservation: what the rest of the lab rests on.

use super::{DIRECTORY, Hosts, INCOMING, Name, PATIENCE, PROGRAM, Seat};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Blocks that are written before and after each migration.
const BLOCKS: usize = 20;

impl Hosts {
    /// Starts a guest on the first host and moves it so often, back and forth, while it writes.
    ///
    /// # Errors
    /// If a migration fails, or the guest does not write on.
    pub fn move_plainly(&mut self, moves: u32) -> Result<String> {
        let mut at = Name::A;
        let mut seat = self.host(at).seat("0", false, None)?;
        let (begun, mut took) = (Instant::now(), Duration::ZERO);
        for number in 1..=moves {
            seat.wait_written(BLOCKS)?;
            let leaves = Instant::now();
            seat = self.move_one(at, number).with_context(|| format!("move {number}"))?;
            took += leaves.elapsed();
            at = at.other();
        }
        seat.wait_written(BLOCKS)?;
        self.host(at).vacate()?;
        let (all, each) = (begun.elapsed().as_secs_f64(), took.as_secs_f64() / f64::from(moves.max(1)));
        Ok(format!("{moves} moves without a reservation in {all:.1} s, {each:.1} s each"))
    }

    fn move_one(&mut self, from: Name, number: u32) -> Result<Seat> {
        let socket = format!("{DIRECTORY}/qmp");
        let to = self.host(from.other());
        let uri = format!("tcp:{}:4444", to.address);
        let arrival = to.seat(&number.to_string(), true, None)?;
        to.vm.run(&[PROGRAM, "incoming", &socket, INCOMING], PATIENCE)?.good()?;
        self.host(from).vm.run(&[PROGRAM, "migrate", &socket, &uri], PATIENCE)?.good()?;
        self.host(from).vm.run(&[PROGRAM, "switch", &socket], PATIENCE)?.good()?;
        self.host(from.other()).vm.run(&[PROGRAM, "continue", &socket], PATIENCE)?.good()?;
        self.host(from).vacate()?;
        Ok(arrival)
    }
}
