//! A destination that answers and does not help: its reason is said, and the operator is left a way.

use super::world::{Hook, Wire, World, lock};
use super::*;
use peer::message::{Refusal, Request};
use std::sync::atomic::AtomicUsize;

/// The link broke at message `at` and the destination stayed away; what is unfinished at the source, where its guest is so.
fn left(at: usize, guest: Guest) -> Option<(Arc<World>, Wire, Arc<world::Journal>)> {
    let world = World::new(1, 5);
    let mut wire = Wire::new(&world);
    wire.gone_after_cut = true;
    let running = guest == Guest::Running;
    *lock(&wire.cut) = Some((at, !running));
    let on_doubt = if running { OnDoubt::Resume } else { OnDoubt::Pause };
    run(&world, &wire, &Order { wait: 0, on_doubt, ..order() });
    let log = world.log(Side::Source).filter(|log| log.ended().is_none())?;
    *lock(&wire.gone) = false;
    (world.guest(Side::Source) == guest).then_some((world, wire, log))
}

#[test]
fn a_destination_that_refuses_to_be_cleaned_up_is_not_said_to_be_silent() {
    let mut seen = 0;
    for at in 1..messages() {
        let Some((world, wire, log)) = left(at, Guest::Running) else { continue };
        let asked = AtomicUsize::new(0);
        let hook = |request: &Request| {
            let refusal = || {
                asked.fetch_add(1, Ordering::SeqCst);
                CallError::Refused(Refusal::new("Engine", "update the older one"))
            };
            matches!(request, Request::Recover(_)).then(refusal)
        };
        let link = Hook { wire: &wire, hook, turned_away: None };
        let report = resume(&source(&world), &link, log, &order(), &Unwatched, false).unwrap();
        // One that never began has nothing to be cleaned up.
        if asked.load(Ordering::SeqCst) == 0 {
            continue;
        }
        assert!(report.reason.contains("update the older one"), "message {at}: {report:#?}");
        assert!(!report.reason.contains("does not answer"), "message {at}: {report:#?}");
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn a_destination_that_turns_this_host_away_is_not_said_to_be_silent() {
    const WHY: &str = "b turns this host away: its certificate has expired";
    let mut seen = 0;
    for at in 1..messages() {
        let Some((world, wire, log)) = left(at, Guest::Paused) else { continue };
        wire.break_off();
        let link = Hook { wire: &wire, hook: |_: &Request| None, turned_away: Some(WHY) };
        let order = Order { wait: 0, ..order() };
        let report = resume(&source(&world), &link, log, &order, &Unwatched, false).unwrap();
        if report.exit == 7 {
            assert!(report.reason.contains(WHY), "message {at}: {report:#?}");
            seen += 1;
        }
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn a_destination_that_lost_its_journal_leaves_the_operator_a_way() {
    let mut seen = 0;
    for (at, vouched) in (1..messages()).flat_map(|at| [(at, false), (at, true)]) {
        let Some((world, wire, log)) = left(at, Guest::Paused) else { continue };
        if Log::marks(&*log).has(Mark::Go) {
            continue;
        }
        *lock(&world.logs[1]) = None;
        lock(&world.qemus).guests[1] = Guest::Absent;
        let order = Order { wait: 0, ..order() };
        let look =
            |vouched| resume(&source(&world), &wire, log.clone(), &order, &Unwatched, vouched).unwrap();
        let asked = look(false);
        assert!(asked.reason.contains("has no journal of this handover"), "message {at}: {asked:#?}");
        let dynamic: Arc<dyn Log> = log.clone();
        let ended = match vouched {
            true => look(true),
            false => abort(&source(&world), &wire, &dynamic, &Unwatched).unwrap(),
        };
        assert_eq!(world.guest(Side::Source), Guest::Running, "message {at}, {vouched}: {ended:#?}");
        assert!(world.has_all(Side::Source) && world.held(Side::Source), "message {at}: {ended:#?}");
        assert!(log.ended().is_some(), "message {at}, {vouched}: it is asked about for ever: {ended:#?}");
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}
