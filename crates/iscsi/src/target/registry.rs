//! Who is connected and who is logged in: session reinstatement by initiator name and ISID (RFC 7143
//! 6.3.5), TSIHs, the bound on connections, and orderly shutdown.

use scsi::{IscsiName, Isid};
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A connection's number; never used twice.
pub(super) type Ticket = u64;

/// An initiator port: with the one target port it is an I_T nexus.
type Port = (IscsiName, Isid);

#[derive(Debug)]
struct Guest {
    stream: TcpStream,
    session: Option<Port>,
}

#[derive(Debug, Default)]
struct State {
    guests: BTreeMap<Ticket, Guest>,
    next_ticket: Ticket,
    next_tsih: u16,
    closed: bool,
}

/// All connections of a target.
#[derive(Debug)]
pub(super) struct Registry {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

impl Registry {
    pub(super) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), capacity }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a connection; `None` if there are too many or the target is closing.
    pub(super) fn enter(&self, stream: TcpStream) -> Option<Ticket> {
        let mut state = self.lock();
        if state.closed || state.guests.len() >= self.capacity {
            return None;
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.guests.insert(ticket, Guest { stream, session: None });
        Some(ticket)
    }

    /// The connection is gone, and with it its session.
    pub(super) fn leave(&self, ticket: Ticket) {
        self.lock().guests.remove(&ticket);
        self.changed.notify_all();
    }

    /// Makes the connection the session of its initiator port. An older session of the same port is
    /// ended first, its commands included. Gives a fresh TSIH; `None` if the older one does not end in time.
    pub(super) fn reinstate(
        &self,
        ticket: Ticket,
        name: &IscsiName,
        isid: Isid,
        patience: Duration,
    ) -> Option<u16> {
        let port = (name.clone(), isid);
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while let Some(older) = state.guests.values().find(|guest| guest.session.as_ref() == Some(&port)) {
            end(&older.stream);
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.guests.get_mut(&ticket)?.session = Some(port);
        // TSIH 0 means "new session" and is never given (RFC 7143 11.12.6).
        state.next_tsih = state.next_tsih.checked_add(1).unwrap_or(1);
        Some(state.next_tsih)
    }

    /// Ends every other connection: TARGET COLD RESET.
    pub(super) fn end_others(&self, ticket: Ticket) {
        let state = self.lock();
        state.guests.iter().filter(|(other, _)| **other != ticket).for_each(|(_, guest)| end(&guest.stream));
    }

    /// Admits nobody any more and ends all connections.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.guests.values().for_each(|guest| end(&guest.stream));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn count(&self) -> usize {
        self.lock().guests.len()
    }

    /// Waits for the last connection's thread.
    pub(super) fn wait_until_empty(&self) {
        let mut state = self.lock();
        while !state.guests.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends a connection from outside of its thread, which sees the end of its input and can still say why.
fn end(stream: &TcpStream) {
    // An error means that the connection is dead already.
    let _ = stream.shutdown(Shutdown::Read);
}
