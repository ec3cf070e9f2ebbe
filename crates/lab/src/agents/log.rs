//! The journal of the handover on one host, as its agent keeps it.

use super::site::{ID, Site};
use super::{NONCE, UUID};
use agent::ground::Unit;
use agent::journal::{Begun, Book, Entries, Journals, Lun, OwnPath};
use agent::ownership::Mark;
use anyhow::Result;
use handover::{Entry, Side, UnitIndex};
use ledger::HandoverId;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One host's.
#[derive(Clone, Debug)]
pub(super) struct Log {
    book: Arc<Mutex<Book>>,
}

impl Log {
    pub(super) fn open(state: &Path, host: &str) -> Result<Self> {
        Ok(Self { book: Arc::new(Mutex::new(Journals::new(state, host).open("guest")?)) })
    }

    /// Makes a mark durable.
    pub(super) fn mark(&self, mark: Mark) -> Result<()> {
        Ok(self.book().mark(mark)?)
    }

    /// The last entry of a unit.
    pub(super) fn last(&self, unit: UnitIndex) -> Option<Entry> {
        Some(self.book().open_handover()?.last.get(&unit)?.entry)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site {
    /// The handover begins in this host's journal. What the group writes goes there.
    pub(super) fn begin(&self, side: Side, other: &Self) -> Result<Entries> {
        let pairs = self.ground.units().iter().zip(other.ground.units());
        let luns: Vec<_> = pairs.map(|(unit, other)| lun(unit, other)).collect();
        let units = (0u16..).map(UnitIndex).take(luns.len()).collect();
        let handover = HandoverId(ID.0);
        let (uuid, peer) = (UUID.to_owned(), other.name.clone());
        let (method, allow_absence, stays_paused, orchestrated) = (None, false, false, false);
        let begun =
            Begun { handover, uuid, side, peer, luns, method, allow_absence, stays_paused, orchestrated };
        self.log.book().begin(begun)?;
        Ok(Entries::new(Arc::clone(&self.log.book), units))
    }
}

fn lun(unit: &Unit, other: &Unit) -> Lun {
    let path =
        |path: &agent::ground::UnitPath| OwnPath { device: path.node.clone(), port: path.port.clone() };
    let own = unit.paths.iter().map(path).collect();
    let (lun, peer, key) = (unit.lun.0.clone(), other.ports(), unit.key());
    Lun { lun, own, peer, key, nonce: NONCE, target: None }
}
