//! What the operator must know, as log lines: a guest that can cause them cannot flood the log.

use crate::limit::Limit;
use ledger::LunId;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines at once, and then per second.
const BURST: u32 = 20;
const PER_SECOND: u32 = 1;

/// Writes the lines of one guest.
#[derive(Debug)]
pub(crate) struct Complaints(Mutex<Limit>);

impl Complaints {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Limit::new(BURST, PER_SECOND, Instant::now())))
    }

    /// Something the operator has to mend, or should know of.
    pub(crate) fn say(&self, lun: Option<&LunId>, what: impl Display) {
        let passes = self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if let Some(suppressed) = passes {
            let lun = lun.map(|lun| lun.0.as_str());
            tracing::error!(lun, suppressed, "{what}");
        }
    }
}
