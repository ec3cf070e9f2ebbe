//! RESERVE, RELEASE, CLEAR, access by type, SPC-2 reservations, unit attentions in the way.

use super::harness::*;
use logical_unit::profile::{LIO, SCST, SPC};
use scsi::pr::request::{clear, preempt, read, register, release, reserve};
use scsi::pr::{InAction, OutAction, ReservationType};

#[test]
fn all_registrants_reserve_by_another_registrant() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, EA_AR));
    lun.good(B, &reserve(KB, EA_AR));
    lun.conflict(B, &reserve(KB, WE_AR));
    assert_eq!(lun.held(), Some((EA_AR, vec![A, B])));
    assert_eq!(lun.shown(C), Some((NONE, EA_AR)));
}

#[test]
fn reserve_twice_is_good_and_not_counted() {
    for kind in ReservationType::ALL {
        let mut lun = Lun::with(&SPC, &[(A, K)]);
        lun.good(A, &reserve(K, kind));
        lun.good(A, &reserve(K, kind));
        assert_eq!((lun.held(), lun.generation()), (Some((kind, vec![A])), 1));
        let other = if kind == EA { WE } else { EA };
        lun.conflict(A, &reserve(K, other));
    }
}

#[test]
fn reserve_scope_and_type_before_key() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    for scope in 1..16 {
        let request = order(OutAction::RESERVE, scope, 1, KB, NONE);
        assert_eq!(lun.pointer(A, &request, (5, 0x24, 0)), (true, 2));
    }
    for kind in (0..16).filter(|kind| !ReservationType(*kind).is_valid()) {
        let request = order(OutAction::RESERVE, 0, kind, KB, NONE);
        assert_eq!(lun.pointer(A, &request, (5, 0x24, 0)), (true, 2));
        assert_eq!(lun.pointer(B, &request, (5, 0x24, 0)), (true, 2), "before the registration, too");
    }
    lun.conflict(A, &order(OutAction::RESERVE, 0, 1, KB, NONE));
}

#[test]
fn release_by_bystander_ignores_type_but_not_key() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(B, &release(KB, WE));
    lun.good(A, &reserve(K, WE_RO));
    lun.good(B, &release(KB, EA));
    lun.good(B, &release(KB, ReservationType(0)));
    lun.conflict(B, &release(KC, WE_RO));
    assert_eq!(lun.held(), Some((WE_RO, vec![A])));
    lun.conflict(C, &release(KC, WE_RO));
}

#[test]
fn release_with_wrong_type_is_invalid_release() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, WE_RO));
    lun.check(A, &release(K, WE), (5, 0x26, 4));
    lun.check(A, &order(OutAction::RELEASE, 1, 5, K, NONE), (5, 0x24, 0));
    assert_eq!(lun.held(), Some((WE_RO, vec![A])));
}

#[test]
fn release_tells_the_registrants_of_shared_types() {
    for (kind, told) in [(WE, false), (EA, false), (WE_RO, true), (EA_RO, true), (WE_AR, true), (EA_AR, true)]
    {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
        lun.good(A, &reserve(K, kind));
        lun.good(A, &release(K, kind));
        let expected = if told { vec![RELEASED] } else { vec![] };
        assert_eq!(lun.waiting(), [vec![], expected, vec![], vec![]], "{kind}");
        assert_eq!((lun.held(), lun.generation()), (None, 2));
    }
}

#[test]
fn release_under_all_registrants_tells_all_others() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (C, KC)]);
    lun.good(A, &reserve(K, WE_AR));
    lun.good(B, &release(KB, WE_AR));
    assert_eq!(lun.held(), None);
    assert_eq!(lun.waiting(), [vec![RELEASED], vec![], vec![RELEASED], vec![]]);
}

#[test]
fn clear_by_non_holder_removes_everything() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (C, KC)]);
    lun.good(A, &reserve(K, EA));
    lun.good(B, &clear(KB));
    assert_eq!((lun.keys(), lun.held(), lun.generation()), ([NONE; 4], None, 4));
    assert_eq!(lun.waiting(), [vec![PREEMPTED], vec![], vec![PREEMPTED], vec![]]);
    lun.conflict(D, &clear(KD));
}

/// (type, registered other reads, writes, unregistered reads, writes).
const ACCESS: [(ReservationType, [bool; 4]); 6] = [
    (WE, [true, false, true, false]),
    (EA, [false, false, false, false]),
    (WE_RO, [true, true, true, false]),
    (EA_RO, [true, true, false, false]),
    (WE_AR, [true, true, true, false]),
    (EA_AR, [true, true, false, false]),
];

#[test]
fn access_by_type() {
    for (kind, expected) in ACCESS {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
        lun.good(A, &reserve(K, kind));
        assert!(lun.reads(A) && lun.writes(A), "{kind}: the holder");
        assert_eq!([lun.reads(B), lun.writes(B), lun.reads(C), lun.writes(C)], expected, "{kind}");
    }
}

#[test]
fn pr_out_beside_the_reservation_of_another_nexus() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, EA));
    lun.good(C, &register(NONE, KC, false));
    lun.good(C, &register(KC, NONE, false));
    for denied in [OutAction::CLEAR, OutAction::PREEMPT, OutAction::PREEMPT_AND_ABORT, OutAction::RELEASE] {
        lun.conflict(C, &order(denied, 0, 3, KC, K));
    }
    lun.conflict(B, &reserve(KB, EA));
    lun.conflict(B, &scsi::pr::request::replace_lost(KB, EA));
}

fn spc2(opcode: u8) -> scsi::Request {
    command(&[opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

#[test]
fn spc2_reservation_excludes_all_pr_commands() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &spc2(0x16));
    for nexus in [A, B] {
        for action in 0..4 {
            lun.conflict(nexus, &read(InAction(action), 255));
        }
        for action in 0..9 {
            lun.conflict(nexus, &order(OutAction(action), 0, 1, NONE, K));
        }
    }
    assert!(lun.writes(A) && !lun.reads(B) && !lun.may(B, &test_unit_ready()));
    assert!(lun.may(B, &request_sense()) && lun.may(B, &command(&[0x12; 6])), "INQUIRY, REQUEST SENSE");
    lun.conflict(B, &spc2(0x56));
    lun.good(B, &spc2(0x17));
    assert!(!lun.reads(B), "RELEASE by another nexus has no effect");
    lun.good(A, &spc2(0x57));
    lun.good(B, &register(NONE, KB, false));
}

#[test]
fn spc2_reserve_beside_registrations() {
    for kind in ReservationType::ALL {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
        lun.conflict(A, &spc2(0x16));
        lun.conflict(C, &spc2(0x17));
        lun.good(A, &reserve(K, kind));
        lun.good(A, &spc2(0x16));
        if kind == WE || kind == EA {
            lun.conflict(B, &spc2(0x16));
        } else {
            lun.good(B, &spc2(0x56));
        }
        lun.conflict(C, &spc2(0x16));
        assert_eq!(lun.unit.reservations().spc2_holder(), None, "no effect");
    }
}

#[test]
fn spc2_extents_and_third_parties_are_rejected() {
    let mut lun = Lun::new(&SPC);
    assert_eq!(lun.pointer(A, &command(&[0x16, 0x01, 0, 0, 0, 0]), (5, 0x24, 0)), (true, 1));
    assert_eq!(lun.pointer(A, &command(&[0x17, 0x10, 0, 0, 0, 0]), (5, 0x24, 0)), (true, 1));
}

/// B was preempted from an Exclusive Access reservation that A holds now.
fn preempted(profile: &'static logical_unit::Profile) -> Lun {
    let mut lun = Lun::with(profile, &[(A, K), (B, KB)]);
    lun.good(B, &reserve(KB, EA));
    lun.good(A, &preempt(K, KB, EA));
    assert_eq!(lun.waiting()[1], [REGISTRATION_GONE]);
    lun
}

#[test]
fn preempted_nexus_sees_conflict_then_attention() {
    let read_10 = command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    let mut lun = preempted(&SPC);
    lun.conflict(B, &read_10);
    lun.conflict(B, &clear(KB));
    assert_eq!(lun.drain(B), [REGISTRATION_GONE], "a command that does not conflict reports it");
    lun.conflict(B, &read_10);

    let mut lun = preempted(&LIO);
    lun.check(B, &read_10, (6, 0x2A, 5));
    lun.conflict(B, &read_10);

    let mut lun = preempted(&SCST);
    lun.conflict(B, &read_10);
    assert_eq!(lun.drain(B), [REGISTRATION_GONE]);
}

#[test]
fn reset_outranks_conflict_and_every_other_attention() {
    let mut lun = preempted(&SPC);
    lun.unit.logical_unit_reset();
    lun.check(B, &command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), (6, 0x29, 3));
    lun.conflict(B, &command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
    assert_eq!(lun.drain(B), [REGISTRATION_GONE]);
}

#[test]
fn two_attentions_and_the_commands_between() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, WE_RO));
    lun.good(A, &release(K, WE_RO));
    lun.good(A, &preempt(K, KB, WE));
    assert_eq!(lun.waiting()[1], [RELEASED, REGISTRATION_GONE]);
    lun.good(B, &command(&[0x12, 0, 0, 0, 36, 0]));
    lun.good(B, &command(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]));
    assert_eq!(lun.waiting()[1].len(), 2, "INQUIRY and REPORT LUNS neither report nor clear");
    let data = lun.good(B, &request_sense());
    let sense = scsi::Sense::parse(&data).unwrap();
    assert_eq!((sense.key.0, sense.code.asc, sense.code.ascq), (6, 0x2A, 4));
    assert_eq!(lun.drain(B), [REGISTRATION_GONE]);
    assert_eq!(lun.drain(B), []);
}

#[test]
fn request_sense_in_descriptor_format_and_cut() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &preempt(K, KB, WE));
    let data = lun.good(B, &command(&[3, 1, 0, 0, 4, 0]));
    assert_eq!(data, [0x72, 6, 0x2A, 5]);
}
