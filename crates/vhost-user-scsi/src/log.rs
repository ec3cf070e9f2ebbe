//! The dirty log of a live migration (vhost-user: SET_LOG_BASE, VHOST_F_LOG_ALL): one bit for each 4096 bytes of guest-physical memory,
//! set after the bytes were written. Marked by [`crate::memory`] with every write; turned on and off by the front end's handler.
//!
//! While it is on no write goes unmarked: whoever wrote before it was turned on has that seen by the front end, which copies afterwards; whoever
//! writes later finds it on. A page that the log has no bit for is told once, and nothing is written outside of the log.

use crate::memory::{Error, Mapping};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Bytes of guest memory that one bit stands for (`VHOST_LOG_PAGE`).
pub const PAGE: u64 = 4096;

/// No log is longer: it has a bit for every page of 48 bits of guest addresses. What is above is said to be missing once it is written.
const LENGTH_MAX: u64 = (1 << 48) / PAGE / 8;

/// One front end's dirty log; outlives memory tables.
#[derive(Debug, Default)]
pub struct DirtyLog {
    /// What a writer looks at: whether to come in at all.
    on: AtomicBool,
    bits: RwLock<Option<Mapping>>,
    missed: Missed,
}

/// The first page without a bit.
#[derive(Debug, Default)]
struct Missed {
    any: AtomicBool,
    page: AtomicU64,
    told: AtomicBool,
}

impl DirtyLog {
    /// SET_LOG_BASE: `length` bytes of `file` from `offset` on are the log, instead of what was before.
    pub fn set_base(&self, file: File, offset: u64, length: u64) -> Result<(), Error> {
        if length > LENGTH_MAX {
            return Err(Error::TooLong { length, most: LENGTH_MAX });
        }
        let bits = Mapping::new(file, offset, length, |_| ())?;
        *self.bits.write().unwrap_or_else(PoisonError::into_inner) = Some(bits);
        Ok(())
    }

    /// VHOST_F_LOG_ALL set or cleared. When this returns every writer goes by it.
    pub fn turn(&self, on: bool) {
        if on && !self.is_on() {
            // What a migration before this one had no bit for: this one copies everything anew. A page that is missed while it is on
            // stays so, also where a longer log comes: nobody has a mark of it.
            self.missed.forget();
        }
        self.on.store(on, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Whoever is still marking comes out first.
        drop(self.bits.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether writes are being marked.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// The front end has gone: off, and nothing mapped.
    pub fn forget(&self) {
        self.turn(false);
        *self.bits.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `length` bytes at guest-physical `address` have been written.
    pub fn mark(&self, address: u64, length: u64) {
        // Either this load sees the log on, or whoever turned it on sees what was written before.
        fence(Ordering::SeqCst);
        if length != 0 && self.on.load(Ordering::Relaxed) {
            self.mark_pages(address / PAGE, address.saturating_add(length - 1) / PAGE);
        }
    }

    #[cold]
    fn mark_pages(&self, first: u64, last: u64) {
        let bits = self.read();
        let end = bits.as_ref().map_or(0, pages_of);
        if last >= end {
            self.missed.note(first.max(end));
        }
        let (Some(bits), Some(last)) = (bits.as_ref(), end.checked_sub(1).map(|most| last.min(most))) else {
            return;
        };
        if first > last {
            return;
        }
        for byte in first / 8..=last / 8 {
            let mask = mask_of(byte, first, last);
            if let Some(bits) = byte_of(bits, byte) {
                bits.fetch_or(mask, Ordering::SeqCst);
            }
        }
    }

    /// Whether the page of `address` is marked, and nobody has taken the mark yet.
    #[must_use]
    pub fn is_marked(&self, address: u64) -> bool {
        let page = address / PAGE;
        let bits = self.read();
        let byte = bits.as_ref().and_then(|bits| byte_of(bits, page / 8));
        byte.is_some_and(|byte| byte.load(Ordering::SeqCst) & 1 << (page % 8) != 0)
    }

    /// The address of a page that was written and could not be marked; told once.
    pub fn take_missed(&self) -> Option<u64> {
        let any = self.missed.any.load(Ordering::Acquire);
        let news = any && !self.missed.told.swap(true, Ordering::SeqCst);
        news.then(|| self.missed.page.load(Ordering::Relaxed).saturating_mul(PAGE))
    }

    /// Whether the log's own file was truncated under us.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.read().as_ref().is_some_and(Mapping::is_torn)
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Mapping>> {
        self.bits.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Missed {
    /// Called while marking is off.
    fn forget(&self) {
        self.any.store(false, Ordering::SeqCst);
        self.told.store(false, Ordering::SeqCst);
    }

    fn note(&self, page: u64) {
        if !self.any.load(Ordering::Relaxed) {
            self.page.store(page, Ordering::Relaxed);
            self.any.store(true, Ordering::Release);
        }
    }
}

/// Pages that the log has bits for.
fn pages_of(bits: &Mapping) -> u64 {
    (bits.length() as u64).saturating_mul(8)
}

/// The bits of pages `first..=last` in this byte of the log.
fn mask_of(byte: u64, first: u64, last: u64) -> u8 {
    let low = first.saturating_sub(byte * 8).min(7);
    let high = last.saturating_sub(byte * 8).min(7);
    (0xFF << low) & (0xFF >> (7 - high))
}

fn byte_of(bits: &Mapping, byte: u64) -> Option<&AtomicU8> {
    bits.atomic(usize::try_from(byte).ok()?).ok()
}

#[cfg(test)]
mod tests;
