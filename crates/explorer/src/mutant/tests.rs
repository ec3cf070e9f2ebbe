//! Each mutant breaks a promise that the sound engine keeps in the same space.

use super::Mutant;
use crate::conductor::Tenure;
use crate::explore::{Broken, explore_for, explore_one};
use crate::oracle::Promise;
use crate::scenario::{Role, Scenario};
use crate::search::Budget;
use handover::Method;
use logical_unit::Profile;
use logical_unit::profile::{SPC, TGT};
use scsi::pr::ReservationType;

const STILL: Budget = Budget { foreign: 0, faults: 0, recovery_crashes: 0, joint: false };
const ONE_FOREIGN: Budget = Budget { foreign: 1, ..STILL };
const ONE_FAULT: Budget = Budget { faults: 1, ..STILL };
const HOLDER: Role = Role::Holder(ReservationType(5));

fn scenario(profile: &'static Profile, role: Role, method: Method) -> Scenario {
    Scenario { method: Some(method), ..Scenario::plain(profile, role) }
}

/// The mutant breaks `promise`; the engine does not.
#[track_caller]
fn caught(mutant: Mutant, promise: Promise, scenario: Scenario, budget: Budget) {
    let sound = explore_for(Some(promise), &scenario, &Tenure, budget);
    assert!(sound.is_clean() && sound.scenarios == 1, "{:#?}", sound.broken);
    let broken = explore_for(Some(promise), &scenario, &mutant, budget);
    assert!(!broken.is_clean(), "{mutant:?} passes in {} states", broken.states);
}

#[test]
fn the_sound_engine_moves_every_role_without_disturbance() {
    for (role, method) in [
        (HOLDER, Method::SourceNonce),
        (HOLDER, Method::RegisterAndMove),
        (Role::RegistrantOnly, Method::MakeBeforeBreak),
    ] {
        let report = explore_one(&scenario(&SPC, role, method), &Tenure, STILL);
        assert!(report.is_clean() && report.verdicts.contains_key(&handover::Verdict::Moved), "{report:#?}");
    }
}

#[test]
fn a_type_that_was_not_read() {
    let space = scenario(&SPC, HOLDER, Method::SourceNonce);
    caught(Mutant::WrongType, Promise::NoBystander, space, STILL);
}

#[test]
fn a_dropped_aptpl() {
    let space = Scenario { aptpl: true, ..scenario(&SPC, HOLDER, Method::SourceNonce) };
    caught(Mutant::DropsAptpl, Promise::NoBystander, space, STILL);
}

/// The explicit proof alone is not missed: each method's next command of the source contains it. What must not
/// happen is that the source's conflict is not believed.
#[test]
fn a_source_that_is_not_believed_to_be_fenced() {
    let space = scenario(&SPC, Role::RegistrantOnly, Method::MakeBeforeBreak);
    assert!(explore_one(&space, &Mutant::SkipsTheProof, ONE_FOREIGN).broken.iter().all(not_unfenced));
    caught(Mutant::TakesConflictForGood, Promise::NoUnfencing, space, ONE_FOREIGN);
}

fn not_unfenced(broken: &Broken) -> bool {
    broken.violation.promise != Promise::NoUnfencing
}

#[test]
fn a_source_that_stays_registered() {
    let space = |profile| scenario(profile, Role::RegistrantOnly, Method::MakeBeforeBreak);
    caught(Mutant::LeavesTheSource, Promise::OneOwner, space(&TGT), STILL);
    // READ FULL STATUS shows it before the guest may run: the end is in doubt, although nothing failed.
    caught(Mutant::LeavesTheSource, Promise::CrashSafe, space(&SPC), STILL);
}

#[test]
fn an_unknown_outcome_taken_for_good() {
    let space = scenario(&SPC, HOLDER, Method::SourceNonce);
    let broken = explore_one(&space, &Mutant::TakesUnknownForGood, ONE_FAULT);
    assert!(!broken.is_clean(), "passes in {} states", broken.states);
}

#[test]
fn a_preempt_of_the_key_where_a_node_shares_it() {
    let space = Scenario { shared: true, ..scenario(&SPC, HOLDER, Method::SourceNonce) };
    caught(Mutant::PreemptsTheKey, Promise::NoBystander, space, STILL);
}

#[test]
fn a_seed_repeats_its_walk() {
    let orders = [(scenario(&SPC, HOLDER, Method::SourceNonce), STILL)];
    let walk = |seed| crate::walk::walk_with(&Mutant::WrongType, &orders, seed, 3_000);
    let (first, again, other) = (walk(7), walk(7), walk(8));
    assert!(!first.broken.is_empty(), "a walk must meet a wrong type");
    assert_eq!((first.states, first.broken.len()), (again.states, again.broken.len()));
    assert_ne!(first.states, other.states);
}
