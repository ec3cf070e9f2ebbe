//! Who is connected and who is logged in: session reinstatement by initiator name and ISID (RFC 7143
//! 6.3.5), TSIHs, the bound on connections, and orderly shutdown.

use scsi::{IscsiName, Isid};
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A connection's place in the registry.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    /// Never used twice.
    number: u64,
    ended: Arc<AtomicBool>,
}

impl Ticket {
    /// The connection is to end, whatever input it has: nothing of it may be executed any more.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// An initiator port: with the one target port it is an I_T nexus.
type Port = (IscsiName, Isid);

#[derive(Debug)]
struct Guest {
    stream: TcpStream,
    ended: Arc<AtomicBool>,
    session: Option<Port>,
}

impl Guest {
    /// Ends the connection from outside of its thread, which is woken and can still say why.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // Input that is there already stays readable. An error means that the connection is dead already.
        let _ = self.stream.shutdown(Shutdown::Read);
    }
}

#[derive(Debug, Default)]
struct State {
    guests: BTreeMap<u64, Guest>,
    next_ticket: u64,
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
        let (number, ended) = (state.next_ticket, Arc::<AtomicBool>::default());
        state.next_ticket += 1;
        state.guests.insert(number, Guest { stream, ended: Arc::clone(&ended), session: None });
        Some(Ticket { number, ended })
    }

    /// The connection is gone, and with it its session.
    pub(super) fn leave(&self, ticket: &Ticket) {
        self.lock().guests.remove(&ticket.number);
        self.changed.notify_all();
    }

    /// Makes the connection the session of its initiator port. An older session of the same port is
    /// ended first, its commands included. Gives a fresh TSIH; `None` if the older one does not end in time.
    pub(super) fn reinstate(
        &self,
        ticket: &Ticket,
        name: &IscsiName,
        isid: Isid,
        patience: Duration,
    ) -> Option<u16> {
        let port = (name.clone(), isid);
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while let Some(older) = state.guests.values().find(|guest| guest.session.as_ref() == Some(&port)) {
            older.end();
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.guests.get_mut(&ticket.number)?.session = Some(port);
        // TSIH 0 means "new session" and is never given (RFC 7143 11.12.6).
        state.next_tsih = state.next_tsih.checked_add(1).unwrap_or(1);
        Some(state.next_tsih)
    }

    /// Ends every other connection: TARGET COLD RESET.
    pub(super) fn end_others(&self, ticket: &Ticket) {
        let state = self.lock();
        state.guests.iter().filter(|(other, _)| **other != ticket.number).for_each(|(_, guest)| guest.end());
    }

    /// Admits nobody any more and ends all connections.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.guests.values().for_each(Guest::end);
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
