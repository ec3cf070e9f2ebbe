//! PERSISTENT RESERVE IN: every allocation length, REPORT CAPABILITIES, PRGENERATION at its end.

use super::harness::*;
use logical_unit::profile::SPC;
use scsi::pr::request::{read, register, reserve};
use scsi::pr::{BasicParameters, Capabilities, InAction, Key};

/// Every prefix of the full answer, the length fields untouched.
fn every_length(lun: &mut Lun, action: InAction) {
    let whole = lun.good(B, &read(action, u16::MAX));
    for length in 0..=whole.len() + 1 {
        let part = lun.good(B, &read(action, length as u16));
        assert_eq!(part, whole[..length.min(whole.len())], "{action} with allocation length {length}");
    }
}

#[test]
fn read_keys_and_full_status_every_allocation_length() {
    for registered in [&[][..], &[(A, K)], &[(A, K), (B, K), (D, KD)]] {
        let mut lun = Lun::with(&SPC, registered);
        every_length(&mut lun, InAction::READ_KEYS);
        every_length(&mut lun, InAction::READ_FULL_STATUS);
        every_length(&mut lun, InAction::REPORT_CAPABILITIES);
        let whole = lun.good(B, &read(InAction::READ_KEYS, 8));
        assert_eq!(whole[4..8], (8 * registered.len() as u32).to_be_bytes());
    }
}

#[test]
fn read_reservation_allocation_lengths() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    every_length(&mut lun, InAction::READ_RESERVATION);
    lun.good(A, &reserve(K, EA_RO));
    every_length(&mut lun, InAction::READ_RESERVATION);
    for (length, sent) in [(0, 0), (7, 7), (8, 8), (21, 21), (22, 22), (24, 24), (u16::MAX, 24)] {
        assert_eq!(lun.good(C, &read(InAction::READ_RESERVATION, length)).len(), sent);
    }
}

#[test]
fn reservation_bytes_by_type() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, WE_AR));
    let data = lun.good(B, &read(InAction::READ_RESERVATION, 255));
    let mut expected = vec![0, 0, 0, 1, 0, 0, 0, 0x10];
    expected.extend([0; 13]);
    expected.extend([7, 0, 0]);
    assert_eq!(data, expected, "key zero for all registrants");
}

#[test]
fn capabilities_say_everything() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register(NONE, K, true));
    let data = lun.good(B, &read(InAction::REPORT_CAPABILITIES, 255));
    assert_eq!(data, [0, 8, 0x9D, 0xB1, 0xEA, 0x01, 0, 0]);
    assert!(Capabilities::parse(&data).unwrap().persist_active);
}

#[test]
fn full_status_names_holders_and_ports() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (A2, KC)]);
    lun.good(B, &reserve(KB, EA_AR));
    let status = lun.full_status(C);
    let seen: Vec<_> = status
        .descriptors
        .iter()
        .map(|one| {
            (one.key, one.relative_target_port, one.initiator_port.clone().unwrap(), one.holds.is_some())
        })
        .collect();
    let expected = [(K, 1, port("a"), true), (KB, 1, port("b"), true), (KC, 2, port("a"), true)];
    assert_eq!(seen, expected, "under an all registrants type everybody holds");
}

#[test]
fn generation_wraps() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.unit.rebase_generation(2);
    assert_eq!(lun.generation(), u32::MAX);
    let data = lun.good(A, &read(InAction::READ_KEYS, 4));
    assert_eq!(data, [0xFF; 4]);
    lun.good(A, &register(K, K, false));
    assert_eq!(lun.generation(), 0);
}

#[test]
fn more_registrations_than_can_be_read() {
    let mut profile = SPC;
    profile.registration_limit = 10_000;
    let mut lun = Lun::new(Box::leak(Box::new(profile)));
    let ports = (0..8190).map(|at| port(&format!("n{at}"))).collect();
    lun.good(
        A,
        &register_with(&BasicParameters {
            service_action_key: K,
            initiator_ports: Some(ports),
            ..Default::default()
        }),
    );
    let data = lun.good(B, &read(InAction::READ_KEYS, u16::MAX));
    assert_eq!(data.len(), 65_535);
    assert_eq!(data[4..8], 65_528_u32.to_be_bytes(), "the length of what is there, not of what was sent");
    let keys = scsi::pr::ReadKeys::parse(&data).unwrap();
    assert_eq!((keys.keys.len(), keys.truncated), (8190, true));
    assert!(keys.keys.iter().all(|key| *key == Key(0xA)));
}

#[test]
fn reading_never_counts_and_never_conflicts() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, EA));
    let before = lun.unit.clone();
    (0..4).for_each(|action| drop(lun.good(C, &read(InAction(action), 4096))));
    assert_eq!(lun.unit, before);
}
