//! Parameter list lengths, field pointers and the order of errors.

use super::harness::*;
use logical_unit::profile::SPC;
use scsi::pr::request::{preempt, read, register, register_and_move, reserve};
use scsi::pr::{InAction, MoveParameters, OutAction};
use scsi::{DataPhase, IscsiName, Request, TransportId};

const LENGTH: (u8, u8, u8) = (5, 0x1A, 0);

#[test]
fn parameter_list_lengths() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    for action in (0..9).filter(|action| *action != 7) {
        for length in (0..64).filter(|length| *length != 24) {
            lun.check(A, &raw_out(OutAction(action), 0, 1, &vec![0; length]), LENGTH);
        }
    }
    lun.check(A, &raw_out(OutAction::REGISTER, 0, 0, &vec![0; 65_536 + 24]), LENGTH);
    let mut named = vec![0; 24];
    named[20] = 0x08;
    lun.check(B, &raw_out(OutAction::REGISTER, 0, 0, &named), LENGTH);
}

#[test]
fn announced_length_that_did_not_arrive_is_a_length_error() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    let mut request = register(K, KB, false);
    for data in [DataPhase::None, DataPhase::In(24), DataPhase::Out(vec![0; 23])] {
        request.data = data;
        lun.check(A, &request, LENGTH);
    }
    let mut longer = register(K, KB, false);
    let DataPhase::Out(list) = &mut longer.data else { unreachable!() };
    list.extend([0xFF; 8]);
    lun.good(A, &longer);
    let mut upper = register(KB, K, false);
    upper.cdb[6] = 1;
    lun.check(A, &upper, LENGTH);
}

#[test]
fn undefined_service_actions_point_at_the_cdb() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    for action in 9..32 {
        assert_eq!(lun.pointer(A, &raw_out(OutAction(action), 0, 1, &[]), (5, 0x24, 0)), (true, 1));
    }
    for action in 4..32 {
        assert_eq!(lun.pointer(B, &read(InAction(action), 255), (5, 0x24, 0)), (true, 1));
    }
}

#[test]
fn short_cdbs_are_answered() {
    let mut lun = Lun::new(&SPC);
    for opcode in [0x5E, 0x5F] {
        for length in 1..10 {
            let mut cdb = vec![0; length];
            cdb[0] = opcode;
            lun.check(A, &command(&cdb), (5, 0x24, 0));
        }
    }
    lun.good(A, &Request { cdb: vec![], data: DataPhase::None });
}

fn movement(initiator_port: TransportId, relative_target_port: u16) -> MoveParameters {
    let (reservation_key, service_action_key) = (K, KB);
    let (unregister, aptpl) = (false, false);
    MoveParameters {
        reservation_key,
        service_action_key,
        unregister,
        aptpl,
        relative_target_port,
        initiator_port,
    }
}

#[test]
fn move_descriptor_errors() {
    const LIST: (u8, u8, u8) = (5, 0x26, 0);
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, EA));
    let whole = movement(port("b"), 1).to_bytes();
    for length in [23, 25, 28, 36] {
        let mut list = whole.clone();
        list[20..24].copy_from_slice(&(length as u32).to_be_bytes());
        list.truncate(24 + length);
        list.resize(24 + length, 0);
        let at = lun.pointer(A, &raw_out(OutAction::REGISTER_AND_MOVE, 0, 0, &list), LIST);
        assert!(at == (false, 20) || at == (false, 24), "{at:?}");
    }
    for length in 0..24 {
        lun.check(A, &raw_out(OutAction::REGISTER_AND_MOVE, 0, 0, &whole[..length]), LENGTH);
    }
    let cut = raw_out(OutAction::REGISTER_AND_MOVE, 0, 0, &whole[..whole.len() - 4]);
    assert_eq!(lun.pointer(A, &cut, LIST), (false, 20));
    assert_eq!(lun.pointer(A, &register_and_move(&movement(port("b"), 7)), LIST), (false, 18));
    assert_eq!(lun.pointer(A, &register_and_move(&movement(TransportId::Sas(1), 1)), LIST), (false, 24));
    let wildcard = TransportId::Iscsi { name: IscsiName::new("iqn.2026-01.x:b").unwrap(), isid: None };
    assert_eq!(lun.pointer(A, &register_and_move(&movement(wildcard, 1)), LIST), (false, 24));
    let no_key = MoveParameters { service_action_key: NONE, ..movement(port("b"), 1) };
    assert_eq!(lun.pointer(A, &register_and_move(&no_key), LIST), (false, 8));
}

#[test]
fn move_by_who_may_not() {
    let request = register_and_move(&movement(port("c"), 1));
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    assert_eq!(lun.pointer(D, &request, (5, 0x24, 0)), (true, 1), "unregistered, no reservation");
    assert_eq!(lun.pointer(A, &request, (5, 0x24, 0)), (true, 1), "registered, no reservation");
    lun.good(B, &reserve(KB, WE_RO));
    lun.conflict(D, &request);
    lun.conflict(A, &request);
    let wrong_key = MoveParameters { reservation_key: K, ..movement(port("c"), 1) };
    lun.conflict(B, &register_and_move(&wrong_key));
}

/// Pairs of faults in one command: the earlier row of the error table is reported.
#[test]
fn errors_in_their_order() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, EA));
    let mut named = vec![0; 24];
    named[20] = 0x08;
    let spec_i_pt_before_scope = raw_out(OutAction::RESERVE, 3, 0, &named);
    assert_eq!(lun.pointer(C, &spec_i_pt_before_scope, (5, 0x26, 0)), (false, 20));
    let length_before_type = raw_out(OutAction::RESERVE, 3, 0, &[0; 20]);
    lun.check(C, &length_before_type, LENGTH);
    let action_before_length = raw_out(OutAction(9), 3, 0, &[0; 20]);
    assert_eq!(lun.pointer(C, &action_before_length, (5, 0x24, 0)), (true, 1));
    let type_before_key = order(OutAction::PREEMPT, 0, 2, KC, K);
    assert_eq!(lun.pointer(B, &type_before_key, (5, 0x24, 0)), (true, 2));
    let key_before_zero = preempt(KC, NONE, EA);
    lun.conflict(B, &key_before_zero);
    lun.unit.establish(C, logical_unit::attention::Attention::CapacityChanged);
    lun.check(C, &action_before_length, (6, 0x2A, 9));
}

#[test]
fn ignored_bits_are_ignored() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    let mut list = vec![0xFF; 24];
    list[..8].copy_from_slice(&K.0.to_be_bytes());
    list[20] = 0xF7;
    lun.good(A, &raw_out(OutAction::RESERVE, 0, 1, &list));
    assert!(!lun.unit.reservations().aptpl(), "APTPL counts in registrations alone");
    list[8..16].copy_from_slice(&KB.0.to_be_bytes());
    list[20] = 0xF3;
    lun.good(A, &raw_out(OutAction::REGISTER, 0xF, 0xF, &list));
    assert!(lun.unit.reservations().aptpl());
}
