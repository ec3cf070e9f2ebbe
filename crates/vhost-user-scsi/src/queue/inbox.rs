//! What others tell a queue's thread: that a command has ended, that memory or log or an eventfd was exchanged, that it has to stop.
//! Used by `front` (orders), the workers (results) and the control queue (a look at the ring before a task is managed).
//!
//! Guarantees: what was posted is taken in order; a poster that waits for an answer gets one or hears that the thread is gone
//! ([`Inbox::close`]), it never waits for a thread that has ended. The thread is woken by an eventfd, once for many messages.

use rustix::event::{EventfdFlags, eventfd};
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The messages of one thread.
#[derive(Debug)]
pub(crate) struct Inbox<M> {
    state: Mutex<State<M>>,
    wake: Arc<OwnedFd>,
}

#[derive(Debug)]
struct State<M> {
    messages: Vec<M>,
    closed: bool,
}

impl<M> Inbox<M> {
    /// An empty inbox.
    ///
    /// # Errors
    /// No eventfd is to be had.
    pub(crate) fn new() -> std::io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self { state: Mutex::new(State { messages: Vec::new(), closed: false }), wake })
    }

    /// Leaves a message. Where the thread is gone it is dropped.
    pub(crate) fn post(&self, message: M) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let first = state.messages.is_empty();
        state.messages.push(message);
        drop(state);
        if first {
            self.wake();
        }
    }

    /// Wakes the thread without a message.
    pub(crate) fn wake(&self) {
        // It fails only where the counter is full, and then the thread is woken anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// All messages, for the thread; the descriptor is quiet again until the next one.
    pub(crate) fn take(&self) -> Vec<M> {
        // Read first: a message that comes after the read wakes anew.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        std::mem::take(&mut self.lock().messages)
    }

    /// The thread ends: nobody will answer any more.
    pub(crate) fn close(&self) {
        let messages = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.messages)
        };
        drop(messages);
    }

    /// Readable while there is something to take.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::mpsc;

    fn readable<M>(inbox: &Inbox<M>) -> bool {
        let descriptor = inbox.descriptor();
        let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn messages_are_taken_in_order_and_the_descriptor_tells_of_them() {
        let inbox = Inbox::new().unwrap();
        assert!(!readable(&inbox));
        inbox.post(1);
        inbox.post(2);
        assert!(readable(&inbox));
        assert_eq!(inbox.take(), [1, 2]);
        assert!(!readable(&inbox));
        inbox.post(3);
        assert!(readable(&inbox));
    }

    #[test]
    fn who_waits_for_an_answer_hears_that_the_thread_is_gone() {
        let inbox = Inbox::new().unwrap();
        let (sender, receiver) = mpsc::channel::<()>();
        inbox.post(sender);
        inbox.close();
        assert!(receiver.recv().is_err());
        let (sender, receiver) = mpsc::channel::<()>();
        inbox.post(sender);
        assert!(receiver.recv().is_err());
    }
}
