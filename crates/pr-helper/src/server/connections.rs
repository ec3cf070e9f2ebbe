//! The connections of a server: counted, limited, and ended together.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All connections that have a thread.
pub(super) struct Connections {
    limit: usize,
    open: Mutex<Open>,
    changed: Condvar,
}

#[derive(Default)]
struct Open {
    next: u64,
    streams: HashMap<u64, Arc<UnixStream>>,
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::default(), changed: Condvar::new() }
    }

    /// Counts `stream` among the connections until the result is dropped; `None` above the limit.
    pub(super) fn admit(this: &Arc<Self>, stream: UnixStream) -> Option<Admitted> {
        let mut open = this.lock();
        if open.streams.len() >= this.limit {
            return None;
        }
        let (id, stream) = (open.next, Arc::new(stream));
        open.next += 1;
        open.streams.insert(id, Arc::clone(&stream));
        Some(Admitted { id, stream, connections: Arc::clone(this) })
    }

    /// Ends all connections, each after the command it has under way and its reply, and waits for that.
    /// A request whose bytes have not all arrived was never begun. How many were still there after `patience`.
    pub(super) fn drain(&self, patience: Duration) -> usize {
        let open = self.lock();
        for stream in open.streams.values() {
            // The thread reads an end next. The peer may have gone already.
            let _ = stream.shutdown(Shutdown::Read);
        }
        let waited = self.changed.wait_timeout_while(open, patience, |open| !open.streams.is_empty());
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        open.streams.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, as long as it is served.
pub(super) struct Admitted {
    id: u64,
    stream: Arc<UnixStream>,
    connections: Arc<Connections>,
}

impl Admitted {
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connections.lock().streams.remove(&self.id);
        self.connections.changed.notify_all();
    }
}
