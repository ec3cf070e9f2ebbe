//! The helper at work, and its orderly end.

use super::agents::Agents;
use super::error::StartError;
use super::manager::Manager;
use super::opened::{Files, Opened};
use crate::server::{Limits, Server};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Everything that serves.
pub(super) struct Running {
    files: Files,
    agents: Option<Agents>,
    server: Server,
}

impl Running {
    /// Starts threads, which is for after privileges were given up.
    pub(super) fn start(opened: Opened, limits: Limits) -> Result<Self, StartError> {
        let Opened { files, agents, parts, .. } = opened;
        let service = Arc::new(parts.service()?);
        let agents = agents.map(|socket| socket.serve(Arc::clone(&service) as _)).transpose()?;
        tracing::info!(socket = %files.socket.path().display(), "serving");
        Ok(Self { files, agents, server: Server::new(service, limits) })
    }

    /// Serves until `stop` can be read; then lets what is under way end, of guest and agent at the same time.
    pub(super) fn until(self, stop: UnixStream, manager: &Manager) -> Result<(), StartError> {
        let Self { files, agents, server } = self;
        let accepted = server.accept(files.socket.listener(), stop);
        manager.tell("STOPPING=1");
        // Nobody shall wait in a socket's queue for one who no longer accepts.
        drop(files);
        let agents = agents.map(Agents::stop);
        let guests = accepted.and_then(|()| server.drain());
        let agents = agents.map_or(Ok(()), |thread| thread.join().unwrap_or(Ok(())));
        guests.and(agents).map_err(StartError::Serving)
    }
}
