//! The memory of a guest that has no CPU: a memfd, shared with the device, in regions with holes between them.
//!
//! Everything in it is named by its [`Place`], the offset in the memfd; the device is given guest-physical addresses in descriptors and the
//! front end's own ones for rings, and may not mix them up. What the driver writes itself is marked, as a VMM would see what a vCPU
//! writes. Used by all of `front_end`.

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Bytes of memory for which the dirty log has a bit.
pub const PAGE: u64 = 4096;
/// Where the front end claims to have the memory; it need not be true.
const OWN: u64 = 0x7F00_0000_0000;
/// Regions are this many times as far apart as they are long.
const STRIDE: u64 = 2;

/// An offset in the memfd.
pub type Place = u64;

/// One region as the device is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical address.
    pub guest: u64,
    /// Length in bytes.
    pub length: u64,
    /// The front end's own address.
    pub own: u64,
    /// Where it is in the memfd.
    pub place: Place,
}

/// A guest's memory.
#[derive(Debug)]
pub struct Memory {
    file: Arc<File>,
    map: MmapRegion,
    length: u64,
    regions: u64,
    marked: Vec<AtomicU64>,
}

impl Memory {
    /// Zeroed memory of at least `length` bytes in so many regions.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn new(length: u64, regions: u64) -> Result<Self> {
        ensure!(regions > 0 && length > 0, "no memory");
        let each = length.div_ceil(regions).next_multiple_of(PAGE);
        let length = each * regions;
        let file = memfd_create("guest", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, length)?;
        let file = Arc::new(File::from(file));
        let map =
            MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), 0), usize::try_from(length)?)?;
        let words = usize::try_from((length / PAGE).div_ceil(64))?;
        let marked = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { file, map, length, regions, marked })
    }

    /// The memfd.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// What the device is told.
    #[must_use]
    pub fn regions(&self) -> Vec<Region> {
        let each = self.each();
        let region = |index: u64| {
            let (guest, place) = (index * each * STRIDE, index * each);
            Region { guest, length: each, own: OWN + guest, place }
        };
        (0..self.regions).map(region).collect()
    }

    /// Bytes of each region.
    #[must_use]
    pub const fn each(&self) -> u64 {
        self.length / self.regions
    }

    /// The guest-physical address of a place.
    #[must_use]
    pub const fn guest(&self, place: Place) -> u64 {
        (place / self.each()) * self.each() * STRIDE + place % self.each()
    }

    /// The front end's own address of a place.
    #[must_use]
    pub const fn own(&self, place: Place) -> u64 {
        OWN + self.guest(place)
    }

    /// How many bits a dirty log needs: one for each page up to the last region's end.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        (self.guest(self.length - 1) + 1).div_ceil(PAGE)
    }

    /// Reads.
    ///
    /// # Errors
    /// If it is not all there.
    pub fn read(&self, place: Place, bytes: &mut [u8]) -> Result<()> {
        let slice = self.map.get_slice(usize::try_from(place)?, bytes.len())?;
        slice.read_slice(bytes, 0).map_err(|error| anyhow!("{error}"))
    }

    /// Writes.
    ///
    /// # Errors
    /// If there is no room for all of it.
    pub fn write(&self, place: Place, bytes: &[u8]) -> Result<()> {
        let slice = self.map.get_slice(usize::try_from(place)?, bytes.len())?;
        slice.write_slice(bytes, 0).map_err(|error| anyhow!("{error}"))?;
        self.mark(place, bytes.len() as u64);
        Ok(())
    }

    /// A number that the device may write meanwhile.
    ///
    /// # Errors
    /// If it is not in memory, or not aligned.
    pub fn load(&self, place: Place) -> Result<u16> {
        Ok(u16::from_le(self.shared(place)?.load(Ordering::Acquire)))
    }

    /// A number that the device may read meanwhile; everything written before is there when it sees it.
    ///
    /// # Errors
    /// If it is not in memory, or not aligned.
    pub fn store(&self, place: Place, number: u16) -> Result<()> {
        self.shared(place)?.store(number.to_le(), Ordering::Release);
        self.mark(place, 2);
        Ok(())
    }

    fn shared(&self, place: Place) -> Result<&AtomicU16> {
        let at = usize::try_from(place)?;
        self.map.get_atomic_ref(at).with_context(|| format!("{place:#x} in the guest's memory"))
    }

    /// Which pages the driver wrote since this was asked last, by guest-physical page number.
    #[must_use]
    pub fn take_marked(&self) -> Vec<u64> {
        let taken = |(word, bits): (usize, &AtomicU64)| {
            let bits = bits.swap(0, Ordering::Relaxed);
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word as u64 * 64 + bit)
        };
        let pages = self.marked.iter().enumerate().flat_map(taken);
        pages.map(|page| self.guest(page * PAGE) / PAGE).collect()
    }

    /// The place of a guest-physical page, if it is in a region.
    #[must_use]
    pub fn page(&self, page: u64) -> Option<Place> {
        let (each, guest) = (self.each(), page.checked_mul(PAGE)?);
        let (region, offset) = (guest / (each * STRIDE), guest % (each * STRIDE));
        (offset < each && region < self.regions).then(|| region * each + offset)
    }

    fn mark(&self, place: Place, length: u64) {
        for page in place / PAGE..(place + length).div_ceil(PAGE) {
            let word = usize::try_from(page / 64).ok().and_then(|word| self.marked.get(word));
            let bit = 1 << (page % 64);
            // A page that is marked already is nearly always the case, and a plain load is cheap.
            if let Some(word) = word.filter(|word| word.load(Ordering::Relaxed) & bit == 0) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }
}

/// Hands out places, none of which crosses into another region.
#[derive(Debug)]
pub struct Layout {
    next: Place,
    each: u64,
    end: Place,
}

impl Layout {
    /// All of the memory but the first page: nothing is at address zero.
    #[must_use]
    pub const fn new(memory: &Memory) -> Self {
        Self { next: PAGE, each: memory.each(), end: memory.length() }
    }

    /// The next place of this length, at a multiple of `alignment`, which divides [`PAGE`].
    ///
    /// # Errors
    /// If the memory has no room for it.
    pub fn take(&mut self, length: u64, alignment: u64) -> Result<Place> {
        let mut place = self.next.next_multiple_of(alignment);
        if place / self.each != (place + length - 1) / self.each {
            place = (place / self.each + 1) * self.each;
        }
        ensure!(length <= self.each && place + length <= self.end, "the guest's memory is too small");
        self.next = place + length;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_holes_between_them_and_every_place_is_in_one() {
        let memory = Memory::new(5 * PAGE, 2).unwrap();
        assert_eq!((memory.length(), memory.pages()), (6 * PAGE, 9));
        for place in 0..memory.length() {
            let guest = memory.guest(place);
            let mut inside = memory.regions().into_iter().filter(|region| {
                (region.guest..region.guest + region.length).contains(&guest)
                    && region.place + (guest - region.guest) == place
            });
            assert!(inside.next().is_some() && inside.next().is_none(), "{place:#x}");
            assert_eq!(memory.page(guest / PAGE), Some(place / PAGE * PAGE));
        }
        assert_eq!((memory.page(3), memory.page(9), memory.page(u64::MAX)), (None, None, None));
    }

    #[test]
    fn what_is_written_is_marked_once_and_shared_with_whoever_maps_the_file() {
        let memory = Memory::new(4 * PAGE, 2).unwrap();
        memory.write(2 * PAGE - 1, b"ab").unwrap();
        memory.store(2, 0x1234).unwrap();
        assert_eq!(memory.take_marked(), [0, 1, 4]);
        assert!(memory.take_marked().is_empty());
        let mut bytes = [0; 2];
        std::os::unix::fs::FileExt::read_exact_at(memory.file(), &mut bytes, 2 * PAGE - 1).unwrap();
        assert_eq!((&bytes, memory.load(2).unwrap()), (b"ab", 0x1234));
        assert!(memory.write(4 * PAGE - 1, b"ab").is_err() && memory.load(4 * PAGE).is_err());
    }

    #[test]
    fn nothing_that_is_handed_out_overlaps_or_crosses_into_another_region() {
        let memory = Memory::new(8 * PAGE, 2).unwrap();
        let (mut layout, mut last) = (Layout::new(&memory), 0);
        while let Ok(place) = layout.take(1500, 16) {
            assert!(place >= last && place % 16 == 0);
            assert_eq!(place / memory.each(), (place + 1499) / memory.each());
            last = place + 1500;
        }
        assert!(last > 7 * PAGE && layout.take(5 * PAGE, 1).is_err());
    }
}
