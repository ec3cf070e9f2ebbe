//! Tests of the module above, by the rules of the tracker and the scenarios in which others went wrong.

use super::*;
use crate::settings::Port;
use proptest::prelude::*;
use scsi::pr::{FullStatus, FullStatusDescriptor, ReadKeys, ReadReservation, Reservation, Scope, request};
use scsi::{IscsiName, Isid, TransportId};

const K: Key = Key(0x10);
const L: Key = Key(0x20);
const WE_RO: ReservationType = ReservationType(5);
const WE_AR: ReservationType = ReservationType(7);

fn good(tracker: &mut Tracker, request: &Request) {
    tracker.observe(request, &Completion::good(Vec::new()));
}

fn attention(code: AdditionalSense) -> Completion {
    Completion::check(&Sense::unit_attention(code))
}

fn none_held() -> ReadReservation {
    ReadReservation::default()
}

fn held_by(key: Key, kind: ReservationType) -> ReadReservation {
    let reservation = Some(Reservation { key, scope: Scope::LOGICAL_UNIT, kind });
    ReadReservation { generation: 1, reservation }
}

fn registered() -> Tracker {
    let mut tracker = Tracker::new();
    good(&mut tracker, &request::register(Key::NONE, K, true));
    tracker.learn_reservation(&none_held());
    tracker
}

fn holder() -> Tracker {
    let mut tracker = registered();
    good(&mut tracker, &request::reserve(K, WE_RO));
    tracker
}

fn state(tracker: Tracker) -> (Option<Key>, Option<ReservationType>) {
    let state = tracker.state().expect("sure");
    (state.key, state.held)
}

#[test]
fn registers_reserves_releases_and_unregisters() {
    let mut tracker = holder();
    assert_eq!(state(tracker), (Some(K), Some(WE_RO)));
    good(&mut tracker, &request::register(K, L, false));
    assert_eq!(state(tracker), (Some(L), Some(WE_RO)), "a holder that changes its key stays the holder");
    assert!(!tracker.last().aptpl);
    good(&mut tracker, &request::release(L, WE_RO));
    assert_eq!(state(tracker), (Some(L), None));
    good(&mut tracker, &request::register_and_ignore(Key::NONE, false));
    assert_eq!(state(tracker), (None, None));
}

#[test]
fn a_rejected_command_changes_nothing() {
    for status in [Status::RESERVATION_CONFLICT, Status::BUSY, Status::TASK_SET_FULL, Status(0x77)] {
        let mut tracker = holder();
        tracker.observe(&request::register(L, Key::NONE, false), &Completion::status(status));
        tracker.observe(&request::reserve(L, WE_AR), &Completion::status(status));
        assert_eq!(state(tracker), (Some(K), Some(WE_RO)), "{status}");
    }
    let mut tracker = holder();
    let invalid = Sense::new(SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_RELEASE);
    tracker.observe(&request::release(K, WE_AR), &Completion::check(&invalid));
    assert_eq!(state(tracker), (Some(K), Some(WE_RO)));
}

#[test]
fn lists_of_any_length_are_survived() {
    for length in 0..64 {
        let mut tracker = holder();
        let mut request = request::register(K, L, false);
        request.data = DataPhase::Out(vec![0; length]);
        request.cdb.splice(5..9, u32::try_from(length).unwrap().to_be_bytes());
        let rejected = Sense::new(SenseKey::ILLEGAL_REQUEST, AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        tracker.observe(&request, &Completion::check(&rejected));
        assert_eq!(state(tracker), (Some(K), Some(WE_RO)));
        good(&mut tracker, &request);
        match length {
            0 => assert_eq!(state(tracker), (Some(K), Some(WE_RO)), "nothing was asked for"),
            1..24 => assert_eq!(tracker.state(), None, "nobody knows what was done"),
            _ => assert_eq!(state(tracker), (None, None)),
        }
    }
}

#[test]
fn a_new_registrant_of_an_all_registrants_reservation_is_a_holder() {
    let mut tracker = Tracker::new();
    good(&mut tracker, &request::register(Key::NONE, K, false));
    assert_eq!(tracker.wants(), Wants { registration: false, reservation: true });
    tracker.learn_reservation(&held_by(Key::NONE, WE_AR));
    assert_eq!(state(tracker), (Some(K), Some(WE_AR)));
}

#[test]
fn preempting_asks_unless_a_single_holder_preempts_itself() {
    let mut tracker = holder();
    good(&mut tracker, &request::preempt(K, K, ReservationType(1)));
    assert_eq!(state(tracker), (Some(K), Some(ReservationType(1))));

    let mut tracker = registered();
    good(&mut tracker, &request::preempt(K, L, WE_RO));
    assert_eq!(tracker.wants(), Wants { registration: false, reservation: true });
    tracker.learn_reservation(&held_by(K, WE_RO));
    assert_eq!(state(tracker), (Some(K), Some(WE_RO)));

    let mut tracker = registered();
    good(&mut tracker, &request::preempt_and_abort(K, K, WE_RO));
    assert_eq!(tracker.wants(), Wants::ALL, "its own registration may be gone");
    tracker.learn_probe(false);
    assert_eq!(state(tracker), (None, None));
}

#[test]
fn an_all_registrants_holder_stays_one_after_it_preempts_somebody() {
    let mut tracker = registered();
    good(&mut tracker, &request::reserve(K, WE_AR));
    good(&mut tracker, &request::preempt(K, L, WE_AR));
    tracker.learn_reservation(&held_by(Key::NONE, WE_AR));
    assert_eq!(state(tracker), (Some(K), Some(WE_AR)));
}

#[test]
fn moving_takes_the_reservation_and_with_unreg_the_registration_away() {
    for unregister in [false, true] {
        let name = IscsiName::new("iqn.2026-01.test:d").unwrap();
        let mut tracker = holder();
        good(
            &mut tracker,
            &request::register_and_move(&MoveParameters {
                reservation_key: K,
                service_action_key: K,
                unregister,
                aptpl: true,
                relative_target_port: 1,
                initiator_port: TransportId::iscsi(name, Isid([0; 6])),
            }),
        );
        assert_eq!(state(tracker), (if unregister { None } else { Some(K) }, None));
    }
}

#[test]
fn clearing_and_replacing_are_followed() {
    let mut tracker = holder();
    good(&mut tracker, &request::clear(K));
    assert_eq!(state(tracker), (None, None));
    good(&mut tracker, &request::replace_lost(L, WE_RO));
    assert_eq!(state(tracker), (Some(L), Some(WE_RO)));
}

#[test]
fn unit_attentions_of_others_acts_are_believed() {
    let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
    let all = [AdditionalSense::RESERVATIONS_PREEMPTED, AdditionalSense::REGISTRATIONS_PREEMPTED];
    for code in all.into_iter().chain([AdditionalSense::POWER_ON]) {
        let mut tracker = holder();
        tracker.observe(&ready, &attention(code));
        assert_eq!(tracker.wants(), Wants::ALL, "{code}");
    }
    let mut tracker = holder();
    tracker.observe(&ready, &attention(AdditionalSense::RESERVATIONS_RELEASED));
    assert_eq!(tracker.wants(), Wants { registration: false, reservation: true });
    for code in [AdditionalSense::CAPACITY_CHANGED, AdditionalSense::NEXUS_LOSS] {
        let mut tracker = holder();
        tracker.observe(&ready, &attention(code));
        assert_eq!(state(tracker), (Some(K), Some(WE_RO)), "{code}");
    }
}

#[test]
fn a_unit_attention_delivered_as_data_counts_too() {
    let mut tracker = holder();
    let sense = Sense::unit_attention(AdditionalSense::REGISTRATIONS_PREEMPTED);
    let request = Request { cdb: vec![opcode::REQUEST_SENSE, 0, 0, 0, 252, 0], data: DataPhase::In(252) };
    tracker.observe(&request, &Completion::good(sense.to_fixed()));
    assert_eq!(tracker.wants(), Wants::ALL);
}

#[test]
fn a_conflict_counts_only_where_the_tracked_state_excludes_it() {
    let conflict = Completion::status(Status::RESERVATION_CONFLICT);
    let write = Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1, 0], data: DataPhase::None };
    for (tracker, request, news) in [
        (holder(), write.clone(), true),
        (registered(), write, false),
        (registered(), request::register(K, L, false), true),
        (registered(), request::register(L, K, false), false),
        (registered(), request::reserve(K, WE_RO), false),
        (holder(), request::reserve(K, WE_RO), true),
        (holder(), request::reserve(K, WE_AR), false),
        (registered(), request::preempt(K, L, WE_RO), false),
        (registered(), request::preempt(K, K, WE_RO), true),
        (registered(), request::clear(K), true),
        (registered(), request::release(K, WE_RO), true),
        (holder(), request::release(K, WE_RO), true),
        (holder(), request::release(K, WE_AR), false),
        (registered(), request::read(scsi::pr::InAction::READ_KEYS, 8), false),
    ] {
        let mut tracker = tracker;
        tracker.observe(&request, &conflict);
        assert_eq!(tracker.state().is_none(), news, "{request:?}");
    }
}

#[test]
fn a_register_that_was_good_with_another_key_shows_that_somebody_removed_the_known_one() {
    for (old, new) in [(Key::NONE, K), (Key::NONE, L), (L, K)] {
        let mut tracker = holder();
        good(&mut tracker, &request::register(old, new, false));
        assert_eq!(tracker.last(), Tracked { key: Some(new), ..Tracked::default() });
        assert_eq!(tracker.wants(), Wants { registration: false, reservation: true });
    }
    let mut tracker = holder();
    good(&mut tracker, &request::register(K, L, false));
    assert_eq!(state(tracker), (Some(L), Some(WE_RO)));
}

#[test]
fn full_status_settles_who_has_what_even_where_keys_are_shared() {
    let port =
        |n: u8| TransportId::iscsi(IscsiName::new("iqn.2026-01.test:x").unwrap(), Isid([0, 0, 0, 0, 0, n]));
    let descriptor = |n, holds| FullStatusDescriptor {
        key: K,
        all_target_ports: false,
        holds,
        relative_target_port: 1,
        initiator_port: Ok(port(n)),
    };
    let status = FullStatus {
        generation: 1,
        descriptors: vec![descriptor(1, Some((Scope::LOGICAL_UNIT, WE_RO))), descriptor(2, None)],
        truncated: false,
    };
    let own = |n| Port { initiator: Some(port(n)), target_port: Some(1) };
    for (n, expected) in [(1, (Some(K), Some(WE_RO))), (2, (Some(K), None)), (3, (None, None))] {
        let mut tracker = Tracker::recorded(holder().last());
        assert!(tracker.learn_full_status(&status, &own(n)));
        assert_eq!(state(tracker), expected, "port {n}");
    }
    let cut = FullStatus { truncated: true, ..status };
    assert!(!Tracker::new().learn_full_status(&cut, &own(1)));
}

#[test]
fn a_key_that_nobody_has_is_not_ours_but_one_that_is_listed_may_be_a_sharers() {
    let keys = |keys: &[Key]| ReadKeys { generation: 1, keys: keys.to_vec(), truncated: false };
    let mut tracker = Tracker::recorded(holder().last());
    tracker.learn_keys(&keys(&[K, L]));
    assert!(tracker.wants().registration);
    tracker.learn_reservation(&held_by(K, WE_RO));
    assert_eq!(tracker.state(), None, "the reservation says nothing before the registration is known");
    tracker.learn_keys(&keys(&[L]));
    assert_eq!(state(tracker), (None, None));
}

proptest! {
    #[test]
    fn no_bytes_upset_it_and_only_good_changes_it(
        cdb in prop::collection::vec(any::<u8>(), 0..17),
        list in prop::collection::vec(any::<u8>(), 0..80),
        status in any::<u8>(),
        sense in prop::collection::vec(any::<u8>(), 0..40),
        persistent in any::<bool>(),
    ) {
        let mut cdb = cdb;
        if let (true, Some(first)) = (persistent, cdb.first_mut()) {
            *first = opcode::PERSISTENT_RESERVE_OUT;
        }
        let mut tracker = holder();
        let request = Request { cdb, data: DataPhase::Out(list) };
        tracker.observe(&request, &Completion { status: Status(status), sense, data: Vec::new() });
        if status != 0 {
            prop_assert_eq!(tracker.last(), holder().last());
        }
    }
}
