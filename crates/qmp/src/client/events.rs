//! The events of a connection, for one who listens: a bounded queue.

use crate::Limits;
use crate::message::{Event, Object};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a listener hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// So many events were dropped since the last one, because nobody took them: ask for the state anew.
    Missed(u64),
    /// Nothing until the deadline.
    Silence,
    /// Nothing will come any more: the connection is closed.
    Closed,
}

/// The events of a connection from the moment that [`Client::events`](super::Client::events) was called.
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
}

impl Events {
    pub(super) const fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }

    /// The next one, waited for until `deadline`.
    #[must_use]
    pub fn next(&self, deadline: Instant) -> Heard {
        self.queue.take(deadline)
    }
}

/// Filled by the reader, emptied by a listener.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    /// What the events take.
    weight: usize,
    missed: u64,
    closed: bool,
}

impl Waiting {
    fn take(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.weight = self.weight.saturating_sub(weight(&event));
        Some(event)
    }
}

/// About what an event takes in memory. The decoder has bounded its depth.
fn weight(event: &Event) -> usize {
    event.event.len() + members(&event.data)
}

fn members(object: &Object) -> usize {
    object.iter().map(|(name, value)| name.len() + value_weight(value)).sum()
}

fn value_weight(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(value_weight).sum(),
        Value::Object(object) => members(object),
        _ => 0,
    };
    inside + size_of::<Value>()
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, waiting: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn put(&self, event: Event) {
        let mut waiting = self.lock();
        waiting.weight += weight(&event);
        waiting.events.push_back(event);
        while waiting.events.len() > self.limits.events || waiting.weight > self.limits.line {
            if waiting.take().is_none() {
                break;
            }
            waiting.missed += 1;
        }
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn take(&self, deadline: Instant) -> Heard {
        let left = deadline.saturating_duration_since(Instant::now());
        let quiet =
            |waiting: &mut Waiting| waiting.events.is_empty() && waiting.missed == 0 && !waiting.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), left, quiet);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if waiting.missed > 0 {
            return Heard::Missed(std::mem::take(&mut waiting.missed));
        }
        match waiting.take() {
            Some(event) => Heard::Event(event),
            None if waiting.closed => Heard::Closed,
            None => Heard::Silence,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
