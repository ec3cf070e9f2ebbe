//! PREEMPT and PREEMPT AND ABORT by the standard.

use super::harness::*;
use logical_unit::Effect;
use logical_unit::profile::SPC;
use scsi::pr::request::{preempt, preempt_and_abort, reserve};
use scsi::pr::{OutAction, ReservationType};

const SINGLE: [ReservationType; 4] = [WE, EA, WE_RO, EA_RO];
const ALL_REGISTRANTS: [ReservationType; 2] = [WE_AR, EA_AR];

#[test]
fn preempt_of_unknown_key_conflicts() {
    for kind in [None, Some(EA), Some(WE_AR)] {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
        kind.into_iter().for_each(|kind| drop(lun.good(A, &reserve(K, kind))));
        lun.conflict(A, &preempt(K, KC, EA));
        lun.conflict(B, &preempt_and_abort(KB, KC, EA));
    }
}

#[test]
fn preempt_of_no_key() {
    for kind in [None, Some(WE), Some(EA_RO)] {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
        kind.into_iter().for_each(|kind| drop(lun.good(A, &reserve(K, kind))));
        assert_eq!(lun.pointer(B, &preempt(KB, NONE, WE), (5, 0x26, 0)), (false, 8));
    }
    for kind in ALL_REGISTRANTS {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (C, KC)]);
        lun.good(A, &reserve(K, kind));
        lun.good(B, &preempt(KB, NONE, kind));
        assert_eq!((lun.keys(), lun.held()), ([NONE, KB, NONE, NONE], Some((kind, vec![B]))));
        assert_eq!(lun.waiting(), [vec![REGISTRATION_GONE], vec![], vec![REGISTRATION_GONE], vec![]]);
    }
}

#[test]
fn preempt_all_registrants_into_single() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, WE_AR));
    lun.good(A, &preempt(K, NONE, WE));
    assert_eq!((lun.held(), lun.shown(C)), (Some((WE, vec![A])), Some((K, WE))));
    assert_eq!(lun.waiting()[1], [REGISTRATION_GONE]);
}

#[test]
fn preempt_own_key_under_all_registrants_with_others() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, EA_AR));
    lun.good(A, &preempt(K, K, EA_AR));
    assert_eq!((lun.keys(), lun.held()), ([NONE, KB, NONE, NONE], Some((EA_AR, vec![B]))));
    assert_eq!(lun.waiting(), [const { Vec::new() }; 4]);
}

#[test]
fn preempt_own_key_under_all_registrants_alone() {
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, WE_AR));
    lun.good(A, &preempt(K, K, WE_AR));
    assert_eq!((lun.keys(), lun.held()), ([NONE; 4], None));
}

#[test]
fn preempt_key_shared_by_all_registrants() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, K), (C, K)]);
    lun.good(A, &reserve(K, WE_AR));
    lun.good(B, &preempt(K, K, WE_AR));
    assert_eq!((lun.keys(), lun.held()), ([NONE; 4], None));
    assert_eq!(lun.waiting(), [vec![REGISTRATION_GONE], vec![], vec![REGISTRATION_GONE], vec![]]);
}

#[test]
fn preempt_own_key_as_holder() {
    for kind in SINGLE {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, K), (C, KC)]);
        lun.good(A, &reserve(K, kind));
        lun.good(A, &preempt(K, K, kind));
        assert_eq!((lun.keys(), lun.held()), ([K, NONE, KC, NONE], Some((kind, vec![A]))));
        assert_eq!(lun.waiting(), [vec![], vec![REGISTRATION_GONE], vec![], vec![]], "{kind}");
        let other = if kind == WE { EA } else { WE };
        lun.good(A, &preempt(K, K, other));
        assert_eq!(lun.held(), Some((other, vec![A])));
        assert_eq!(lun.waiting()[2], [RELEASED]);
    }
}

#[test]
fn preempt_own_key_without_reservation() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, K), (C, KC)]);
    lun.good(A, &preempt(K, K, EA));
    assert_eq!((lun.keys(), lun.held()), ([NONE, NONE, KC, NONE], None));
    assert_eq!(lun.waiting(), [vec![], vec![REGISTRATION_GONE], vec![], vec![]]);
}

#[test]
fn preempt_own_key_beside_another_holder() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (C, K)]);
    lun.good(B, &reserve(KB, WE_RO));
    lun.good(A, &preempt(K, K, WE_RO));
    assert_eq!((lun.keys(), lun.held()), ([NONE, KB, NONE, NONE], Some((WE_RO, vec![B]))));
}

#[test]
fn preempt_holder_with_same_key_keeps_sender() {
    for kind in SINGLE {
        let mut lun = Lun::with(&SPC, &[(A, K), (D, K)]);
        lun.good(A, &reserve(K, kind));
        lun.good(D, &preempt(K, K, kind));
        assert_eq!((lun.keys(), lun.held()), ([NONE, NONE, NONE, K], Some((kind, vec![D]))));
        assert_eq!(lun.waiting(), [vec![REGISTRATION_GONE], vec![], vec![], vec![]]);
    }
}

#[test]
fn preempt_holder_key_shared_with_third_nexus() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, K), (C, KC)]);
    lun.good(A, &reserve(K, EA));
    lun.good(C, &preempt(KC, K, EA));
    assert_eq!((lun.keys(), lun.held()), ([NONE, NONE, KC, NONE], Some((EA, vec![C]))));
}

#[test]
fn preempt_changing_type_takes_access_at_once() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (C, KC)]);
    lun.good(A, &reserve(K, WE_RO));
    assert!(lun.writes(C));
    lun.good(B, &preempt(KB, K, WE));
    assert_eq!(lun.waiting(), [vec![REGISTRATION_GONE], vec![], vec![RELEASED], vec![]]);
    assert!(!lun.writes(C));
    lun.drain_all();
    assert!(lun.reads(C) && !lun.writes(C));
}

#[test]
fn preempt_that_only_removes_ignores_scope_and_type() {
    for (scope, kind) in [(0, 0), (0, 2), (0, 15), (3, 5)] {
        let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (C, KC)]);
        lun.good(A, &reserve(K, EA_RO));
        lun.good(C, &order(OutAction::PREEMPT, scope, kind, KC, KB));
        assert_eq!((lun.keys(), lun.held()), ([K, NONE, KC, NONE], Some((EA_RO, vec![A]))));
    }
    let mut lun = Lun::with(&SPC, &[(A, K), (C, KC)]);
    lun.good(A, &reserve(K, EA_RO));
    for (scope, kind) in [(0, 0), (0, 2), (0, 15), (3, 5)] {
        let taking = order(OutAction::PREEMPT, scope, kind, KC, K);
        assert_eq!(lun.pointer(C, &taking, (5, 0x24, 0)), (true, 2));
    }
}

#[test]
fn preempt_by_unregistered_conflicts() {
    for kind in [None, Some(EA), Some(WE_AR)] {
        let mut lun = Lun::with(&SPC, &[(A, K)]);
        kind.into_iter().for_each(|kind| drop(lun.good(A, &reserve(K, kind))));
        lun.conflict(B, &preempt(K, K, EA));
        lun.conflict(B, &preempt(NONE, K, EA));
        lun.conflict(B, &preempt_and_abort(KB, K, EA));
        lun.conflict(A, &preempt(KB, K, EA));
    }
}

#[test]
fn preempt_and_abort_names_whose_commands_end() {
    let aborts = |lun: &Lun| {
        lun.effects.iter().find_map(|effect| match effect {
            Effect::Abort { nexuses } => Some(nexuses.clone()),
            _ => None,
        })
    };
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB), (C, KB), (D, KD)]);
    lun.good(A, &reserve(K, WE_RO));
    lun.good(D, &preempt_and_abort(KD, KB, WE));
    assert_eq!(aborts(&lun), Some(vec![B, C]), "registrants that do not hold anything, too");
    lun.good(D, &preempt_and_abort(KD, K, WE_AR));
    assert_eq!(aborts(&lun), Some(vec![A]));
    lun.drain_all();
    lun.good(B, &scsi::pr::request::register(NONE, KB, false));
    lun.good(D, &preempt_and_abort(KD, NONE, WE));
    assert_eq!(aborts(&lun), Some(vec![B, D]), "all registrants");
    lun.good(D, &preempt_and_abort(KD, KD, WE));
    assert_eq!(aborts(&lun), Some(vec![D]), "the sender's own other commands");
    lun.good(D, &preempt(KD, KD, WE));
    assert_eq!(aborts(&lun), None, "PREEMPT aborts nothing");
}
