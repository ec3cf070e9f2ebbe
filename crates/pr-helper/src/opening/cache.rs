//! What devices said of themselves, so that they need not be asked at every command.
//!
//! Never for another device: the key changes when a device is replaced, even under its number (see [`Key`]). Never for
//! long: a logical unit may be exchanged behind a device that stays, so what is known is forgotten after [`FRESH`], and at
//! once when the device reports a unit attention or does not answer; and nothing is changed on the word of this cache
//! alone ([`OpenLun::confirm`](super::OpenLun::confirm)). Bounded by [`MOST`].

use super::{Identity, Opened};
use guard::host::Host;
use nexus::linux::SgDevice;
use nexus::{Nexus, TransportError, unit_attention};
use scsi::{Completion, Request};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what a device said is believed. A target that exchanges a logical unit says so by a unit attention, which
/// the kernel may take from us; this bounds how long that goes unnoticed.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// Devices that are remembered.
pub(super) const MOST: usize = 1024;

/// A device as the kernel sees it: its number, and what no other device under that number has or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    number: u64,
    block: bool,
    incarnation: Incarnation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Incarnation {
    /// BLKGETDISKSEQ, asked of the descriptor itself.
    Disk(u64),
    /// The device's directory in sysfs ([`Host::incarnation`]): character devices, and kernels before 5.15.
    Directory(u64, i64, i64),
}

impl Key {
    /// `None`: nothing tells this device from a later one; it must be asked each time.
    pub(super) fn of(device: &SgDevice, sys: &Path) -> Option<Self> {
        let (number, block) = (device.number(), device.is_block());
        let directory = || {
            let (inode, seconds, nanoseconds) = Host { sys, number, block }.incarnation()?;
            Some(Incarnation::Directory(inode, seconds, nanoseconds))
        };
        let incarnation = device.disk_sequence().map(Incarnation::Disk).or_else(directory)?;
        Some(Self { number, block, incarnation })
    }
}

/// What is remembered of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) multipath: bool,
}

impl Seen {
    pub(super) fn opened(self, nexus: Box<dyn Nexus>) -> Opened {
        Opened { identity: self.identity, multipath: self.multipath, nexus }
    }
}

/// All that is remembered.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<Key, (Instant, Seen)>>);

impl Cache {
    /// What the device said not long before `now`.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Seen> {
        let seen = self.lock();
        let (asked, seen) = seen.get(key)?;
        (now.saturating_duration_since(*asked) < FRESH).then(|| seen.clone())
    }

    /// The device said this when it was asked at `asked`.
    pub(super) fn put(&self, key: Key, asked: Instant, said: Seen) {
        let mut seen = self.lock();
        if seen.len() >= MOST && !seen.contains_key(&key) {
            seen.retain(|_, (before, _)| asked.saturating_duration_since(*before) < FRESH);
        }
        if let Some((_, before)) = seen.get(&key).filter(|(_, before)| *before != said) {
            tracing::warn!(before = ?before.identity, now = ?said.identity, "a device has changed its names");
        }
        if seen.len() < MOST || seen.contains_key(&key) {
            seen.insert(key, (asked, said));
        }
    }

    fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, Seen)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device of which something is remembered, until it says, or shows, that it may not be the same any more.
pub(super) struct Watched<N> {
    pub(super) nexus: N,
    pub(super) key: Key,
    pub(super) cache: Arc<Cache>,
}

impl<N: Nexus> Nexus for Watched<N> {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let ended = self.nexus.execute(request);
        if ended.as_ref().map_or(true, |ended| unit_attention(ended).is_some()) {
            self.cache.forget(&self.key);
        }
        ended
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::opening) fn key(disk: u64) -> Key {
        Key { number: 0x800, block: true, incarnation: Incarnation::Disk(disk) }
    }

    fn seen() -> Seen {
        Seen { identity: None, multipath: true }
    }

    #[test]
    fn a_device_that_took_anothers_number_is_not_taken_for_it() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.put(key(1), now, seen());
        assert_eq!(cache.get(&key(1), now), Some(seen()));
        assert_eq!(cache.get(&key(2), now), None);
        assert_eq!(cache.get(&Key { block: false, ..key(1) }, now), None);
    }

    #[test]
    fn what_a_device_said_is_believed_for_a_second() {
        let (cache, asked) = (Cache::default(), Instant::now());
        cache.put(key(1), asked, seen());
        assert!(cache.get(&key(1), asked + FRESH / 2).is_some());
        assert_eq!(cache.get(&key(1), asked + FRESH), None);
    }

    #[test]
    fn any_number_of_devices_takes_bounded_memory_and_old_ones_make_room() {
        let (cache, now) = (Cache::default(), Instant::now());
        (0..2 * MOST as u64).for_each(|disk| cache.put(key(disk), now, seen()));
        assert_eq!(cache.lock().len(), MOST);
        cache.put(key(9999), now + FRESH, seen());
        assert!(cache.get(&key(9999), now + FRESH).is_some());
        assert_eq!(cache.lock().len(), 1);
    }
}
