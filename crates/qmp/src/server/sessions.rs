//! The connections of a server: counted, limited, told events, and ended together.

use super::ServerLimits;
use super::session::{Admitted, Caller, Connection};
use crate::message::Event;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All connections that have a thread.
#[derive(Debug)]
pub(super) struct Sessions {
    limit: usize,
    open: Mutex<Open>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

impl Sessions {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::default(), changed: Condvar::new() }
    }

    /// Counts `stream` among the connections until the result is dropped; `None` above the limit.
    pub(super) fn admit(
        self: &Arc<Self>,
        stream: UnixStream,
        caller: Caller,
        limits: ServerLimits,
    ) -> Option<Admitted> {
        let mut open = self.lock();
        if open.connections.len() >= self.limit {
            return None;
        }
        let id = open.next;
        open.next += 1;
        let connection = Arc::new(Connection::new(stream, limits.client.line));
        open.connections.insert(id, Arc::clone(&connection));
        let place = Place { id, connection, sessions: Arc::clone(self) };
        Some(Admitted { place, caller, limits })
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().connections.len() >= self.limit
    }

    /// Tells an event to all who have negotiated. Waits for none of them.
    pub(super) fn tell(&self, event: &Event) {
        let connections: Vec<_> = self.lock().connections.values().cloned().collect();
        for connection in connections {
            connection.tell(event);
        }
    }

    /// Ends all connections, each after the command it has under way and its answer, and waits for that. How many were
    /// still there after `patience`.
    pub(super) fn drain(&self, patience: Duration) -> usize {
        let open = self.lock();
        open.connections.values().for_each(|connection| connection.stop_reading());
        let waited = self.changed.wait_timeout_while(open, patience, |open| !open.connections.is_empty());
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        open.connections.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection among the others, as long as it is served.
pub(super) struct Place {
    id: u64,
    connection: Arc<Connection>,
    sessions: Arc<Sessions>,
}

impl Place {
    pub(super) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.lock().connections.remove(&self.id);
        self.sessions.changed.notify_all();
    }
}
