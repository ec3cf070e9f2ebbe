//! The in-flight region of split rings (vhost-user: inflight I/O tracking): which heads were taken and not given back, in memory that
//! outlives the process. Used by the front end's handler, which makes or accepts it, and by each queue, which has its [`Queue`].
//!
//! Wherever the process dies, between any two stores, [`Queue::recover`] finds exactly the requests that were taken and that the used ring
//! does not tell of, in the order in which they were taken. What a hostile front end writes there is an error, never a panic.
//!
//! A queue's part is 16 bytes (features u64, version u16, desc_num u16, last_batch_head u16, used_idx u16), then 16 bytes for each
//! descriptor (inflight u8, five of padding, next u16, counter u64), rounded up to 64 bytes; numbers in the machine's byte order.

mod cells;
mod queue;

#[cfg(test)]
mod tests;

pub use queue::{Queue, Recovered};

use crate::memory::{Error as MemoryError, Mapping};
use cells::Shared;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// The most that a region may be: more queues and entries than any front end has.
const LENGTH_MAX: u64 = 64 << 20;
const HEADER: u64 = 16;
const ENTRY: u64 = 16;
const ALIGNMENT: u64 = 64;

/// Why an in-flight region cannot be used, or is used wrongly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No queues, no entries, or more than any front end has.
    #[error("an in-flight region of {queues} queues of {entries}")]
    Size {
        /// Queues.
        queues: u16,
        /// Descriptors of each.
        entries: u16,
    },
    /// The region is too short for its queues.
    #[error("an in-flight region of {length} bytes where {needed} are needed")]
    Short {
        /// What the queues need.
        needed: u64,
        /// What there is.
        length: u64,
    },
    /// A queue that it does not have.
    #[error("the in-flight region has no queue {0}")]
    NoQueue(u16),
    /// It cannot be mapped or reached.
    #[error("in-flight region: {0}")]
    Memory(#[from] MemoryError),
    /// It cannot be created.
    #[error("cannot create an in-flight region: {0}")]
    Create(#[source] io::Error),
    /// A version other than 1.
    #[error("an in-flight region of version {0}")]
    Version(u16),
    /// Another number of descriptors than was agreed.
    #[error("an in-flight region for {0} descriptors")]
    Entries(u16),
    /// A head that the ring does not have.
    #[error("head {0} is not in the ring")]
    Head(u16),
    /// Neither 0 nor 1.
    #[error("head {0} is neither in flight nor not")]
    Flag(u16),
    /// The used ring is further than the region has descriptors.
    #[error("a last batch of {0} heads")]
    Batch(u16),
    /// The list of the last batch comes back to where it was.
    #[error("the last batch is a loop")]
    Loop,
    /// A counter that cannot be counted on from.
    #[error("a counter that is at its end")]
    Counter,
    /// The driver made a head available again before it was given back.
    #[error("head {0} is in flight already")]
    Taken(u16),
    /// It was never taken, or has been given back.
    #[error("head {0} is not in flight")]
    NotTaken(u16),
}

/// The region of all queues of a device.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    queues: u16,
    entries: u16,
}

impl Region {
    /// Bytes of a region.
    pub fn length(queues: u16, entries: u16) -> Result<u64, Error> {
        let all = u64::from(queues).saturating_mul(part_of(entries));
        let usable = queues != 0 && entries != 0 && all <= LENGTH_MAX;
        usable.then_some(all).ok_or(Error::Size { queues, entries })
    }

    /// GET_INFLIGHT_FD: a new one, to be sent to the front end, which sends it back with SET_INFLIGHT_FD. It is as long as
    /// [`Region::length`], begins at offset 0, and nobody can change its size.
    pub fn create(queues: u16, entries: u16) -> Result<File, Error> {
        let length = Self::length(queues, entries)?;
        let made = || -> io::Result<File> {
            let file = memfd_create("tenure-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            let file = File::from(file);
            file.set_len(length)?;
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(file)
        };
        made().map_err(Error::Create)
    }

    /// SET_INFLIGHT_FD: `length` bytes of `file` from `offset` on.
    pub fn accept(
        file: File,
        offset: u64,
        length: u64,
        queues: u16,
        entries: u16,
    ) -> Result<Arc<Self>, Error> {
        let needed = Self::length(queues, entries)?;
        if length < needed {
            return Err(Error::Short { needed, length });
        }
        let mapping = Mapping::new(file, offset, needed, |_| ())?;
        Ok(Arc::new(Self { mapping, queues, entries }))
    }

    /// Whether its file was truncated under us.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.mapping.is_torn()
    }

    /// The part of one queue; it has to [`Queue::recover`] before it takes anything.
    pub fn queue(self: &Arc<Self>, index: u16) -> Result<Queue, Error> {
        if index >= self.queues {
            return Err(Error::NoQueue(index));
        }
        let base = u64::from(index) * part_of(self.entries);
        let base = usize::try_from(base).map_err(|_| Error::NoQueue(index))?;
        Ok(Queue::new(Shared { region: Arc::clone(self), base }, self.entries))
    }
}

/// Bytes of one queue's part.
fn part_of(entries: u16) -> u64 {
    (HEADER + ENTRY * u64::from(entries)).next_multiple_of(ALIGNMENT)
}
