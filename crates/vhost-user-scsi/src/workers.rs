//! Threads that may wait: what a queue's thread must not do itself is done here. Used by the request queues (commands that are no
//! plain transfer) and by the control queue (task management), each with a pool of its own, so that a task management function is
//! never behind the commands that it is to end.
//!
//! Bounds: at most as many threads as the pool was made for; what waits is bounded by those who hand it in (a ring's size each). A
//! thread is made when all others are busy and is kept. Every job is run, also those that wait when the pool is dropped.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Something to do. What it owes others it has to give when it is dropped, too: a job that panics is dropped in the middle.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    name: &'static str,
    most: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    idle: usize,
    over: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs, {} threads, {} idle", self.jobs.len(), self.threads.len(), self.idle)
    }
}

impl Workers {
    /// A pool of at most `most` threads (at least one), called `name`.
    #[must_use]
    pub(crate) fn new(name: &'static str, most: usize) -> Self {
        Self { shared: Arc::default(), name, most: most.max(1) }
    }

    /// Has `job` done, some time.
    ///
    /// # Errors
    /// There is no thread and none can be made: the job is dropped.
    pub(crate) fn hand(&self, job: Job) -> std::io::Result<()> {
        let mut state = self.shared.lock();
        if state.idle <= state.jobs.len() && state.threads.len() < self.most {
            self.add_thread(&mut state)?;
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.ready.notify_one();
        Ok(())
    }

    /// One more thread. That none can be had matters only where there is none at all.
    fn add_thread(&self, state: &mut State) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name(self.name.to_owned()).spawn(move || shared.work()) {
            Ok(thread) => state.threads.push(thread),
            Err(error) if state.threads.is_empty() => return Err(error),
            Err(error) => tracing::warn!(%error, "no further worker thread"),
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.shared.lock();
            state.over = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.ready.notify_all();
        // The last handle may be dropped by a job, that is, by one of the threads.
        let own = std::thread::current().id();
        threads.into_iter().filter(|thread| thread.thread().id() != own).for_each(|thread| {
            let _ = thread.join();
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self) {
        while let Some(job) = self.next() {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a command's thread panicked; the command counts as lost");
            }
        }
    }

    /// The next job; none when the pool is over and all is done.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.over {
                return None;
            }
            state.idle += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn jobs_that_wait_for_each_other_have_a_thread_each() {
        let workers = Workers::new("test", 4);
        let barrier = Arc::new(Barrier::new(4));
        let (sender, receiver) = mpsc::channel();
        for number in 0..4 {
            let (barrier, sender) = (Arc::clone(&barrier), sender.clone());
            workers
                .hand(Box::new(move || {
                    barrier.wait();
                    sender.send(number).unwrap();
                }))
                .unwrap();
        }
        for _ in 0..4 {
            receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        }
    }

    #[test]
    fn never_more_threads_than_allowed() {
        let workers = Workers::new("test", 2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..64 {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            workers
                .hand(Box::new(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                }))
                .unwrap();
        }
        drop(workers);
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn all_that_waits_is_done_before_the_pool_is_gone() {
        let done = Arc::new(AtomicUsize::new(0));
        let workers = Workers::new("test", 1);
        for _ in 0..100 {
            let done = Arc::clone(&done);
            workers
                .hand(Box::new(move || {
                    done.fetch_add(1, Ordering::SeqCst);
                }))
                .unwrap();
        }
        drop(workers);
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn a_job_that_panics_takes_no_thread_with_it() {
        let workers = Workers::new("test", 1);
        workers.hand(Box::new(|| panic!("a test's panic"))).unwrap();
        let (sender, receiver) = mpsc::channel();
        workers.hand(Box::new(move || sender.send(()).unwrap())).unwrap();
        receiver.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
