//! Migrations in a world in memory: there, and everything that may go wrong on the way.

mod by_hand;
mod deaths;
mod refusals;
mod world;

use super::*;
use crate::ownership::{Guest, Mark, OnDoubt};
use handover::Side;
use scsi::pr::{Capabilities, InAction, Key, request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use world::{At, Fault, Host, Wire, World, lock};

fn source(world: &Arc<World>) -> Host {
    Host { world: Arc::clone(world), side: Side::Source }
}

fn order() -> Order {
    Order { wait: 1, ..Order::new("web", "b") }
}

fn run(world: &Arc<World>, wire: &Wire, order: &Order) -> Report {
    migrate(&source(world), wire, "b", order, &Unwatched)
}

fn run_with(fault: Fault) -> (Arc<World>, Report) {
    let world = World::new(2, 5);
    lock(&world.qemus).fault = fault;
    let report = run(&world, &Wire::new(&world), &order());
    (world, report)
}

/// The guest runs there with all it had, and the other host has nothing.
fn is_at(world: &World, side: Side, what: &str) {
    assert_eq!(world.guest(side), Guest::Running, "{what}");
    assert_ne!(world.guest(side.other()), Guest::Running, "{what}");
    if !world.units.is_empty() {
        assert_eq!(world.owner(), Some(side), "{what}");
        assert!(world.held(side), "{what}");
    }
}

#[test]
fn a_running_guest_moves_with_its_reservations_on_many_units_and_on_none() {
    for count in [0, 1, 2, 16] {
        let world = World::new(count, 5);
        let report = run(&world, &Wire::new(&world), &order());
        assert_eq!((report.verdict, report.exit), (Verdict::Moved, 0), "{report:#?}");
        is_at(&world, Side::Destination, &report.reason);
        let downtime = report.downtime.expect("it stood still");
        assert!(downtime.round_trips <= 5, "{downtime:?}");
        for side in [Side::Source, Side::Destination] {
            assert_eq!(world.log(side).and_then(|log| log.ended()).as_deref(), Some("moved"), "{side}");
        }
    }
}

#[test]
fn a_destination_that_takes_as_long_as_it_may_for_everything_is_waited_for() {
    let all = [At::Memory, At::BeforeTake, At::Switchover].map(Fault::Fails);
    for fault in all.into_iter().chain([Fault::None, Fault::ContRefused]) {
        for count in [1, 40] {
            let world = World::new(count, 5);
            world.slow.store(true, Ordering::SeqCst);
            lock(&world.qemus).fault = fault;
            let wire = Wire::new(&world);
            let report = run(&world, &wire, &order());
            let moved = fault == Fault::None;
            assert_eq!(wire.late.load(Ordering::SeqCst), 0, "{fault:?}: {report:#?}");
            is_at(&world, if moved { Side::Destination } else { Side::Source }, &report.reason);
        }
    }
}

#[test]
fn a_slow_destination_is_waited_for_in_a_recovery() {
    for cut in 0..messages() {
        let world = World::new(2, 5);
        world.slow.store(true, Ordering::SeqCst);
        let wire = Wire::new(&world);
        *lock(&wire.cut) = Some((cut, true));
        let report = run(&world, &wire, &order());
        assert_eq!(wire.late.load(Ordering::SeqCst), 0, "{cut}: {report:#?}");
    }
}

#[test]
fn every_failure_before_go_ends_with_the_guest_running_at_the_source_with_all_it_had() {
    let all = [At::Memory, At::BeforeTake, At::Switchover];
    let faults = all.map(Fault::Fails).into_iter().chain(all.map(Fault::DestinationDies));
    for fault in faults.chain([Fault::CancelledBySomebody, Fault::ContRefused]) {
        let (world, report) = run_with(fault);
        let what = format!("{fault:?}: {report:#?}");
        assert_eq!((report.verdict, report.exit), (Verdict::Kept, 5), "{what}");
        is_at(&world, Side::Source, &what);
    }
}

#[test]
fn a_guest_whose_new_qemu_dies_at_cont_is_over_at_both_hosts_and_nobody_elses() {
    let (world, report) = run_with(Fault::DiesAtCont);
    assert_eq!((report.verdict, report.exit), (Verdict::Moved, 1), "{report:#?}");
    assert!(report.reason.contains("start the guest there again"), "{}", report.reason);
    assert!(world.owner() == Some(Side::Destination) && world.held(Side::Destination), "{}", report.reason);
    assert_eq!(world.guest(Side::Source), Guest::Paused);
    for side in [Side::Source, Side::Destination] {
        assert!(world.log(side).is_some_and(|log| log.ended().is_some()), "{side}: {}", report.reason);
        assert!(!world.is_frozen(side), "{side}");
    }
}

#[test]
fn a_guest_that_had_arrived_goes_back_through_the_helpers_with_every_command() {
    let (world, report) = run_with(Fault::ContRefused);
    is_at(&world, Side::Source, &report.reason);
    assert!(lock(&world.settled).contains(&(Side::Destination, End::Arrived)), "its record was ended");
    assert_eq!(world.unsent.load(Ordering::SeqCst), 0, "commands that a helper refused: {report:#?}");
}

#[test]
fn a_destination_that_dies_when_it_has_everything_and_no_go_leaves_the_guest_at_the_source() {
    let (world, report) = run_with(Fault::DestinationDies(At::Completed));
    assert_eq!(report.verdict, Verdict::Kept, "{report:#?}");
    is_at(&world, Side::Source, &report.reason);
    let marks = |side| crate::migrate::Log::marks(&*world.log(side).unwrap());
    assert!(marks(Side::Destination).has(Mark::Abort), "it promised never to run the guest");
}

#[test]
fn a_source_that_dies_when_the_destination_has_everything_gives_the_guest_to_it() {
    let (world, report) = run_with(Fault::SourceDies(At::Completed));
    assert_eq!(world.guest(Side::Destination), Guest::Running, "{report:#?}");
    assert_eq!(world.owner(), Some(Side::Destination));
}

#[test]
fn a_guest_that_is_lost_with_its_qemu_leaves_its_registrations_at_the_source() {
    for at in [At::Memory, At::BeforeTake, At::Switchover] {
        let (world, report) = run_with(Fault::SourceDies(at));
        assert_eq!(world.owner(), Some(Side::Source), "{at:?}: {report:#?}");
        assert!(report.reason.contains("QEMU is gone"), "{}", report.reason);
    }
}

#[test]
fn a_qemu_that_switches_over_by_itself_is_turned_back_before_anything_is_changed() {
    let (world, report) = run_with(Fault::TooFast);
    assert_eq!(report.verdict, Verdict::Kept, "{report:#?}");
    is_at(&world, Side::Source, &report.reason);
}

/// Nothing was changed at any device, by either host.
fn untouched(world: &World) -> bool {
    [Side::Source, Side::Destination]
        .into_iter()
        .all(|side| world.log(side).is_none_or(|log| !Log::marks(&*log).touched))
}

#[test]
fn a_guest_that_somebody_resumes_between_stop_and_switchover_is_not_handed_over() {
    let (world, report) = run_with(Fault::ResumedBeforeSwitchover);
    assert_eq!((report.verdict, report.exit), (Verdict::Kept, 5), "{report:#?}");
    assert!(report.reason.contains("somebody resumed it"), "{}", report.reason);
    assert!(untouched(&world), "{report:#?}");
    is_at(&world, Side::Source, &report.reason);
}

#[test]
fn a_guest_that_somebody_ran_after_its_switchover_goes_on_where_it_ran_last() {
    let (world, report) = run_with(Fault::ResumedAfterSwitchover);
    assert_eq!((report.verdict, report.exit), (Verdict::Kept, 5), "{report:#?}");
    assert!(!world.log(Side::Source).is_some_and(|log| Log::marks(&*log).has(Mark::Go)), "{report:#?}");
    is_at(&world, Side::Source, &report.reason);
}

#[test]
fn a_switchover_that_fails_when_the_destination_has_everything_ends_at_one_host_with_all_it_had() {
    for fault in [Fault::Fails(At::Loaded), Fault::DestinationDies(At::Loaded), Fault::SourceDies(At::Loaded)]
    {
        let (world, report) = run_with(fault);
        let there = world.guest(Side::Destination) == Guest::Running;
        let what = format!("{fault:?}: {report:#?}");
        assert_eq!(there, fault != Fault::DestinationDies(At::Loaded), "{what}");
        is_at(&world, if there { Side::Destination } else { Side::Source }, &what);
    }
}

#[test]
fn a_paused_guest_stays_paused_at_its_new_place_and_after_a_failure() {
    for fault in [Fault::None, Fault::Fails(At::Switchover)] {
        let world = World::new(1, 5);
        lock(&world.qemus).guests[0] = Guest::Paused;
        lock(&world.qemus).fault = fault;
        let report = run(&world, &Wire::new(&world), &order());
        let owner = if fault == Fault::None { Side::Destination } else { Side::Source };
        assert_eq!(world.owner(), Some(owner), "{report:#?}");
        assert_eq!(world.guest(owner), Guest::Paused);
        assert_eq!(report.exit, if fault == Fault::None { 0 } else { 5 }, "{report:#?}");
    }
}

#[test]
fn a_guest_that_cannot_move_is_refused_with_the_reason_and_nothing_is_begun() {
    let refused = |prepare: fn(&World), reason: &str| {
        let world = World::new(2, 5);
        prepare(&world);
        for plan in [true, false] {
            let report = run(&world, &Wire::new(&world), &Order { plan, ..order() });
            assert_eq!((report.verdict, report.exit), (Verdict::Refused, 4), "{report:#?}");
            assert!(report.reason.contains(reason), "{}", report.reason);
            is_at(&world, Side::Source, reason);
            assert!(world.log(Side::Source).is_none() && world.log(Side::Destination).is_none());
        }
    };
    refused(|world| *lock(&world.obstacle) = Some("migrate-pr is on: switch it off".into()), "migrate-pr");
    refused(|world| *lock(&world.uuid_there) = "another".into(), "has UUID another here");
    refused(|world| *lock(&world.refused_unit) = Some(1), "has no logical unit disk1");
    refused(|world| lock(&world.qemus).guests[1] = Guest::Absent, "does not wait for a guest");
}

#[test]
fn a_guest_moves_between_ports_that_the_kernel_does_not_tell_as_the_helper_allows() {
    for kind in [0, 1, 5, 7] {
        let world = World::new(2, kind);
        world.nameless.store(true, Ordering::SeqCst);
        let report = run(&world, &Wire::new(&world), &order());
        assert_eq!((report.verdict, report.exit), (Verdict::Moved, 0), "type {kind}: {report:#?}");
        assert_eq!(world.owner(), Some(Side::Destination), "type {kind}");
    }
}

#[test]
fn whatever_ends_a_handover_gives_the_destinations_record_back() {
    let nothing: fn(&World) = |_| ();
    let fenced: fn(&World) = World::fence;
    let locked: fn(&World) = |world| *lock(&world.unfreezable) = true;
    for (prepare, fault, exit) in [
        (nothing, Fault::None, 0),
        (nothing, Fault::Fails(At::Memory), 5),
        (nothing, Fault::Fails(At::Switchover), 5),
        (fenced, Fault::None, 6),
        (locked, Fault::None, 4),
    ] {
        let world = World::new(2, 5);
        prepare(&world);
        lock(&world.qemus).fault = fault;
        let report = run(&world, &Wire::new(&world), &order());
        let what = format!("{fault:?}: {report:#?}");
        assert_eq!(report.exit, exit, "{what}");
        assert!(!world.is_frozen(Side::Destination) && !world.is_frozen(Side::Source), "{what}");
        assert!(world.log(Side::Destination).is_some_and(|log| log.ended().is_some()), "{what}");
    }
}

#[test]
fn a_plan_says_how_and_changes_nothing() {
    let world = World::new(2, 5);
    let report = run(&world, &Wire::new(&world), &Order { plan: true, ..order() });
    assert_eq!((report.verdict, report.exit), (Verdict::Possible, 0), "{report:#?}");
    assert!(report.method.is_some() && report.luns.len() == 2 && !report.commands.is_empty(), "{report:#?}");
    assert!(lock(&world.settled).is_empty() && !world.is_frozen(Side::Destination), "nothing was frozen");
    assert!(world.log(Side::Source).is_none() && world.log(Side::Destination).is_none());
    is_at(&world, Side::Source, "nothing moved");
}

/// How many messages a whole migration takes.
fn messages() -> usize {
    let world = World::new(2, 5);
    let wire = Wire::new(&world);
    run(&world, &wire, &order());
    wire.calls.load(Ordering::SeqCst)
}

#[test]
fn a_link_that_breaks_at_any_message_and_comes_back_leaves_one_owner_with_everything() {
    for (at, after) in (0..messages()).flat_map(|at| [(at, false), (at, true)]) {
        let world = World::new(2, 5);
        let wire = Wire::new(&world);
        *lock(&wire.cut) = Some((at, after));
        let report = run(&world, &wire, &order());
        let what = format!("message {at}, {after}: {report:#?}");
        let owner =
            if world.guest(Side::Destination) == Guest::Running { Side::Destination } else { Side::Source };
        is_at(&world, owner, &what);
        assert_ne!(report.exit, 7, "{what}");
    }
}

#[test]
fn a_destination_agent_that_never_comes_back_leaves_the_guest_paused_or_taken_back_as_ordered() {
    let mut asked = 0;
    for (at, on_doubt) in (1..messages()).flat_map(|at| [(at, OnDoubt::Pause), (at, OnDoubt::Resume)]) {
        let world = World::new(2, 5);
        let mut wire = Wire::new(&world);
        wire.gone_after_cut = true;
        *lock(&wire.cut) = Some((at, false));
        let report = run(&world, &wire, &Order { on_doubt, wait: 0, ..order() });
        let what = format!("message {at}, {on_doubt:?}: {report:#?}");
        let marks = world.log(Side::Source).map(|log| crate::migrate::Log::marks(&*log)).unwrap_or_default();
        match report.exit {
            7 => {
                asked += 1;
                assert_ne!(world.guest(Side::Source), Guest::Running, "{what}");
                assert!(report.reason.contains("tenure handover"), "{what}");
                assert!(on_doubt == OnDoubt::Pause || marks.has(Mark::Go), "{what}");
            }
            0 => is_at(&world, Side::Destination, &what),
            _ => {
                assert_eq!(world.guest(Side::Source), Guest::Running, "{what}");
                assert!(world.has_all(Side::Source) && world.held(Side::Source), "{what}");
                // As long as it is away nothing is frozen under the guest that runs again.
                let freezes = world.freezes.load(Ordering::SeqCst);
                if let Some(log) = world.log(Side::Source).filter(|log| log.ended().is_none()) {
                    let order = Order { wait: 0, ..order() };
                    resume(&source(&world), &wire, log, &order, &Unwatched, false)
                        .expect("it can be reached");
                }
                assert_eq!(world.freezes.load(Ordering::SeqCst), freezes, "{what}");
                // What the destination still holds goes when the two agents meet again.
                *lock(&wire.gone) = false;
                if let Some(log) = world.log(Side::Source).filter(|log| log.ended().is_none()) {
                    resume(&source(&world), &wire, log, &order(), &Unwatched, false)
                        .expect("it can be reached");
                }
                is_at(&world, Side::Source, &what);
            }
        }
    }
    assert!(asked > 3, "{asked}");
}

/// Asked to end when it waits already for a host that does not answer.
#[derive(Default)]
struct ThenCancels {
    turned_back: AtomicBool,
    looks: AtomicU32,
}

impl Watch for ThenCancels {
    fn tell(&self, progress: Progress) {
        let back = matches!(progress, Progress::Step { what } if what == "turn back");
        self.turned_back.fetch_or(back, Ordering::SeqCst);
    }

    fn cancels(&self) -> u32 {
        if !self.turned_back.load(Ordering::SeqCst) {
            return 0;
        }
        u32::from(self.looks.fetch_add(1, Ordering::SeqCst) > 2)
    }
}

#[test]
fn who_waits_for_a_silent_destination_can_be_told_to_wait_no_longer() {
    let mut asked = 0;
    for at in 1..messages() {
        let world = World::new(1, 5);
        let mut wire = Wire::new(&world);
        wire.gone_after_cut = true;
        *lock(&wire.cut) = Some((at, false));
        let watch = ThenCancels::default();
        let report = migrate(&source(&world), &wire, "b", &Order { wait: 600, ..order() }, &watch);
        if report.exit != 7 {
            continue;
        }
        asked += 1;
        // In this world nobody sleeps: what it would have waited are its looks.
        let looks = watch.looks.load(Ordering::SeqCst);
        assert!((4..8).contains(&looks), "message {at}, {looks} looks: {report:#?}");
        assert_ne!(world.guest(Side::Source), Guest::Running, "message {at}: {report:#?}");
        assert!(report.reason.contains("tenure handover resume"), "message {at}: {report:#?}");
        // What is done then is what is done after the whole time.
        let log: Arc<dyn Log> =
            world.log(Side::Source).filter(|log| log.ended().is_none()).expect("it is open");
        let gone = Log::marks(&*log).has(Mark::Go);
        let ended = abort(&source(&world), &wire, &log, &Unwatched).expect("its units can be reached");
        assert_eq!(ended.verdict == Verdict::Kept, !gone, "message {at}: {ended:#?}");
        assert_eq!(world.guest(Side::Source) == Guest::Running, !gone, "message {at}: {ended:#?}");
    }
    assert!(asked > 3, "{asked}");
}

/// Does something in the moment in which the migration turns back.
struct AtTurn<F>(F);

impl<F: Fn() + Send + Sync> Watch for AtTurn<F> {
    fn tell(&self, progress: Progress) {
        if matches!(progress, Progress::Step { what } if what == "turn back") {
            self.0();
        }
    }

    fn cancels(&self) -> u32 {
        0
    }
}

/// The destination answers, and what it says is what is to be mended; that it is silent would lead astray.
#[test]
fn a_way_back_that_the_destination_hinders_is_told_in_its_words_and_goes_on_when_they_are_mended() {
    let world = World::new(2, 5);
    lock(&world.qemus).fault = Fault::ContRefused;
    let locked = AtTurn(|| *lock(&world.unfreezable) = true);
    let wire = Wire::new(&world);
    let report = migrate(&source(&world), &wire, "b", &order(), &locked);
    assert_eq!((report.verdict, report.exit), (Verdict::InDoubt, 7), "{report:#?}");
    let (_, told) = report.reason.split_once("the guest stays paused: ").expect("what is to be done");
    assert!(told.contains("a command does not end"), "{told}");
    assert!(told.ends_with(". When that is mended: tenure handover resume web"), "{told}");
    assert!(!told.contains("does not answer"), "{told}");
    assert_eq!(world.guest(Side::Source), Guest::Paused);
    let log = world.log(Side::Source).filter(|log| log.ended().is_none()).expect("it is open");
    *lock(&world.unfreezable) = false;
    let ended = resume(&source(&world), &wire, log, &order(), &Unwatched, false).expect("it can be reached");
    assert_eq!(ended.verdict, Verdict::Kept, "{ended:#?}");
    is_at(&world, Side::Source, &ended.reason);
}

/// The destination says that it gave up, and has closed its journal; at `at` the link had broken. Gives the source's journal
/// where the destination has the registrations, and the source none.
fn ended_by_its_own_word(at: usize) -> Option<(Arc<World>, Wire, Arc<dyn Log>)> {
    let world = World::new(2, 5);
    let mut wire = Wire::new(&world);
    wire.gone_after_cut = true;
    *lock(&wire.cut) = Some((at, true));
    run(&world, &wire, &Order { wait: 0, ..order() });
    *lock(&wire.gone) = false;
    let open = |side| world.log(side).filter(|log| log.ended().is_none());
    let (log, there) = (open(Side::Source)?, open(Side::Destination)?);
    there.mark(Mark::Abort).expect("it is in memory");
    there.end("released").expect("it is in memory");
    let away = world.has_all(Side::Destination) && !world.has_all(Side::Source);
    (away && !Log::marks(&*log).has(Mark::Go)).then_some((world, wire, log))
}

/// The guest was taken back alone, its source's operator has given up what the destination may have, and then that one is back;
/// `at` the link had broken. `None` where it has nothing to look after.
fn released_at_the_source(at: usize) -> Option<(Arc<World>, Wire)> {
    let world = World::new(2, 5);
    let mut wire = Wire::new(&world);
    wire.gone_after_cut = true;
    *lock(&wire.cut) = Some((at, false));
    run(&world, &wire, &Order { wait: 0, on_doubt: OnDoubt::Resume, ..order() });
    let log = world.log(Side::Source).filter(|log| log.ended().is_none())?;
    world.log(Side::Destination).filter(|log| log.ended().is_none() && Log::marks(&**log).touched)?;
    Log::marks(&*log).has(Mark::Back).then_some(())?;
    release(&source(&world), &*log, true).expect("its units can be reached");
    log.end("released").expect("it is in memory");
    Some((world, wire))
}

#[test]
fn a_destination_that_comes_back_when_its_source_was_released_gives_up_what_it_has_and_ends() {
    let (mut met, mut left) = (0, 0);
    for at in 1..messages() {
        let Some((world, wire)) = released_at_the_source(at) else { continue };
        left += usize::from(world.has_all(Side::Destination));
        wire.ask_source();
        is_at(&world, Side::Source, &format!("message {at}"));
        assert!(world.log(Side::Destination).is_some_and(|log| log.ended().is_some()), "message {at}");
        assert!(!world.is_frozen(Side::Destination), "message {at}");
        met += 1;
    }
    assert!(met > 2 && left > 0, "{met} met, {left} had something left");
}

#[test]
fn what_is_left_goes_without_a_change_of_the_persistence_that_others_have_set_since() {
    let mut released = 0;
    for at in 1..messages() {
        let world = World::new(2, 5);
        let mut wire = Wire::new(&world);
        wire.gone_after_cut = true;
        *lock(&wire.cut) = Some((at, true));
        run(&world, &wire, &Order { wait: 0, ..order() });
        let Some(log) = world.log(Side::Destination).filter(|_| world.has_all(Side::Destination)) else {
            continue;
        };
        assert!(world.send_by_another(0, &request::register(Key::NONE, Key(0xaa), false)), "{at}");
        let there = Host { world: Arc::clone(&world), side: Side::Destination };
        assert!(release(&there, &*log, false).is_ok_and(|count| count > 0), "{at}");
        let told = world.execute(0, Side::Source, &request::read(InAction::REPORT_CAPABILITIES, 8));
        let told = Capabilities::parse(&told.data).expect("it has REPORT CAPABILITIES");
        assert!(!told.persist_active, "{at}: others turned it off");
        released += 1;
    }
    assert!(released > 2, "{released}");
}

#[test]
fn a_peers_word_alone_takes_no_registration_from_where_it_is() {
    let mut asked = 0;
    for at in 1..messages() {
        let Some((world, wire, log)) = ended_by_its_own_word(at) else { continue };
        let look = |on_doubt, vouched| {
            let order = Order { wait: 0, on_doubt, ..order() };
            resume(&source(&world), &wire, Arc::clone(&log), &order, &Unwatched, vouched)
                .expect("the units can be reached")
        };
        let report = look(OnDoubt::Pause, false);
        assert_eq!(
            (report.verdict, world.owner()),
            (Verdict::InDoubt, Some(Side::Destination)),
            "{report:?}"
        );
        assert!(report.reason.contains("given the handover up"), "{report:?}");
        let ended = match asked % 3 {
            0 => look(OnDoubt::Pause, true),
            1 => look(OnDoubt::Resume, false),
            _ => abort(&source(&world), &wire, &log, &Unwatched).expect("the units can be reached"),
        };
        assert_eq!(ended.verdict, Verdict::Kept, "{ended:?}");
        is_at(&world, Side::Source, &ended.reason);
        asked += 1;
    }
    assert!(asked > 2, "{asked}");
}

#[test]
fn a_guest_taken_back_alone_after_a_broken_way_back_never_runs_without_its_registrations() {
    let mut alone = 0;
    for at in 1..messages() + 20 {
        let world = World::new(2, 5);
        lock(&world.qemus).fault = Fault::DestinationDies(At::Completed);
        let mut wire = Wire::new(&world);
        wire.gone_after_cut = true;
        *lock(&wire.cut) = Some((at, true));
        let report = run(&world, &wire, &Order { on_doubt: OnDoubt::Resume, wait: 0, ..order() });
        let what = format!("message {at}: {report:#?}");
        if world.guest(Side::Source) == Guest::Running {
            assert!(world.has_all(Side::Source) && world.held(Side::Source), "{what}");
            alone += usize::from(*lock(&wire.gone));
        } else {
            assert_eq!(report.exit, 7, "{what}");
        }
    }
    assert!(alone > 3, "{alone}");
}

#[test]
fn a_guest_that_is_fenced_at_any_message_arrives_or_stays_fenced_and_is_never_restored() {
    let mut fenced = 0;
    for at in 0..messages() {
        let world = World::new(2, 5);
        let wire = Wire::new(&world);
        *lock(&wire.meanwhile) = Some(at);
        let report = run(&world, &wire, &order());
        let what = format!("message {at}: {report:#?}");
        assert_eq!(world.owner(), None, "{what}");
        let running = [Side::Source, Side::Destination].map(|side| world.guest(side) == Guest::Running);
        assert_eq!(running.iter().filter(|running| **running).count(), 1, "{what}");
        fenced += usize::from(report.exit == 6);
    }
    assert!(fenced > 3, "{fenced}");
}
