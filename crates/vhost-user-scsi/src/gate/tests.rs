use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::atomic::{AtomicUsize, Ordering};

fn gate(wait: Duration) -> Arc<Gate> {
    Arc::new(Gate::new(Patience { wait, on_error: OnError::Sense }))
}

fn long() -> Arc<Gate> {
    gate(Duration::from_secs(3600))
}

fn is_told(door: &Door) -> bool {
    let wake = door.descriptor();
    let told = poll(&mut [PollFd::new(&wake, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .unwrap()
        > 0;
    door.hear();
    told
}

#[test]
fn one_door_has_the_turn_until_it_leaves_however_that_is() {
    let gate = long();
    let (a, b) = (gate.door().unwrap(), gate.door().unwrap());
    assert_eq!(a.enter(), Pass::Open);
    assert!(matches!(b.enter(), Pass::Wait(_)));
    assert!(gate.is_awaited());
    assert!(!is_told(&b));
    a.leave();
    assert!(is_told(&b), "the turn is free, and nobody says so");
    assert_eq!(b.enter(), Pass::Open);
    assert!(matches!(a.enter(), Pass::Wait(_)), "its rings start again: the migration failed, or so it says");
    drop(b);
    assert!(is_told(&a));
    assert_eq!((a.enter(), gate.doors(), gate.is_awaited()), (Pass::Open, 1, false));
}

#[test]
fn the_turn_goes_to_who_has_waited_longest() {
    let gate = long();
    let (a, b, c) = (gate.door().unwrap(), gate.door().unwrap(), gate.door().unwrap());
    a.enter();
    c.enter();
    std::thread::yield_now();
    b.enter();
    a.leave();
    assert_eq!(c.enter(), Pass::Open);
    assert!(matches!(b.enter(), Pass::Wait(_)));
}

#[test]
fn nobody_passes_a_gate_that_is_shut_and_it_is_not_shut_in_front_of_anybody() {
    let gate = long();
    let a = gate.door().unwrap();
    a.enter();
    assert_eq!(gate.shut(), Err(Running));
    assert!(!gate.is_shut());
    a.leave();
    gate.shut().unwrap();
    assert!(matches!(a.enter(), Pass::Wait(_)));
    assert!(!gate.is_running());
    let _ = is_told(&a);
    gate.open();
    assert!(is_told(&a));
    assert_eq!((a.enter(), gate.is_running()), (Pass::Open, true));
}

#[test]
fn who_has_waited_too_long_is_refused_and_let_in_all_the_same_later() {
    let gate = gate(Duration::ZERO);
    gate.shut().unwrap();
    let a = gate.door().unwrap();
    assert_eq!(a.enter(), Pass::Refuse(OnError::Sense));
    gate.open();
    assert_eq!(a.enter(), Pass::Open);
}

#[test]
fn a_door_without_the_turn_resets_nobodys_nexus() {
    let gate = long();
    let (a, b) = (gate.door().unwrap(), gate.door().unwrap());
    assert!(!a.has_nexus() && !b.has_nexus(), "whose it is nobody knows yet");
    a.enter();
    assert!(a.has_nexus() && !b.has_nexus());
    a.leave();
    assert!(a.has_nexus() && !b.has_nexus(), "it is paused where it was");
    gate.shut().unwrap();
    assert!(!a.has_nexus(), "the guest is elsewhere");
    gate.open();
    drop(a);
    assert!(b.has_nexus(), "there is nobody else");
}

#[derive(Debug, Default)]
struct Counting(AtomicUsize, AtomicUsize);

impl Keeper for Counting {
    fn turns_away(&self) -> Option<String> {
        Some("no".into())
    }

    fn arrived(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn left(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_keeper_hears_once_of_a_guest_that_waits_at_a_shut_gate() {
    let (gate, keeper) = (long(), Arc::new(Counting::default()));
    let weak: Weak<Counting> = Arc::downgrade(&keeper);
    gate.set_keeper(weak);
    let a = gate.door().unwrap();
    a.enter();
    a.leave();
    assert_eq!(keeper.0.load(Ordering::SeqCst), 0);
    gate.shut().unwrap();
    a.enter();
    a.enter();
    assert_eq!(keeper.0.load(Ordering::SeqCst), 1);
    a.leave();
    a.enter();
    assert_eq!((keeper.0.load(Ordering::SeqCst), keeper.1.load(Ordering::SeqCst)), (2, 1));
    drop(a);
    assert_eq!(keeper.1.load(Ordering::SeqCst), 2);
    assert_eq!(gate.turns_away().as_deref(), Some("no"));
}

#[test]
fn both_refusals_say_something_that_a_driver_knows() {
    assert_eq!(OnError::Busy.completion().status, Status::BUSY);
    let sense = OnError::Sense.completion().decoded_sense().unwrap();
    assert_eq!((sense.key, sense.code), (SenseKey::NOT_READY, MANUAL_INTERVENTION));
}

#[test]
fn while_a_nexus_is_reset_its_guest_is_not_given_and_nobody_else_runs() {
    let gate = long();
    let (a, b) = (gate.door().unwrap(), gate.door().unwrap());
    a.enter();
    a.leave();
    assert!(!b.hold_nexus() && a.hold_nexus());
    assert_eq!(gate.shut(), Err(Running), "its state would be one of before");
    assert!(matches!(b.enter(), Pass::Wait(_)));
    a.leave();
    assert!(is_told(&b));
    b.leave();
    gate.shut().unwrap();
    assert!(!a.hold_nexus() && !gate.is_running());
}
