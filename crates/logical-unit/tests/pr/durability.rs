//! APTPL, power, resets, nexus loss, lost reservation information, unit attentions without a session.

use super::harness::*;
use logical_unit::aptpl::Image;
use logical_unit::attention::Attention;
use logical_unit::profile::{LIO, SCST, SPC};
use logical_unit::{Effect, NexusId, PrUnit};
use scsi::pr::request::{preempt, read, register, replace_lost, reserve};
use scsi::pr::{InAction, ReservationType};

const POWER_ON: (u8, u8) = (0x29, 0x01);

#[test]
fn last_aptpl_decides_for_everybody() {
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register(NONE, K, true));
    assert!(lun.effects.contains(&Effect::Persist));
    lun.good(B, &register(NONE, KB, false));
    assert!(lun.effects.contains(&Effect::Persist), "switching off is durable too");
    let data = lun.good(C, &read(InAction::REPORT_CAPABILITIES, 8));
    assert_eq!(data[3] & 1, 0, "PTPL_A");
    lun.good(A, &reserve(K, EA));
    assert!(!lun.effects.contains(&Effect::Persist));
    lun.unit.power_cycle();
    assert_eq!((lun.keys(), lun.held()), ([NONE; 4], None));
}

#[test]
fn power_cycle_with_aptpl_keeps_all_but_generation() {
    for kind in ReservationType::ALL {
        let mut lun = Lun::new(&SPC);
        lun.good(A, &register(NONE, K, true));
        lun.good(B, &register(NONE, KB, true));
        lun.good(A, &reserve(K, kind));
        let (keys, held) = (lun.keys(), lun.held());
        lun.unit.power_cycle();
        assert_eq!((lun.keys(), lun.held(), lun.generation()), (keys, held, 0));
        assert!(lun.unit.reservations().aptpl());
        for nexus in [A, B, C, D, A2] {
            assert_eq!(lun.drain(nexus), [POWER_ON], "every nexus with a session");
        }
    }
}

#[test]
fn power_cycle_forgets_older_attentions() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.good(A, &preempt(K, KB, EA));
    lun.unit.power_cycle();
    assert_eq!(lun.waiting()[1], [POWER_ON]);
}

#[test]
fn every_change_under_aptpl_is_persisted_before_its_status() {
    let mut lun = Lun::new(&SPC);
    let requests = [
        register(NONE, K, true),
        reserve(K, WE),
        register(K, KB, true),
        scsi::pr::request::release(KB, WE),
        scsi::pr::request::clear(KB),
    ];
    for request in requests {
        lun.good(A, &request);
        assert_eq!(lun.effects.first(), Some(&Effect::Persist), "{request:02x?}");
    }
    lun.good(A, &register(NONE, NONE, true));
    assert_eq!(lun.effects, [], "nothing changed");
}

#[test]
fn image_brings_back_the_state_for_every_type() {
    for kind in ReservationType::ALL {
        let mut lun = Lun::new(&SPC);
        lun.good(B, &register(NONE, KB, true));
        lun.good(A, &register(NONE, K, true));
        lun.good(B, &reserve(KB, kind));
        let image = Image::of(&lun.unit, &lun.names);
        let mut names = Names { nexuses: vec![], ..Names::default() };
        let restored: PrUnit = image.restore(&SPC, &mut names).unwrap();
        assert_eq!(Image::of(&restored, &names), image, "{kind}: under other handles the same names");
        assert_eq!(restored.reservations().generation(), 0);
        let again = image.restore(&SPC, &mut lun.names).unwrap();
        let mut expected = lun.unit.reservations().clone();
        expected.rebase_generation(2);
        assert_eq!(*again.reservations(), expected);
    }
}

#[test]
fn image_without_aptpl_keeps_nothing() {
    let lun = Lun::with(&SPC, &[(A, K)]);
    assert_eq!(Image::of(&lun.unit, &lun.names), Image::default());
}

#[test]
fn lost_information_is_not_reported_by_a_profile_without_a_way_out() {
    let image = Image { lost: true, ..Image::default() };
    let restored = |profile| image.restore(profile, &mut Names::default()).unwrap();
    assert!(restored(&SPC).reservations().is_lost());
    assert!(!restored(&LIO).reservations().is_lost());
}

#[test]
fn resets_and_nexus_loss_leave_reservations() {
    for aptpl in [false, true] {
        let mut lun = Lun::new(&SPC);
        lun.good(A, &register(NONE, K, aptpl));
        lun.good(A, &reserve(K, EA));
        let state = lun.unit.reservations().clone();
        lun.unit.logical_unit_reset();
        assert_eq!(lun.drain(A), [(0x29, 0x03)]);
        lun.unit.target_reset();
        assert_eq!(lun.drain(A), [(0x29, 0x00)]);
        lun.unit.nexus_lost(A);
        lun.unit.attach(A);
        assert_eq!(lun.drain(A), [(0x29, 0x07)], "the same names are the same nexus");
        assert_eq!(*lun.unit.reservations(), state);
        assert!(lun.writes(A) && !lun.reads(B));
    }
    let mut lun = Lun::with(&SPC, &[(A, K)]);
    lun.good(A, &reserve(K, EA));
    let other_isid = NexusId(9);
    lun.unit.attach(other_isid);
    assert!(!lun.writes(other_isid), "another ISID is another nexus");
}

#[test]
fn spc2_reservation_ends_with_reset_nexus_loss_and_power() {
    let ends: [fn(&mut PrUnit); 4] =
        [PrUnit::logical_unit_reset, PrUnit::target_reset, |unit| unit.nexus_lost(A), PrUnit::power_cycle];
    for end in ends {
        let mut lun = Lun::new(&SPC);
        lun.good(A, &command(&[0x16, 0, 0, 0, 0, 0]));
        assert!(!lun.reads(B));
        lun.unit.nexus_lost(B);
        lun.unit.attach(B);
        assert!(!lun.reads(B), "another nexus's loss ends nothing");
        end(&mut lun.unit);
        lun.drain_all();
        assert!(lun.reads(B));
    }
}

#[test]
fn lost_information_is_reported_until_replaced() {
    const LOST: (u8, u8, u8) = (7, 0x44, 1);
    let mut lun = Lun::new(&SPC);
    lun.good(A, &register(NONE, K, true));
    lun.conflict(A, &replace_lost(KB, EA));
    let effects = lun.unit.lose_reservation_information();
    assert_eq!(effects, [Effect::Persist, Effect::RefreshAll]);
    let read_10 = command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    for request in [read_10.clone(), register(NONE, K, false), read(InAction::READ_KEYS, 8)] {
        lun.check(A, &request, LOST);
        assert!(!lun.may(A, &request), "the gate sends it to the machine");
    }
    lun.good(A, &test_unit_ready());
    lun.good(A, &read(InAction::REPORT_CAPABILITIES, 8));
    lun.unit.power_cycle();
    lun.drain_all();
    lun.check(A, &read_10, LOST);
    let image = Image::of(&lun.unit, &lun.names);
    assert!(image.lost, "and it survives a restart");

    assert_eq!(lun.pointer(B, &replace_lost(NONE, EA), (5, 0x26, 0)), (false, 8));
    let keyed = order(scsi::pr::OutAction::REPLACE_LOST, 0, 3, K, KB);
    lun.conflict(B, &keyed);
    lun.good(B, &replace_lost(KB, EA));
    assert_eq!((lun.keys(), lun.held()), ([NONE, KB, NONE, NONE], Some((EA, vec![B]))));
    assert_eq!(lun.generation(), 1);
    lun.conflict(A, &read_10);
    lun.conflict(B, &replace_lost(KB, EA));
}

#[test]
fn attentions_wait_for_a_nexus_without_a_session() {
    let mut lun = Lun::with(&SPC, &[(A, K), (B, KB)]);
    lun.unit.nexus_lost(B);
    lun.good(A, &preempt(K, KB, EA));
    lun.unit.attach(B);
    assert_eq!(lun.drain(B), [(0x29, 0x07), REGISTRATION_GONE]);

    let mut lun = Lun::with(&SCST, &[(A, K), (B, KB)]);
    lun.unit.nexus_lost(B);
    lun.good(A, &preempt(K, KB, EA));
    lun.unit.attach(B);
    assert_eq!(lun.drain(B), []);
}

#[test]
fn absent_nexuses_never_take_more_room_than_registrations_may() {
    let mut unit = PrUnit::new(&SPC);
    for at in 0..10_000 {
        unit.establish(NexusId(at), Attention::CapacityChanged);
        unit.establish(NexusId(at), Attention::CapacityChanged);
    }
    assert_eq!(unit.attentions().nexuses().count(), SPC.registration_limit);
    unit.attach(NexusId(9_999));
    unit.establish(NexusId(9_999), Attention::CapacityChanged);
    assert_eq!(unit.attentions().pending(NexusId(9_999)).count(), 1, "who is here is always told");
}
