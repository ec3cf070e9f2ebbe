//! One request's buffers: a descriptor chain of a split ring (virtio 1.2 2.7), read into what the device reads and what it writes.
//! Used by the queues, for heads from the available ring and for those of the in-flight region alike.
//!
//! Every piece is guest memory when this says so, all pieces to be read come first, and no chain is longer than [`DESCRIPTORS_MAX`]:
//! loops, tables outside memory, nested tables are errors. Header and data may be cut into descriptors anywhere (VIRTIO_F_ANY_LAYOUT).

use crate::memory::{Error as MemoryError, Memory, Segment};
use virtio_queue::desc::split::Descriptor;
use vm_memory::ByteValued;

/// Descriptors of buffers that one chain may have; READV and WRITEV take as many.
pub const DESCRIPTORS_MAX: usize = 1024;

/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

/// Why a chain is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A descriptor that its table does not have.
    #[error("descriptor {index} of a table of {size}")]
    Index {
        /// Which.
        index: u16,
        /// How many there are.
        size: u16,
    },
    /// The table is not in guest memory.
    #[error("a descriptor at {0:#x} is not in guest memory")]
    Table(u64),
    /// It comes back to where it was.
    #[error("the chain is a loop")]
    Loop,
    /// More descriptors than [`DESCRIPTORS_MAX`].
    #[error("the chain has more than {DESCRIPTORS_MAX} descriptors")]
    TooMany,
    /// 2^32 bytes or more in all.
    #[error("the chain has 2^32 bytes or more")]
    TooLong,
    /// The device would read after what it writes.
    #[error("a readable descriptor after a writable one")]
    Order,
    /// An indirect table in an indirect table, one that is followed by more, or one of no whole descriptors.
    #[error("an indirect table where none can be")]
    Indirect,
    /// A buffer is not in guest memory.
    #[error("{length} bytes at {address:#x} are not in guest memory")]
    Outside {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        length: u32,
    },
}

/// A table of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Guest-physical address.
    pub address: u64,
    /// Descriptors in it.
    pub size: u16,
}

/// The buffers of one request. Made once and walked again for the next, it keeps its room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// What is read, then what is written.
    segments: Vec<Segment>,
    /// How many are read.
    readable: usize,
    out: u32,
    room: u32,
}

impl Chain {
    /// Reads the chain that begins at `head` in the ring's table. After an error it has what was understood until then: perhaps room for
    /// a response.
    pub fn walk(&mut self, memory: &Memory, table: Table, head: u16) -> Result<(), Error> {
        *self = Self { segments: std::mem::take(&mut self.segments), ..Self::default() };
        self.segments.clear();
        let mut walk = Walk { memory, table, next: Some(head), left: table.size, indirect: false, taken: 0 };
        while let Some(descriptor) = walk.step()? {
            self.add(memory, &descriptor)?;
        }
        Ok(())
    }

    fn add(&mut self, memory: &Memory, descriptor: &Descriptor) -> Result<(), Error> {
        let segment = Segment { address: descriptor.addr().0, length: descriptor.len() };
        let Segment { address, length } = segment;
        if !descriptor.is_write_only() && self.segments.len() > self.readable {
            return Err(Error::Order);
        }
        if length == 0 {
            return Ok(());
        }
        if !memory.has(segment) {
            return Err(Error::Outside { address, length });
        }
        self.out.checked_add(self.room).and_then(|all| all.checked_add(length)).ok_or(Error::TooLong)?;
        self.segments.push(segment);
        if descriptor.is_write_only() {
            self.room = self.room.saturating_add(length);
        } else {
            self.readable = self.segments.len();
            self.out = self.out.saturating_add(length);
        }
        Ok(())
    }

    /// Bytes that the device reads: request header, CDB, data-out.
    #[must_use]
    pub fn out_length(&self) -> usize {
        self.out as usize
    }

    /// Bytes that the device may write: response header, sense data, data-in.
    #[must_use]
    pub fn in_length(&self) -> usize {
        self.room as usize
    }

    /// What the device reads, `length` bytes from `skip` on, or what there is of them.
    pub fn out_segments(&self, skip: usize, length: usize) -> impl Iterator<Item = Segment> + Clone + '_ {
        cut(self.segments.get(..self.readable).unwrap_or_default(), skip, length)
    }

    /// What the device writes, `length` bytes from `skip` on, or what there is of them.
    pub fn in_segments(&self, skip: usize, length: usize) -> impl Iterator<Item = Segment> + Clone + '_ {
        cut(self.segments.get(self.readable..).unwrap_or_default(), skip, length)
    }

    /// Copies from what the device reads, from `skip` on, as much as there is; how much that was.
    pub fn read(&self, memory: &Memory, skip: usize, bytes: &mut [u8]) -> Result<usize, MemoryError> {
        memory.gather(self.out_segments(skip, bytes.len()), bytes)
    }

    /// Copies to what the device writes, from `skip` on, as much as there is room for, and marks it; how much that was.
    pub fn write(&self, memory: &Memory, skip: usize, bytes: &[u8]) -> Result<usize, MemoryError> {
        memory.scatter(self.in_segments(skip, bytes.len()), bytes)
    }
}

/// On the way along a chain.
struct Walk<'a> {
    memory: &'a Memory,
    table: Table,
    next: Option<u16>,
    /// Descriptors of the table that have not been used: a chain that uses one twice is a loop.
    left: u16,
    indirect: bool,
    taken: usize,
}

impl Walk<'_> {
    fn step(&mut self) -> Result<Option<Descriptor>, Error> {
        let Some(index) = self.next else { return Ok(None) };
        let descriptor = self.fetch(index)?;
        if descriptor.refers_to_indirect_table() {
            self.enter(&descriptor)?;
            return self.step();
        }
        self.taken += 1;
        if self.taken > DESCRIPTORS_MAX {
            return Err(Error::TooMany);
        }
        self.next = descriptor.has_next().then(|| descriptor.next());
        Ok(Some(descriptor))
    }

    fn fetch(&mut self, index: u16) -> Result<Descriptor, Error> {
        let Table { address, size } = self.table;
        if index >= size {
            return Err(Error::Index { index, size });
        }
        self.left = self.left.checked_sub(1).ok_or(Error::Loop)?;
        let at =
            address.checked_add(u64::from(index) * u64::from(DESCRIPTOR)).ok_or(Error::Table(address))?;
        let mut descriptor = Descriptor::default();
        self.memory.read(at, descriptor.as_mut_slice()).map_err(|_| Error::Table(at))?;
        Ok(descriptor)
    }

    /// The rest of the chain is in a table of its own (virtio 1.2 2.7.5.3). At most once, so [`Walk::step`] calls itself at most once.
    fn enter(&mut self, descriptor: &Descriptor) -> Result<(), Error> {
        let whole = descriptor.len().is_multiple_of(DESCRIPTOR);
        let size = u16::try_from(descriptor.len() / DESCRIPTOR).unwrap_or(0);
        if self.indirect || descriptor.has_next() || !whole || size == 0 {
            return Err(Error::Indirect);
        }
        self.table = Table { address: descriptor.addr().0, size };
        (self.next, self.left, self.indirect) = (Some(0), size, true);
        Ok(())
    }
}

/// `length` bytes of `segments` from `skip` on. Addresses do not overflow: all of each segment is guest memory.
fn cut(segments: &[Segment], skip: usize, length: usize) -> impl Iterator<Item = Segment> + Clone + '_ {
    let (mut skip, mut length) = (skip, length);
    segments.iter().filter_map(move |segment| {
        let before = skip.min(segment.length as usize);
        skip -= before;
        let take = (segment.length as usize - before).min(length);
        length -= take;
        let address = segment.address.wrapping_add(before as u64);
        Some(Segment { address, length: u32::try_from(take).ok()? }).filter(|piece| piece.length != 0)
    })
}

#[cfg(test)]
mod tests;
