//! The audit: one event for each PERSISTENT RESERVE OUT that reached a device or was refused, as JSON lines in
//! `STATE/guests/GUEST/audit.jsonl` and, under systemd, as fields in the journal.
//!
//! Every guest has files of its own, so that none can push out what others did, and a helper that runs as another user can
//! write its own and no more. Opened before privileges drop; later everything goes through the directory's descriptor. Should
//! two helpers write one file, each event is one appending write, and whoever finds the file full turns it over under a lock. A
//! guest can make events at any rate, so they are limited: a burst, then a count of those left out. Refused and failed
//! commands have a limit of their own and cannot push out one that was carried out. What the audit cannot write, it counts
//! and goes on: a full disk stops no guest. Read by `tenure audit`.

mod event;
mod file;
mod journal;
mod merge;
mod read;
#[cfg(test)]
mod tests;
mod timestamp;

pub use event::{Event, SenseCode};
pub use journal::Journal;
pub use merge::Reader;
pub use read::Line;
pub use timestamp::Timestamp;

use crate::observer::{Observer, PrOutEvent};
use file::AuditFile;
use guard::limit::Limit;
use prometheus_client::metrics::counter::Counter;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The file in a guest's directory.
pub const FILE_NAME: &str = "audit.jsonl";

/// Events that pass at once.
const BURST: u32 = 500;
/// Events per second that pass for ever: 20 of about 400 bytes write 30 MB an hour at most.
const PER_SECOND: u32 = 20;

/// Writes the audit.
#[derive(Debug)]
pub struct Audit(Mutex<Sinks>);

/// What is missing in the audit; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Events that were left out because too many came.
    pub suppressed: Counter,
    /// Events that could not be written to the file.
    pub failed: Counter,
}

#[derive(Debug)]
struct Sinks {
    file: AuditFile,
    journal: Option<Journal>,
    good: Limit,
    other: Limit,
    failing: bool,
    counts: Counts,
}

impl Audit {
    /// Opens or makes the file in a guest's directory, which exists ([`ledger::Ledger::directory`]).
    ///
    /// # Errors
    /// If the directory or the file cannot be opened.
    pub fn open(directory: &Path, journal: Option<Journal>) -> io::Result<Self> {
        let (file, now) = (AuditFile::open(directory, file::LARGEST)?, Instant::now());
        let limit = || Limit::new(BURST, PER_SECOND, now);
        let (good, other, counts) = (limit(), limit(), Counts::default());
        Ok(Self(Mutex::new(Sinks { file, journal, good, other, failing: false, counts })))
    }

    /// What is missing so far, and will be.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.sinks().counts.clone()
    }

    fn sinks(&self) -> MutexGuard<'_, Sinks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Audit {
    fn pr_out(&self, event: &PrOutEvent<'_>) {
        self.sinks().pr_out(event, Instant::now());
    }
}

impl Sinks {
    fn pr_out(&mut self, event: &PrOutEvent<'_>, now: Instant) {
        let limit = if event.completion.status.is_good() { &mut self.good } else { &mut self.other };
        let Some(suppressed) = limit.admit(now) else {
            self.counts.suppressed.inc();
            return;
        };
        let event = Event::new(event, Timestamp::now(), suppressed);
        if let Some(journal) = &self.journal {
            journal.send(&event);
        }
        // Said once, not per event: the log may be on the same full disk.
        let failed = self.file.append(&event).err();
        self.counts.failed.inc_by(u64::from(failed.is_some()));
        let said = std::mem::replace(&mut self.failing, failed.is_some());
        if let (Some(error), false) = (failed, said) {
            tracing::error!("the audit cannot be written, and goes on without: {error}");
        }
    }
}
