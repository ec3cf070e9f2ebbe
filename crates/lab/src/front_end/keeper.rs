//! Writes at depth whose content says where and in which version it was written, and reads that must find the last version that was
//! acknowledged: lost, torn and misplaced writes show, those that a killed device had under way too.
//!
//! A block has at most one request under way, so what it must have is always known. Everything stays as it is when the device is gone: after
//! [`FrontEnd::reconnect`](super::FrontEnd::reconnect) the keeper goes on.

use crate::front_end::load::{Dialect, Io, Kind, Verdict, judge, submit};
use crate::front_end::ring::{Done, Ring};
use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Every such part of a block tells block and version.
const SECTOR: usize = 512;

#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    version: u64,
    is_busy: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    block: u64,
    /// What is written; a read writes none.
    version: Option<u64>,
}

/// What is known of a disk's first blocks.
#[derive(Debug)]
pub struct Keeper {
    length: u32,
    blocks: Vec<Kept>,
    pending: BTreeMap<u16, Pending>,
    next: u64,
    random: Random,
    /// Writes that were acknowledged.
    pub written: u64,
    /// Reads that found what they had to.
    pub checked: u64,
    /// Requests that a device wanted to have again.
    pub again: u64,
}

impl Keeper {
    /// So many blocks of `length` bytes, on a disk of zeros.
    ///
    /// # Errors
    /// If the length is none of whole sectors.
    pub fn new(blocks: usize, length: u32, seed: u64) -> Result<Self> {
        ensure!(
            blocks > 0 && length > 0 && (length as usize).is_multiple_of(SECTOR),
            "no blocks of {length} bytes"
        );
        Ok(Self {
            length,
            blocks: vec![Kept::default(); blocks],
            pending: BTreeMap::new(),
            next: 1,
            random: Random::new(seed),
            written: 0,
            checked: 0,
            again: 0,
        })
    }

    /// Keeps `depth` requests under way while `goes_on`; what is under way then stays so.
    ///
    /// # Errors
    /// [`Gone`](super::Gone) if the device is gone; anything else is a fault of the device's.
    pub fn run(
        &mut self,
        ring: &mut Ring,
        dialect: &impl Dialect,
        depth: usize,
        mut goes_on: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        while goes_on(self) {
            while ring.under_way() < depth {
                let Some(slot) = ring.take() else { break };
                if !self.begin(ring, dialect, slot)? {
                    break;
                }
            }
            ring.publish()?;
            self.hear(ring, dialect)?;
        }
        Ok(())
    }

    /// Waits until nothing is under way.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn settle(&mut self, ring: &mut Ring, dialect: &impl Dialect) -> Result<()> {
        while !self.pending.is_empty() {
            self.hear(ring, dialect)?;
        }
        Ok(())
    }

    /// Reads every block and wants what it must have.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn check_all(&mut self, ring: &mut Ring, dialect: &impl Dialect) -> Result<()> {
        self.settle(ring, dialect)?;
        for block in 0..self.blocks.len() as u64 {
            let slot = ring.take().context("no slot")?;
            self.submit(ring, dialect, slot, Pending { block, version: None })?;
            ring.publish()?;
            self.settle(ring, dialect)?;
        }
        Ok(())
    }

    /// A write, or once in four a read, of a block that is free; false if none was found.
    fn begin(&mut self, ring: &mut Ring, dialect: &impl Dialect, slot: u16) -> Result<bool> {
        for _ in 0..self.blocks.len() {
            let block = self.random.below(self.blocks.len() as u64);
            if self.block(block)?.is_busy {
                continue;
            }
            let version = (!self.random.once_in(4)).then_some(self.next);
            self.next += 1;
            self.submit(ring, dialect, slot, Pending { block, version })?;
            return Ok(true);
        }
        ring.give_back(slot);
        Ok(false)
    }

    fn submit(&mut self, ring: &mut Ring, dialect: &impl Dialect, slot: u16, pending: Pending) -> Result<()> {
        let [_, _, buffer] = ring.layout(slot)?;
        // A read that does not write its buffer must be seen.
        let content = pending
            .version
            .map_or(vec![0xEE; self.length as usize], |version| self.content(pending.block, version));
        ring.memory().write(buffer, &content)?;
        let kind = if pending.version.is_some() { Kind::Write } else { Kind::Read };
        let io = Io { kind, offset: pending.block * u64::from(self.length), length: self.length };
        submit(ring, dialect, slot, io)?;
        self.pending.insert(slot, pending);
        self.block(pending.block)?.is_busy = true;
        Ok(())
    }

    /// Waits for the next answer, and takes all that are there.
    fn hear(&mut self, ring: &mut Ring, dialect: &impl Dialect) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        ring.wait(Instant::now() + PATIENCE)?;
        while let Some(done) = ring.collect()? {
            self.end(ring, dialect, done)?;
        }
        ring.publish()
    }

    fn end(&mut self, ring: &mut Ring, dialect: &impl Dialect, done: Done) -> Result<()> {
        let pending = self.pending.remove(&done.slot).context("an answer to nothing of the keeper's")?;
        if judge(ring, dialect, done)? == Verdict::Again {
            self.again += 1;
            let slot = ring.take().context("no slot")?;
            return self.submit(ring, dialect, slot, pending);
        }
        let kept = self.block(pending.block)?;
        kept.is_busy = false;
        match pending.version {
            Some(version) => {
                kept.version = version;
                self.written += 1;
            }
            None => {
                let version = kept.version;
                self.check(ring, done.slot, pending.block, version)?;
                self.checked += 1;
            }
        }
        Ok(())
    }

    fn check(&self, ring: &Ring, slot: u16, block: u64, version: u64) -> Result<()> {
        let [_, _, buffer] = ring.layout(slot)?;
        let mut found = vec![0; self.length as usize];
        ring.memory().read(buffer, &mut found)?;
        let wanted = self.content(block, version);
        let differing = found.chunks(SECTOR).zip(wanted.chunks(SECTOR)).position(|(a, b)| a != b);
        let Some(sector) = differing else { return Ok(()) };
        let at = found.get(sector * SECTOR..).unwrap_or_default();
        bail!(
            "block {block}, sector {sector}: version {version} was acknowledged, found {:02x?}",
            at.get(..16)
        )
    }

    /// What a block has in a version; before the first one, zeros.
    fn content(&self, block: u64, version: u64) -> Vec<u8> {
        if version == 0 {
            return vec![0; self.length as usize];
        }
        [block.to_le_bytes(), version.to_le_bytes()].concat().repeat(self.length as usize / 16)
    }

    fn block(&mut self, block: u64) -> Result<&mut Kept> {
        let index = usize::try_from(block)?;
        self.blocks.get_mut(index).context("no such block")
    }
}
