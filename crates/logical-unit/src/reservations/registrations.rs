//! The registrations of a logical unit, found by nexus and by key in O(log n).
//!
//! Sorted vectors behind one `Arc`: a state without registrations of its own costs a reference count to
//! clone, and two states with the same registrations are equal whatever happened on the way there.

use crate::NexusId;
use scsi::pr::Key;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// One registered I_T nexus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Registration {
    /// The nexus.
    pub nexus: NexusId,
    /// Its reservation key, never zero.
    pub key: Key,
    /// Registered by ALL_TG_PT.
    pub all_target_ports: bool,
}

#[derive(Clone, Default)]
struct Tables {
    by_nexus: Vec<Registration>,
    by_key: Vec<(Key, NexusId)>,
}

/// The registrations, in order of their nexus handles.
#[derive(Clone, Default)]
pub struct Registrations(Arc<Tables>);

impl Registrations {
    /// How many nexuses are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.by_nexus.len()
    }

    /// Whether nobody is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.by_nexus.is_empty()
    }

    /// Every registration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Registration> {
        self.0.by_nexus.iter()
    }

    /// The registration of `nexus`.
    #[must_use]
    pub fn get(&self, nexus: NexusId) -> Option<&Registration> {
        self.0.by_nexus.get(self.0.find(nexus).ok()?)
    }

    /// The nexuses registered with `key`, in order.
    pub fn with_key(&self, key: Key) -> impl Iterator<Item = NexusId> {
        let start = self.0.by_key.partition_point(|(k, _)| *k < key);
        let rest = self.0.by_key.get(start..).unwrap_or_default();
        rest.iter().take_while(move |(k, _)| *k == key).map(|(_, nexus)| *nexus)
    }

    /// Registers a nexus, or changes its registration.
    pub(super) fn put(&mut self, new: Registration) {
        let tables = Arc::make_mut(&mut self.0);
        let place = tables.find(new.nexus);
        match place.map(|at| tables.by_nexus.get_mut(at)) {
            Ok(Some(old)) => {
                let old = std::mem::replace(old, new);
                tables.remove_key(&old);
            }
            Ok(None) => return,
            Err(at) => tables.by_nexus.insert(at, new),
        }
        let entry = (new.key, new.nexus);
        let at = tables.by_key.partition_point(|known| *known < entry);
        tables.by_key.insert(at, entry);
    }

    /// Removes one registration.
    pub(super) fn remove(&mut self, nexus: NexusId) -> Option<Registration> {
        let at = self.0.find(nexus).ok()?;
        let tables = Arc::make_mut(&mut self.0);
        let old = tables.by_nexus.remove(at);
        tables.remove_key(&old);
        Some(old)
    }

    /// Removes every registration that `keep` does not want, in one pass.
    pub(super) fn retain(&mut self, keep: impl Fn(NexusId, Key) -> bool) {
        let tables = Arc::make_mut(&mut self.0);
        tables.by_nexus.retain(|one| keep(one.nexus, one.key));
        tables.by_key.retain(|(key, nexus)| keep(*nexus, *key));
    }

    pub(super) fn clear(&mut self) {
        self.0 = Arc::default();
    }
}

impl Tables {
    fn find(&self, nexus: NexusId) -> Result<usize, usize> {
        self.by_nexus.binary_search_by_key(&nexus, |one| one.nexus)
    }

    fn remove_key(&mut self, old: &Registration) {
        if let Ok(at) = self.by_key.binary_search(&(old.key, old.nexus)) {
            self.by_key.remove(at);
        }
    }
}

impl PartialEq for Registrations {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.by_nexus == other.0.by_nexus
    }
}

impl Eq for Registrations {}

impl Hash for Registrations {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.by_nexus.hash(state);
    }
}

impl std::fmt::Debug for Registrations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|one| (one.nexus.0, one.key))).finish()
    }
}
