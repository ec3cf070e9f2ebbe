//! Why the program does not start, or ended: one line each, with what to do.

use crate::DocumentError;
use crate::listening::ListenError;
use crate::privilege::PrivilegeError;
use rustix::io::Errno;
use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(
        "{}: `{key}` is for one helper, and this file is read by every helper of the host; give it on the command line, or in a \
         file of its own with --config",
        path.display()
    )]
    SharedConfig { path: PathBuf, key: &'static str },
    #[error("socket path must be absolute, not {0:?}")]
    RelativeSocket(PathBuf),
    #[error("socket activation passes {0} sockets; exactly one can be served")]
    TooManySockets(usize),
    #[error("the socket passed by socket activation cannot be served")]
    Activated(#[source] io::Error),
    #[error("-k cannot be used with socket activation; take it out, or start without LISTEN_FDS")]
    BothSockets,
    #[error("the socket has no path to keep the record under; give --vm NAME")]
    NoOwner,
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(
        "{} belongs to user {owner}, whose helper keeps this guest's records; start with -u {owner}, or give the directory \
         and what is in it to user {user}",
        path.display()
    )]
    OthersRecords { path: PathBuf, owner: u32, user: u32 },
    #[error("cannot create pidfile {}", path.display())]
    Pidfile { path: PathBuf, source: io::Error },
    #[error("cannot lock pidfile {}: another helper holds it; end it, or give another path with -f", .0.display())]
    PidfileLocked(PathBuf),
    #[error("-T has no option {0}=; see -T help, and --help for its form")]
    Trace(String),
    #[error("cannot make the socket of --agent-socket and give it to the user of --agent-user")]
    AgentSocket(#[source] io::Error),
    #[error("cannot write traces to {}", path.display())]
    TraceFile { path: PathBuf, source: io::Error },
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error("cannot go to the background")]
    Detach(#[source] io::Error),
    #[error("ended")]
    Serving(#[source] io::Error),
}

impl From<Errno> for StartError {
    fn from(errno: Errno) -> Self {
        Self::Detach(errno.into())
    }
}

/// The error and what caused it, on one line.
pub(super) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
