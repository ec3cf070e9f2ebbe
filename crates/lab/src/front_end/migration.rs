//! A guest's move to another device, as a VMM does it: memory is copied while the device runs and logs what it writes, then the rings stop, the rest is copied,
//! and the other device starts at the same bases.
//!
//! At the end both memories are compared: a page that the device wrote and did not log is found, whoever would have missed it.

use crate::front_end::FrontEnd;
use crate::front_end::connection::Connection;
use crate::front_end::log::Log;
use crate::front_end::memory::{Memory, PAGE};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// What a move was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Pages that the device logged while it ran, and when it stopped.
    pub logged: usize,
    /// Pages that were copied a second time or more often.
    pub copied_again: usize,
}

impl FrontEnd {
    /// Moves to the device that listens at `path`. `meanwhile` is what the guest does while its memory is copied; what it leaves under way moves with it.
    ///
    /// # Errors
    /// If a device refuses, wrote something that it did not log, or `meanwhile` fails.
    pub fn migrate(
        &mut self,
        path: &Path,
        meanwhile: impl FnMut(&mut Self, u32) -> Result<()>,
    ) -> Result<Moved> {
        let mut moved = Moved::default();
        let there = Memory::new(self.memory.length(), self.memory.regions().len() as u64)?;
        let bases = self.leave(&there, meanwhile, &mut moved)?;
        let differing = differing(&self.memory, &there)?;
        ensure!(differing.is_empty(), "written and not logged: pages {differing:x?} of the guest");
        // The source's device is gone before the destination's runs.
        self.connection = Connection::open(path, self.wishes)?;
        self.memory = Arc::new(there);
        self.inflight = None;
        self.start(&bases)?;
        Ok(moved)
    }

    fn leave(
        &mut self,
        there: &Memory,
        mut meanwhile: impl FnMut(&mut Self, u32) -> Result<()>,
        moved: &mut Moved,
    ) -> Result<Vec<u16>> {
        let log = Log::new(self.memory.pages())?;
        let _ = self.memory.take_marked();
        self.connection.log(Some(&log), &self.rings)?;
        copy(&self.memory, there, (0..self.memory.pages()).collect())?;
        for round in 0..ROUNDS {
            meanwhile(self, round)?;
            self.copy_again(there, &log, moved)?;
        }
        let bases = self.stop()?;
        self.copy_again(there, &log, moved)?;
        self.connection.log(None, &[])?;
        Ok(bases)
    }

    fn copy_again(&self, there: &Memory, log: &Log, moved: &mut Moved) -> Result<()> {
        let logged = log.take()?;
        moved.logged += logged.len();
        let pages: BTreeSet<u64> = logged.into_iter().chain(self.memory.take_marked()).collect();
        moved.copied_again += pages.len();
        copy(&self.memory, there, pages)
    }
}

/// How often what was written is copied while the guest runs.
const ROUNDS: u32 = 3;

fn copy(from: &Memory, to: &Memory, pages: BTreeSet<u64>) -> Result<()> {
    let mut bytes = [0; PAGE as usize];
    for place in pages.into_iter().filter_map(|page| from.page(page)) {
        from.read(place, &mut bytes)?;
        to.write(place, &bytes)?;
    }
    Ok(())
}

fn differing(one: &Memory, other: &Memory) -> Result<Vec<u64>> {
    let (mut here, mut there) = ([0; PAGE as usize], [0; PAGE as usize]);
    let mut pages = Vec::new();
    for place in (0..one.length()).step_by(PAGE as usize) {
        one.read(place, &mut here)?;
        other.read(place, &mut there)?;
        if here != there {
            pages.push(one.guest(place) / PAGE);
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_not_copied_is_found() {
        let (one, other) = (Memory::new(4 * PAGE, 2).unwrap(), Memory::new(4 * PAGE, 2).unwrap());
        one.write(PAGE, b"a").unwrap();
        one.write(3 * PAGE, b"b").unwrap();
        assert_eq!(differing(&one, &other).unwrap(), [1, 5]);
        copy(&one, &other, BTreeSet::from([5])).unwrap();
        assert_eq!(differing(&one, &other).unwrap(), [1]);
    }
}
