//! What a client has not taken yet: lines in their order, bounded in bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Filled by the session and by whoever emits events, emptied by the session's writer.
#[derive(Debug)]
pub(super) struct Outbox {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Nothing is put in any more; what is in it goes out.
    ended: bool,
}

impl Outbox {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Puts a line in. One line finds room always; `false`: the client does not read, or is gone.
    pub(super) fn put(&self, line: Vec<u8>) -> bool {
        let mut state = self.lock();
        if state.ended || (state.bytes > 0 && state.bytes + line.len() > self.limit) {
            return false;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.changed.notify_all();
        true
    }

    /// The next line, waited for; `None` when no more will come.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let waited = self.changed.wait_while(self.lock(), |state| state.lines.is_empty() && !state.ended);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let line = state.lines.pop_front()?;
        state.bytes -= line.len();
        Some(line)
    }

    /// Lets what is in it go out, and nothing more.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Drops what is in it, too.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.lines.clear();
        state.bytes = 0;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
