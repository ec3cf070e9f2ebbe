//! The socket for agents (`agent`), served beside the guest's: opened with privilege, served by a thread of its own.
//!
//! In a directory each guest's helper has a socket of its own, named as its records are, so that one line of configuration does
//! for all helpers that libvirt starts, and the agent finds the one it wants.

use super::error::{StartError, told};
use super::options::Options;
use crate::agent;
use crate::agent::Attend;
use crate::listening::{Made, listen, place};
use crate::privilege::Account;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// A socket that waits for [`Self::serve`].
pub(super) struct AgentSocket {
    listener: UnixListener,
    made: Made,
    user: u32,
    /// Made now, because later no socket can be: dropping the first ends what waits on the second.
    stop: (UnixStream, UnixStream),
}

/// Agents that are served.
pub(super) struct Agents {
    stop: UnixStream,
    thread: JoinHandle<io::Result<()>>,
}

impl AgentSocket {
    /// Opens the socket that the options name, if they do, for root and `--agent-user` alone. `records`: the guest's
    /// directory, which gives it its name in a directory. Guests are served also where no agent can be.
    pub(super) fn open(options: &Options, records: Option<&Path>) -> Option<Self> {
        let path = options.agent_socket.as_deref()?;
        let opened = Self::at(path, options.agent_user.as_deref(), records);
        opened.inspect_err(|error| tracing::error!("no agent is served: {}", told(error))).ok()
    }

    fn at(path: &Path, user: Option<&str>, records: Option<&Path>) -> Result<Self, StartError> {
        let path = place(path, records.and_then(Path::file_name)).map_err(StartError::AgentSocket)?;
        let user = Account::find(user, None)?.and_then(Account::user).unwrap_or(0);
        let (listener, made) = listen(&path)?;
        make_accessible(&path, user).map_err(StartError::AgentSocket)?;
        let stop = UnixStream::pair().map_err(StartError::Signals)?;
        Ok(Self { listener, made, user, stop })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.made.path()
    }

    /// Serves agents until [`Agents::end`].
    pub(super) fn serve(self, attend: Arc<dyn Attend>) -> Result<Agents, StartError> {
        let Self { listener, made, user, stop: (stop, stopped) } = self;
        let server = agent::server(attend, user, agent::limits());
        let serve = move || {
            let accepted = server.accept(&listener, stopped);
            drop((listener, made));
            accepted.and_then(|()| server.drain())
        };
        let thread = thread::Builder::new().name("agents".into()).spawn(serve).map_err(StartError::Thread)?;
        Ok(Agents { stop, thread })
    }
}

impl Agents {
    /// Accepts no agent any more; commands under way go on to their end.
    pub(super) fn stop(self) -> JoinHandle<io::Result<()>> {
        drop(self.stop);
        self.thread
    }
}

/// The kernel asks for the right to write before it lets anybody connect, but for root.
fn make_accessible(path: &Path, user: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let own = rustix::process::geteuid().as_raw();
    if user == 0 || user == own { Ok(()) } else { lchown(path, Some(user), None) }
}
