//! Another node's commands and faults between any two actions of a handover, on every kind of target: what the guest and
//! the others have afterwards is what the shadow, which never was handed over, has.

mod pair;

use handover::{Engine, Method, Path, Recovery, Remains, Side, Verdict};
use logical_unit::reservations::Reservations;
use logical_unit::{NexusId, Profile};
use pair::{A, C, End, Fault, Foreign, K, N, Role, World, id, port, settings};
use scsi::pr::Key;

const METHODS: [Option<Method>; 5] = [
    None,
    Some(Method::Identity),
    Some(Method::PreemptOwnKey),
    Some(Method::SourceNonce),
    Some(Method::DestinationNonce),
];

/// More actions than any run has.
const LONGEST: usize = 60;

/// What a run may be forgiven.
#[derive(Clone, Copy, Default)]
struct Leave {
    /// Nobody can tell: a link is down or a process is gone.
    doubt: bool,
}

/// The first promise that the end of a run breaks.
fn broken(world: &World, method: Method, end: Verdict, leave: Leave) -> Option<String> {
    if method == Method::DestinationNonce && world.absent {
        // The operator allowed that a fencer misses the key for the moment it is not listed.
        return None;
    }
    // Another node's command beside the PREEMPT leaves open whom it found.
    let leave = Leave { doubt: leave.doubt || method == Method::DestinationNonce };
    let gap = world.gap.as_deref().filter(|_| method != Method::DestinationNonce);
    let broken = gap
        .or_else(|| bystander(world, method, end))
        .or_else(|| further_path(world, method, end))
        .or_else(|| first_path(world, method, end, leave));
    broken.map(|text| format!("{text} ({method:?}, {end:?})"))
}

/// The guest's nexuses before and after.
fn nexuses(method: Method) -> (NexusId, NexusId) {
    let source = id(Path::source(0));
    (source, if method == Method::Identity { source } else { id(Path::destination(0)) })
}

const fn has_leftover(end: Verdict) -> bool {
    matches!(end, Verdict::KeptAtSource { leftover: true, .. })
}

/// No un-fencing, and nobody else is touched.
fn bystander(world: &World, method: Method, end: Verdict) -> Option<&'static str> {
    let (real, shadow) = (world.unit.reservations(), world.shadow.reservations());
    let (source, destination) = nexuses(method);
    let has_key = |nexus: NexusId| real.key_of(nexus) == K;
    let fenced = shadow.key_of(source).is_none() && !matches!(end, Verdict::InDoubt(_));
    if fenced && (has_key(source) || has_key(destination) && !has_leftover(end)) {
        return Some("un-fenced");
    }
    let differs = real.key_of(C) != shadow.key_of(C) || real.key_of(A) != shadow.key_of(A);
    differs.then_some("another node's registration differs")
}

/// Every path but the first is where the guest is.
fn further_path(world: &World, method: Method, end: Verdict) -> Option<&'static str> {
    if matches!(end, Verdict::InDoubt(_) | Verdict::Refused(_)) || world.absent {
        return None;
    }
    let (real, shadow) = (world.unit.reservations(), world.shadow.reservations());
    let further = (1..world.paths).flat_map(|index| [Path::source(index), Path::destination(index)]);
    let differs = |path: Path| {
        let moved = end == Verdict::Moved && method != Method::Identity;
        let here = moved == (path.side == Side::Destination)
            && matches!(end, Verdict::Moved | Verdict::KeptAtSource { .. });
        let wanted = if here { shadow.key_of(id(Path::source(path.index))) } else { Key::NONE };
        // Without READ FULL STATUS nobody knows which of the source's paths holds under the nonce.
        let kept = matches!(end, Verdict::Fenced { nonce_left: true }) && real.key_of(id(path)) == N;
        real.key_of(id(path)) != wanted && !kept
    };
    further.into_iter().any(differs).then_some("a further path differs")
}

/// The verdict is true of the first path.
fn first_path(world: &World, method: Method, end: Verdict, leave: Leave) -> Option<&'static str> {
    let expected = world.shadow.reservations().key_of(id(Path::source(0)));
    let (source, destination) = nexuses(method);
    match end {
        Verdict::Moved => owned(world, end, (source, destination), destination),
        Verdict::KeptAtSource { .. } | Verdict::Refused(_) => {
            owned(world, end, (source, destination), source)
        }
        Verdict::Fenced { .. } if !expected.is_none() => Some("not fenced"),
        Verdict::Fenced { nonce_left } => left_behind(world, method, nonce_left),
        Verdict::Lost => (!world.powered || !expected.is_none()).then_some("not lost"),
        Verdict::InDoubt(_) => (!leave.doubt).then_some("doubt without need"),
    }
}

/// A fenced guest leaves nothing but the nonce it must keep.
fn left_behind(world: &World, method: Method, nonce_left: bool) -> Option<&'static str> {
    let real = world.unit.reservations();
    let (source, destination) = nexuses(method);
    let left = if nonce_left { N } else { Key::NONE };
    let gone = method == Method::Identity || real.key_of(destination).is_none();
    (real.key_of(source) != left || !gone).then_some("left behind")
}

/// The owner has what the source has in the shadow, and the other nothing.
fn owned(
    world: &World,
    end: Verdict,
    (source, destination): (NexusId, NexusId),
    owner: NexusId,
) -> Option<&'static str> {
    let (real, shadow) = (world.unit.reservations(), world.shadow.reservations());
    let other = if owner == source { destination } else { source };
    let changed = world.foreign.iter().any(|(_, foreign)| *foreign == Foreign::ChangeAptpl);
    let kind = |reservations: &Reservations| reservations.reservation().map(|held| held.kind);
    let holders =
        real.is_holder(owner) == shadow.is_holder(source) && real.is_holder(A) == shadow.is_holder(A);
    let leaked = other != owner && !real.key_of(other).is_none() && !has_leftover(end);
    let problems = [
        (real.key_of(owner) != shadow.key_of(source), "the guest's key differs"),
        (leaked, "leaked"),
        (!holders, "the holder differs"),
        (kind(real) != kind(shadow), "the type differs"),
        (real.aptpl() != shadow.aptpl() && !changed, "APTPL differs"),
    ];
    problems.into_iter().find_map(|(broken, text)| broken.then_some(text))
}

fn check(world: &World, engine: &Engine, end: Verdict, leave: Leave, failures: &mut Vec<String>) {
    if let Some(problem) = broken(world, engine.method(), end, leave) {
        failures.push(format!("{}: {problem}\n{}\n", world.unit.profile().name, world.log.join("\n")));
    }
}

fn report(failures: &[String], runs: usize) {
    // The shortest of each kind, which its first line names.
    let mut kinds = std::collections::BTreeMap::<&str, (usize, &String)>::new();
    for text in failures {
        let kind = text.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, kind)| kind);
        let (count, shortest) = kinds.entry(kind).or_insert((0, text));
        *count += 1;
        if text.lines().count() < shortest.lines().count() {
            *shortest = text;
        }
    }
    let told: Vec<_> = kinds.values().map(|(count, text)| format!("{count} times, {text}")).collect();
    assert!(failures.is_empty(), "{} of {runs} runs:\n{}", failures.len(), told.join("\n"));
}

/// Every profile, role and method.
fn each(run: impl FnMut(World, Engine)) {
    each_of(&Profile::ALL, &Role::ALL, run);
}

/// The targets and roles that differ most, where two things happen in one run; the explorer searches all of them.
fn each_sort(run: impl FnMut(World, Engine)) {
    let profiles = [&logical_unit::profile::SPC, &logical_unit::profile::TGT, &logical_unit::profile::SPDK];
    each_of(&profiles, &[Role::Holder(1), Role::Holder(5), Role::AloneInAll(7), Role::Member(5)], run);
}

fn each_of(profiles: &[&'static Profile], roles: &[Role], mut run: impl FnMut(World, Engine)) {
    for profile in profiles {
        for role in roles.iter().copied() {
            for (method, shared) in METHODS.into_iter().flat_map(|method| [(method, false), (method, true)]) {
                run(World::new(profile, role, shared, true), Engine::new(settings(profile, method)));
            }
        }
    }
}

/// Runs with `prepare` applied for every point until the run is over before it.
fn at_each_point(world: &World, engine: &Engine, mut run: impl FnMut(World, Engine, usize) -> bool) {
    let over = (0..LONGEST).any(|point| !run(world.clone(), engine.clone(), point));
    assert!(over, "a run is longer than expected");
}

#[test]
fn one_foreign_command_anywhere() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    each(|world, engine| {
        for foreign in Foreign::ALL {
            at_each_point(&world, &engine, |mut world, mut engine, point| {
                world.foreign = vec![(point, foreign)];
                let End::Verdict(end) = world.run(&mut engine) else { unreachable!() };
                check(&world, &engine, end, Leave::default(), &mut failures);
                runs += 1;
                point < world.actions
            });
        }
    });
    report(&failures, runs);
}

#[test]
fn one_fault_anywhere() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    let faults = [
        Fault::LostReply,
        Fault::LostRequest,
        Fault::PowerCycle,
        Fault::Reset,
        Fault::LinkDown,
        Fault::DiskFull,
    ];
    each(|world, engine| {
        for fault in faults {
            at_each_point(&world, &engine, |mut world, mut engine, point| {
                world.faults = vec![(point, fault)];
                let End::Verdict(end) = world.run(&mut engine) else { unreachable!() };
                // Without the source's word, a lost reply to a non-holder's PREEMPT can be anything.
                let blind = engine.method() == Method::DestinationNonce;
                let doubt = blind || matches!(fault, Fault::LinkDown | Fault::DiskFull);
                check(&world, &engine, end, Leave { doubt }, &mut failures);
                runs += 1;
                point < world.actions
            });
        }
    });
    report(&failures, runs);
}

#[test]
fn a_fencing_and_a_lost_message_anywhere() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    each_sort(|world, engine| {
        for foreign in [Foreign::PreemptGuest, Foreign::Clear] {
            for fault in [Fault::LostReply, Fault::LostRequest, Fault::LinkDown] {
                at_each_point(&world, &engine, |world, engine, first| {
                    let mut last = 0;
                    at_each_point(&world, &engine, |mut world, mut engine, second| {
                        world.foreign = vec![(first, foreign)];
                        world.faults = vec![(second, fault)];
                        let End::Verdict(end) = world.run(&mut engine) else { unreachable!() };
                        check(&world, &engine, end, Leave { doubt: true }, &mut failures);
                        runs += 1;
                        last = world.actions;
                        second < world.actions
                    });
                    first < last
                });
            }
        }
    });
    report(&failures, runs);
}

fn recovery(world: &World) -> Recovery {
    recovery_with(world, [true, true])
}

/// A recovery on what the journals say, with these sides alive.
fn recovery_with(world: &World, alive: [bool; 2]) -> Recovery {
    Recovery::new(world.remains(alive))
}

/// The last entry tells the method.
fn judge_recovery(world: &World, engine: &Engine, end: Verdict, failures: &mut Vec<String>) {
    let method = world.entries[0].map_or(engine.method(), |entry| entry.method);
    // Without the source's word, a lost reply of a non-holder's PREEMPT can be anything.
    let doubt = method == Method::DestinationNonce;
    if let Some(problem) = broken(world, method, end, Leave { doubt }) {
        failures.push(format!("{}: {problem}\n{}\n", world.unit.profile().name, world.log.join("\n")));
    }
}

#[test]
fn a_crash_and_a_fencing_anywhere_and_recovery_after_it() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    each_sort(|world, engine| {
        for foreign in [None, Some(Foreign::PreemptGuest), Some(Foreign::Clear)] {
            at_each_point(&world, &engine, |world, engine, crash| {
                let mut last = true;
                at_each_point(&world, &engine, |mut world, mut engine, point| {
                    world.faults = vec![(crash, Fault::Crash)];
                    world.foreign = foreign.map(|foreign| (point, foreign)).into_iter().collect();
                    last = world.run(&mut engine) == End::Crashed;
                    if last {
                        let mut recovery = recovery(&world);
                        let End::Verdict(end) = world.run(&mut recovery) else { unreachable!() };
                        judge_recovery(&world, &engine, end, &mut failures);
                    }
                    runs += 1;
                    foreign.is_some() && point < world.actions
                });
                last
            });
        }
    });
    report(&failures, runs);
}

#[test]
fn a_crash_during_recovery_is_like_any_other() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    each_sort(|world, engine| {
        at_each_point(&world, &engine, |world, engine, crash| {
            let mut crashed = world.clone();
            let mut dead = engine.clone();
            crashed.faults = vec![(crash, Fault::Crash)];
            if crashed.run(&mut dead) != End::Crashed {
                return false;
            }
            for fence in [false, true] {
                for second in crashed.actions..crashed.actions + LONGEST {
                    let mut world = crashed.clone();
                    world.faults = vec![(second, Fault::Crash)];
                    if fence {
                        world.foreign = vec![(second, Foreign::PreemptGuest)];
                    }
                    if world.run(&mut recovery(&world)) != End::Crashed {
                        break;
                    }
                    world.faults.clear();
                    let End::Verdict(end) = world.run(&mut recovery(&world)) else { unreachable!() };
                    judge_recovery(&world, &dead, end, &mut failures);
                    runs += 1;
                }
            }
            true
        });
    });
    report(&failures, runs);
}

/// The same with two paths on each side.
fn each_with_two_paths(mut run: impl FnMut(World, Engine)) {
    for profile in Profile::ALL {
        for role in [Role::Holder(1), Role::Holder(5), Role::AloneInAll(7), Role::Member(6), Role::Registrant]
        {
            for method in [None, Some(Method::PreemptOwnKey), Some(Method::SourceNonce)] {
                let mut world = World::new(profile, role, false, false);
                world.add_paths();
                let mut settings = settings(profile, method);
                settings.source.push(port(Path::source(1)));
                settings.destination.push(port(Path::destination(1)));
                run(world, Engine::new(settings));
            }
        }
    }
}

#[test]
fn two_paths_on_each_side_and_something_happens() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    let faults = [Fault::LostReply, Fault::LostRequest, Fault::PowerCycle];
    each_with_two_paths(|world, engine| {
        let foreign = Foreign::ALL.map(|foreign| (Some(foreign), None));
        for (foreign, fault) in foreign.into_iter().chain(faults.map(|fault| (None, Some(fault)))) {
            at_each_point(&world, &engine, |mut world, mut engine, point| {
                world.foreign = foreign.map(|foreign| (point, foreign)).into_iter().collect();
                world.faults = fault.map(|fault| (point, fault)).into_iter().collect();
                let End::Verdict(end) = world.run(&mut engine) else { unreachable!() };
                check(&world, &engine, end, Leave::default(), &mut failures);
                runs += 1;
                point < world.actions
            });
        }
    });
    report(&failures, runs);
}

#[test]
fn two_paths_a_crash_and_a_fencing() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    each_with_two_paths(|world, engine| {
        for foreign in [None, Some(Foreign::PreemptGuest)] {
            at_each_point(&world, &engine, |world, engine, crash| {
                let mut crashed = true;
                at_each_point(&world, &engine, |mut world, mut engine, point| {
                    world.faults = vec![(crash, Fault::Crash)];
                    world.foreign = foreign.map(|foreign| (point, foreign)).into_iter().collect();
                    crashed = world.run(&mut engine) == End::Crashed;
                    if crashed {
                        let End::Verdict(end) = world.run(&mut recovery(&world)) else { unreachable!() };
                        judge_recovery(&world, &engine, end, &mut failures);
                    }
                    runs += 1;
                    foreign.is_some() && point < world.actions
                });
                crashed
            });
        }
    });
    report(&failures, runs);
}

/// One host is dead when the first recovery runs, and back when the second does.
#[test]
fn a_host_that_comes_back_later_is_put_in_order_then() {
    let (mut failures, mut runs) = (Vec::new(), 0);
    each(|world, engine| {
        for alive in [[true, false], [false, true]] {
            for foreign in [None, Some(Foreign::PreemptGuest)] {
                at_each_point(&world, &engine, |mut world, mut engine, crash| {
                    world.faults = vec![(crash, Fault::Crash)];
                    if world.run(&mut engine) != End::Crashed {
                        return false;
                    }
                    world.foreign = foreign.map(|foreign| (world.actions, foreign)).into_iter().collect();
                    world.faults.clear();
                    let End::Verdict(first) = world.run(&mut recovery_with(&world, alive)) else {
                        unreachable!()
                    };
                    let method = world.entries[0].map_or(engine.method(), |entry| entry.method);
                    if let Some(problem) = broken(&world, method, first, Leave { doubt: true }) {
                        failures.push(format!("alone: {problem}\n{}\n", world.log.join("\n")));
                    }
                    let End::Verdict(end) = world.run(&mut recovery(&world)) else { unreachable!() };
                    judge_recovery(&world, &engine, end, &mut failures);
                    let agreed = matches!(first, Verdict::InDoubt(_)) || owner(first) == owner(end);
                    if !agreed && end != Verdict::Lost && !matches!(end, Verdict::Fenced { .. }) {
                        failures.push(format!("agreed: {first:?}, then {end:?}\n{}\n", world.log.join("\n")));
                    }
                    runs += 1;
                    true
                });
            }
        }
    });
    report(&failures, runs);
}

/// Where a guest may be resumed.
fn owner(verdict: Verdict) -> Option<Side> {
    match verdict {
        Verdict::Moved => Some(Side::Destination),
        Verdict::KeptAtSource { .. } | Verdict::Refused(_) => Some(Side::Source),
        _ => None,
    }
}

/// The first recovery gives the guest back while the destination is dead; then the source's registration goes.
#[test]
fn a_guest_that_was_given_back_is_not_moved_by_a_later_recovery() {
    let mut given_back = 0;
    for kept_at_source in [false, true] {
        let spc = &logical_unit::profile::SPC;
        let world = World::new(spc, Role::Registrant, false, false);
        let engine = Engine::new(settings(spc, Some(Method::MakeBeforeBreak)));
        at_each_point(&world, &engine, |mut world, mut engine, crash| {
            world.faults = vec![(crash, Fault::Crash)];
            let crashed = world.run(&mut engine) == End::Crashed;
            world.faults.clear();
            let last = world.entries;
            let first = world.run(&mut recovery_with(&world, [true, false]));
            let leftover =
                matches!(first, End::Verdict(Verdict::KeptAtSource { leftover: true, .. })) && crashed;
            if leftover {
                given_back += 1;
                let gone = scsi::pr::request::register(K, Key::NONE, false);
                world.good(id(Path::source(0)), &gone);
                // Where the closing entry could not be written, who runs the guest knows it.
                world.entries = if kept_at_source { last } else { world.entries };
                let remains = Remains { kept_at_source, ..world.remains([true, true]) };
                let second = world.run(&mut Recovery::new(remains));
                assert_ne!(second, End::Verdict(Verdict::Moved), "{}", world.log.join("\n"));
            }
            crashed
        });
    }
    assert!(given_back > 1, "the situation must occur");
}
