//! The task set (SAM-5 4.9): which commands are under way, and how another command or a task management
//! function ends them. Each session keeps its own list, so that sessions do not contend with each other.
//!
//! An abort returns only when the aborted command can no longer touch the medium: a command that has
//! begun to execute is asked to give up and waited for, one that has not never will.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How an aborted command ends for its initiator (SAM-5 5.3.1, TASK ABORTED status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// No status is sent.
    Silently,
    /// TASK ABORTED status is sent (TAS = 1 and another I_T nexus aborted it).
    TaskAbortedStatus,
    /// A reset ended it: no status is sent, and a transport that can say why does.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Executing,
    Done,
    Aborted(Aborted),
}

#[derive(Debug)]
struct Entry {
    tag: u64,
    state: Mutex<State>,
    left: Condvar,
    /// Asks a long command to give up.
    interrupted: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// Waits until the command has left the medium.
    fn wait(&self) {
        let mut state = lock(&self.state);
        while *state == State::Executing {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same, no longer than until `deadline`. `false` if it is still on the medium.
    fn abort_before(&self, how: Aborted, deadline: Instant) -> bool {
        let (mut state, _) = self.give_up(how);
        while *state == State::Executing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.left.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Aborts the command if it waits, and asks it to give up if it does not. Whether it waited.
    fn give_up(&self, how: Aborted) -> (MutexGuard<'_, State>, bool) {
        let mut state = lock(&self.state);
        let waited = *state == State::Waiting;
        if waited {
            *state = State::Aborted(how);
        } else {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        (state, waited)
    }
}

/// Commands that were asked to give up, and that may be on the medium still.
#[derive(Debug, Default)]
#[must_use = "an abort is over when they have left"]
pub(crate) struct Leaving(Vec<Arc<Entry>>);

impl Leaving {
    /// Waits until all of them have left the medium.
    pub(crate) fn wait(self) {
        self.0.iter().for_each(|entry| entry.wait());
    }

    /// Together with those of `others`.
    pub(crate) fn add(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }
}

/// The commands of one session, or of whatever else has commands under way that somebody may end.
#[derive(Debug, Default)]
pub struct TaskSet(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    entries: VecDeque<Arc<Entry>>,
    /// The session is over: whatever comes is aborted at once.
    closed: bool,
}

impl TaskSet {
    /// Enters a command.
    #[must_use]
    pub fn begin(self: &Arc<Self>, tag: u64) -> Task {
        let mut list = lock(&self.0);
        let state = if list.closed { State::Aborted(Aborted::Silently) } else { State::Waiting };
        let (left, interrupted) = (Condvar::new(), AtomicBool::new(false));
        let entry = Arc::new(Entry { tag, state: Mutex::new(state), left, interrupted });
        list.entries.push_back(Arc::clone(&entry));
        Task { entry, tasks: Arc::clone(self) }
    }

    /// Ends the session's commands, those that are still to come too.
    pub fn close(&self) {
        lock(&self.0).closed = true;
        self.abort_all(Aborted::Silently, None);
    }

    /// Asks the command with `tag`, or every command, to give up, without waiting: whoever carries it out may have to be woken
    /// to notice, before somebody waits for the end.
    pub fn interrupt(&self, tag: Option<u64>) {
        let list = lock(&self.0);
        let meant = |entry: &&Arc<Entry>| tag.is_none_or(|tag| entry.tag == tag);
        list.entries.iter().filter(meant).for_each(|entry| entry.interrupted.store(true, Ordering::Relaxed));
    }

    /// How many commands are being executed.
    #[must_use]
    pub fn under_way(&self) -> usize {
        let executing = |entry: &&Arc<Entry>| *lock(&entry.state) == State::Executing;
        lock(&self.0).entries.iter().filter(executing).count()
    }

    /// Aborts every command but the one that asks for it, and waits for those that are being executed. `true` if any was aborted.
    pub fn abort_all(&self, how: Aborted, except: Option<&Task>) -> bool {
        let (aborted, leaving) = self.give_up_all(how, except);
        leaving.wait();
        aborted
    }

    /// The same without waiting: whether any was aborted, and whom to wait for, which nobody should while others wait for a lock.
    pub(crate) fn give_up_all(&self, how: Aborted, except: Option<&Task>) -> (bool, Leaving) {
        let mut entries = lock(&self.0).entries.clone();
        entries.retain(|entry| except.is_none_or(|task| !Arc::ptr_eq(entry, &task.entry)));
        let aborted = entries.iter().filter(|entry| entry.give_up(how).1).count() > 0;
        (aborted, Leaving(entries.into()))
    }

    /// Aborts the command with `tag`, or every command, and waits for those that are being executed until `deadline`. `false` if one of
    /// them is still being executed then.
    pub fn abort_before(&self, tag: Option<u64>, how: Aborted, deadline: Instant) -> bool {
        let meant = |entry: &&Arc<Entry>| tag.is_none_or(|tag| entry.tag == tag);
        let entries: Vec<_> = lock(&self.0).entries.iter().filter(meant).cloned().collect();
        // All are asked before any is waited for.
        entries.iter().for_each(|entry| drop(entry.give_up(how)));
        entries.iter().filter(|entry| !entry.abort_before(how, deadline)).count() == 0
    }

    /// Aborts the command with `tag`, or waits for its end if it is being executed; `false` if there is none.
    pub fn abort(&self, tag: u64) -> bool {
        let entry = lock(&self.0).entries.iter().find(|entry| entry.tag == tag).cloned();
        entry.is_some_and(|entry| {
            drop(entry.give_up(Aborted::Silently));
            entry.wait();
            true
        })
    }
}

/// A command in the task set; it leaves when this value is dropped.
#[derive(Debug)]
pub struct Task {
    entry: Arc<Entry>,
    tasks: Arc<TaskSet>,
}

impl Task {
    /// Whether the command was aborted, and how it ends. Once it has executed it no longer is.
    #[must_use]
    pub fn is_aborted(&self) -> Option<Aborted> {
        match *lock(&self.entry.state) {
            State::Aborted(how) => Some(how),
            _ => None,
        }
    }

    /// Starts execution, unless the command was aborted.
    ///
    /// # Errors
    /// How it was aborted.
    pub fn enter(&self) -> Result<Executing, Aborted> {
        let mut state = lock(&self.entry.state);
        if let State::Aborted(how) = *state {
            return Err(how);
        }
        *state = State::Executing;
        Ok(Executing(Arc::clone(&self.entry)))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut list = lock(&self.tasks.0);
        // Most commands end about as they came: what is sought is among the first.
        let at = list.entries.iter().position(|entry| Arc::ptr_eq(entry, &self.entry));
        if let Some(at) = at {
            list.entries.remove(at);
        }
    }
}

/// The time in which a command may touch the medium; it may end on another thread than it began on.
#[derive(Debug)]
pub struct Executing(Arc<Entry>);

impl Executing {
    /// Somebody waits for the command to give up.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::Relaxed)
    }

    /// Set when the command should give up.
    pub(crate) fn interrupted(&self) -> &AtomicBool {
        &self.0.interrupted
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        *state = State::Done;
        // Whoever waits has said so under the same lock. Waking nobody would be a system call for every command.
        let awaited = self.0.interrupted.load(Ordering::Relaxed);
        drop(state);
        if awaited {
            self.0.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn an_abort_waits_for_a_command_on_the_medium_and_asks_it_to_give_up() {
        let tasks = Arc::<TaskSet>::default();
        let (task, asking) = (tasks.begin(1), tasks.begin(2));
        let executing = task.enter().unwrap();
        thread::scope(|scope| {
            let abort = scope.spawn(|| tasks.abort_all(Aborted::Silently, Some(&asking)));
            while !executing.interrupted().load(Ordering::Relaxed) {
                thread::yield_now();
            }
            assert!(!abort.is_finished(), "the command is still on the medium");
            drop(executing);
            assert!(!abort.join().unwrap(), "it executed, so it was not aborted");
        });
        assert_eq!((task.is_aborted(), asking.is_aborted()), (None, None));
    }

    #[test]
    fn an_abort_with_a_deadline_says_so_when_a_command_does_not_end() {
        let tasks = Arc::<TaskSet>::default();
        let (task, waiting) = (tasks.begin(1), tasks.begin(2));
        let executing = task.enter().unwrap();
        assert!(!tasks.abort_before(None, Aborted::Reset, Instant::now()));
        assert!(executing.is_interrupted());
        assert!(
            waiting.enter().is_err_and(|how| how == Aborted::Reset),
            "the others are aborted all the same"
        );
        assert!(tasks.abort_before(Some(2), Aborted::Silently, Instant::now()));
        drop(executing);
        assert!(tasks.abort_before(Some(1), Aborted::Silently, Instant::now()));
    }

    #[test]
    fn an_aborted_command_never_reaches_the_medium() {
        let tasks = Arc::<TaskSet>::default();
        let (task, other) = (tasks.begin(1), tasks.begin(2));
        assert!(tasks.abort_all(Aborted::TaskAbortedStatus, Some(&other)));
        assert!(task.enter().is_err_and(|how| how == Aborted::TaskAbortedStatus));
        assert!(other.enter().is_ok());
    }

    #[test]
    fn nothing_enters_a_closed_session() {
        let tasks = Arc::<TaskSet>::default();
        let before = tasks.begin(1);
        tasks.close();
        assert_eq!(before.is_aborted(), Some(Aborted::Silently));
        assert!(tasks.begin(2).enter().is_err());
    }

    #[test]
    fn a_command_leaves_when_it_is_dropped() {
        let tasks = Arc::<TaskSet>::default();
        drop(tasks.begin(1));
        assert!(!tasks.abort(1));
        assert!(lock(&tasks.0).entries.is_empty());
    }
}
