//! The guest's records as the daemon opens them: a ledger that cannot be used lets the daemon start, and every question to
//! it is answered with why.

use crate::service::Book;
use ledger::{Change, Error, Guest, Ledger, Lock, LunId, Owner, Record};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The records of one guest, opened when they can be: a disk that was full or read-only at the start may not be later.
pub(super) struct Records {
    owner: Owner,
    ledger: Result<Ledger, Broken>,
    guest: OnceLock<Guest>,
}

/// The state directory itself could not be opened; after privileges dropped there is no second try.
struct Broken {
    state: PathBuf,
    why: String,
}

impl Records {
    pub(super) fn open(state: &Path, owner: &str) -> Self {
        let ledger =
            Ledger::open(state).map_err(|error| Broken { state: state.to_owned(), why: error.to_string() });
        let records = Self { owner: Owner(owner.to_owned()), ledger, guest: OnceLock::new() };
        if let Err(error) = records.guest() {
            // Without a directory that was there when privileges were given up, nothing can be tried again.
            let again = if records.directory().is_some() { "" } else { " and the helper started again" };
            tracing::error!("{error}; until that is mended{again}, reservations can be read and not changed");
        }
        records
    }

    /// The guest's directory, if there is one.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        let directory = self.ledger.as_ref().ok()?.directory(&self.owner).ok()?;
        Some(directory).filter(|path| path.is_dir())
    }

    fn guest(&self) -> Result<&Guest, Error> {
        if let Some(guest) = self.guest.get() {
            return Ok(guest);
        }
        let opened = self.ledger.as_ref().map_err(Broken::error)?.guest(&self.owner)?;
        // Two threads may have opened it; either will do.
        Ok(self.guest.get_or_init(|| opened))
    }
}

impl Broken {
    fn error(&self) -> Error {
        let source = io::Error::other(self.why.clone());
        Error::Io { doing: "use", path: self.state.clone(), source }
    }
}

impl Book for Records {
    fn share(&self, lun: &LunId, wait: Duration) -> Result<Lock, Error> {
        self.guest()?.share(lun, Instant::now() + wait)
    }

    fn read(&self, lun: &LunId) -> Result<Option<Arc<Record>>, Error> {
        Book::read(self.guest()?, lun)
    }

    fn append(&self, changes: &[(LunId, Change)]) -> Result<(), Error> {
        self.guest()?.append(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mended_while_the_helper_runs_is_used() {
        let state = tempfile::tempdir().unwrap();
        let log = state.path().join("guests/db/log");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(&log, "garbage\nmore\n").unwrap();
        let records = Records::open(state.path(), "db");
        let lun = LunId("naa.6".into());
        assert!(matches!(records.read(&lun), Err(Error::Damaged { .. })));
        std::fs::rename(&log, state.path().join("damaged")).unwrap();
        assert!(records.read(&lun).is_ok() && records.share(&lun, Duration::ZERO).is_ok());
    }

    #[test]
    fn a_state_directory_that_is_none_answers_every_question_with_why() {
        let state = tempfile::NamedTempFile::new().unwrap();
        let records = Records::open(state.path(), "db");
        let said = records.read(&LunId("naa.6".into())).unwrap_err().to_string();
        assert!(said.contains(state.path().to_str().unwrap()), "{said}");
        assert!(records.append(&[]).is_err() && records.directory().is_none());
    }
}
