//! What is left when an agent or a whole host dies at any step, is started again or never comes back, and what an operator or a
//! peer may bring about then.

use super::world::{At, Fault, Killed, Wire, World, lock};
use super::*;
use crate::incoming::Word as Vouch;
use crate::ownership::{Guest, Mark};
use handover::Side;
use peer::message::{Advance, Recover, Reply, Request, Word};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Kills the agent of `side` at its step `at`, starts it again, and lets both settle.
fn killed(side: Side, at: usize, fault: Fault) -> Option<(Arc<World>, Report)> {
    killed_in(World::new(2, 5), side, at, fault)
}

fn killed_in(world: Arc<World>, side: Side, at: usize, fault: Fault) -> Option<(Arc<World>, Report)> {
    lock(&world.qemus).fault = fault;
    let index = usize::from(side == Side::Destination);
    world.kill[index].store(at, Ordering::SeqCst);
    let wire = Wire::new(&world);
    let ran = catch_unwind(AssertUnwindSafe(|| run(&world, &wire, &order())));
    let was_killed = world.steps[index].load(Ordering::SeqCst) > at;
    world.kill[index].store(usize::MAX, Ordering::SeqCst);
    let report = match ran {
        Ok(report) => report,
        Err(killed) => {
            assert!(killed.is::<Killed>(), "the source's agent panicked");
            wire.break_off();
            let Some(log) = world.log(Side::Source) else {
                wire.ask_source();
                assert!(world.log(Side::Destination).is_none_or(|log| log.ended().is_some()), "{at}");
                return Some((world, Report::new(Verdict::Failed, "nothing was begun")));
            };
            resume(&source(&world), &wire, log, &order(), &Unwatched, false)
                .expect("the units can be reached")
        }
    };
    // Both agents look again from time to time at what is open.
    wire.ask_source();
    if let Some(log) = world.log(Side::Source).filter(|log| log.ended().is_none()) {
        let settled = resume(&source(&world), &wire, log, &order(), &Unwatched, false);
        settled.expect("the units can be reached");
    }
    for side in [Side::Source, Side::Destination] {
        let open = world.log(side).is_some_and(|log| log.ended().is_none());
        assert!(!open, "{side} killed at {at} with {fault:?}: the {side}'s journal is open: {report:#?}");
        assert!(!world.is_frozen(side), "killed at {at} with {fault:?}: the {side}'s record says handover");
    }
    was_killed.then_some((world, report))
}

#[test]
fn an_agent_killed_at_any_step_and_started_again_leaves_one_owner_with_everything() {
    let mut count = 0;
    for fault in [Fault::None, Fault::Fails(At::Switchover), Fault::ContRefused] {
        for side in [Side::Source, Side::Destination] {
            // A destination that was killed cannot know whether the guest ran before `cont` was refused again.
            let most = if fault == Fault::ContRefused && side == Side::Destination { 8 } else { usize::MAX };
            for at in 0..most {
                let Some((world, report)) = killed(side, at, fault) else { break };
                let what = format!("{side} killed at step {at} with {fault:?}: {report:#?}");
                let there = world.guest(Side::Destination) == Guest::Running;
                is_at(&world, if there { Side::Destination } else { Side::Source }, &what);
                count += 1;
            }
        }
    }
    println!("{count} crashes");
    assert!(count > 100, "{count}");
}

#[test]
fn a_destination_host_that_dies_as_a_whole_at_any_step_is_where_the_guest_is_or_is_not() {
    let mut there = 0;
    for at in 0.. {
        let world = World::new(2, 5);
        world.whole_host.store(true, Ordering::SeqCst);
        let Some((world, report)) = killed_in(world, Side::Destination, at, Fault::None) else { break };
        let what = format!("killed at step {at}: {report:#?}");
        match world.owner() {
            Some(Side::Destination) => there += 1,
            owner => {
                assert_eq!(owner, Some(Side::Source), "{what}");
                assert_eq!(world.guest(Side::Source), Guest::Running, "{what}");
            }
        }
    }
    assert!(there > 0, "it died after go as well");
}

/// The source's host dies as a whole at its step `at`; `None` if it came to its end before.
fn source_host_dies(at: usize) -> Option<(Arc<World>, Wire)> {
    let world = World::new(2, 5);
    world.kill[0].store(at, Ordering::SeqCst);
    let wire = Wire::new(&world);
    let ran = catch_unwind(AssertUnwindSafe(|| run(&world, &wire, &order())));
    ran.is_err().then_some(())?;
    lock(&world.qemus).source_is_gone();
    wire.break_off();
    Some((world, wire))
}

#[test]
fn a_source_host_that_dies_for_good_leaves_its_destination_free_or_an_operator_to_give_the_guest_to_it() {
    let (mut freed, mut ran, mut refused) = (0, 0, 0);
    for at in 0.. {
        let Some((world, wire)) = source_host_dies(at) else { break };
        wire.destination_alone(Vouch::None).expect("it does what it can");
        let went = world.guest(Side::Destination) == Guest::Running;
        let Some(log) = world.log(Side::Destination) else { continue };
        if log.ended().is_some() && !went {
            // Nothing was changed, and nothing stays behind.
            assert!(!world.is_frozen(Side::Destination), "step {at}");
            assert!(world.has_all(Side::Source) && !world.has_all(Side::Destination), "step {at}");
            freed += 1;
            continue;
        }
        assert!(!went || Log::marks(&*log).has(Mark::Go), "step {at}: nobody let it run");
        let whole = world.guest(Side::Destination) == Guest::Paused;
        let vouched = wire.destination_alone(Vouch::Vouched);
        if went || (whole && vouched.is_ok()) {
            is_at(&world, Side::Destination, &format!("step {at}: {vouched:?}"));
            assert_eq!(log.ended().as_deref(), Some("moved"), "step {at}");
            assert!(!world.is_frozen(Side::Destination), "step {at}");
            ran += usize::from(!went);
        } else {
            assert_ne!(world.guest(Side::Destination), Guest::Running, "step {at}: {vouched:?}");
            refused += 1;
        }
    }
    assert!(freed > 2 && ran > 2 && refused > 2, "{freed} freed, {ran} ran, {refused} refused");
}

#[test]
fn a_guest_that_somebody_elses_orchestration_brought_runs_by_an_operators_word_only_where_its_registrations_are()
 {
    let (mut ran, mut refused) = (0, 0);
    for at in 0.. {
        let Some((world, wire)) = source_host_dies(at) else { break };
        lock(&world.qemus).guests[1] = Guest::Paused;
        let vouched = wire.destination_alone(Vouch::Vouched);
        if world.guest(Side::Destination) == Guest::Running {
            is_at(&world, Side::Destination, &format!("step {at}: {vouched:?}"));
            ran += 1;
        } else {
            assert!(vouched.is_err() || world.log(Side::Destination).is_none_or(|log| log.ended().is_some()));
            refused += 1;
        }
    }
    assert!(ran > 2 && refused > 2, "{ran} ran, {refused} refused");
}

#[test]
fn a_fenced_guest_that_an_operator_gives_to_the_destination_is_not_registered_again() {
    let mut fenced = 0;
    for at in 0.. {
        let Some((world, wire)) = source_host_dies(at) else { break };
        world.fence();
        let _ = wire.destination_alone(Vouch::Vouched);
        let there = world.guest(Side::Destination) == Guest::Running;
        assert_eq!(world.owner(), None, "step {at}");
        fenced += usize::from(there);
    }
    assert!(fenced > 2, "{fenced}");
}

/// What a logical unit's reset leaves on the guest's nexus, once the handover took it.
fn reset() -> Vec<u8> {
    crate::ground::sense(scsi::AdditionalSense { asc: 0x29, ascq: 0x03 })
}

#[test]
fn a_unit_attention_that_the_handover_took_survives_its_agents_and_is_told_once_where_the_guest_goes_on() {
    let (mut told, mut lost) = ([0; 2], 0);
    for (side, fault) in [Side::Source, Side::Destination]
        .into_iter()
        .flat_map(|side| [Fault::None, Fault::Fails(At::Switchover)].map(|fault| (side, fault)))
    {
        for at in 0.. {
            let world = World::new(2, 5);
            world.units[1].reset();
            let Some((world, report)) = killed_in(world, side, at, fault) else { break };
            let what = format!("{side} killed at step {at} with {fault:?}: {report:#?}");
            let there = world.guest(Side::Destination) == Guest::Running;
            let owner = if there { Side::Destination } else { Side::Source };
            // Where nothing was sent on the guest's nexus it still waits there.
            let pending = there || world.reports_attention(1, Side::Source);
            let owed = lock(&world.owed).clone();
            let here = &owed[usize::from(there)];
            let once = usize::from(here[1] == [reset()]);
            assert!(here[0].is_empty() && here[1].len() == once, "{what}");
            // An agent that dies in the round that takes it, before or after the reply, writes nothing down.
            lost += usize::from(!pending && once == 0);
            assert!(owed[usize::from(!there)].iter().all(Vec::is_empty), "{what}");
            told[usize::from(owner == Side::Destination)] += once;
        }
    }
    assert!(told[0] > 10 && told[1] > 10 && lost <= 4, "{told:?}, {lost} lost");
}

#[test]
fn a_peer_that_recovers_a_guest_which_runs_here_already_freezes_nothing_and_makes_no_replica_run() {
    let world = World::new(2, 5);
    let wire = Wire::new(&world);
    assert_eq!(run(&world, &wire, &order()).verdict, Verdict::Moved);
    wire.break_off();
    Link::reconnect(&wire).expect("the destination's agent is there");
    let log = world.log(Side::Source).expect("it was begun");
    let record = remains::record(&*log, &Log::begun(&*log).luns);
    let guest = peer::message::Guest { vm: "web".into(), uuid: world::UUID.into() };
    let recover = Recover { guest, record, prefer_destination: false, kept_at_source: true };
    let handover = recover.record.handover;
    let answered = Link::call(&wire, &Request::Recover(recover), Duration::ZERO);
    let Ok(Reply::Opened(opened)) = answered else { panic!("{answered:?}") };
    let marks = opened.record.map(|record| talk::marks(&record)).unwrap_or_default();
    assert!(marks.has(Mark::Ran), "its record says that it is over");
    assert!(!world.is_frozen(Side::Destination), "the running guest's commands are not held up");
    let advance = Advance { handover, round: 1, digest: Word(0), outcomes: vec![], decisions: vec![] };
    let refused = Link::call(&wire, &Request::Round(advance), Duration::ZERO);
    assert!(matches!(refused, Err(CallError::Refused(_))), "{refused:?}");
    is_at(&world, Side::Destination, "nothing was changed");
}
