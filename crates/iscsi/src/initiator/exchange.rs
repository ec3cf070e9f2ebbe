//! The state that a session's callers and its reader share, and how they take turns at the socket.
//!
//! Callers write; the reader reads and never waits for the socket to take bytes while a command is under way: what it
//! has to send (data for an R2T, an answer to a ping) it leaves to the callers who wait anyway. So a
//! target that stops reading until it has been read from cannot block both directions.

use super::outgoing::Outgoing;
use super::task::{Answer, Kind, Task};
use crate::login::Parameters;
use crate::login::requester::Established;
use crate::pdu::{Lun, NO_TAG, serial_at_most};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A session's shared half.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) stream: TcpStream,
    pub(super) parameters: Parameters,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) out: Outgoing,
    /// A thread is writing; whoever wants to write leaves bytes in `out` for it.
    writing: bool,
    pub(super) tasks: BTreeMap<u32, Task>,
    next_tag: u32,
    cmd_sn: u32,
    max_cmd_sn: u32,
    pub(super) exp_stat_sn: u32,
    /// Why the connection is gone.
    failure: Option<(ErrorKind, &'static str)>,
    /// The target asked for a logout, or we have: no new commands.
    pub(super) leaving: bool,
    pub(super) logout_sent: bool,
}

impl State {
    /// Whether the target accepts one more command (RFC 7143 4.2.2.1).
    pub(super) const fn window_is_open(&self) -> bool {
        serial_at_most(self.cmd_sn, self.max_cmd_sn)
    }

    /// The CmdSN of the next command, which is taken unless it is sent as immediate.
    pub(super) const fn cmd_sn(&mut self, immediate: bool) -> u32 {
        let cmd_sn = self.cmd_sn;
        if !immediate {
            self.cmd_sn = cmd_sn.wrapping_add(1);
        }
        cmd_sn
    }

    /// Learns the window from a target PDU; an impossible pair is ignored (RFC 7143 4.2.2.1).
    pub(super) fn learn_window(&mut self, exp_cmd_sn: u32, max_cmd_sn: u32) {
        if serial_at_most(exp_cmd_sn.wrapping_sub(1), max_cmd_sn)
            && serial_at_most(self.max_cmd_sn, max_cmd_sn)
        {
            self.max_cmd_sn = max_cmd_sn;
        }
    }

    /// Learns the StatSN of a PDU that took one.
    pub(super) const fn learn_status(&mut self, stat_sn: u32) {
        let next = stat_sn.wrapping_add(1);
        if serial_at_most(self.exp_stat_sn, next) {
            self.exp_stat_sn = next;
        }
    }

    /// Enters a task under a fresh tag.
    pub(super) fn enter(&mut self, lun: Lun, kind: Kind) -> u32 {
        loop {
            let tag = self.next_tag;
            self.next_tag = if tag == NO_TAG - 1 { 0 } else { tag + 1 };
            if let Entry::Vacant(e) = self.tasks.entry(tag) {
                e.insert(Task { lun, kind, sent: false, answer: None });
                return tag;
            }
        }
    }

    /// Notes how a task ended; the first answer counts.
    pub(super) fn answer(&mut self, tag: u32, answer: Answer) {
        if let Some(task) = self.tasks.get_mut(&tag) {
            task.answer.get_or_insert(answer);
        }
    }

    pub(super) fn is_answered(&self, tag: u32) -> bool {
        self.tasks.get(&tag).is_none_or(|task| task.answer.is_some())
    }

    /// Whether the connection is gone.
    pub(super) const fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether new commands are accepted.
    pub(super) const fn is_open(&self) -> bool {
        self.failure.is_none() && !self.leaving
    }

    /// The reason for the failure, as an error.
    pub(super) fn failure(&self) -> io::Error {
        match self.failure {
            Some((kind, reason)) => io::Error::new(kind, reason),
            None if self.leaving => io::Error::new(ErrorKind::NotConnected, "the session is being closed"),
            None => ErrorKind::TimedOut.into(),
        }
    }

    fn mark_sent(&mut self, tags: impl IntoIterator<Item = u32>, sent: bool) {
        for tag in tags {
            if let Some(task) = self.tasks.get_mut(&tag) {
                task.sent = sent;
            }
        }
    }
}

impl Exchange {
    pub(super) fn new(stream: TcpStream, established: &Established) -> Self {
        let state = State {
            out: Outgoing::default(),
            writing: false,
            tasks: BTreeMap::new(),
            next_tag: 1,
            cmd_sn: established.cmd_sn,
            max_cmd_sn: established.max_cmd_sn,
            exp_stat_sn: established.exp_stat_sn,
            failure: None,
            leaving: false,
            logout_sent: false,
        };
        Self { stream, parameters: established.parameters, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// The connection is gone; the first reason counts. Wakes everybody, also out of the socket.
    pub(super) fn fail(&self, state: &mut State, kind: ErrorKind, reason: &'static str) {
        state.failure.get_or_insert((kind, reason));
        // An error here means that the socket is closed already, which is what is wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.notify();
    }

    /// Writes what is to be written until nothing is left, unless another thread does it already.
    pub(super) fn flush<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.writing {
            return state;
        }
        state.writing = true;
        while !state.out.is_empty() && !state.has_failed() {
            let out = std::mem::take(&mut state.out);
            // Before a byte leaves: the answer may be here before this thread is back.
            state.mark_sent(out.tags(), true);
            drop(state);
            let result = out.write_to(&self.stream);
            state = self.lock();
            if let Err((error, unsent)) = result {
                state.mark_sent(unsent, false);
                self.fail(&mut state, error.kind(), "the connection took no more data");
            }
        }
        state.writing = false;
        self.notify();
        state
    }

    /// Waits until `done`, the connection fails or the deadline passes, and writes meanwhile what is
    /// to be written. After a failure it returns only when no write is under way, so that what was
    /// sent and what was not is settled.
    pub(super) fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
        mut done: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        loop {
            let finished = done(&mut state) || state.has_failed();
            if !state.writing && !state.out.is_empty() && !state.has_failed() {
                state = self.flush(state);
                continue;
            }
            if finished && !(state.writing && state.has_failed()) {
                return state;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !state.writing {
                return state;
            }
            if left.is_zero() {
                // Another caller's write does not get on, so this session is of no use to anybody.
                self.fail(&mut state, ErrorKind::TimedOut, "the connection took no more data");
            }
            let left = left.max(std::time::Duration::from_millis(1));
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
