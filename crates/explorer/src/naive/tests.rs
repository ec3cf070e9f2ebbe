//! Every defect of the naive sequence, one test each, on the targets that show it: an explorer that
//! does not find them proves nothing about the project's own methods.

use super::Naive;
use crate::explore::{Broken, explore_for, explore_one};
use crate::oracle::Promise;
use crate::scenario::{Role, Scenario};
use crate::search::Budget;
use logical_unit::Profile;
use logical_unit::profile::{CTL, KEEP_SELF, LIO, SCST, SPC, SPDK, TGT};
use scsi::pr::ReservationType;

const STILL: Budget = Budget { foreign: 0, faults: 0, recovery_crashes: 0, joint: false };
const ONE_FOREIGN: Budget = Budget { foreign: 1, ..STILL };
const T5: ReservationType = ReservationType(5);
const T7: ReservationType = ReservationType(7);

/// The first sequence in the field, with the type that the source's tracker believes.
fn believing(kind: u8) -> Naive {
    Naive { believed: kind, ..Naive::default() }
}

/// The later one: looks whether the key is listed, sends type 1 for "none", registers again.
fn later(kind: u8) -> Naive {
    Naive { believed: kind, looks: true, again: true }
}

#[track_caller]
fn broken(scenario: Scenario, naive: Naive, budget: Budget) -> Broken {
    let mut report = explore_one(&scenario, &naive, budget);
    assert_eq!(report.scenarios, 1, "{scenario} cannot be set up");
    report.broken.pop().unwrap_or_else(|| panic!("{scenario}: nothing found in {} states", report.states))
}

#[track_caller]
fn clean(scenario: Scenario, naive: Naive) {
    let report = explore_one(&scenario, &naive, STILL);
    assert_eq!(report.scenarios, 1, "{scenario} cannot be set up");
    assert!(report.is_clean(), "{scenario}: {:#?}", report.broken);
}

#[track_caller]
fn breaks(promise: Promise, words: &str, scenario: Scenario, naive: Naive) {
    let found = broken(scenario, naive, STILL);
    assert_eq!(found.violation.promise, promise, "{found:#?}");
    assert!(found.violation.what.contains(words), "{found:#?}");
}

#[test]
fn a_single_holder_with_the_right_type_moves_on_every_target_but_spdk() {
    for profile in Profile::ALL.into_iter().filter(|profile| profile.name != SPDK.name) {
        for kind in [1, 3, 5, 6] {
            clean(Scenario::plain(profile, Role::Holder(ReservationType(kind))), believing(kind));
        }
    }
}

#[test]
fn spdk_unregisters_both_and_drops_the_reservation() {
    for naive in [believing(5), later(5)] {
        breaks(Promise::NoGap, "none instead of", Scenario::plain(&SPDK, Role::Holder(T5)), naive);
    }
}

#[test]
fn a_stale_type_silently_changes_the_reservation() {
    breaks(Promise::NoBystander, "2a/04", Scenario::plain(&SPC, Role::Holder(T5)), believing(1));
    let quiet = Scenario::plain(&SPC, Role::Holder(ReservationType(1)));
    breaks(Promise::NoBystander, "2a/04", quiet, believing(5));
    let alone = Scenario { nodes: 0, ..quiet };
    breaks(Promise::NoBystander, "Registrants Only held by the guest instead of", alone, believing(5));
}

#[test]
fn a_tracker_that_knows_no_type_leaks_the_destinations_registration() {
    breaks(Promise::OneOwner, "D leaks", Scenario::plain(&SPC, Role::Holder(T5)), believing(0));
}

#[test]
fn a_member_is_unregistered_by_its_own_migration() {
    for profile in [&SPC, &SPDK, &CTL] {
        breaks(Promise::NoGap, "has its key", Scenario::plain(profile, Role::Member(T5)), believing(0));
    }
}

#[test]
fn a_member_leaks_where_type_zero_is_refused_even_for_a_removal() {
    for profile in [&LIO, &SCST] {
        breaks(Promise::OneOwner, "D leaks", Scenario::plain(profile, Role::Member(T5)), believing(0));
    }
}

#[test]
fn without_a_reservation_the_registration_is_lost_or_leaks() {
    for profile in [&SPC, &SPDK] {
        breaks(Promise::NoGap, "has its key", Scenario::plain(profile, Role::RegistrantOnly), believing(0));
    }
    for profile in [&LIO, &SCST, &CTL] {
        breaks(Promise::OneOwner, "D leaks", Scenario::plain(profile, Role::RegistrantOnly), believing(0));
    }
}

#[test]
fn registering_again_leaves_a_gap_in_which_no_key_is_listed() {
    breaks(Promise::NoGap, "has its key", Scenario::plain(&SPC, Role::RegistrantOnly), later(0));
    breaks(Promise::NoGap, "has its key", Scenario::plain(&SPC, Role::Member(T5)), later(0));
    breaks(Promise::OneOwner, "D leaks", Scenario::plain(&CTL, Role::RegistrantOnly), later(0));
}

#[test]
fn all_registrants_with_others_costs_the_destination_its_access() {
    for profile in [&SPC, &SPDK] {
        breaks(Promise::NoGap, "has its key", Scenario::plain(profile, Role::Holder(T7)), believing(7));
    }
    breaks(Promise::OneOwner, "D leaks", Scenario::plain(&CTL, Role::Holder(T7)), believing(7));
}

#[test]
fn all_registrants_alone_loses_the_protection_for_good() {
    for naive in [believing(7), later(0)] {
        for profile in [&SPC, &SPDK] {
            breaks(Promise::NoGap, "none instead of", Scenario::plain(profile, Role::Alone(T7)), naive);
        }
    }
}

#[test]
fn lio_turns_all_registrants_into_write_exclusive() {
    let found = broken(Scenario::plain(&LIO, Role::Holder(T7)), later(0), STILL);
    assert_eq!(found.violation.promise, Promise::NoBystander);
    let retyped = |line: &String| line.contains("type 1 held by D");
    assert!(found.trace.iter().any(retyped), "{found:#?}");
    clean(Scenario::plain(&LIO, Role::Member(T7)), later(0));
}

#[test]
fn a_node_that_shares_the_key_is_fenced_on_every_target() {
    for profile in Profile::ALL {
        let shared = Scenario { shared: true, ..Scenario::plain(profile, Role::Holder(T5)) };
        let found = broken(shared, believing(5), STILL);
        assert!(found.violation.promise <= Promise::NoBystander, "{found:#?}");
        let fenced = |line: &String| line.contains("now [") && !line.contains("H=");
        assert!(found.trace.iter().any(fenced), "{found:#?}");
    }
}

#[test]
fn a_guest_that_was_fenced_long_ago_comes_back() {
    for profile in [&KEEP_SELF, &SCST, &TGT] {
        let found = broken(Scenario::plain(profile, Role::Fenced(false)), believing(5), STILL);
        assert_eq!(found.violation.promise, Promise::NoUnfencing, "{found:#?}");
    }
}

#[test]
fn looking_first_leaves_the_race_open_on_targets_that_keep_the_sender() {
    let raced = Scenario::plain(&KEEP_SELF, Role::Member(T5));
    let mut report = explore_for(Some(Promise::NoUnfencing), &raced, &later(5), ONE_FOREIGN);
    let found = report.broken.pop().unwrap();
    let fenced = |line: &String| line.starts_with("H -> PREEMPT");
    assert!(found.trace.iter().any(fenced), "{found:#?}");
}

#[test]
fn a_registration_without_aptpl_switches_persistence_off_for_everybody() {
    let persistent = Scenario { aptpl: true, ..Scenario::plain(&SPC, Role::Holder(T5)) };
    breaks(Promise::NoBystander, "APTPL", persistent, believing(5));
}

#[test]
fn a_lost_answer_is_taken_for_a_failure() {
    let faults = Budget { faults: 1, ..STILL };
    let found = broken(Scenario::plain(&SPC, Role::Holder(T5)), believing(5), faults);
    assert!(matches!(found.violation.promise, Promise::OneOwner | Promise::Fidelity), "{found:#?}");
}

#[test]
fn the_trace_is_the_shortest_and_tells_the_story() {
    let found = broken(Scenario::plain(&SPC, Role::RegistrantOnly), believing(0), STILL);
    let expected = [
        "at first: [S=0x1a H=0x2b] no reservation",
        "the guest is paused, its memory is on both hosts",
        "phase prepare is over: Proceed",
        "destination -> REGISTER 0x0 -> 0x1a: GOOD",
        "    now [S=0x1a D=0x1a H=0x2b] no reservation",
        "destination -> PREEMPT 0x1a -> 0x1a, type 0: GOOD",
        "    now [H=0x2b] no reservation",
        "    expected [S=0x1a H=0x2b] no reservation",
        "BROKEN P2 no gap: no nexus of the guest has its key",
    ];
    assert_eq!(found.trace, expected);
}
