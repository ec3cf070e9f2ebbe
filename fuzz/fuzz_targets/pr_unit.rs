//! The reservation state machine under arbitrary command sequences, in every profile.
//!
//! After each step: a single holder is registered, an all registrants reservation has registrants, no
//! key is zero, a command that did not end GOOD changed no registration (but for what a profile is there to
//! imitate), and what PERSISTENT RESERVE IN says is what is there.
#![no_main]

use fuzz::command::Step;
use fuzz::names::{NEXUSES, Names};
use libfuzzer_sys::fuzz_target;
use logical_unit::profile::HolderPreempt;
use logical_unit::reservations::Holder;
use logical_unit::{NexusId, Outcome, PrUnit, Profile};
use scsi::Status;

fn nexus(number: u8) -> NexusId {
    NexusId(u32::from(number % NEXUSES))
}

fn holds_its_invariants(unit: &PrUnit) {
    let state = unit.reservations();
    assert!(state.registrations().iter().all(|one| !one.key.is_none()));
    match state.reservation().map(|held| (held.holder, held.kind)) {
        Some((Holder::One(holder), kind)) => {
            assert!(state.registrations().get(holder).is_some() && !kind.is_all_registrants());
        }
        Some((Holder::All { .. }, kind)) => {
            assert!(!state.registrations().is_empty() && kind.is_all_registrants());
        }
        None => {}
    }
}

/// The one behaviour, of one profile, that changes something and does not end GOOD.
fn removes_and_conflicts(profile: &Profile, outcome: &Outcome) -> bool {
    profile.holder_preempt == HolderPreempt::RemovesSenderFirst
        && matches!(outcome, Outcome::Complete(done) if done.status == Status::RESERVATION_CONFLICT)
}

fn step(unit: &mut PrUnit, names: &mut Names, step: &Step) {
    match step {
        Step::Command(sender, command) => {
            let before = unit.clone();
            let (outcome, _) = unit.execute(names, nexus(*sender), &command.request());
            let good = matches!(&outcome, Outcome::Complete(done) if done.status == Status::GOOD);
            let changed = unit.reservations() != before.reservations();
            assert!(
                good || !changed || removes_and_conflicts(unit.profile(), &outcome),
                "{outcome:?}: {command:?}"
            );
        }
        Step::Lost(number) => unit.nexus_lost(nexus(*number)),
        Step::Attach(number) => unit.attach(nexus(*number)),
        Step::Reset => unit.logical_unit_reset(),
        Step::TargetReset => unit.target_reset(),
        Step::PowerCycle => unit.power_cycle(),
        Step::LoseReservations => drop(unit.lose_reservation_information()),
    }
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (profile, steps) = input;
    let mut unit = PrUnit::new(Profile::ALL[usize::from(profile) % Profile::ALL.len()]);
    let mut names = Names::default();
    for one in steps.iter().take(256) {
        step(&mut unit, &mut names, one);
        holds_its_invariants(&unit);
    }
});
