//! Why the ledger cannot be read or written, with what to do.

use crate::names::Owner;
use std::io;
use std::path::PathBuf;

/// Why a ledger cannot be used. No variant leaves a file changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no ledger, or none of this guest.
    #[error("there is no ledger at {}; it appears when a helper with that --state directory first serves a guest", .0.display())]
    Missing(PathBuf),
    /// The file is not what this program wrote. It is left as it is.
    #[error(
        "{} is damaged (line {line}: {what}) and is left as it is; restore it from a copy, or, to give up what it \
         records, end the guest's helper and move it away: what the guest then has must be read from the device",
        path.display()
    )]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A newer program wrote it. It is left as it is.
    #[error(
        "{} was written by a newer version (line {line}: {what}) and is left as it is; use that version",
        path.display()
    )]
    Newer {
        /// The log.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What this version does not know.
        what: String,
    },
    /// Two guests' names lead to the same file.
    #[error("{} belongs to {found:?}, not to {wanted:?}; give one of them another --vm name", path.display())]
    OtherOwner {
        /// The log.
        path: PathBuf,
        /// Whose it is.
        found: Owner,
        /// Whose was looked for.
        wanted: Owner,
    },
    /// The owner, the logical unit or the path has no name that can be recorded.
    #[error("cannot record {name:?}: {what}")]
    Name {
        /// The name, cut if long.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The log, a line or the number of logical units or paths would exceed what it may.
    #[error("{} is full: {what}", path.display())]
    Full {
        /// The log.
        path: PathBuf,
        /// Which limit.
        what: &'static str,
    },
    /// Another process kept the lock for too long.
    #[error("{} is locked by another process", .0.display())]
    Locked(PathBuf),
    /// The ledger was opened to be read.
    #[error("{} was opened to be read only", .0.display())]
    ReadOnly(PathBuf),
}

impl Error {
    /// For `map_err`: what was tried, and where.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source: source.into() }
    }

    /// Why the lock for appending was not got, for one more of those who waited for it.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Locked(path) => Self::Locked(path.clone()),
            Self::ReadOnly(path) => Self::ReadOnly(path.clone()),
            Self::Io { doing, path, source } => {
                let source =
                    source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
                Self::Io { doing, path: path.clone(), source }
            }
            other => {
                Self::Io { doing: "lock", path: PathBuf::new(), source: io::Error::other(other.to_string()) }
            }
        }
    }
}
