//! The record as the guard needs it. [`ledger::Guest`] is the durable one; tests put one in its place that fails.

use ledger::{Change, Guest, Lock, LunId, Record};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One guest's records.
pub trait Book: Send + Sync {
    /// Keeps handovers of this logical unit out for as long as the lock lives.
    ///
    /// # Errors
    /// [`ledger::Error::Locked`] after `wait`; others if the lock cannot be used at all.
    fn share(&self, lun: &LunId, wait: Duration) -> Result<Lock, ledger::Error>;

    /// The record as all processes left it.
    ///
    /// # Errors
    /// The ledger cannot be read.
    fn read(&self, lun: &LunId) -> Result<Option<Arc<Record>>, ledger::Error>;

    /// Makes changes durable, all or none.
    ///
    /// # Errors
    /// Nothing was recorded.
    fn append(&self, changes: &[(LunId, Change)]) -> Result<(), ledger::Error>;
}

impl<T: Book + ?Sized> Book for Arc<T> {
    fn share(&self, lun: &LunId, wait: Duration) -> Result<Lock, ledger::Error> {
        (**self).share(lun, wait)
    }

    fn read(&self, lun: &LunId) -> Result<Option<Arc<Record>>, ledger::Error> {
        (**self).read(lun)
    }

    fn append(&self, changes: &[(LunId, Change)]) -> Result<(), ledger::Error> {
        (**self).append(changes)
    }
}

impl Book for Guest {
    fn share(&self, lun: &LunId, wait: Duration) -> Result<Lock, ledger::Error> {
        Self::share(self, lun, Instant::now() + wait)
    }

    fn read(&self, lun: &LunId) -> Result<Option<Arc<Record>>, ledger::Error> {
        self.refresh()?;
        Ok(self.record(lun))
    }

    fn append(&self, changes: &[(LunId, Change)]) -> Result<(), ledger::Error> {
        Self::append(self, changes)
    }
}
