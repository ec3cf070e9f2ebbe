//! What a client waits for: commands without an answer, and listeners.

use super::CallError;
use super::events::{Events, Queue};
use crate::Limits;
use crate::message::{CommandError, Event, Reply};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Shared by the reader and everybody who calls.
#[derive(Debug)]
pub(super) struct Pending {
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    calls: BTreeMap<u64, Call>,
    listeners: Vec<Weak<Queue>>,
    closed: Option<Arc<str>>,
}

/// A command without an answer that was taken.
#[derive(Debug)]
enum Call {
    /// Somebody waits.
    Open,
    Answered(Result<Value, CommandError>),
    /// Nobody waits any more; the answer may come yet.
    Abandoned,
}

impl Pending {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), changed: Condvar::new() }
    }

    /// An id for a command that is about to be sent.
    pub(super) fn issue<'a>(&'a self, command: &'a str) -> Result<Ticket<'a>, CallError> {
        let mut state = self.lock();
        let not_sent = |why: Arc<str>| CallError::NotSent { command: command.to_owned(), why };
        if let Some(why) = &state.closed {
            return Err(not_sent(Arc::clone(why)));
        }
        if state.calls.len() >= self.limits.outstanding {
            return Err(not_sent(format!("{} commands are without an answer", state.calls.len()).into()));
        }
        let id = state.next;
        state.next += 1;
        state.calls.insert(id, Call::Open);
        Ok(Ticket { pending: self, id, command })
    }

    /// An answer. An error: nobody asked for it.
    pub(super) fn answer(&self, reply: Reply) -> Result<(), String> {
        let Some(id) = reply.id.as_ref().and_then(Value::as_u64) else {
            return Err(match reply.result {
                Err(error) => format!("the server could not read a command: {error}"),
                Ok(_) => "an answer without the id of a command".into(),
            });
        };
        let mut state = self.lock();
        match state.calls.get_mut(&id) {
            Some(call @ Call::Open) => *call = Call::Answered(reply.result),
            Some(Call::Abandoned) => drop(state.calls.remove(&id)),
            _ => return Err(format!("an answer that nobody asked for, to command {id}")),
        }
        self.changed.notify_all();
        Ok(())
    }

    /// An event for all who listen.
    pub(super) fn tell(&self, event: &Event) {
        self.lock().listeners.retain(|listener| match listener.upgrade() {
            Some(queue) => {
                queue.put(event.clone());
                true
            }
            None => false,
        });
    }

    pub(super) fn listen(&self) -> Events {
        let queue = Arc::new(Queue::new(self.limits));
        let mut state = self.lock();
        if state.closed.is_some() {
            queue.close();
        }
        state.listeners.retain(|listener| listener.strong_count() > 0);
        state.listeners.push(Arc::downgrade(&queue));
        Events::new(queue)
    }

    pub(super) fn closed(&self) -> Option<Arc<str>> {
        self.lock().closed.clone()
    }

    /// No answer and no event comes any more. The first reason is the one that counts.
    pub(super) fn close(&self, why: &str) {
        let mut state = self.lock();
        state.closed.get_or_insert_with(|| why.into());
        state.listeners.drain(..).filter_map(|listener| listener.upgrade()).for_each(|queue| queue.close());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command that has an id. Dropped without an answer it stays counted until that comes.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    pending: &'a Pending,
    id: u64,
    command: &'a str,
}

impl Ticket<'_> {
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) const fn command(&self) -> &str {
        self.command
    }

    pub(super) fn not_sent(&self, why: &str) -> CallError {
        self.pending.lock().calls.remove(&self.id);
        CallError::NotSent { command: self.command.to_owned(), why: why.into() }
    }

    /// The connection was lost, and what came of the command is not known.
    pub(super) fn lost(&self) -> CallError {
        let why = self.pending.closed().unwrap_or_else(|| "the connection was lost".into());
        CallError::Lost { command: self.command.to_owned(), why }
    }

    /// Waits for the answer.
    pub(super) fn wait(self, deadline: Instant) -> Result<Value, CallError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let unanswered = |state: &mut State| {
            state.closed.is_none() && !matches!(state.calls.get(&self.id), Some(Call::Answered(_)))
        };
        let waited = self.pending.changed.wait_timeout_while(self.pending.lock(), left, unanswered);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.calls.remove(&self.id) {
            Some(Call::Answered(Ok(value))) => Ok(value),
            Some(Call::Answered(Err(error))) => {
                Err(CallError::Refused { command: self.command.to_owned(), error })
            }
            _ if state.closed.is_some() => {
                drop(state);
                Err(self.lost())
            }
            _ => {
                state.calls.insert(self.id, Call::Abandoned);
                Err(CallError::Overdue { command: self.command.to_owned() })
            }
        }
    }
}
