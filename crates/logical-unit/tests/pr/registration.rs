//! REGISTER, REGISTER AND IGNORE EXISTING KEY, REGISTER AND MOVE, SPEC_I_PT, ALL_TG_PT.

use super::harness::*;
use logical_unit::profile::SPC;
use scsi::TransportId;
use scsi::pr::request::{register, register_and_ignore, register_and_move, release, reserve};
use scsi::pr::{BasicParameters, Key, MoveParameters};

#[test]
fn register_no_key_unregistered_changes_nothing() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register(NONE, NONE, true));
    assert_eq!((lun.keys(), lun.held(), lun.unit.reservations().aptpl()), ([NONE; 4], None, false));
    assert_eq!(lun.generation(), 1, "requested and GOOD, so it counts");
}

#[test]
fn register_with_key_unregistered_conflicts() {
    let mut lun = Lun::new(&SPC);
    lun.conflict(A, &register(K, KB, false));
    lun.conflict(A, &register(K, NONE, false));
    assert_eq!(lun.generation(), 0);
}

#[test]
fn register_same_key_keeps_holder_and_counts() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, EA));
    lun.good(A, &register(K, K, false));
    assert_eq!((lun.held(), lun.generation()), (Some((EA, vec![A])), 2));
}

#[test]
fn holder_changes_key_and_reservation_shows_it() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, WE));
    lun.good(A, &register(K, KC, false));
    assert_eq!(lun.shown(B), Some((KC, WE)));
    lun.conflict(A, &release(K, WE));
    lun.good(A, &release(KC, WE));
    assert_eq!(lun.held(), None);
}

#[test]
fn ignore_accepts_any_reservation_key() {
    let mut lun = Lun::new(&SPC);
    let ignoring = |key, new| order(scsi::pr::OutAction::REGISTER_AND_IGNORE, 0, 0, key, new);
    lun.good(A, &ignoring(Key(0xDEAD), K));
    lun.good(A, &ignoring(Key(0xBEEF), KB));
    assert_eq!((lun.keys()[0], lun.generation()), (KB, 2));
}

#[test]
fn ignore_unregisters_and_releases() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register_and_ignore(NONE, false));
    lun.good(A, &register_and_ignore(K, false));
    lun.good(A, &reserve(K, EA));
    lun.good(A, &register_and_ignore(NONE, false));
    assert_eq!((lun.keys(), lun.held()), ([NONE; 4], None));
}

#[test]
fn unregistering_holder_tells_registrants_of_shared_types_only() {
    for (kind, told) in [(WE, false), (EA, false), (WE_RO, true), (EA_RO, true)] {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
        lun.good(A, &reserve(K, kind));
        lun.good(A, &register(K, NONE, false));
        assert_eq!(lun.held(), None);
        let expected = if told { vec![RELEASED] } else { vec![] };
        assert_eq!(lun.waiting(), [vec![], expected, vec![], vec![]], "{kind}; C is not registered");
    }
}

#[test]
fn all_registrants_reservation_lives_with_its_last_registrant() {
    for kind in [WE_AR, EA_AR] {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
        lun.good(A, &reserve(K, kind));
        lun.good(A, &register(K, NONE, false));
        assert_eq!(lun.held(), Some((kind, vec![B])));
        lun.good(B, &register(KB, NONE, false));
        assert_eq!(lun.held(), None);
        assert_eq!(lun.waiting(), [const { Vec::new() }; 4]);
    }
}

/// REGISTER AND MOVE from A.
fn movement(
    destination: TransportId,
    relative_target_port: u16,
    key: Key,
    unregister: bool,
) -> MoveParameters {
    MoveParameters {
        reservation_key: K,
        service_action_key: key,
        unregister,
        aptpl: false,
        relative_target_port,
        initiator_port: destination,
    }
}

#[test]
fn move_with_and_without_unreg() {
    for unregister in [false, true] {
        let mut lun = Lun::with(&SPC, &[(A, K), (C, KC)]);
        lun.good(A, &reserve(K, EA_RO));
        let generation = lun.generation();
        lun.good(A, &register_and_move(&movement(port("b"), 1, KB, unregister)));
        let left = if unregister { NONE } else { K };
        assert_eq!(lun.keys(), [left, KB, KC, NONE]);
        assert_eq!(lun.held(), Some((EA_RO, vec![B])));
        assert_eq!(lun.waiting(), [const { Vec::new() }; 4], "a move is announced to nobody");
        assert_eq!(lun.generation(), generation + 1);
    }
}

#[test]
fn move_to_registered_own_port_and_all_registrants() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KC)]);
    lun.good(A, &reserve(K, WE));
    let own = register_and_move(&movement(port("a"), 2, KB, false));
    assert_eq!(lun.pointer(A, &own, (5, 0x26, 0)), (false, 24));
    lun.good(A, &register_and_move(&movement(port("b"), 1, KB, false)));
    assert_eq!((lun.keys()[1], lun.held()), (KB, Some((WE, vec![B]))), "re-keyed");
    lun.conflict(A, &register_and_move(&movement(port("b"), 1, KB, false)));

    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, WE_AR));
    lun.conflict(A, &register_and_move(&movement(port("b"), 1, KB, false)));
}

#[test]
fn move_to_a_port_nobody_logged_in_from_is_for_its_next_session() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, EA));
    lun.good(A, &register_and_move(&movement(port("new"), 2, KB, true)));
    let nexus = logical_unit::Directory::resolve(
        &mut lun.names,
        &logical_unit::ItNexus { initiator: port("new"), target_port: 2 },
    );
    assert!(lun.unit.reservations().is_holder(nexus.unwrap()));
}

#[test]
fn move_carries_aptpl_and_persists() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, EA));
    lun.good(A, &register_and_move(&MoveParameters { aptpl: true, ..movement(port("b"), 1, KB, true) }));
    assert!(lun.unit.reservations().aptpl());
    assert!(lun.effects.contains(&logical_unit::Effect::Persist));
}

#[test]
fn move_to_oneself_at_the_limit_needs_no_further_place() {
    let mut lun = full();
    lun.good(A, &reserve(K, EA));
    let code = (5, 0x55, 4);
    lun.check(A, &register_and_move(&movement(port("late"), 1, KB, false)), code);
    lun.good(A, &register_and_move(&movement(port("late"), 1, KB, true)));
    assert_eq!(lun.unit.reservations().registrations().len(), 4096);
}

/// A with K and 4,095 other registrants.
fn full() -> Lun {
    let mut lun = Lun::new(&SPC);
    let ports = (0..4095).map(|at| port(&format!("n{at}"))).collect();
    lun.good(A, &spec_i_pt(K, ports));
    lun
}

fn spec_i_pt(key: Key, ports: Vec<TransportId>) -> scsi::Request {
    register_with(&BasicParameters {
        service_action_key: key,
        initiator_ports: Some(ports),
        ..Default::default()
    })
}

#[test]
fn spec_i_pt_lists() {
    let mut lun = Lun::with(&SPC, &[(C, KC)]);
    lun.good(A, &spec_i_pt(K, vec![]));
    assert_eq!(lun.keys(), [K, NONE, KC, NONE], "an empty list registers the sender");
    let rejected = spec_i_pt(K, vec![port("b")]);
    lun.conflict(A, &rejected);
    let again = register_with(&BasicParameters {
        reservation_key: K,
        service_action_key: K,
        initiator_ports: Some(vec![port("b")]),
        ..Default::default()
    });
    assert_eq!(
        lun.pointer(A, &again, (5, 0x26, 0)),
        (false, 20),
        "only an unregistered nexus may name others"
    );
    lun.good(A, &register(K, NONE, false));

    lun.good(A, &spec_i_pt(K, vec![port("b"), port("b"), port("a"), port("c")]));
    assert_eq!(lun.keys(), [K, K, KC, NONE], "duplicates and oneself count once, registrants stay");
}

#[test]
fn spec_i_pt_is_all_or_nothing() {
    let mut lun = Lun::new(&SPC);
    lun.names.room = 6;
    let too_many = spec_i_pt(K, vec![port("b"), port("x"), port("y")]);
    lun.check(A, &too_many, (5, 0x55, 4));
    let mixed = spec_i_pt(K, vec![port("b"), TransportId::Sas(7)]);
    assert_eq!(lun.pointer(A, &mixed, (5, 0x26, 0)), (false, 28 + 40));
    let mut lun = full();
    lun.good(A, &register(K, NONE, false));
    lun.check(A, &spec_i_pt(K, vec![port("b"), port("c")]), (5, 0x55, 4));
    assert_eq!(lun.keys(), [NONE; 4]);
}

#[test]
fn spec_i_pt_cut_or_long_lists() {
    let mut lun = Lun::new(&SPC);
    let parameters = BasicParameters {
        service_action_key: K,
        initiator_ports: Some(vec![port("b")]),
        ..Default::default()
    };
    let whole = parameters.to_bytes();
    let send = |list: &[u8]| raw_out(scsi::pr::OutAction::REGISTER, 0, 0, list);
    for length in 24..whole.len() {
        lun.check(A, &send(&whole[..length]), (5, 0x1A, 0));
    }
    let mut cut = whole[..whole.len() - 8].to_vec();
    cut[27] -= 8;
    assert_eq!(lun.pointer(A, &send(&cut), (5, 0x26, 0)), (false, 28), "the TransportID is cut");
    assert_eq!(lun.keys(), [NONE; 4]);
}

#[test]
fn spec_i_pt_bytes_behind_the_ids_are_not_ids() {
    let mut lun = Lun::new(&SPC);
    let parameters = BasicParameters {
        service_action_key: K,
        initiator_ports: Some(vec![port("b")]),
        ..Default::default()
    };
    let mut list = parameters.to_bytes();
    list.extend(port("c").to_bytes());
    lun.good(A, &raw_out(scsi::pr::OutAction::REGISTER, 0, 0, &list));
    assert_eq!(lun.keys(), [K, K, NONE, NONE]);
}

#[test]
fn spec_i_pt_name_without_isid_means_every_known_port() {
    let mut lun = Lun::new(&SPC);
    let TransportId::Iscsi { name, .. } = port("b") else { unreachable!() };
    lun.good(A, &spec_i_pt(K, vec![TransportId::Iscsi { name, isid: None }]));
    assert_eq!(lun.keys(), [K, K, NONE, NONE]);
}

#[test]
fn spec_i_pt_with_ignore_is_rejected() {
    let mut lun = Lun::new(&SPC);
    let parameters = BasicParameters {
        service_action_key: K,
        initiator_ports: Some(vec![port("b")]),
        ..Default::default()
    };
    let request = raw_out(scsi::pr::OutAction::REGISTER_AND_IGNORE, 0, 0, &parameters.to_bytes());
    assert_eq!(lun.pointer(A, &request, (5, 0x26, 0)), (false, 20));
}

fn all_ports(old: Key, new: Key) -> BasicParameters {
    let all_target_ports = true;
    BasicParameters { reservation_key: old, service_action_key: new, all_target_ports, ..Default::default() }
}

#[test]
fn all_target_ports_reservation_is_of_one_nexus() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register_with(&all_ports(NONE, K)));
    assert_eq!(lun.listed(B), [K, K]);
    lun.good(A2, &reserve(K, EA));
    assert!(lun.unit.reservations().is_holder(A2) && !lun.unit.reservations().is_holder(A));
    assert!(!lun.reads(A) && lun.writes(A2));
    let status = lun.full_status(B);
    assert!(status.descriptors.iter().all(|one| one.all_target_ports));
    let holders: Vec<_> = status.descriptors.iter().map(|one| one.holds.is_some()).collect();
    assert_eq!(holders, [false, true]);
}

#[test]
fn all_target_ports_unregister_with_and_without_bit() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register_with(&all_ports(NONE, K)));
    lun.good(A, &register(K, NONE, false));
    assert_eq!(lun.listed(B), [K], "without the bit the other port stays");

    let mut lun = Lun::new(&SPC);
    lun.good(A, &register_with(&all_ports(NONE, K)));
    lun.good(A, &register_with(&all_ports(K, NONE)));
    assert_eq!(lun.listed(B), []);
}

#[test]
fn all_target_ports_never_brings_back_a_removed_registration() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register_with(&all_ports(NONE, K)));
    lun.good(A2, &register(K, NONE, false));
    lun.good(A, &register_with(&all_ports(K, KC)));
    assert_eq!(lun.listed(B), [KC]);
}

#[test]
fn all_target_ports_conflicts_with_another_key_on_a_port() {
    let mut lun = Lun::with(&SPC, &[(A2, KC)]);
    lun.conflict(A, &register_with(&all_ports(NONE, K)));
    lun.good(A, &register(NONE, K, false));
    lun.conflict(A, &register_with(&all_ports(K, KB)));
    lun.good(
        A,
        &scsi::pr::request::out(
            scsi::pr::OutAction::REGISTER_AND_IGNORE,
            scsi::pr::ReservationType(0),
            &all_ports(NONE, KD),
        ),
    );
    assert_eq!(lun.listed(B), [KD, KD]);
}

#[test]
fn place_for_4096_registrations_and_no_more() {
    let mut lun = full();
    lun.check(B, &register(NONE, KB, false), (5, 0x55, 4));
    lun.check(B, &register_and_ignore(KB, false), (5, 0x55, 4));
    lun.good(B, &register(NONE, NONE, false));
    lun.good(A, &register(K, KC, false));
    lun.good(A, &register(KC, NONE, false));
    lun.good(B, &register(NONE, KB, false));
}
