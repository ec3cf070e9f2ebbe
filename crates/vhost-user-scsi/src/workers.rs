//! Threads that may wait: what a queue's thread must not do itself is done here. Used by the request queues (commands that are no
//! plain transfer) and by the control queue (task management), each with a pool of its own, so that a task management function is
//! never behind the commands that it is to end.
//!
//! Bounds: at most as many threads as the pool was made for, and one more for each logical unit: a *lane*. A lane has at most half of
//! them, and may always have one, so that logical units that hang hold up no other. What waits is bounded by those who hand it in (a
//! ring's size each). A thread is made when there is a job that may run and nobody idle, and is kept. Every job is run, also those that
//! wait when the pool is dropped; jobs of one lane begin in order, and lanes take turns.

use std::collections::{BTreeMap, VecDeque};
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
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

struct State {
    lanes: BTreeMap<u8, Lane>,
    /// Lanes with jobs that wait, in turn; each once.
    turns: VecDeque<u8>,
    threads: Vec<JoinHandle<()>>,
    most: usize,
    /// Threads that have no job.
    free: usize,
    busy: usize,
    over: bool,
}

#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    busy: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (busy, all) = (self.busy, self.threads.len());
        write!(f, "{busy} of {all} threads busy, {} lanes wait", self.turns.len())
    }
}

impl Workers {
    /// A pool of at most `most` threads (at least one), called `name`.
    #[must_use]
    pub(crate) fn new(name: &'static str, most: usize) -> Self {
        let state = State {
            lanes: BTreeMap::new(),
            turns: VecDeque::new(),
            threads: Vec::new(),
            most: most.max(1),
            free: 0,
            busy: 0,
            over: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), ready: Condvar::new() }), name }
    }

    /// Has `job` done, some time, for a logical unit.
    ///
    /// # Errors
    /// There is no thread and none can be made: the job is dropped.
    pub(crate) fn hand(&self, lane: u8, job: Job) -> std::io::Result<()> {
        let mut state = self.shared.lock();
        state.push(lane, job);
        // One thread for each job that may begin.
        if state.free < state.beginnable()
            && let Err(error) = self.add_thread(&mut state)
        {
            let job = state.take_back(lane);
            drop(state);
            drop(job);
            return Err(error);
        }
        drop(state);
        self.shared.ready.notify_one();
        Ok(())
    }

    /// One more thread. That none can be had matters only where there is none at all.
    fn add_thread(&self, state: &mut State) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name(self.name.to_owned()).spawn(move || shared.work()) {
            Ok(thread) => {
                state.threads.push(thread);
                state.free += 1;
            }
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

impl State {
    /// Jobs of one lane at once.
    fn share(&self) -> usize {
        self.most.div_ceil(2)
    }

    /// How many of the jobs that wait may begin now: the first one of a lane always, more where neither the pool nor the lane has its
    /// share.
    fn beginnable(&self) -> usize {
        let waiting = || self.turns.iter().filter_map(|lane| self.lanes.get(lane));
        let first = |lane: &Lane| usize::from(lane.busy == 0);
        let firsts: usize = waiting().map(first).sum();
        let more = |lane: &Lane| {
            lane.jobs.len().min(self.share().saturating_sub(lane.busy)).saturating_sub(first(lane))
        };
        let more: usize = waiting().map(more).sum();
        firsts + more.min(self.most.saturating_sub(self.busy + firsts))
    }

    fn push(&mut self, number: u8, job: Job) {
        let lane = self.lanes.entry(number).or_default();
        if lane.jobs.is_empty() {
            self.turns.push_back(number);
        }
        lane.jobs.push_back(job);
    }

    /// The job that was pushed last, where nobody can be had to do it.
    fn take_back(&mut self, number: u8) -> Option<Job> {
        let lane = self.lanes.get_mut(&number)?;
        let job = lane.jobs.pop_back();
        if lane.jobs.is_empty() {
            self.turns.retain(|lane| *lane != number);
        }
        job
    }

    /// The next job that may begin, and its lane. Lanes that have none under way come first: they need not wait for any other.
    fn pop(&mut self) -> Option<(u8, Job)> {
        let busy = |lane: &u8| self.lanes.get(lane).map_or(0, |lane| lane.busy);
        let more = self.busy < self.most;
        let first = self.turns.iter().position(|lane| busy(lane) == 0);
        let any = || self.turns.iter().position(|lane| more && busy(lane) < self.share());
        let turn = first.or_else(any)?;
        let number = self.turns.remove(turn)?;
        let lane = self.lanes.get_mut(&number)?;
        let job = lane.jobs.pop_front()?;
        lane.busy += 1;
        self.busy += 1;
        self.free = self.free.saturating_sub(1);
        if !lane.jobs.is_empty() {
            self.turns.push_back(number);
        }
        Some((number, job))
    }

    /// A job of that lane is over.
    fn ended(&mut self, number: u8) {
        self.busy = self.busy.saturating_sub(1);
        self.free += 1;
        if let Some(lane) = self.lanes.get_mut(&number) {
            lane.busy = lane.busy.saturating_sub(1);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self) {
        let mut before = None;
        while let Some((lane, job)) = self.next(before) {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a command's thread panicked; the command counts as lost");
            }
            before = Some(lane);
        }
    }

    /// The next job, after one of lane `before`; none when the pool is over and all is done.
    fn next(&self, before: Option<u8>) -> Option<(u8, Job)> {
        let mut state = self.lock();
        before.into_iter().for_each(|lane| state.ended(lane));
        loop {
            if let Some(job) = state.pop() {
                return Some(job);
            }
            // A job that may not begin yet is begun by the thread whose job's end lets it.
            if state.over {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
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
        let workers = Workers::new("test", 8);
        let barrier = Arc::new(Barrier::new(4));
        let (sender, receiver) = mpsc::channel();
        for number in 0..4 {
            let (barrier, sender) = (Arc::clone(&barrier), sender.clone());
            workers
                .hand(
                    0,
                    Box::new(move || {
                        barrier.wait();
                        sender.send(number).unwrap();
                    }),
                )
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
        for number in 0..64 {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            workers
                .hand(
                    number % 2,
                    Box::new(move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                    }),
                )
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
                .hand(
                    0,
                    Box::new(move || {
                        done.fetch_add(1, Ordering::SeqCst);
                    }),
                )
                .unwrap();
        }
        drop(workers);
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn a_job_that_panics_takes_no_thread_with_it() {
        let workers = Workers::new("test", 1);
        workers.hand(0, Box::new(|| panic!("a test's panic"))).unwrap();
        let (sender, receiver) = mpsc::channel();
        workers.hand(0, Box::new(move || sender.send(()).unwrap())).unwrap();
        receiver.recv_timeout(Duration::from_secs(30)).unwrap();
    }

    /// Jobs that hang until they are let go.
    struct Hanging(Arc<(Mutex<bool>, Condvar)>);

    impl Hanging {
        fn hand(&self, workers: &Workers, lane: u8) {
            let shared = Arc::clone(&self.0);
            let hang = move || drop(shared.1.wait_while(shared.0.lock().unwrap(), |hangs| *hangs).unwrap());
            workers.hand(lane, Box::new(hang)).unwrap();
        }
    }

    impl Drop for Hanging {
        fn drop(&mut self) {
            *self.0.0.lock().unwrap() = false;
            self.0.1.notify_all();
        }
    }

    #[test]
    fn logical_units_that_hang_hold_up_no_other_however_many_they_are() {
        let workers = Workers::new("test", 4);
        let hanging = Hanging(Arc::new((Mutex::new(true), Condvar::new())));
        for lane in 0..20 {
            (0..10).for_each(|_| hanging.hand(&workers, lane));
            let (sender, receiver) = mpsc::channel();
            for number in 0..3 {
                let sender = sender.clone();
                workers.hand(100, Box::new(move || sender.send(number).unwrap())).unwrap();
            }
            let mut done = [(); 3].map(|()| receiver.recv_timeout(Duration::from_secs(30)).unwrap());
            done.sort_unstable();
            assert_eq!(done, [0, 1, 2], "with {lane} that hang");
        }
        let most = workers.shared.lock().threads.len();
        assert!(most <= 4 + 21, "{most} threads");
        drop(hanging);
    }

    #[test]
    fn one_logical_unit_has_at_most_half_of_the_threads() {
        let workers = Workers::new("test", 8);
        let hanging = Hanging(Arc::new((Mutex::new(true), Condvar::new())));
        (0..100).for_each(|_| hanging.hand(&workers, 7));
        assert_eq!(workers.shared.lock().threads.len(), 4);
        drop(hanging);
    }
}
