//! What one host must be able to do without the other, or in spite of it: a recovery with the other one dead, a guest that
//! runs while it goes on, and a destination that gives another node's port as its own.

#![expect(clippy::unwrap_used, reason = "a harness fails its test by panicking")]

mod pair;

use handover::{
    Action, Cause, CommandId, Engine, Event, Method, Outcome, Path, Procedure, Recovery, Remains, Side, Step,
    Verdict,
};
use logical_unit::{NexusId, Profile};
use pair::{C, C_KEY, End, Fault, Foreign, K, N, Role, World, id, port_of, settings};
use scsi::pr::{FullStatus, InAction, Key, request};
use scsi::{Request, opcode};

const KEPT: Verdict = Verdict::KeptAtSource { cause: Cause::Recovered, leftover: false };
const KEPT_WITH_LEFTOVER: Verdict = Verdict::KeptAtSource { cause: Cause::Recovered, leftover: true };

fn with_full_status() -> impl Iterator<Item = &'static Profile> {
    Profile::ALL.into_iter().filter(|profile| profile.support.read_full_status)
}

/// The first action whose words contain `text`.
fn find(start: &World, order: &handover::Settings, text: &str) -> usize {
    let mut world = start.clone();
    world.run(&mut Engine::new(order.clone()));
    let line = world.log.iter().find(|line| line.contains(text)).unwrap();
    line.trim().split(':').next().unwrap().parse().unwrap()
}

/// A world in which both hosts died before the first action whose words contain `text`.
fn crashed(mut world: World, order: &handover::Settings, text: &str) -> World {
    let at = find(&world, order, text);
    world.faults = vec![(at, Fault::Crash)];
    assert_eq!(world.run(&mut Engine::new(order.clone())), End::Crashed);
    world.faults.clear();
    world
}

fn recover(world: &mut World, remains: Remains) -> Verdict {
    let End::Verdict(verdict) = world.run(&mut Recovery::new(remains)) else { unreachable!() };
    verdict
}

/// The source is registered with the nonce, the destination with the key, and the destination is gone.
fn inside_the_nonce_window(profile: &'static Profile, code: u8) -> World {
    let order = settings(profile, Some(Method::SourceNonce));
    let world = crashed(World::new(profile, Role::Holder(code), false, true), &order, "OUT 4 4b->4e");
    assert_eq!((world.key_of(Path::source(0)), world.key_of(Path::destination(0))), (N, K));
    world
}

#[test]
fn a_source_takes_its_key_back_when_the_destination_is_lost_inside_the_nonce_window() {
    for (profile, code) in with_full_status().flat_map(|profile| [1, 3, 5, 6].map(|code| (profile, code))) {
        let mut world = inside_the_nonce_window(profile, code);
        let alone = world.remains([true, false]);
        let log = |world: &World| format!("{} {code}\n{}", profile.name, world.log.join("\n"));
        assert_eq!(recover(&mut world, alone), KEPT_WITH_LEFTOVER, "{}", log(&world));
        assert!(world.key_of(Path::source(0)) == K && world.holds(Path::source(0)), "{}", log(&world));
        let both = world.remains([true, true]);
        assert_eq!(recover(&mut world, both), KEPT, "{}", log(&world));
        assert_eq!(world.key_of(Path::destination(0)), Key::NONE);
        assert_eq!(world.gap, None);
    }
}

#[test]
fn a_source_that_was_fenced_inside_the_nonce_window_stays_so_without_the_destination() {
    for profile in with_full_status() {
        let mut world = inside_the_nonce_window(profile, 5);
        world.intervene(Foreign::PreemptGuest);
        let alone = world.remains([true, false]);
        let verdict = recover(&mut world, alone);
        assert!(matches!(verdict, Verdict::Fenced { nonce_left: true }), "{}: {verdict:?}", profile.name);
        assert_eq!(world.key_of(Path::source(0)), N);
    }
}

/// A guest that was given back with a leftover; then it does something with its own nexus, and the destination returns.
fn given_back(profile: &'static Profile, guest: &Request) -> (World, Verdict) {
    let order = settings(profile, None);
    let mut world = crashed(World::new(profile, Role::Member(5), false, false), &order, "0->4b");
    world.good(id(Path::destination(0)), &request::register(Key::NONE, K, false));
    let alone = world.remains([true, false]);
    assert_eq!(recover(&mut world, alone), KEPT_WITH_LEFTOVER);
    world.good(id(Path::source(0)), guest);
    world.log.clear();
    let remains = Remains { kept_at_source: true, ..world.remains([true, true]) };
    let verdict = recover(&mut world, remains);
    (world, verdict)
}

#[test]
fn a_guest_that_changed_its_key_since_it_was_given_back_is_not_called_fenced_nor_asked() {
    const OWN: Key = Key(0x77);
    for profile in Profile::ALL {
        let (world, verdict) = given_back(profile, &request::register(K, OWN, false));
        assert_eq!(verdict, KEPT, "{}\n{}", profile.name, world.log.join("\n"));
        assert_eq!(world.key_of(Path::source(0)), OWN);
        assert_eq!(world.key_of(Path::destination(0)), Key::NONE);
        let asked: Vec<_> = world.log.iter().filter(|line| line.contains("source: ")).collect();
        assert!(asked.is_empty(), "{asked:?}");
    }
}

#[test]
fn a_guest_that_runs_again_is_left_alone_while_the_destination_is_still_lost() {
    let (mut world, _) = given_back(&logical_unit::profile::SPC, &request::register(K, Key::NONE, false));
    world.log.clear();
    world.entries = [world.entries[0]
        .map(|entry| handover::Entry { stage: handover::journal::Stage::Freeze, ..entry });
        2];
    let remains = Remains { kept_at_source: true, ..world.remains([true, false]) };
    assert_eq!(recover(&mut world, remains), KEPT_WITH_LEFTOVER);
    assert!(!world.log.iter().any(|line| line.contains("source: ")), "{}", world.log.join("\n"));
}

#[test]
fn under_identity_a_guest_that_was_given_back_keeps_its_session_and_is_not_asked() {
    // Where a registration is bound to its session, *identity* is refused.
    for profile in Profile::ALL.into_iter().filter(|profile| !matches!(profile.name, "tgt" | "spdk")) {
        let order = settings(profile, Some(Method::Identity));
        let mut world =
            crashed(World::new(profile, Role::Holder(5), false, false), &order, "journal SourceClosed");
        let (remains, entries) = (world.remains([true, true]), world.entries);
        assert_eq!(recover(&mut world, remains), KEPT, "{}", world.log.join("\n"));
        // That it ended was not written down any more.
        world.entries = entries;
        world.log.clear();
        let remains = Remains { kept_at_source: true, ..world.remains([true, true]) };
        assert_eq!(recover(&mut world, remains), KEPT, "{}\n{}", profile.name, world.log.join("\n"));
        assert!(!world.log.iter().any(|line| line.contains("source: ")), "{}", world.log.join("\n"));
    }
}

/// A dead source's guest is taken over by *destination nonce*, and the destination dies before the action with `text`.
fn interrupted_import(profile: &'static Profile, role: Role, text: &str) -> World {
    let mut order = settings(profile, Some(Method::DestinationNonce));
    order.source_alive = false;
    let mut world = World::new(profile, role, false, true);
    world.down[0] = true;
    crashed(world, &order, text)
}

/// Before the PREEMPT of the guest's key by the nonce.
const PREEMPT: &str = "4e->4b kind";

#[test]
fn an_interrupted_import_is_undone_or_finished_by_the_destination_alone() {
    let known = with_full_status().filter(|profile| profile.name != "spdk");
    for (profile, role) in
        known.flat_map(|profile| [Role::Holder(5), Role::Holder(1)].map(|role| (profile, role)))
    {
        for prefer_destination in [false, true] {
            let mut world = interrupted_import(profile, role, PREEMPT);
            assert_eq!(world.key_of(Path::destination(0)), N, "{}", world.log.join("\n"));
            let remains = Remains { prefer_destination, ..world.remains([false, true]) };
            let verdict = recover(&mut world, remains);
            let (owner, other) = if prefer_destination {
                (Path::destination(0), Path::source(0))
            } else {
                (Path::source(0), Path::destination(0))
            };
            let end = if prefer_destination { Verdict::Moved } else { KEPT };
            assert_eq!(verdict, end, "{} {role:?}\n{}", profile.name, world.log.join("\n"));
            assert_eq!((world.key_of(owner), world.key_of(other)), (K, Key::NONE));
            assert!(world.holds(owner));
        }
    }
}

/// The procedure behind a destination that gives `C`'s port as its own, and shows itself under that name.
struct Liar {
    engine: Engine,
    /// Its readings under way.
    readings: Vec<CommandId>,
}

impl Procedure for Liar {
    fn poll(&mut self) -> Step {
        let step = self.engine.poll();
        if let Step::Run(actions) = &step {
            let reading = |action: &Action| match action {
                Action::Execute { id, path: Path { side: Side::Destination, .. }, request } => request
                    .cdb
                    .starts_with(&[opcode::PERSISTENT_RESERVE_IN, InAction::READ_FULL_STATUS.0])
                    .then_some(*id),
                _ => None,
            };
            self.readings = actions.iter().filter_map(reading).collect();
        }
        step
    }

    fn handle(&mut self, mut event: Event) {
        if let Event::Completed { id, outcome: Outcome::Done(completion) } = &mut event
            && self.readings.contains(id)
            && completion.status.is_good()
        {
            completion.data = exchanged(&completion.data, pair::id(Path::destination(0)), C);
        }
        self.engine.handle(event);
    }
}

/// What a device says, with the names of two nexuses exchanged.
fn exchanged(data: &[u8], one: NexusId, other: NexusId) -> Vec<u8> {
    let mut status = FullStatus::parse(data).unwrap();
    let (one, other) = (port_of(one).initiator.unwrap(), port_of(other).initiator.unwrap());
    for descriptor in &mut status.descriptors {
        if descriptor.initiator_port.as_ref() == Ok(&one) {
            descriptor.initiator_port = Ok(other.clone());
        } else if descriptor.initiator_port.as_ref() == Ok(&other) {
            descriptor.initiator_port = Ok(one.clone());
        }
    }
    status.to_bytes()
}

#[test]
fn register_and_move_goes_only_where_the_source_itself_saw_the_destination_register() {
    let mut moves = 0;
    for profile in Profile::ALL.into_iter().filter(|profile| profile.support.register_and_move) {
        for (shared, lies) in [(false, true), (true, true), (false, false)] {
            let mut world = World::new(profile, Role::Holder(5), shared, true);
            let mut order = settings(profile, None);
            if lies {
                order.destination = vec![port_of(C)];
            }
            let mut engine = Engine::new(order);
            let end = if lies {
                world.run(&mut Liar { engine, readings: Vec::new() })
            } else {
                let end = world.run(&mut engine);
                moves += u32::from(engine.method() == Method::RegisterAndMove);
                end
            };
            let log = format!("{} shared {shared} lies {lies}\n{}", profile.name, world.log.join("\n"));
            assert_eq!(world.unit.reservations().key_of(C), if shared { K } else { C_KEY }, "{log}");
            assert!(!world.unit.reservations().is_holder(C), "{log}");
            assert!(!lies || !world.log.iter().any(|line| line.contains("OUT 7")), "{log}");
            assert!(lies || end == End::Verdict(Verdict::Moved), "{log}");
        }
    }
    assert!(moves > 1, "honest destinations are moved to");
}
