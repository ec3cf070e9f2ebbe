//! A group of logical units: all or nothing, on two hosts alike.

mod group_pair;
mod pair;

use group_pair::{Accident, Duo, End, spc};
use handover::verdict::{Cause, Reason};
use handover::{Ending, Group, Path, Phase, Verdict};
use logical_unit::Profile;
use pair::{Fault, Foreign, K, Role, World, id, settings};
use scsi::pr::{Key, request};

fn worlds(count: usize, role: Role) -> Vec<World> {
    vec![World::new(spc(), role, false, true); count]
}

fn duo(count: usize) -> Duo {
    Duo::of(worlds(count, Role::Holder(5)), settings(spc(), None))
}

/// Where the guest's key is on one logical unit.
fn owners(world: &World) -> (bool, bool) {
    (world.key_of(Path::source(0)) == K, world.key_of(Path::destination(0)) == K)
}

#[test]
fn all_units_move_together_on_every_target_and_in_every_role() {
    for profile in Profile::ALL {
        let all: Vec<World> = Role::ALL.map(|role| World::new(profile, role, false, true)).to_vec();
        let mut duo = Duo::of(all, settings(profile, None));
        assert_eq!(duo.run(), End::Ending(Ending::Moved), "{} {}", profile.name, duo.story());
        for world in &duo.worlds {
            assert_eq!(owners(world), (false, true), "{} {}", profile.name, duo.story());
            assert_eq!(world.gap, None);
        }
    }
}

#[test]
fn many_units_cost_the_round_trips_and_appends_of_one() {
    let pause = |duo: &Duo| -> u32 {
        let paused = [Phase::Freeze, Phase::Take, Phase::Verify];
        duo.trips.iter().filter(|(phase, _)| paused.contains(phase)).map(|(_, trips)| trips).sum()
    };
    let of = |count| {
        let mut duo = duo(count);
        assert_eq!(duo.run(), End::Ending(Ending::Moved));
        (pause(&duo), duo.appends)
    };
    assert_eq!(of(1), (4, 3));
    assert_eq!(of(64), of(1));
}

#[test]
fn one_unit_that_is_refused_keeps_all_at_the_source() {
    for at in [0, 1, 2] {
        let mut duo = duo(3);
        let other = request::register(Key::NONE, Key(0x77), false);
        duo.worlds[at].good(id(Path::destination(0)), &other);
        assert_eq!(duo.run(), End::Ending(Ending::Kept), "{}", duo.story());
        assert_eq!(duo.verdicts()[at], Verdict::Refused(Reason::DestinationOccupied));
        assert!(!duo.group().touched(), "{}", duo.story());
        for world in &duo.worlds {
            assert_eq!(owners(world), (true, false));
        }
    }
}

#[test]
fn given_up_at_any_phase_before_the_commit_nothing_is_moved_and_after_it_everything() {
    for phase in [Phase::Plan, Phase::Prepare, Phase::Freeze, Phase::Take, Phase::Verify, Phase::Release] {
        let mut duo = duo(3);
        duo.abort_at = Some(phase);
        let early = phase < Phase::Take;
        let ending = if early { Ending::Kept } else { Ending::Moved };
        assert_eq!(duo.run(), End::Ending(ending), "{phase}\n{}", duo.story());
        let kept = Verdict::KeptAtSource { cause: Cause::Aborted, leftover: false };
        assert_eq!(duo.verdicts(), [if early { kept } else { Verdict::Moved }; 3]);
        for world in &duo.worlds {
            assert_eq!(owners(world), (early, !early));
        }
    }
}

#[test]
fn a_guest_that_is_fenced_on_one_unit_arrives_fenced_there_and_registered_elsewhere() {
    let rounds = {
        let mut duo = duo(3);
        duo.run();
        duo.group().rounds()
    };
    // The last round is an entry, and no command.
    for round in 1..rounds {
        let mut duo = duo(3);
        duo.accidents = vec![(round, Accident::Foreign(1, Foreign::PreemptGuest))];
        let end = duo.run();
        let verdicts = duo.verdicts();
        if end == End::Ending(Ending::Kept) {
            // Seen while it was planned.
            assert_eq!(verdicts[1], Verdict::Refused(Reason::NotRegistered), "{}", duo.story());
            continue;
        }
        assert_eq!(end, End::Ending(Ending::Moved), "round {round}\n{}", duo.story());
        assert_eq!([verdicts[0], verdicts[2]], [Verdict::Moved; 2]);
        assert_eq!(owners(&duo.worlds[1]), (false, false), "un-fenced in round {round}\n{}", duo.story());
        assert_eq!(owners(&duo.worlds[0]), (false, true));
    }
}

#[test]
fn a_unit_that_stays_behind_in_take_splits_the_group_and_a_second_one_brings_the_others_back() {
    let mut duo = duo(3);
    let take = 9;
    duo.accidents = vec![(take, Accident::Fault(1, Fault::LinkDown))];
    let end = duo.run();
    assert_eq!(end, End::Ending(Ending::Split), "{}", duo.story());
    let verdicts = duo.verdicts();
    assert!(matches!(verdicts[1], Verdict::KeptAtSource { .. }), "{verdicts:?}");
    let mut back = duo.way_back(&settings(spc(), None), Some(K));
    assert_eq!(back.run(), End::Ending(Ending::Moved), "{}", back.story());
    for world in &back.worlds {
        assert_eq!(owners(world), (true, false));
        assert!(world.holds(Path::source(0)) && world.gap.is_none());
    }
}

#[test]
fn a_journal_that_fails_in_any_round_leaves_one_owner_of_each_unit_or_says_that_it_is_in_doubt() {
    for round in 1..=12 {
        let mut duo = duo(3);
        duo.accidents = vec![(round, Accident::JournalFails)];
        let end = duo.run();
        for (world, verdict) in duo.worlds.iter().zip(duo.verdicts()) {
            let story = duo.story();
            match verdict {
                Verdict::Moved => assert_eq!(owners(world), (false, true), "{story}"),
                Verdict::KeptAtSource { .. } => assert_eq!(owners(world), (true, false), "{story}"),
                Verdict::InDoubt(_) => assert_eq!(end, End::Ending(Ending::InDoubt), "{story}"),
                other => panic!("{other:?} {story}"),
            }
        }
    }
}

#[test]
fn a_group_of_none_or_of_too_many_is_none() {
    assert_eq!(Group::new(Vec::new()), None);
    let many = vec![settings(spc(), None); handover::group::MOST_UNITS + 1];
    assert_eq!(Group::new(many), None);
}

#[test]
fn unit_attentions_that_a_recovery_or_a_stopped_round_took_are_told() {
    use handover::GroupStep;
    use handover::{Action, Outcome, Remains, Side};
    let capacity = scsi::AdditionalSense::CAPACITY_CHANGED;
    let mut duo = duo(1);
    duo.accidents = vec![(9, Accident::Crash)];
    duo.run();
    let order = settings(spc(), None);
    let remains = Remains {
        source_entry: duo.entries[0][0],
        destination_entry: duo.entries[0][1],
        source: order.source,
        destination: order.destination,
        source_alive: true,
        destination_alive: true,
        prefer_destination: false,
        kept_at_source: false,
        traits: handover::known_targets::Traits::default(),
    };
    let mut group = Group::recover(vec![remains]).unwrap();
    let attention = scsi::Completion::check(&scsi::Sense::new(scsi::SenseKey::UNIT_ATTENTION, capacity));
    while let GroupStep::Run(round) = group.poll() {
        for (unit, action) in round.actions {
            let Action::Execute { id, path, request } = action else { continue };
            if path.side == Side::Source {
                // The other host's reports never come.
                group.report(unit, id, Outcome::Done(attention.clone()));
                group.stop();
                let told: Vec<_> = group.attentions(Side::Source).map(|(_, codes)| codes).collect();
                assert_eq!(told, [vec![capacity]]);
                return;
            }
            group.report(unit, id, duo.worlds[0].execute(0, path, &request, &[]));
        }
    }
    panic!("the source is asked");
}
