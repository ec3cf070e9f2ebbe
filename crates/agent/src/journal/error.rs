//! Why a journal cannot be used, with what to do.

use super::log::Flaw;
use ledger::HandoverId;
use std::io;
use std::path::{Path, PathBuf};

/// Why a journal cannot be read or written. No variant leaves a file changed.
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
    /// It is not what this program wrote.
    #[error(
        "{} is damaged ({flaw}) and is left as it is; look at the reservation with `tenure pr read-full-status`, decide where \
         the guest may run, then move the file away",
        path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// A newer program wrote it.
    #[error("{} was written by a newer version ({flaw}) and is left as it is; use that version", path.display())]
    Newer {
        /// The journal.
        path: PathBuf,
        /// What this version does not know.
        flaw: Flaw,
    },
    /// It was copied from another host, or is of another guest.
    #[error(
        "{} is the journal of guest {vm:?} on host {host:?} and is left as it is; what another host or guest went through says \
         nothing here: move it away",
        path.display()
    )]
    Foreign {
        /// The journal.
        path: PathBuf,
        /// Whose host's it is.
        host: String,
        /// Which guest's it is.
        vm: String,
    },
    /// Another program has it open.
    #[error("{} is in use: another program acts for this guest", .0.display())]
    Locked(PathBuf),
    /// It would become longer than any journal may be.
    #[error("{} is full: {what}", path.display())]
    Full {
        /// The journal.
        path: PathBuf,
        /// Which limit.
        what: &'static str,
    },
    /// A handover of the guest is not over yet.
    #[error("handover {0} of this guest is not finished; `tenure handover status` says how it stands")]
    Unfinished(HandoverId),
    /// No handover of the guest is under way.
    #[error("no handover of this guest is under way")]
    NoneOpen,
    /// The name of the guest cannot be recorded.
    #[error("a guest's name has 1 to 4096 bytes and no NUL")]
    Name,
}

impl Error {
    /// For `map_err`: what was tried, and where.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    pub(super) fn flaw(path: &Path, flaw: Flaw) -> Self {
        let path = path.to_owned();
        if flaw.newer { Self::Newer { path, flaw } } else { Self::Damaged { path, flaw } }
    }
}
