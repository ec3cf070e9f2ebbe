//! Guests whose handovers are unfinished, looked at again and again: several at once, so that one whose peer is dead (connections and
//! logins that end by their time limits) keeps no other waiting, and none twice at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Guests that are looked at together.
const MOST: usize = 8;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Those that somebody is at.
    busy: BTreeSet<String>,
    /// When each was looked at last, in turns.
    last: BTreeMap<String, u64>,
    turn: u64,
}

/// A guest that is looked at until this is dropped.
struct Turn(Arc<Turns>, String);

impl Turns {
    /// Begins to look at those of `open` that nobody is at, as far as there is room: whoever has waited longest comes first.
    ///
    /// # Errors
    /// If the system has no thread for it: they wait for the next time.
    pub(super) fn begin(
        self: &Arc<Self>,
        open: Vec<String>,
        look: &(impl Fn(&str) + Clone + Send + 'static),
    ) -> std::io::Result<()> {
        self.due(open).into_iter().try_for_each(|turn| {
            let look = look.clone();
            let work = move || look(&turn.1);
            thread::Builder::new().name("order".into()).spawn(work).map(drop)
        })
    }

    fn due(self: &Arc<Self>, mut open: Vec<String>) -> Vec<Turn> {
        let mut inner = self.inner();
        inner.last.retain(|vm, _| open.contains(vm));
        open.retain(|vm| !inner.busy.contains(vm));
        open.sort_by_key(|vm| inner.last.get(vm).copied());
        open.truncate(MOST.saturating_sub(inner.busy.len()));
        inner.turn += 1;
        for vm in &open {
            let turn = inner.turn;
            inner.busy.insert(vm.clone());
            inner.last.insert(vm.clone(), turn);
        }
        open.into_iter().map(|vm| Turn(Arc::clone(self), vm)).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.inner().busy.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Looks that say when they begin, and end when they are told to.
    struct Guests {
        turns: Arc<Turns>,
        begun: (Sender<String>, Receiver<String>),
        gate: Arc<Mutex<Receiver<()>>>,
        open: Sender<()>,
    }

    impl Guests {
        fn new() -> Self {
            let (open, gate) = channel();
            Self { turns: Arc::default(), begun: channel(), gate: Arc::new(Mutex::new(gate)), open }
        }

        fn begin(&self, guests: &[&str]) {
            let (begun, gate) = (self.begun.0.clone(), Arc::clone(&self.gate));
            let look = move |vm: &str| {
                begun.send(vm.to_owned()).unwrap();
                if vm.starts_with("dead") {
                    gate.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                }
            };
            self.turns.begin(guests.iter().map(|vm| (*vm).to_owned()).collect(), &look).unwrap();
        }

        /// The next ones to be looked at, sorted.
        fn seen(&self, count: usize) -> Vec<String> {
            let mut seen: Vec<_> = (0..count).map(|_| self.begun.1.recv_timeout(PATIENCE).unwrap()).collect();
            seen.sort();
            seen
        }

        fn wait(&self, busy: usize) {
            let end = std::time::Instant::now() + PATIENCE;
            while self.turns.inner().busy.len() != busy {
                assert!(std::time::Instant::now() < end, "{:?}", self.turns);
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_guest_whose_peer_is_dead_keeps_no_other_waiting_and_is_not_looked_at_twice_at_once() {
        let guests = Guests::new();
        guests.begin(&["dead", "web"]);
        assert_eq!(guests.seen(2), ["dead", "web"]);
        guests.wait(1);
        guests.begin(&["dead", "web"]);
        assert_eq!(guests.seen(1), ["web"]);
        guests.wait(1);
        assert!(guests.begun.1.try_recv().is_err(), "the dead one is being looked at still");
        guests.open.send(()).unwrap();
        guests.wait(0);
        guests.begin(&["dead"]);
        assert_eq!(guests.seen(1), ["dead"]);
        guests.open.send(()).unwrap();
    }

    #[test]
    fn more_dead_guests_than_there_is_room_for_take_turns_with_the_others() {
        let guests = Guests::new();
        let dead: Vec<_> = (0..MOST).map(|number| format!("dead{number}")).collect();
        let all: Vec<&str> = dead.iter().map(String::as_str).chain(["web"]).collect();
        guests.begin(&all);
        assert_eq!(guests.seen(MOST), dead, "no more at once");
        guests.wait(MOST);
        guests.begin(&all);
        assert!(guests.begun.1.try_recv().is_err());
        dead.iter().for_each(|_| guests.open.send(()).unwrap());
        guests.wait(0);
        guests.begin(&all);
        assert!(guests.seen(MOST).contains(&"web".to_owned()), "who has waited longest comes first");
        dead.iter().for_each(|_| guests.open.send(()).unwrap());
    }
}
