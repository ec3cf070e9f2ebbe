//! Whoever holds the leash of an agent.

use super::{Listening, Said, When};
use crate::process::DEADLINE;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// An agent that stands at a step until this is dropped. The agent may be killed meanwhile.
#[derive(Debug)]
pub struct Held {
    /// What it told.
    pub said: Said,
    go: Option<UnixStream>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut go) = self.go.take() {
            // It may be dead.
            let _ = go.write_all(b"go\n");
        }
    }
}

/// Where an agent is to be stopped: at the `nth` time, from 1, that it tells this.
#[derive(Debug)]
struct Wanted {
    when: When,
    step: String,
    nth: usize,
}

#[derive(Debug, Default)]
struct Book {
    told: Vec<(u64, Said)>,
    wanted: Option<Wanted>,
}

/// Holds the leashes of all agents that were started with one socket, one after the other.
#[derive(Debug)]
pub struct Reins {
    book: Arc<Mutex<Book>>,
    held: Mutex<Receiver<Held>>,
    _listening: Listening,
}

impl Reins {
    /// Listens there. `look` is called at each step, while the agent stands.
    ///
    /// # Errors
    /// If it cannot.
    pub fn hold(socket: &Path, look: impl Fn(&Said) + Send + Sync + 'static) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
        let listening = Listening::of(&listener)?;
        let book = Arc::new(Mutex::new(Book::default()));
        let (send, held) = channel();
        let (shared, look) = (Arc::clone(&book), Arc::new(look));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (book, send, look) = (Arc::clone(&shared), send.clone(), Arc::clone(&look));
                thread::spawn(move || follow(stream, &book, &send, &*look));
            }
        });
        Ok(Self { book, held: Mutex::new(held), _listening: listening })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the agent at the `nth` time, from 1 and from now, that it tells this step.
    pub fn stop_at(&self, when: When, step: &str, nth: usize) {
        let mut book = self.book();
        book.told.clear();
        book.wanted = Some(Wanted { when, step: step.to_owned(), nth });
    }

    /// Stops it nowhere any more.
    pub fn let_go(&self) {
        self.book().wanted = None;
    }

    /// Waits until the agent stands where it was to be stopped; `None`: not in this time.
    #[must_use]
    pub fn wait(&self, patience: Duration, over: impl Fn() -> bool) -> Option<Held> {
        let end = Instant::now() + patience.min(2 * DEADLINE);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match held.recv_timeout(Duration::from_millis(10)) {
                Ok(held) => return Some(held),
                Err(RecvTimeoutError::Timeout) if !over() && Instant::now() < end => {}
                Err(_) => return held.try_recv().ok(),
            }
        }
    }

    /// Everything that was told since the agent was last to be stopped, each with a number that is higher the later it came, over all reins of
    /// this process.
    #[must_use]
    pub fn told(&self) -> Vec<(u64, Said)> {
        self.book().told.clone()
    }
}

fn follow(stream: UnixStream, book: &Mutex<Book>, held: &Sender<Held>, look: &dyn Fn(&Said)) {
    let Ok(back) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let (Ok(said), Ok(go)) = (serde_json::from_str::<Said>(&line), back.try_clone()) else { return };
        look(&said);
        let stop = note(&mut book.lock().unwrap_or_else(PoisonError::into_inner), &said);
        let stands = Held { said, go: Some(go) };
        if stop {
            // Where nobody waits for it any more, it goes on.
            let _ = held.send(stands);
        }
    }
}

/// Writes it down; whether the agent is to stand there.
fn note(book: &mut Book, said: &Said) -> bool {
    static ORDER: AtomicU64 = AtomicU64::new(0);
    book.told.push((ORDER.fetch_add(1, Ordering::SeqCst), said.clone()));
    let Some(wanted) = &book.wanted else { return false };
    let same = |told: &&Said| told.when == wanted.when && told.step == wanted.step;
    let stop = same(&said) && book.told.iter().map(|(_, told)| told).filter(same).count() == wanted.nth;
    if stop {
        book.wanted = None;
    }
    stop
}

#[cfg(test)]
mod tests {
    use super::super::Leash;
    use super::*;
    use agent::ownership::Mark;
    use agent::steps::{Observer, Step};
    use tempfile::TempDir;

    #[test]
    fn an_agent_stands_at_the_step_until_it_is_told_to_go_on() {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("leash");
        let reins = Reins::hold(&socket, |_| {}).unwrap();
        reins.stop_at(When::After, "mark-go", 2);
        let (send, done) = channel();
        let agent = thread::spawn(move || {
            let leash = Leash::connect(&socket).unwrap();
            for turn in 0..2 {
                leash.before("web", &Step::Mark(Mark::Go));
                leash.after("web", &Step::Mark(Mark::Go));
                send.send(turn).unwrap();
            }
        });
        let held = reins.wait(DEADLINE, || false).unwrap();
        assert_eq!((held.said.when, held.said.step.as_str()), (When::After, "mark-go"));
        assert_eq!(done.try_iter().collect::<Vec<_>>(), [0]);
        assert_eq!(reins.told().len(), 4);
        drop(held);
        agent.join().unwrap();
        assert_eq!(done.recv().unwrap(), 1);
    }

    #[test]
    fn an_agent_that_nobody_holds_goes_on() {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("leash");
        let listener = UnixListener::bind(&socket).unwrap();
        let leash = Leash::connect(&socket).unwrap();
        drop(listener.accept().unwrap());
        leash.before("web", &Step::Begin);
    }
}
