//! One queue's record of what is in flight: taking, giving back in batches, and finding out after a crash (vhost-user: inflight
//! I/O tracking, "split virtqueue"). Used by the queue's own thread alone.
//!
//! What is believed of the region is read once, in [`Queue::recover`]; afterwards it is only written.

use super::Error;
use super::cells::{Cell, Cells, Shared};

const VERSION: u16 = 1;

/// One queue's part of a region.
#[derive(Debug)]
#[allow(private_bounds, reason = "the other kind of cells is the tests' journal")]
pub struct Queue<C: Cells = Shared> {
    cells: C,
    /// Descriptors, by whether they are in flight; empty before recovery.
    taken: Vec<bool>,
    entries: u16,
    counter: u64,
    last_batch_head: u16,
}

/// What a ring starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// To be executed again before anything new, in the order in which they were taken.
    pub heads: Vec<u16>,
    /// Where the available ring goes on: all before it was taken.
    pub next_avail: u16,
}

#[allow(private_bounds)]
impl<C: Cells> Queue<C> {
    pub(super) fn new(cells: C, entries: u16) -> Self {
        Self { cells, taken: Vec::new(), entries, counter: 0, last_batch_head: 0 }
    }

    /// The ring starts: finishes what was begun of the last batch, and tells what is in flight. `used_index` is the used ring's,
    /// `ring_size` its descriptors. A region that was never used becomes this ring's. May itself die and be done again.
    pub fn recover(&mut self, used_index: u16, ring_size: u16) -> Result<Recovered, Error> {
        match self.get(Cell::Version)? {
            0 => self.begin(used_index)?,
            VERSION => self.repair(used_index)?,
            other => return Err(Error::Version(other)),
        }
        self.read_back(used_index, ring_size)
    }

    /// Version 0: new memory, or another process died right here.
    fn begin(&mut self, used_index: u16) -> Result<(), Error> {
        for head in 0..self.entries {
            self.cells.store(Cell::Inflight(head), 0)?;
        }
        self.cells.store(Cell::Entries, self.entries.into())?;
        self.cells.store(Cell::LastBatchHead, 0)?;
        self.cells.store(Cell::UsedIndex, used_index.into())?;
        self.cells.store(Cell::Version, VERSION.into())
    }

    /// Where the used ring is ahead of the region, the last batch was published and not yet cleared.
    fn repair(&mut self, used_index: u16) -> Result<(), Error> {
        let entries = self.get(Cell::Entries)?;
        if entries != self.entries {
            return Err(Error::Entries(entries));
        }
        let batch = used_index.wrapping_sub(self.get(Cell::UsedIndex)?);
        if batch == 0 {
            return Ok(());
        }
        // With nothing in flight there is nothing to clear: the ring was started anew, from wherever its driver wished.
        if self.flags()?.contains(&true) {
            for head in self.last_batch(batch)? {
                self.cells.store(Cell::Inflight(head), 0)?;
            }
        }
        self.cells.store(Cell::UsedIndex, used_index.into())
    }

    /// The heads of the last batch, all of them looked at before any is changed.
    fn last_batch(&self, batch: u16) -> Result<Vec<u16>, Error> {
        if batch > self.entries {
            return Err(Error::Batch(batch));
        }
        let mut seen = vec![false; self.entries.into()];
        let mut heads = Vec::new();
        let mut head = self.get(Cell::LastBatchHead)?;
        for left in (0..batch).rev() {
            let seen = seen.get_mut(usize::from(head)).ok_or(Error::Head(head))?;
            if std::mem::replace(seen, true) {
                return Err(Error::Loop);
            }
            heads.push(head);
            // Beyond the batch the list is older than what it says.
            if left > 0 {
                head = self.get(Cell::Next(head))?;
            }
        }
        Ok(heads)
    }

    fn read_back(&mut self, used_index: u16, ring_size: u16) -> Result<Recovered, Error> {
        let taken = self.flags()?;
        let mut heads = Vec::new();
        for head in (0..self.entries).zip(&taken).filter_map(|(head, &taken)| taken.then_some(head)) {
            if head >= ring_size {
                return Err(Error::Head(head));
            }
            heads.push((self.cells.load(Cell::Counter(head))?, head));
        }
        heads.sort_unstable();
        // No ring ever took half as many: from there on it can be counted without end.
        let next = heads.last().map_or(0, |(counter, _)| counter.saturating_add(1));
        self.counter = Some(next).filter(|&next| next < u64::MAX / 2).ok_or(Error::Counter)?;
        self.last_batch_head = self.get(Cell::LastBatchHead)?;
        self.taken = taken;
        let count = u16::try_from(heads.len()).map_err(|_| Error::Batch(u16::MAX))?;
        let heads = heads.into_iter().map(|(_, head)| head).collect();
        Ok(Recovered { heads, next_avail: used_index.wrapping_add(count) })
    }

    /// A head was taken from the available ring, in the ring's order, and nothing of it has been done yet.
    pub fn take(&mut self, head: u16) -> Result<(), Error> {
        let taken = self.taken.get_mut(usize::from(head)).ok_or(Error::Head(head))?;
        if *taken {
            return Err(Error::Taken(head));
        }
        self.cells.store(Cell::Counter(head), self.counter)?;
        self.cells.store(Cell::Inflight(head), 1)?;
        self.counter = self.counter.wrapping_add(1);
        *taken = true;
        Ok(())
    }

    /// Gives `heads` back. `publish` is called for each in order, by its position: it writes the used ring's entry and index, and says
    /// what that index is now. Where it fails, the rest stays in flight.
    pub fn complete<E: From<Error>>(
        &mut self,
        heads: &[u16],
        publish: impl FnMut(usize) -> Result<u16, E>,
    ) -> Result<(), E> {
        self.check(heads)?;
        // Last first, so that however many have been published, they are the begin of the list.
        for &head in heads.iter().rev() {
            self.cells.store(Cell::Next(head), self.last_batch_head.into())?;
            self.cells.store(Cell::LastBatchHead, head.into())?;
            self.last_batch_head = head;
        }
        self.publish(heads, publish)
    }

    fn publish<E: From<Error>>(
        &mut self,
        heads: &[u16],
        mut publish: impl FnMut(usize) -> Result<u16, E>,
    ) -> Result<(), E> {
        let (mut published, mut used_index, mut result) = (0, None, Ok(()));
        for position in 0..heads.len() {
            match publish(position) {
                Ok(index) => (published, used_index) = (position + 1, Some(index)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if let Some(index) = used_index {
            self.settle(heads.get(..published).unwrap_or_default(), index)?;
        }
        result
    }

    /// The used ring tells of these: the region follows.
    fn settle(&mut self, heads: &[u16], used_index: u16) -> Result<(), Error> {
        for &head in heads {
            self.cells.store(Cell::Inflight(head), 0)?;
            if let Some(taken) = self.taken.get_mut(usize::from(head)) {
                *taken = false;
            }
        }
        self.cells.store(Cell::UsedIndex, used_index.into())
    }

    /// Each is in flight, and none is there twice.
    fn check(&mut self, heads: &[u16]) -> Result<(), Error> {
        let mut wrong = None;
        let mut seen = 0;
        for &head in heads {
            match self.taken.get_mut(usize::from(head)) {
                Some(taken) if *taken => *taken = false,
                _ => wrong = Some(Error::NotTaken(head)),
            }
            if wrong.is_some() {
                break;
            }
            seen += 1;
        }
        for &head in heads.iter().take(seen) {
            if let Some(taken) = self.taken.get_mut(usize::from(head)) {
                *taken = true;
            }
        }
        wrong.map_or(Ok(()), Err)
    }

    /// Which heads the region says are in flight.
    fn flags(&self) -> Result<Vec<bool>, Error> {
        let flag = |head| match self.cells.load(Cell::Inflight(head))? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Flag(head)),
        };
        (0..self.entries).map(flag).collect()
    }

    fn get(&self, cell: Cell) -> Result<u16, Error> {
        // Such cells have sixteen bits.
        Ok(u16::try_from(self.cells.load(cell)?).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
#[allow(private_bounds)]
impl<C: Cells> Queue<C> {
    pub(super) fn cells(&self) -> &C {
        &self.cells
    }
}
