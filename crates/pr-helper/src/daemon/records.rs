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
            tracing::error!(
                "{error}; until that is mended and the helper started again, reservations can be read and not changed"
            );
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
