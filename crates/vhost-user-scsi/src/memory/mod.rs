//! The guest's memory, as a vhost-user front end shares it (vhost-user: SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG): regions of files,
//! mapped shared. Used by the front end's handler, which makes it, and by the queues, which move headers and data through it.
//!
//! A [`Memory`] never changes: a new table makes a new one, and requests under way keep theirs (`Arc`). Every write marks the dirty
//! log of [`crate::log`]. What the front end says is checked: overlaps, overflows, pieces that are not in their file, more than the
//! device's share of what a process can map, files whose filesystem may never answer are errors. A
//! file that is truncated under us costs the connection ([`Memory::is_torn`]), never the process.

mod mapping;
mod region;
mod share;
mod sys;
mod torn;

#[cfg(test)]
pub(crate) mod tests;

pub use region::{Dirty, DirtySlice, Region};
pub use share::{BYTES_MAX, Share};
pub use sys::{VECTORS_MAX, Vectors};

pub(crate) use mapping::Mapping;
pub(crate) use torn::SLOTS;

use crate::descriptor;
use crate::log::DirtyLog;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use vm_memory::bitmap::BS;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
    Permissions, VolatileSlice,
};

/// Regions that one front end may share at a time (GET_MAX_MEM_SLOTS).
pub const REGIONS_MAX: usize = 256;

/// Why memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to map.
    #[error("a memory region of no bytes")]
    Empty,
    /// An address or length that goes over the end of numbers, or of the mapping.
    #[error("an address or length is out of range")]
    Overflow,
    /// Not aligned as it has to be.
    #[error("not aligned")]
    Misaligned,
    /// The file is shorter than what is to be mapped.
    #[error("{length} bytes from {offset} on are not in a file of {size} bytes")]
    BeyondFile {
        /// Where the piece begins in the file.
        offset: u64,
        /// Its length.
        length: u64,
        /// The file's size.
        size: u64,
    },
    /// More bytes than are taken.
    #[error("{length} bytes of shared memory where {most} are the most")]
    TooLong {
        /// How many there are, or are asked for.
        length: u64,
        /// How many may be.
        most: u64,
    },
    /// A file of a filesystem that may wait for ever.
    #[error("a file that is neither in memory nor on a local disk")]
    NotLocal,
    /// Two regions at the same guest-physical addresses.
    #[error("memory regions overlap at guest address {0:#x}")]
    Overlap(u64),
    /// More regions, or more pieces of one transfer, than are taken.
    #[error("too many pieces of memory")]
    TooMany,
    /// REM_MEM_REG of what was never added.
    #[error("no memory region at guest address {0:#x} is as described")]
    Unknown(u64),
    /// Not in any region.
    #[error("{length} bytes at {address:#x} are not guest memory")]
    Outside {
        /// Guest-physical, or the front end's, as asked.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// The file does not tell about itself.
    #[error("cannot look at the file: {0}")]
    File(#[source] Errno),
    /// It cannot be mapped.
    #[error("cannot map the file: {0}")]
    Map(String),
    /// The handler for truncated files cannot be installed.
    #[error("cannot install the handler for truncated files: {0}")]
    Signal(#[source] io::Error),
}

/// Where a region is (vhost-user: memory region description).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub length: u64,
    /// Address in the front end, in which rings are given.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// The guest's memory at one time. It implements vm-memory's `GuestMemory`: a queue of virtio-queue walks its ring in it.
#[derive(Debug)]
pub struct Memory {
    /// By guest address.
    regions: Vec<Arc<Region>>,
    /// Those of tables before this one, as long as requests hold them.
    former: Vec<Weak<Region>>,
    front_end: FrontEnd,
}

/// What all tables of a front end have in common.
#[derive(Clone, Debug)]
struct FrontEnd {
    log: Arc<DirtyLog>,
    share: Arc<Share>,
    /// A region was found torn that is gone.
    torn: Arc<AtomicBool>,
}

impl Memory {
    /// No memory yet, for a front end that has a process for itself. Writes into what follows from it are marked in `log`.
    #[must_use]
    pub fn new(log: Arc<DirtyLog>) -> Self {
        Self::within(Arc::default(), log)
    }

    /// No memory yet. What follows from it is within `share`.
    #[must_use]
    pub fn within(share: Arc<Share>, log: Arc<DirtyLog>) -> Self {
        let front_end = FrontEnd { log, share, torn: Arc::default() };
        Self { regions: Vec::new(), former: Vec::new(), front_end }
    }

    /// SET_MEM_TABLE: these regions and no others.
    pub fn with_table(&self, table: impl IntoIterator<Item = (Layout, File)>) -> Result<Self, Error> {
        let former = self.living(&self.regions);
        let empty = Self { regions: Vec::new(), former, front_end: self.front_end.clone() };
        let mut table = table.into_iter();
        let made = table.try_fold(empty, |memory, (layout, file)| memory.with(layout, file));
        table.for_each(|(_, file)| descriptor::let_go(file));
        made
    }

    /// ADD_MEM_REG: one more region.
    pub fn with(&self, layout: Layout, file: File) -> Result<Self, Error> {
        match self.place_for(layout) {
            Ok(at) => self.with_at(at, Region::new(layout, file, &self.front_end)?),
            Err(error) => {
                descriptor::let_go(file);
                Err(error)
            }
        }
    }

    /// Where a region belongs among the others.
    fn place_for(&self, layout: Layout) -> Result<usize, Error> {
        let lengths = self.layouts().chain([layout]).map(|layout| layout.length);
        self.front_end.share.check(self.regions.len().saturating_add(1), lengths)?;
        let end = layout.guest.checked_add(layout.length).ok_or(Error::Overflow)?;
        let at = self.regions.partition_point(|region| region.layout().guest < layout.guest);
        let (before, after) = self.regions.split_at_checked(at).ok_or(Error::Overflow)?;
        let previous_end = before.last().map_or(0, |region| end_of(region.layout()));
        if previous_end > layout.guest || after.first().is_some_and(|next| next.layout().guest < end) {
            return Err(Error::Overlap(layout.guest));
        }
        Ok(at)
    }

    fn with_at(&self, at: usize, region: Region) -> Result<Self, Error> {
        let (before, after) = self.regions.split_at_checked(at).ok_or(Error::Overflow)?;
        let regions = before.iter().cloned().chain([Arc::new(region)]).chain(after.iter().cloned()).collect();
        Ok(Self { regions, former: self.living(&[]), front_end: self.front_end.clone() })
    }

    /// REM_MEM_REG: without the region that is there, of that length, at that address of the front end (its file offset need not be told).
    pub fn without(&self, layout: Layout) -> Result<Self, Error> {
        let same = |region: &Arc<Region>| {
            let here = region.layout();
            (here.guest, here.length, here.user) == (layout.guest, layout.length, layout.user)
        };
        let at = self.regions.iter().position(same).ok_or(Error::Unknown(layout.guest))?;
        let mut regions = self.regions.clone();
        let removed = regions.remove(at);
        Ok(Self { regions, former: self.living(&[removed]), front_end: self.front_end.clone() })
    }

    /// The former regions that somebody still holds, and these.
    fn living(&self, removed: &[Arc<Region>]) -> Vec<Weak<Region>> {
        let former = self.former.iter().filter(|region| region.strong_count() > 0).cloned();
        former.chain(removed.iter().map(Arc::downgrade)).collect()
    }

    /// The guest-physical address of `length` bytes at the front end's address `user` (SET_VRING_ADDR). The bytes are one piece
    /// in both. Where two regions have that address the one lower in the guest counts: aliases are the same memory.
    pub fn guest_address(&self, user: u64, length: u64) -> Result<u64, Error> {
        let outside = Error::Outside { address: user, length };
        let Some(guest) = self.translate(user) else { return Err(outside) };
        let mut done = 0;
        while done < length {
            let Some(region) = self.find_region(GuestAddress(guest.saturating_add(done))) else {
                return Err(outside);
            };
            let layout = region.layout();
            let one_piece = layout.guest.wrapping_sub(layout.user) == guest.wrapping_sub(user);
            if !one_piece {
                return Err(outside);
            }
            done = end_of(layout) - guest;
        }
        Ok(guest)
    }

    fn translate(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let layout = region.layout();
            let within = user.checked_sub(layout.user).filter(|&within| within < layout.length)?;
            layout.guest.checked_add(within)
        })
    }

    /// Copies from the guest.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let length = bytes.len() as u64;
        let read = match self.piece(address, bytes.len()) {
            Some(piece) => piece.read_slice(bytes, 0).is_ok(),
            None => self.read_slice(bytes, GuestAddress(address)).is_ok(),
        };
        if read { Ok(()) } else { Err(Error::Outside { address, length }) }
    }

    /// Copies to the guest, and marks that.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let length = bytes.len() as u64;
        let written = match self.piece(address, bytes.len()) {
            Some(piece) => piece.write_slice(bytes, 0).is_ok(),
            None => self.write_slice(bytes, GuestAddress(address)).is_ok(),
        };
        if written { Ok(()) } else { Err(Error::Outside { address, length }) }
    }

    /// Writes a number of 16 bits, little-endian, after all that was written before, and marks that. A multiple of 2.
    pub(crate) fn publish(&self, address: u64, number: u16) -> Result<(), Error> {
        let (length, number) = (size_of::<u16>(), number.to_le());
        let written = match self.piece(address, length) {
            Some(piece) => piece.store(number, 0, Ordering::Release).is_ok(),
            None => self.store(number, GuestAddress(address), Ordering::Release).is_ok(),
        };
        if written { Ok(()) } else { Err(Error::Outside { address, length: length as u64 }) }
    }

    /// Copies from the guest's pieces, in order, as much as both have room for; how much that was.
    pub fn gather(
        &self,
        segments: impl IntoIterator<Item = Segment>,
        bytes: &mut [u8],
    ) -> Result<usize, Error> {
        let mut done = 0;
        for segment in segments {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            let take = rest.len().min(segment.length as usize);
            let Some(part) = rest.get_mut(..take).filter(|part| !part.is_empty()) else { continue };
            self.read(segment.address, part)?;
            done += take;
        }
        Ok(done)
    }

    /// Copies to the guest's pieces, in order, as much as both have room for, and marks it; how much that was.
    pub fn scatter(&self, segments: impl IntoIterator<Item = Segment>, bytes: &[u8]) -> Result<usize, Error> {
        let mut done = 0;
        for segment in segments {
            let rest = bytes.get(done..).unwrap_or_default();
            let take = rest.len().min(segment.length as usize);
            let Some(part) = rest.get(..take).filter(|part| !part.is_empty()) else { continue };
            self.write(segment.address, part)?;
            done += take;
        }
        Ok(done)
    }

    /// Whether these addresses are guest memory.
    #[must_use]
    pub fn has(&self, segment: Segment) -> bool {
        let (address, length) = (GuestAddress(segment.address), segment.length as usize);
        self.piece(segment.address, length).is_some()
            || GuestMemory::check_range(self, address, length, Permissions::ReadWrite)
    }

    /// The kernel has written there (io_uring): marks it. Call it before the used ring tells the guest.
    pub fn mark(&self, segments: impl IntoIterator<Item = Segment>) {
        for segment in segments {
            self.front_end.log.mark(segment.address, u64::from(segment.length));
        }
    }

    /// The dirty log that writes are marked in.
    #[must_use]
    pub fn log(&self) -> &Arc<DirtyLog> {
        &self.front_end.log
    }

    /// Whether a part of a region was found missing, of this table or of one before it that requests still have: what was read may be
    /// zeros, and nothing more can be believed. Ask after each batch, before the guest hears of it.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        let mut former = self.former.iter().filter_map(Weak::upgrade);
        self.regions.iter().any(|region| region.is_torn())
            || former.any(|region| region.is_torn())
            || self.front_end.torn.load(Ordering::Acquire)
    }

    /// What the regions are, by guest address.
    pub fn layouts(&self) -> impl Iterator<Item = Layout> + '_ {
        self.regions.iter().map(|region| region.layout())
    }

    /// The mapped bytes from there on where one region has them all, as it nearly always does: nothing has to be put together.
    fn piece(&self, address: u64, length: usize) -> Option<VolatileSlice<'_, BS<'_, Dirty>>> {
        let region = self.find_region(GuestAddress(address))?;
        let offset = address.checked_sub(region.layout().guest)?;
        let left = region.layout().length.checked_sub(offset)?;
        let fits = u64::try_from(length).is_ok_and(|length| length <= left);
        if fits && length > 0 { region.get_slice(MemoryRegionAddress(offset), length).ok() } else { None }
    }

    /// The mapped pieces of `segment`, several where it goes over the border of two regions.
    fn pieces(
        &self,
        segment: Segment,
        mut each: impl FnMut(VolatileSlice<'_, BS<'_, Dirty>>),
    ) -> Result<(), Error> {
        let Segment { address, length } = segment;
        if let Some(piece) = self.piece(address, length as usize) {
            each(piece);
            return Ok(());
        }
        let slices = GuestMemoryBackend::get_slices(self, GuestAddress(address), length as usize);
        for slice in slices {
            each(slice.map_err(|_| Error::Outside { address, length: u64::from(length) })?);
        }
        Ok(())
    }
}

impl GuestMemoryBackend for Memory {
    type R = Region;

    fn num_regions(&self) -> usize {
        self.regions.len()
    }

    fn find_region(&self, address: GuestAddress) -> Option<&Region> {
        let after = self.regions.partition_point(|region| region.layout().guest <= address.0);
        let region = self.regions.get(after.checked_sub(1)?)?;
        (address <= region.last_addr()).then_some(region)
    }

    fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().map(AsRef::as_ref)
    }
}

/// Checked when the region was made.
fn end_of(layout: Layout) -> u64 {
    layout.guest.saturating_add(layout.length)
}
