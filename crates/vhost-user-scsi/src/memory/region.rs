//! One region of guest memory: a mapping, where the guest sees it, and where the front end does. Implements vm-memory's
//! `GuestMemoryRegion`, so that every write through that crate (virtio-queue's too) is marked in the dirty log. Used by [`super`].

use super::mapping::Mapping;
use super::share::Lent;
use super::{Error, FrontEnd, Layout};
use crate::log::DirtyLog;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::bitmap::{BS, Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::guest_memory::{Error as GuestError, Result as GuestResult};
use vm_memory::region::GuestMemoryRegionBytes;
use vm_memory::{GuestAddress, GuestMemoryRegion, GuestUsize, MemoryRegionAddress, VolatileSlice};

/// A mapped region.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping<Dirty>,
    layout: Layout,
    /// What its front end is told of when it is gone as well.
    torn: Arc<AtomicBool>,
    /// Given back after the pages.
    _lent: Lent,
}

impl Region {
    pub(super) fn new(layout: Layout, file: File, front_end: &FrontEnd) -> Result<Self, Error> {
        let log = &front_end.log;
        // The last byte has an address, and so has the one after it.
        layout.guest.checked_add(layout.length).ok_or(Error::Overflow)?;
        layout.user.checked_add(layout.length).ok_or(Error::Overflow)?;
        let dirty =
            |skip: usize| Dirty { log: Arc::clone(log), base: layout.guest.wrapping_sub(skip as u64) };
        let mapping = Mapping::new(file, layout.offset, layout.length, dirty)?;
        let lent = front_end.share.lend(mapping.mapped())?;
        Ok(Self { mapping, layout, torn: Arc::clone(&front_end.torn), _lent: lent })
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn is_torn(&self) -> bool {
        self.mapping.is_torn()
    }
}

impl Drop for Region {
    /// A request may have read zeros here after the table had lost this region, and its answer may not be given yet.
    fn drop(&mut self) {
        if self.is_torn() {
            self.torn.store(true, Ordering::Release);
        }
    }
}

impl GuestMemoryRegion for Region {
    type B = Dirty;

    fn len(&self) -> GuestUsize {
        self.layout.length
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.layout.guest)
    }

    fn bitmap(&self) -> BS<'_, Dirty> {
        DirtySlice { log: &self.mapping.bitmap().log, base: self.layout.guest }
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestResult<VolatileSlice<'_, BS<'_, Dirty>>> {
        let offset = usize::try_from(offset.0).map_err(|_| GuestError::InvalidBackendAddress)?;
        self.mapping.slice(offset, count).map_err(|_| GuestError::InvalidBackendAddress)
    }
}

impl GuestMemoryRegionBytes for Region {}

/// Marks writes in the dirty log, which is of the guest's addresses.
#[derive(Debug)]
pub struct Dirty {
    log: Arc<DirtyLog>,
    /// The guest's address of the mapping's first byte, modulo 2^64 where that is before the region.
    base: u64,
}

/// The same from some offset on.
#[derive(Clone, Debug)]
pub struct DirtySlice<'a> {
    log: &'a DirtyLog,
    base: u64,
}

impl<'a> WithBitmapSlice<'a> for Dirty {
    type S = DirtySlice<'a>;
}

impl Bitmap for Dirty {
    fn mark_dirty(&self, offset: usize, length: usize) {
        self.slice_at(offset).mark_dirty(0, length);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.slice_at(offset).dirty_at(0)
    }

    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        DirtySlice { log: &self.log, base: self.base.wrapping_add(offset as u64) }
    }
}

impl WithBitmapSlice<'_> for DirtySlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtySlice<'_> {}

impl Bitmap for DirtySlice<'_> {
    fn mark_dirty(&self, offset: usize, length: usize) {
        self.log.mark(self.base.wrapping_add(offset as u64), length as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.log.is_marked(self.base.wrapping_add(offset as u64))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { log: self.log, base: self.base.wrapping_add(offset as u64) }
    }
}
