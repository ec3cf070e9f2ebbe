//! What the helper gives up once everything is open: user, capabilities, system calls and files.
//!
//! `daemon` fills in a [`Confinement`] and calls [`Confinement::apply`] once, after the sockets, the pidfile and the
//! state directory are open and before the first thread is started: user, capabilities and landlock are per thread,
//! and only what the first thread gave up is missing in all that it starts. Afterwards the process cannot start a
//! program, cannot open a file outside the directories named, and holds CAP_SYS_RAWIO alone, which SG_IO takes
//! for PERSISTENT RESERVE OUT. Devices arrive as open descriptors.
//!
//! Changing the user and dropping capabilities must succeed. The rest protects where the kernel has it; the
//! [`Report`] says of each whether it applied, for the log and for `tenure doctor`.

mod account;
mod capabilities;
mod files;
mod ownership;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")),
    path = "syscalls_none.rs"
)]
mod syscalls;

pub use account::Account;
pub use files::has_landlock;

use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// What the process may still reach afterwards, and as whom it runs.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// The user and group to become; `None` stays as started.
    pub account: Option<Account>,
    /// The guest's records: everything beneath can be read, written, made and removed. Handed to `account` where that
    /// is another user; the state directory around it is not, which has other guests' records.
    pub owned: Vec<PathBuf>,
    /// Directories of the sockets and the pidfile: files there can be removed, nothing more.
    pub tidied: Vec<PathBuf>,
    /// Files and directories that can be read, besides /proc.
    pub readable: Vec<PathBuf>,
}

/// What became of one measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// In force, in full.
    Applied,
    /// In force as far as this kernel knows it; what is missing.
    Partly(String),
    /// This kernel or architecture does not have it.
    Unavailable(String),
    /// The kernel has it and refused it.
    Failed(String),
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied => f.write_str("applied"),
            Self::Partly(what) => write!(f, "applied in part: {what}"),
            Self::Unavailable(why) => write!(f, "not available: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// What every measure came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Only CAP_SYS_RAWIO is held; [`Measure::Failed`] if the process did not have it to keep.
    pub capabilities: Measure,
    /// No program that this process could start would gain privilege.
    pub no_new_privileges: Measure,
    /// The file system beyond the directories named is out of reach.
    pub landlock: Measure,
    /// Only the system calls the helper needs are answered.
    pub seccomp: Measure,
}

impl Report {
    /// Every measure with its name, for a log.
    #[must_use]
    pub const fn measures(&self) -> [(&'static str, &Measure); 4] {
        [
            ("capabilities", &self.capabilities),
            ("no-new-privileges", &self.no_new_privileges),
            ("landlock", &self.landlock),
            ("seccomp", &self.seccomp),
        ]
    }
}

/// Why the helper must not go on.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// `-u` names nobody.
    #[error("invalid user {0:?}: neither a name nor a number known here")]
    NoSuchUser(String),
    /// `-g` names nothing.
    #[error("invalid group {0:?}: neither a name nor a number known here")]
    NoSuchGroup(String),
    /// Other threads would keep what this one gives up.
    #[error("privileges must be dropped before the first thread is started; {0} are running")]
    Threads(usize),
    /// The state directory cannot be handed over.
    #[error("cannot give {} to the user of -u; give it to that user by hand, or start without -u", path.display())]
    Ownership {
        /// What was to be handed over.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The user, the group or the groups cannot be changed.
    #[error("cannot change user and group; that takes CAP_SETUID and CAP_SETGID")]
    Account(#[source] Errno),
    /// Capabilities cannot be dropped.
    #[error("cannot drop capabilities")]
    Capabilities(#[source] Errno),
    /// The number of threads is unknown.
    #[error("cannot count threads in /proc/self/task")]
    Unknown(#[source] io::Error),
}

impl Confinement {
    /// Gives up everything not named here, for this thread and every thread it starts. There is no way back.
    ///
    /// # Errors
    /// [`PrivilegeError`] if the process would keep more than it should; it must end then.
    pub fn apply(&self) -> Result<Report, PrivilegeError> {
        alone()?;
        let allowed = files::Allowed::open(self);
        capabilities::empty_bounding_set().map_err(PrivilegeError::Capabilities)?;
        if let Some(account) = self.account {
            self.owned.iter().try_for_each(|path| ownership::give(path, account))?;
            account.assume().map_err(PrivilegeError::Account)?;
        }
        let capabilities = capabilities::keep_raw_io().map_err(PrivilegeError::Capabilities)?;
        let no_new_privileges = no_new_privileges();
        // Landlock before seccomp, whose filter does not allow landlock's own calls.
        let landlock = allowed.restrict();
        Ok(Report { capabilities, no_new_privileges, landlock, seccomp: syscalls::restrict() })
    }
}

/// Checks that nobody else is running in this process.
fn alone() -> Result<(), PrivilegeError> {
    match std::fs::read_dir("/proc/self/task").map_err(PrivilegeError::Unknown)?.count() {
        0 | 1 => Ok(()),
        threads => Err(PrivilegeError::Threads(threads)),
    }
}

fn no_new_privileges() -> Measure {
    match rustix::thread::set_no_new_privs(true) {
        Ok(()) => Measure::Applied,
        Err(errno) => Measure::Failed(errno.to_string()),
    }
}
