//! A logical unit whose process ends, however it does, and that is served again: for its nexuses nothing has happened.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use logical_unit::{LogicalUnit, LunSpec};
use scsi::pr::{InAction, Key, ReservationType, request};
use scsi::{AdditionalSense, Completion, Sense, Status};
use std::fs;
use std::path::Path;
use support::Host;

const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];

fn spec(folder: &Path) -> LunSpec {
    format!("file={},size=1M", folder.join("disk").display()).parse().unwrap()
}

fn code(ended: &Completion) -> AdditionalSense {
    assert_eq!(ended.status, Status::CHECK_CONDITION, "{ended:?}");
    Sense::parse(&ended.sense).unwrap().code
}

/// Two hosts registered, the first holds the reservation, and has fenced the third.
fn fence(hosts: &[Host], aptpl: bool) {
    for (host, key) in [(0, 1), (1, 2), (2, 3)] {
        assert_eq!(hosts[host].send(&request::register(Key::NONE, Key(key), aptpl)).status, Status::GOOD);
    }
    assert_eq!(hosts[0].send(&request::reserve(Key(1), KIND)).status, Status::GOOD);
    assert_eq!(hosts[0].send(&request::preempt(Key(1), Key(3), KIND)).status, Status::GOOD);
}

fn hosts(folder: &Path) -> Vec<Host> {
    let unit = LogicalUnit::open_kept(&spec(folder)).unwrap();
    (0..3).map(|number| Host::new(&unit, number)).collect()
}

#[test]
fn a_reservation_stays_a_fenced_host_stays_fenced_and_hears_of_it_once_whatever_aptpl_says() {
    for aptpl in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let before = hosts(folder.path());
        fence(&before, aptpl);
        // Descriptor sense, by the Control page; the others hear of it.
        let list = [0, 0, 0, 0, 0x0A, 0x0A, 0x04, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0];
        assert_eq!(before[0].raw(&[0x15, 0x10, 0, 0, 16, 0], &list).status, Status::GOOD);
        let keys = before[0].send(&request::read(InAction::READ_FULL_STATUS, 4096)).data;
        drop(before);
        let after = hosts(folder.path());
        assert_eq!(after[0].send(&request::read(InAction::READ_FULL_STATUS, 4096)).data, keys);
        assert_eq!(after[0].raw(&WRITE, &[7; 512]).status, Status::GOOD, "no power on");
        assert_eq!(code(&after[1].raw(&[0; 6], &[])), AdditionalSense::MODE_PARAMETERS_CHANGED);
        assert_eq!(after[1].raw(&WRITE, &[7; 512]).status, Status::GOOD);
        let fenced = after[2].raw(&[0; 6], &[]);
        assert_eq!(code(&fenced), AdditionalSense::REGISTRATIONS_PREEMPTED);
        assert_eq!(fenced.sense[0] & 0x7F, 0x72, "the mode pages stay, too");
        assert_eq!(code(&after[2].raw(&[0; 6], &[])), AdditionalSense::MODE_PARAMETERS_CHANGED);
        assert_eq!(after[2].raw(&WRITE, &[7; 512]).status, Status::RESERVATION_CONFLICT);
    }
}

#[test]
fn an_spc_2_reservation_and_a_reset_stay() {
    let folder = tempfile::tempdir().unwrap();
    let before = hosts(folder.path());
    assert_eq!(before[0].raw(&RESERVE_6, &[]).status, Status::GOOD);
    drop(before);
    let between = hosts(folder.path());
    assert_eq!(between[1].raw(&WRITE, &[7; 512]).status, Status::RESERVATION_CONFLICT);
    between[0].unit.reset();
    drop(between);
    let after = hosts(folder.path());
    assert_eq!(code(&after[0].raw(&WRITE, &[7; 512])).asc, 0x29);
    assert_eq!(code(&after[1].raw(&WRITE, &[7; 512])).asc, 0x29);
    assert_eq!(after[1].raw(&WRITE, &[7; 512]).status, Status::GOOD, "and the reset released it");
}

#[test]
fn after_a_restart_of_the_machine_what_was_not_durable_is_gone() {
    for aptpl in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        fence(&hosts(folder.path()), aptpl);
        let live = folder.path().join("disk.pr.live");
        let mut bytes = fs::read(&live).unwrap();
        bytes[0] ^= 1;
        fs::write(&live, bytes).unwrap();
        let after = hosts(folder.path());
        if aptpl {
            assert_eq!(code(&after[0].raw(&[0; 6], &[])).asc, 0x29);
        }
        let written = after[2].raw(&WRITE, &[7; 512]).status;
        assert_eq!(written == Status::GOOD, !aptpl, "{written:?}");
    }
}

#[test]
fn whoever_keeps_nothing_leaves_nothing_that_is_old() {
    let folder = tempfile::tempdir().unwrap();
    fence(&hosts(folder.path()), false);
    drop(LogicalUnit::open(&spec(folder.path())).unwrap());
    assert_eq!(hosts(folder.path())[2].raw(&WRITE, &[7; 512]).status, Status::GOOD);
}

#[test]
fn opened_anew_nothing_of_before_holds_and_from_then_on_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    fence(&hosts(folder.path()), false);
    let unit = LogicalUnit::open_anew(&spec(folder.path())).unwrap();
    assert!(unit.is_kept());
    assert_eq!(Host::new(&unit, 2).raw(&WRITE, &[7; 512]).status, Status::GOOD);
}

#[test]
fn a_change_that_can_be_neither_kept_nor_forgotten_does_not_happen() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = hosts(folder.path());
    fence(&hosts, false);
    let live = folder.path().join("disk.pr.live");
    fs::remove_file(&live).unwrap();
    fs::create_dir(&live).unwrap();
    let refused = hosts[1].send(&request::preempt(Key(2), Key(1), KIND));
    assert_eq!(code(&refused), AdditionalSense::INTERNAL_TARGET_FAILURE);
    assert_eq!(hosts[0].raw(&WRITE, &[7; 512]).status, Status::GOOD, "host 0 is registered");
    fs::remove_dir(&live).unwrap();
    assert_eq!(hosts[1].send(&request::preempt(Key(2), Key(1), KIND)).status, Status::GOOD);
    assert!(live.is_file());
}
