//! Scenarios that once broke a promise, each searched as far as it takes to break it again.

use crate::conductor::Tenure;
use crate::explore::{Report, explore_one};
use crate::oracle::Tolerance;
use crate::scenario::{Role, Scenario};
use crate::search::Budget;
use handover::Method;
use logical_unit::profile::{COMSTAR, KEEP_SELF, LIO, SPC, TGT};
use scsi::pr::ReservationType;

const HOLDER: Role = Role::Holder(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
const ALONE: Role = Role::Alone(ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS);

fn sound(scenario: &Scenario, foreign: u8, faults: u8) -> Report {
    let report =
        explore_one(scenario, &Tenure, Budget { foreign, faults, recovery_crashes: 1, joint: false });
    assert!(report.scenarios > 0 && report.is_clean(), "{:#?}", report.broken.first());
    report
}

fn used(report: &Report, rule: Tolerance) -> u64 {
    report.tolerated.get(rule as usize).copied().unwrap_or(0)
}

#[test]
fn a_fenced_guest_is_not_said_to_be_forgotten_because_the_target_lost_power_with_aptpl() {
    sound(&Scenario { aptpl: true, ..Scenario::plain(&SPC, Role::Fenced(false)) }, 1, 1);
}

#[test]
fn a_forgotten_guest_is_taken_for_fenced_only_where_the_word_of_it_did_not_arrive() {
    let report = sound(&Scenario::plain(&SPC, HOLDER), 0, 1);
    assert_eq!(
        used(&report, Tolerance::WordOfPowerLost),
        0,
        "one fault cannot lose power and the word of it"
    );
    let report = sound(&Scenario { source_dead: true, ..Scenario::plain(&SPC, HOLDER) }, 0, 2);
    assert!(used(&report, Tolerance::WordOfPowerLost) > 0);
}

#[test]
fn a_destination_is_not_unregistered_before_the_undo_is_on_record() {
    let forced = Some(Method::SourceNonce);
    sound(&Scenario { shared: true, method: forced, ..Scenario::plain(&SPC, HOLDER) }, 0, 2);
}

#[test]
fn an_identity_whose_proof_got_no_answer_reports_a_doubtful_aptpl() {
    sound(&Scenario { method: Some(Method::Identity), ..Scenario::plain(&LIO, HOLDER) }, 1, 1);
}

#[test]
fn a_source_that_stopped_answering_is_not_taken_for_unregistered() {
    sound(&Scenario { method: Some(Method::PreemptOwnKey), ..Scenario::plain(&SPC, HOLDER) }, 0, 2);
}

const WRITE_HOLDER: Role = Role::Holder(ReservationType::WRITE_EXCLUSIVE);

#[test]
fn an_aptpl_that_changes_back_and_forth_is_reported_and_nothing_else() {
    let moving =
        Scenario { method: Some(Method::RegisterAndMove), ..Scenario::plain(&KEEP_SELF, WRITE_HOLDER) };
    sound(&moving, 2, 0);
    let sharing = Scenario { shared: true, ..Scenario::plain(&SPC, WRITE_HOLDER) };
    sound(&sharing, 1, 1);
}

#[test]
fn a_power_cycle_in_the_nonce_window_leaves_the_window_excused_until_it_is_closed() {
    let forced = Some(Method::SourceNonce);
    sound(&Scenario { aptpl: true, method: forced, ..Scenario::plain(&SPC, WRITE_HOLDER) }, 1, 1);
}

#[test]
fn a_second_fencing_may_be_told_to_everybody_where_the_target_does_so() {
    sound(&Scenario { nodes: 2, ..Scenario::plain(&COMSTAR, HOLDER) }, 2, 0);
    let all = Role::Holder(ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS);
    let two = Scenario { nodes: 2, ..Scenario::plain(&COMSTAR, all) };
    sound(&two, 2, 0);
    sound(&Scenario { method: Some(Method::DestinationNonce), ..two }, 2, 0);
    sound(&Scenario { method: Some(Method::SourceNonce), shared: true, ..two }, 2, 0);
}

#[test]
fn a_preempt_is_not_repeated_once_a_node_is_seen_to_share_the_key() {
    let forced = Some(Method::DestinationNonce);
    sound(&Scenario { shared: true, method: forced, ..Scenario::plain(&SPC, ALONE) }, 1, 1);
}

#[test]
fn a_node_that_shared_the_key_and_fenced_beside_a_blind_preempt_leaves_it_in_doubt() {
    let forced = Some(Method::DestinationNonce);
    sound(&Scenario { shared: true, method: forced, ..Scenario::plain(&LIO, ALONE) }, 2, 0);
}

#[test]
fn a_guest_that_nobody_can_ask_about_is_not_called_fenced() {
    let forced = Some(Method::DestinationNonce);
    sound(&Scenario { method: forced, ..Scenario::plain(&SPC, Role::RegistrantOnly) }, 0, 3);
}

#[test]
fn a_nonce_is_left_with_a_fenced_source_only_where_it_is_seen_to_hold() {
    let member = Role::Member(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
    let forced = Some(Method::SourceNonce);
    // The fault: that look may get no answer.
    sound(&Scenario { nodes: 2, shared: true, method: forced, ..Scenario::plain(&TGT, member) }, 2, 1);
}

#[test]
fn a_key_listed_after_the_proof_is_not_taken_for_the_sources_once_another_node_has_acted() {
    let forced = Some(Method::DestinationNonce);
    sound(&Scenario { shared: true, method: forced, ..Scenario::plain(&TGT, ALONE) }, 2, 0);
}

#[test]
fn a_marked_holder_is_excused_only_where_the_reservation_came_after_our_look() {
    let forced = Some(Method::DestinationNonce);
    let plain = Scenario { method: forced, ..Scenario::plain(&LIO, Role::RegistrantOnly) };
    assert!(used(&sound(&plain, 2, 0), Tolerance::MarkedHolder) > 0);
    let all = Role::Holder(ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS);
    let known = Scenario { role: all, ..plain };
    assert_eq!(used(&sound(&known, 1, 0), Tolerance::MarkedHolder), 0, "the type that was read is sent");
}

#[test]
fn two_paths_of_the_source_do_not_hide_another_nodes_commands_from_a_blind_preempt() {
    let forced = Some(Method::DestinationNonce);
    for profile in [&TGT, &COMSTAR] {
        sound(&Scenario { shared: true, paths: 2, method: forced, ..Scenario::plain(profile, ALONE) }, 2, 0);
    }
}

#[test]
fn a_node_that_takes_a_holders_key_and_reservation_is_not_taken_for_it() {
    let alone = Role::Alone(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
    let forced = Some(Method::DestinationNonce);
    sound(&Scenario { shared: true, method: forced, ..Scenario::plain(&SPC, alone) }, 2, 0);
}

#[test]
fn a_repeated_blind_preempt_sends_the_type_just_read() {
    let forced = Some(Method::DestinationNonce);
    sound(&Scenario { method: forced, ..Scenario::plain(&LIO, Role::RegistrantOnly) }, 2, 1);
}
