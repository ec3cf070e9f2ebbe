//! How far a guest is with its writing, in a page of its memory, which moves with it.

use crate::qemu::qtest::Qtest;
use anyhow::{Context, Result};

/// Beyond what the driver uses.
const PAGE: u32 = 0x80_0000;
/// The last sequence number whose write was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) written: u64,
}

impl Progress {
    /// Memory of a new guest is zero.
    pub(super) fn read(memory: &mut Qtest) -> Result<Self> {
        let bytes = memory.read(PAGE, 8)?;
        Ok(Self { written: bytes.first_chunk().copied().map(u64::from_le_bytes).context("a short page")? })
    }

    pub(super) fn store(&mut self, memory: &mut Qtest, sequence: u64) -> Result<()> {
        self.written = sequence;
        memory.write(PAGE, &sequence.to_le_bytes())
    }
}
