//! Every method on every kind of target and in every role: it succeeds as the shadow would have it, or is refused with
//! nothing changed; and the pause costs the round trips it may cost.

mod pair;

use handover::{Engine, Method, Path, Phase, Reason, Verdict};
use logical_unit::Profile;
use pair::{C, End, K, Role, World, id, settings};
use scsi::pr::Key;

const METHODS: [Option<Method>; 7] = [
    None,
    Some(Method::Identity),
    Some(Method::MakeBeforeBreak),
    Some(Method::RegisterAndMove),
    Some(Method::PreemptOwnKey),
    Some(Method::SourceNonce),
    Some(Method::DestinationNonce),
];

fn handed_over(world: &World, method: Method, what: &str) {
    let owner = if method == Method::Identity { Path::source(0) } else { Path::destination(0) };
    assert_eq!(world.key_of(owner), K, "{what}");
    let blind = Some("the key was not listed".to_owned()).filter(|_| method == Method::DestinationNonce);
    assert_eq!(world.gap, blind, "{what}");
    if method != Method::Identity {
        assert_eq!(world.key_of(Path::source(0)), Key::NONE, "{what}");
    }
    let (real, shadow) = (world.unit.reservations(), world.shadow.reservations());
    let held = real.reservation().map(|held| held.kind);
    assert_eq!(held, shadow.reservation().map(|held| held.kind), "{what}");
    assert_eq!(world.holds(owner), shadow.is_holder(id(Path::source(0))), "{what}");
    assert_eq!(real.aptpl(), shadow.aptpl(), "{what}");
    assert_eq!(real.key_of(C), shadow.key_of(C), "{what}");
    assert_eq!(real.key_of(pair::A), shadow.key_of(pair::A), "{what}");
}

#[test]
fn every_method_moves_all_or_refuses_and_changes_nothing() {
    for profile in Profile::ALL {
        for role in Role::ALL {
            for (method, shared) in METHODS.into_iter().flat_map(|method| [(method, false), (method, true)]) {
                let mut world = World::new(profile, role, shared, true);
                let mut engine = Engine::new(settings(profile, method));
                let end = world.run(&mut engine);
                let what = format!(
                    "{} {role:?} {method:?} shared {shared} {end:?}\n{}",
                    profile.name,
                    world.log.join("\n")
                );
                match end {
                    End::Verdict(Verdict::Moved) => handed_over(&world, engine.method(), &what),
                    End::Verdict(Verdict::Refused(_)) if method.is_some() => {
                        let unchanged = world.unit.reservations().registrations()
                            == world.shadow.reservations().registrations();
                        assert!(unchanged, "{what}");
                    }
                    _ => panic!("{what}"),
                }
            }
        }
    }
}

#[test]
fn the_pause_costs_four_round_trips_and_five_with_a_nonce() {
    for (profile, role, method, allowed) in [
        ("spc", Role::Member(5), None, 4),
        ("spc", Role::Holder(5), None, 4),
        ("spc", Role::Holder(5), Some(Method::PreemptOwnKey), 4),
        ("keep-self", Role::Holder(1), None, 4),
        ("tgt", Role::WithOthersInAll(7), None, 4),
        ("spdk", Role::Holder(5), None, 5),
        ("tgt", Role::Holder(5), Some(Method::SourceNonce), 5),
    ] {
        let profile = Profile::by_name(profile).unwrap();
        let mut world = World::new(profile, role, false, false);
        let mut engine = Engine::new(settings(profile, method));
        assert_eq!(world.run(&mut engine), End::Verdict(Verdict::Moved));
        let paused = [Phase::Freeze, Phase::Take, Phase::Verify];
        let trips = world.batches.iter().filter(|(phase, _)| paused.contains(phase)).count();
        // The entry that ends the pause is written, not sent.
        assert_eq!(trips - 1, allowed, "{} {role:?} {method:?}\n{}", profile.name, world.log.join("\n"));
    }
}

#[test]
fn a_destination_that_serves_another_guest_is_left_alone() {
    for profile in Profile::ALL {
        let mut world = World::new(profile, Role::Holder(5), false, false);
        let other = Key(0x77);
        let request = scsi::pr::request::register(Key::NONE, other, false);
        world.good(id(Path::destination(0)), &request);
        let mut engine = Engine::new(settings(profile, None));
        let end = world.run(&mut engine);
        let refused = End::Verdict(Verdict::Refused(Reason::DestinationOccupied));
        assert_eq!(end, refused, "{}", world.log.join("\n"));
        assert_eq!(world.key_of(Path::destination(0)), other);
        assert_eq!(world.key_of(Path::source(0)), K);
    }
}
