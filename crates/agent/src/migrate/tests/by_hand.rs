//! What people do to QEMU by hand while a migration is under way, or not quite over: a guest never runs twice by Tenure's doing, and
//! what its operator did to it is not undone behind his back.

use super::world::{Fault, Hook, Told, UUID, Wire, World, lock};
use super::*;
use crate::migrate::remains;
use peer::message::{About, Guest as Named, Recover, Reply, Request};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

#[test]
fn a_guest_that_somebody_resumed_at_the_destination_before_go_is_not_resumed_at_the_source_too() {
    let world = World::new(1, 5);
    lock(&world.qemus).fault = Fault::ResumedByHand;
    let report = run(&world, &Wire::new(&world), &order());
    assert_eq!(report.verdict, Verdict::InDoubt, "{report:#?}");
    assert_eq!(world.guest(Side::Source), Guest::Paused, "{report:#?}");
    assert!(report.reason.contains("resumed it there by hand"), "{report:#?}");
}

#[test]
fn agents_that_meet_after_somebody_resumed_the_guest_at_the_destination_take_nothing_away_from_it() {
    let mut seen = 0;
    for at in 0.. {
        let Some((world, wire)) = source_agent_dies(at) else { break };
        let open = |side: Side| world.log(side).filter(|log| log.ended().is_none());
        let (Some(log), Some(there)) = (open(Side::Source), open(Side::Destination)) else { continue };
        let arrived = world.guest(Side::Destination) == Guest::Paused;
        if !arrived || Log::marks(&*there).has(Mark::Go) {
            continue;
        }
        seen += 1;
        let (owner, gone) = (world.owner(), Log::marks(&*log).has(Mark::Go));
        lock(&world.qemus).resume_by_hand();
        let report = resume(&source(&world), &wire, log, &order(), &Unwatched, false).unwrap();
        assert_ne!(world.guest(Side::Source), Guest::Running, "step {at}: {report:?}");
        assert!(gone || world.owner() == owner, "step {at}: {report:?}");
    }
    assert!(seen > 0);
}

fn source_agent_dies(at: usize) -> Option<(Arc<World>, Wire)> {
    let world = World::new(1, 5);
    world.kill[0].store(at, Ordering::SeqCst);
    let wire = Wire::new(&world);
    let ran = catch_unwind(AssertUnwindSafe(|| run(&world, &wire, &order())));
    world.kill[0].store(usize::MAX, Ordering::SeqCst);
    ran.is_err().then_some(())?;
    wire.break_off();
    Some((world, wire))
}

/// The source's agent has died when all of the guest was at the destination, which was not given it.
fn source_agent_dies_before_go() -> impl Iterator<Item = (usize, Arc<World>, Wire, Arc<world::Journal>)> {
    (0..).map_while(|at| Some((at, source_agent_dies(at)?))).filter_map(|(at, (world, wire))| {
        let open = |side: Side| world.log(side).filter(|log| log.ended().is_none());
        let (log, there) = (open(Side::Source)?, open(Side::Destination)?);
        let before = !Log::marks(&*there).has(Mark::Go) && world.guest(Side::Destination) == Guest::Paused;
        before.then_some((at, world, wire, log))
    })
}

fn look(world: &Arc<World>, wire: &Wire, log: &Arc<world::Journal>) -> Report {
    let order = Order { wait: 0, ..order() };
    resume(&source(world), wire, log.clone(), &order, &Unwatched, false).expect("it can be reached")
}

#[test]
fn a_guest_that_somebody_resumed_there_and_stopped_again_goes_on_there() {
    let mut seen = 0;
    for (at, world, wire, log) in source_agent_dies_before_go() {
        lock(&world.qemus).resume_by_hand();
        let asked = look(&world, &wire, &log);
        assert!(asked.reason.contains("do not end that QEMU"), "step {at}: {asked:#?}");
        let dynamic: Arc<dyn Log> = log.clone();
        let gone = Log::marks(&*log).has(Mark::Go);
        let refused = abort(&source(&world), &wire, &dynamic, &Unwatched).expect("it can be reached");
        assert_eq!((refused.verdict, refused.exit), (Verdict::Refused, 4), "step {at}: {refused:#?}");
        assert!(gone || refused.reason.contains("do not end that QEMU"), "step {at}: {refused:#?}");
        lock(&world.qemus).guests[1] = Guest::Paused;
        let report = look(&world, &wire, &log);
        is_at(&world, Side::Destination, &format!("step {at}: {report:#?}"));
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn a_guest_whose_qemu_there_was_ended_after_it_ran_is_not_resumed_from_old_memory() {
    let mut seen = 0;
    for (at, world, wire, log) in source_agent_dies_before_go() {
        lock(&world.qemus).resume_by_hand();
        look(&world, &wire, &log);
        lock(&world.qemus).guests[1] = Guest::Absent;
        for vouched in [false, true] {
            wire.break_off();
            let order = Order { wait: 0, on_doubt: OnDoubt::Resume, ..order() };
            let report = resume(&source(&world), &wire, log.clone(), &order, &Unwatched, vouched);
            let report = report.expect("it can be reached");
            assert!(report.reason.contains("older than its disks"), "step {at}, {vouched}: {report:#?}");
            assert_eq!(world.guest(Side::Source), Guest::Paused, "step {at}");
        }
        // As the message says.
        lock(&world.qemus).source_is_gone();
        let report = resume(&source(&world), &wire, log.clone(), &order(), &Unwatched, false);
        let report = report.expect("it can be reached");
        assert!(report.reason.contains("start the guest there again"), "step {at}: {report:#?}");
        assert_eq!(world.owner(), Some(Side::Source), "step {at}: {report:#?}");
        assert!(log.ended().is_some(), "step {at}: {report:#?}");
        seen += 1;
    }
    assert!(seen > 0);
}

/// Before `go` comes; then `cont` is refused there, once.
#[test]
fn a_destination_where_the_guest_ran_by_hand_does_not_promise_that_it_never_ran() {
    let world = World::new(1, 5);
    let wire = Wire::new(&world);
    let hook = |request: &Request| {
        if matches!(request, Request::Go(_)) {
            let mut qemus = lock(&world.qemus);
            qemus.run_by_hand();
            qemus.fault = Fault::ContRefused;
        }
        None
    };
    let report =
        migrate(&source(&world), &Hook { wire: &wire, hook, turned_away: None }, "b", &order(), &Unwatched);
    let marks = Log::marks(&*world.log(Side::Destination).expect("it was begun"));
    assert!(!marks.has(Mark::Abort), "{marks:?} {report:#?}");
    assert_ne!(world.guest(Side::Source), Guest::Running, "{report:#?}");
}

/// The destination's agent has heard of it, and writes it down when it is asked: another link, or agent, hears nothing of it.
#[test]
fn a_guest_that_ran_there_by_hand_and_was_stopped_before_the_source_looked_is_not_resumed_from_old_memory() {
    let mut seen = 0;
    for (at, world, wire, log) in source_agent_dies_before_go() {
        lock(&world.qemus).run_by_hand();
        let dynamic: Arc<dyn Log> = log.clone();
        for _ in 0..2 {
            let refused = abort(&source(&world), &wire, &dynamic, &Unwatched).expect("it can be reached");
            assert_eq!(refused.verdict, Verdict::Refused, "step {at}: {refused:#?}");
            wire.break_off();
            let site: Arc<dyn Site> = Arc::new(Host { world: Arc::clone(&world), side: Side::Destination });
            let there: Arc<dyn Log> = world.log(Side::Destination).expect("it was begun");
            assert!(crate::incoming::give_up(&site, &there, None).is_err(), "step {at}: it promised");
        }
        let report = look(&world, &wire, &log);
        is_at(&world, Side::Destination, &format!("step {at}: {report:#?}"));
        seen += 1;
    }
    assert!(seen > 0);
}

/// Only the destination's own look, every few seconds, has seen it run; afterwards another connection to QEMU hears nothing of it.
#[test]
fn a_guest_that_the_destination_saw_run_is_not_resumed_from_old_memory_whatever_became_of_it() {
    let mut seen = 0;
    for (became, given_up) in
        [(Guest::Paused, false), (Guest::Paused, true), (Guest::Absent, false), (Guest::Absent, true)]
    {
        for (at, world, wire, log) in source_agent_dies_before_go() {
            lock(&world.qemus).resume_by_hand();
            // Each look has a connection of its own.
            lock(&world.qemus).destination_connects();
            wire.ask_source();
            lock(&world.qemus).guests[1] = became;
            lock(&world.qemus).destination_connects();
            if given_up {
                let site: Arc<dyn Site> =
                    Arc::new(Host { world: Arc::clone(&world), side: Side::Destination });
                let there: Arc<dyn Log> = world.log(Side::Destination).expect("it was begun");
                let _ = crate::incoming::give_up(&site, &there, None);
            }
            let report = look(&world, &wire, &log);
            let case = format!("step {at}, {became:?}, given up {given_up}: {report:#?}");
            assert_eq!(world.guest(Side::Source), Guest::Paused, "{case}");
            if became == Guest::Paused {
                is_at(&world, Side::Destination, &case);
            } else {
                assert!(report.reason.contains("older than its disks"), "{case}");
            }
            seen += 1;
        }
    }
    assert!(seen > 3, "{seen}");
}

/// The only new memory is there: it is not thrown away for it.
#[test]
fn a_guest_that_ran_there_stays_there_when_its_first_cont_is_refused() {
    let mut seen = 0;
    for (at, world, wire, log) in source_agent_dies_before_go() {
        lock(&world.qemus).resume_by_hand();
        look(&world, &wire, &log);
        {
            let mut qemus = lock(&world.qemus);
            (qemus.guests[1], qemus.fault) = (Guest::Paused, Fault::ContRefused);
            qemus.destination_connects();
        }
        look(&world, &wire, &log);
        let marks = Log::marks(&*world.log(Side::Destination).expect("it was begun"));
        assert!(!marks.has(Mark::Abort), "step {at}: {marks:?}");
        // Its own look, a few seconds later.
        lock(&world.qemus).fault = Fault::None;
        wire.break_off();
        wire.ask_source();
        let report = look(&world, &wire, &log);
        is_at(&world, Side::Destination, &format!("step {at}: {report:#?}"));
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn a_guest_that_runs_at_both_hosts_by_somebodys_hand_is_an_alarm_and_not_said_to_stay_paused() {
    let mut seen = 0;
    for at in 1..messages() {
        let Some((world, wire)) = given_back_alone(at, Guest::Running) else { continue };
        *lock(&wire.gone) = false;
        lock(&world.qemus).resume_by_hand();
        let report = look(&world, &wire, &world.log(Side::Source).expect("it was begun"));
        assert!(!report.reason.contains("stays paused"), "message {at}: {report:#?}");
        assert!(report.reason.contains("runs at both hosts"), "message {at}: {report:#?}");
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn a_guest_that_ran_at_the_source_while_its_agent_was_dead_is_not_handed_over() {
    let mut seen = 0;
    for at in 0.. {
        let Some((world, wire)) = source_agent_dies(at) else { break };
        let Some(log) = world.log(Side::Source).filter(|log| log.ended().is_none()) else { continue };
        let sent = lock(&world.qemus).stage == Stage::Completed;
        if !sent || world.guest(Side::Destination) != Guest::Paused || Log::marks(&*log).has(Mark::Go) {
            continue;
        }
        lock(&world.qemus).run_unheard();
        let report = resume(&source(&world), &wire, log, &order(), &Unwatched, false);
        is_at(&world, Side::Source, &format!("step {at}: {report:#?}"));
        seen += 1;
    }
    assert!(seen > 0);
}

/// At message `at` the destination went away for good, and the guest was given back: the journal stays open. `None` where it was not.
fn given_back_alone(at: usize, before: Guest) -> Option<(Arc<World>, Wire)> {
    let world = World::new(1, 5);
    lock(&world.qemus).guests[0] = before;
    let mut wire = Wire::new(&world);
    wire.gone_after_cut = true;
    *lock(&wire.cut) = Some((at, false));
    run(&world, &wire, &Order { wait: 0, on_doubt: OnDoubt::Resume, ..order() });
    let log = world.log(Side::Source).filter(|log| log.ended().is_none())?;
    (world.guest(Side::Source) == before && Log::marks(&*log).has(Mark::Back)).then_some((world, wire))
}

/// What the source's QEMU was told.
fn told_at_source(world: &World) -> Vec<Told> {
    let told = lock(&world.told);
    told.iter().filter(|(side, _)| *side == Side::Source).map(|(_, told)| *told).collect()
}

/// Its operator moves it by other means; from now on it is noted what QEMU is told.
fn moved_by_other_means(world: &World) {
    let mut qemus = lock(&world.qemus);
    (qemus.guests[0], qemus.stage) = (Guest::Paused, Stage::Active);
    lock(&world.told).clear();
}

#[test]
fn a_guest_that_was_given_back_and_then_stopped_by_its_operator_is_not_resumed_behind_his_back() {
    let mut seen = 0;
    for (at, before) in (1..messages()).flat_map(|at| [(at, Guest::Running), (at, Guest::Paused)]) {
        let Some((world, wire)) = given_back_alone(at, before) else { continue };
        moved_by_other_means(&world);
        let freezes = world.freezes.load(Ordering::SeqCst);
        let log = world.log(Side::Source).expect("it was begun");
        let order = Order { wait: 0, ..order() };
        let report = resume(&source(&world), &wire, log.clone(), &order, &Unwatched, false);
        assert_eq!(told_at_source(&world), [], "message {at}, {before:?}: {report:#?}");
        let log: Arc<dyn Log> = log;
        let report = abort(&source(&world), &wire, &log, &Unwatched);
        assert_eq!(told_at_source(&world), [], "message {at}, {before:?}, abort: {report:#?}");
        assert_eq!(world.guest(Side::Source), Guest::Paused);
        assert_eq!(world.freezes.load(Ordering::SeqCst), freezes, "message {at}, {before:?}");
        seen += 1;
    }
    assert!(seen > 6, "{seen}");
}

#[test]
fn a_guest_that_its_operator_stops_while_the_destination_is_still_looked_for_is_not_resumed_behind_his_back()
{
    let mut seen = 0;
    for at in 1..messages() {
        let world = World::new(1, 5);
        let mut wire = Wire::new(&world);
        wire.gone_after_cut = true;
        *lock(&wire.cut) = Some((at, false));
        let stopped = AtomicUsize::new(0);
        let hook = |request: &Request| {
            let cleans_up = matches!(request, Request::Recover(_) | Request::Close(_));
            let back = world.log(Side::Source).is_some_and(|log| Log::marks(&*log).has(Mark::Back));
            if cleans_up && back && world.guest(Side::Source) == Guest::Running {
                moved_by_other_means(&world);
                stopped.fetch_add(1, Ordering::SeqCst);
            }
            None
        };
        let link = Hook { wire: &wire, hook, turned_away: None };
        let order = Order { wait: 0, on_doubt: OnDoubt::Resume, ..order() };
        migrate(&source(&world), &link, "b", &order, &Unwatched);
        let Some(log) = world.log(Side::Source).filter(|log| log.ended().is_none()) else { continue };
        if stopped.load(Ordering::SeqCst) == 0 {
            continue;
        }
        let report = resume(&source(&world), &wire, log, &order, &Unwatched, false);
        assert_eq!(told_at_source(&world), [], "message {at}: {report:#?}");
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}

/// An agent that died between `cont` and the line that says so: the guest runs, and that is as good.
#[test]
fn a_guest_that_runs_without_the_line_that_says_so_gets_it_at_the_first_look() {
    let mut seen = 0;
    for at in 1..messages() {
        let Some((world, wire)) = given_back_alone(at, Guest::Running) else { continue };
        let log = world.log(Side::Source).expect("it was begun");
        log.forget_resumed();
        lock(&world.told).clear();
        let order = Order { wait: 0, ..order() };
        resume(&source(&world), &wire, log.clone(), &order, &Unwatched, false).expect("it can be reached");
        assert!(log.was_resumed() && told_at_source(&world).is_empty(), "message {at}");
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn a_guest_that_was_moved_by_other_means_while_the_agent_was_dead_is_not_let_run_here_again() {
    let mut seen = 0;
    for at in 0.. {
        let Some((world, wire)) = source_agent_dies(at) else { break };
        let Some(log) = world.log(Side::Source).filter(|log| log.ended().is_none()) else { continue };
        if Log::marks(&*log).touched || world.guest(Side::Source) != Guest::Running {
            continue;
        }
        {
            let mut qemus = lock(&world.qemus);
            (qemus.guests[0], qemus.stage) = (Guest::Paused, Stage::Completed);
        }
        let report = look(&world, &wire, &log);
        assert!(report.reason.contains("may run elsewhere"), "step {at}: {report:#?}");
        let dynamic: Arc<dyn Log> = log.clone();
        let aborted = abort(&source(&world), &wire, &dynamic, &Unwatched);
        assert_eq!(world.guest(Side::Source), Guest::Paused, "step {at}: {report:#?} {aborted:#?}");
        lock(&world.qemus).guests[0] = Guest::Absent;
        let ended = look(&world, &wire, &log);
        assert!(log.ended().is_some(), "step {at}: {ended:#?}");
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn a_migration_that_the_plan_refuses_tells_qemu_nothing() {
    let world = World::new(1, 5);
    assert!(world.send(0, Side::Destination, &request::register(Key::NONE, Key(0x77), true)));
    let report = run(&world, &Wire::new(&world), &order());
    assert_eq!(report.verdict, Verdict::Refused, "{report:#?}");
    assert_eq!(*lock(&world.told), []);
}

/// `go` is durable and the guest runs; `ran` was not written, and now nothing can be.
#[test]
fn a_destination_whose_ledger_is_full_does_not_promise_that_a_running_guest_never_ran() {
    let world = World::new(1, 5);
    let wire = Wire::new(&world);
    assert_eq!(run(&world, &wire, &order()).verdict, Verdict::Moved);
    world.forget_ran_and_end();
    wire.break_off();
    world.full.store(true, Ordering::SeqCst);
    Link::reconnect(&wire).expect("the destination's agent is there");
    let log = world.log(Side::Source).expect("it was begun");
    let record = remains::record(&*log, &Log::begun(&*log).luns);
    let handover = record.handover;
    let guest = Named { vm: "web".into(), uuid: UUID.into() };
    let recover = Recover { guest, record, prefer_destination: true, kept_at_source: false };
    let answered = Link::call(&wire, &Request::Recover(recover), Duration::ZERO);
    assert!(matches!(answered, Ok(Reply::Opened(_))), "{answered:?}");
    let went = Link::call(&wire, &Request::Go(About { handover }), Duration::ZERO);
    assert!(went.is_err(), "{went:?}");
    let marks = Log::marks(&*world.log(Side::Destination).expect("it was begun"));
    assert!(!marks.has(Mark::Abort), "{went:?} {marks:?}");
}
