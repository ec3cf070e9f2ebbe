//! A logical unit that goes on in another process: for its nexuses nothing has happened.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use logical_unit::snapshot::{ResumeError, Snapshot, SnapshotError};
use logical_unit::{LogicalUnit, LunSpec};
use scsi::pr::{InAction, Key, ReservationType, request};
use scsi::{AdditionalSense, Status};
use std::path::Path;
use std::sync::Arc;
use support::Host;

const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

fn spec(folder: &Path, more: &str) -> LunSpec {
    format!("file={},size=1M{more}", folder.join("disk").display()).parse().unwrap()
}

/// Two registrants, the first of which holds, a stranger, and unit attentions; nothing durable unless `aptpl`.
fn busy(spec: &LunSpec, aptpl: bool) -> Arc<LogicalUnit> {
    let unit = LogicalUnit::open(spec).unwrap();
    let hosts: Vec<Host> = (0..4).map(|number| Host::new(&unit, number)).collect();
    for (number, key) in [(0, 1), (1, 2), (3, 4)] {
        let registered = hosts[number].send(&request::register(Key::NONE, Key(key), aptpl));
        assert_eq!(registered.status, Status::GOOD);
    }
    hosts[0].send(&request::reserve(Key(1), KIND));
    // Fences host 3, and host 0 takes the reservation anew.
    assert_eq!(hosts[0].send(&request::preempt(Key(1), Key(4), KIND)).status, Status::GOOD);
    // Descriptor sense, by MODE SELECT(6) of the Control page; hosts 1, 2 and 3 hear of it.
    let list = [0, 0, 0, 0, 0x0A, 0x0A, 0x04, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0];
    assert_eq!(hosts[0].raw(&[0x15, 0x10, 0, 0, 16, 0], &list).status, Status::GOOD);
    unit
}

/// What each host sees, read twice: unit attentions are taken by being told.
fn seen(unit: &Arc<LogicalUnit>) -> Vec<(Status, Vec<u8>, Vec<u8>)> {
    let ask = |number: u8| {
        let host = Host::new(unit, number);
        let mut answers: Vec<_> = (0..4).map(|_| host.raw(&[0; 6], &[])).collect();
        for action in [
            InAction::READ_KEYS,
            InAction::READ_RESERVATION,
            InAction::READ_FULL_STATUS,
            InAction::REPORT_CAPABILITIES,
        ] {
            answers.push(host.send(&request::read(action, 4096)));
        }
        answers.push(host.raw(&[0x1A, 0, 0x3F, 0, 255, 0], &[]));
        answers.push(host.raw(&[0x12, 1, 0x83, 0, 255, 0], &[]));
        answers.push(host.raw(&[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 512]));
        answers.into_iter().map(|ended| (ended.status, ended.sense, ended.data)).collect::<Vec<_>>()
    };
    (0..4).flat_map(ask).collect()
}

#[test]
fn for_every_nexus_nothing_has_happened_whatever_aptpl_says() {
    for aptpl in [false, true] {
        let (here, stays) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let moved = busy(&spec(here.path(), ""), aptpl);
        let shadow = busy(&spec(stays.path(), ""), aptpl);
        let bytes = moved.snapshot().unwrap().to_bytes();
        drop(moved);
        let there = LogicalUnit::resume(&spec(here.path(), ""), &Snapshot::parse(&bytes).unwrap()).unwrap();
        assert_eq!(there.snapshot().unwrap().to_bytes(), bytes, "it goes on as it was");
        let (there, mut shadow) = (seen(&there), seen(&shadow));
        // Only the names differ, which come of the file.
        for (there, shadow) in
            there.iter().zip(&mut shadow).filter(|(there, _)| there.2.get(1) == Some(&0x83))
        {
            shadow.2.clone_from(&there.2);
        }
        assert_eq!(there, shadow);
        assert_eq!(there[0].0, Status::GOOD, "no power on");
        let fenced = scsi::Sense::parse(&there[3 * 11].1).unwrap().code;
        assert_eq!(fenced, AdditionalSense::REGISTRATIONS_PREEMPTED);
    }
}

#[test]
fn another_file_another_profile_and_a_smaller_one_are_refused_and_nothing_is_written() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let snapshot = busy(&spec(here.path(), ""), true).snapshot().unwrap();
    let missing = LogicalUnit::resume(&spec(there.path(), ""), &snapshot);
    assert!(
        matches!(missing, Err(ResumeError::Open(_))) && !there.path().join("disk").exists(),
        "{missing:?}"
    );
    std::fs::write(there.path().join("disk"), [0; 1 << 20]).unwrap();
    let refused = LogicalUnit::resume(&spec(there.path(), ""), &snapshot);
    assert!(matches!(refused, Err(ResumeError::Other { .. })), "{refused:?}");
    assert!(!there.path().join("disk.pr").exists());
    let larger = Snapshot { blocks: 4096, ..snapshot.clone() };
    let refused = LogicalUnit::resume(&spec(here.path(), ""), &larger);
    assert!(matches!(refused, Err(ResumeError::Smaller { found: 2048, wanted: 4096 })), "{refused:?}");
    let asked = format!("file={},size=2M", here.path().join("disk").display());
    let there = LogicalUnit::resume(&asked.parse().unwrap(), &snapshot).unwrap();
    assert_eq!(there.snapshot().unwrap().blocks, 2048, "a larger one is not made of it");
    drop(there);
    let refused = LogicalUnit::resume(&spec(here.path(), ",profile=lio"), &snapshot);
    assert!(matches!(refused, Err(ResumeError::Profile { .. })), "{refused:?}");
    let pages = Snapshot { modes: vec![(0x0A, vec![0; 3])], ..snapshot.clone() };
    let refused = LogicalUnit::resume(&spec(here.path(), ""), &pages);
    assert!(matches!(refused, Err(ResumeError::Unfit(_))), "{refused:?}");
    LogicalUnit::resume(&spec(here.path(), ""), &snapshot).unwrap();
}

#[test]
fn a_file_that_somebody_else_served_meanwhile_is_refused() {
    let here = tempfile::tempdir().unwrap();
    let snapshot = busy(&spec(here.path(), ""), true).snapshot().unwrap();
    {
        let other = LogicalUnit::open(&spec(here.path(), "")).unwrap();
        let host = Host::new(&other, 1);
        // The first takes the power-on attention.
        host.raw(&[0; 6], &[]);
        assert_eq!(host.send(&request::register(Key(2), Key(22), true)).status, Status::GOOD);
    }
    let refused = LogicalUnit::resume(&spec(here.path(), ""), &snapshot);
    assert!(matches!(refused, Err(ResumeError::Changed)), "{refused:?}");
}

#[test]
fn registrations_that_end_with_their_session_do_not_move() {
    let here = tempfile::tempdir().unwrap();
    let name = logical_unit::Profile::ALL
        .iter()
        .find(|profile| profile.identity == logical_unit::profile::Identity::SessionInstance)
        .unwrap()
        .name;
    let unit = LogicalUnit::open(&spec(here.path(), &format!(",profile={name}"))).unwrap();
    assert_eq!(unit.snapshot(), Err(SnapshotError::SessionInstance));
}
