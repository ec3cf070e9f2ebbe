//! Where the numbers of a queue's part are, and how they are loaded and stored: one atomic store at a time, each after all before it.
//! Used by [`super::queue`]; the tests put a journal in the place of shared memory.

use super::{ENTRY, Error, HEADER, Region};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

/// A number's place in a queue's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// u16.
    Version,
    /// u16.
    Entries,
    /// u16.
    LastBatchHead,
    /// u16.
    UsedIndex,
    /// u8, of a head.
    Inflight(u16),
    /// u16, of a head.
    Next(u16),
    /// u64, of a head.
    Counter(u16),
}

impl Cell {
    pub(super) fn offset(self) -> usize {
        let entry = |head: u16| HEADER as usize + ENTRY as usize * usize::from(head);
        match self {
            Self::Version => 8,
            Self::Entries => 10,
            Self::LastBatchHead => 12,
            Self::UsedIndex => 14,
            Self::Inflight(head) => entry(head),
            Self::Next(head) => entry(head) + 6,
            Self::Counter(head) => entry(head) + 8,
        }
    }
}

/// A queue's part, number by number.
pub(super) trait Cells: Debug {
    fn load(&self, cell: Cell) -> Result<u64, Error>;

    /// After every store before it, whoever looks. What does not fit into the cell is left out.
    fn store(&mut self, cell: Cell, value: u64) -> Result<(), Error>;
}

/// In the shared region.
#[derive(Debug)]
pub struct Shared {
    pub(super) region: Arc<Region>,
    pub(super) base: usize,
}

impl Cells for Shared {
    fn load(&self, cell: Cell) -> Result<u64, Error> {
        let (bytes, at) = (&self.region.mapping, self.base.saturating_add(cell.offset()));
        Ok(match cell {
            Cell::Inflight(_) => u64::from(bytes.atomic::<AtomicU8>(at)?.load(Ordering::Acquire)),
            Cell::Counter(_) => bytes.atomic::<AtomicU64>(at)?.load(Ordering::Acquire),
            _ => u64::from(bytes.atomic::<AtomicU16>(at)?.load(Ordering::Acquire)),
        })
    }

    fn store(&mut self, cell: Cell, value: u64) -> Result<(), Error> {
        let (bytes, at) = (&self.region.mapping, self.base.saturating_add(cell.offset()));
        match cell {
            Cell::Inflight(_) => bytes.atomic::<AtomicU8>(at)?.store(value as u8, Ordering::Release),
            Cell::Counter(_) => bytes.atomic::<AtomicU64>(at)?.store(value, Ordering::Release),
            _ => bytes.atomic::<AtomicU16>(at)?.store(value as u16, Ordering::Release),
        }
        Ok(())
    }
}
