//! A guest moves between the agents of two hosts and back: `tenure agent`, scripted QEMUs, `tenure target`, and `tenure migrate` as
//! the operator types it.
#![allow(clippy::unwrap_used, reason = "a test")]

use agent::migrate::Verdict;
use lab::served::Served;
use lab::stage::{Disk, Guest, Host, Life, Migrated, Qemus, Stage, has_key, insist};
use lab::tenure::Tenure;
use scsi::Status;
use scsi::pr::{InAction, Key, ReadReservation, ReservationType, request};
use std::path::Path;

const KEY: Key = Key(0x4b);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

/// A guest that has registered and reserved on alpha, and runs there.
fn set(luns: u16) -> (Served, Stage) {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = tenure.target(&vec!["memory=1M"; usize::from(luns)]).unwrap();
    let disks = (0..luns).map(|lun| Disk::of(&served, lun).with_key(KEY)).collect();
    let stage = Stage::open(&tenure, Qemus::Threads, vec![Guest::new("web", disks)]).unwrap();
    for disk in &stage.guest("web").unwrap().disks {
        for command in [request::register(Key::NONE, KEY, false), request::reserve(KEY, KIND)] {
            assert_eq!(insist(disk.at(Host::Alpha), &command).unwrap().status, Status::GOOD);
        }
    }
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    (served, stage)
}

/// On each logical unit `host` alone has the key, and the reservation of the guest is there.
fn is_at(stage: &Stage, host: Host) {
    for disk in &stage.guest("web").unwrap().disks {
        let has = |host| has_key(disk.at(host), KEY, false).unwrap();
        assert!(has(host) && !has(host.other()), "{disk:?}");
        let held = insist(disk.at(host.other()), &request::read(InAction::READ_RESERVATION, 24)).unwrap();
        let held = ReadReservation::parse(&held.data).unwrap().reservation.unwrap();
        assert_eq!((held.key, held.kind), (KEY, KIND), "{disk:?}");
    }
}

fn ended(migrated: &Migrated, exit: i32, verdict: Verdict) {
    let told = migrated.report.as_ref().map(|report| report.verdict);
    assert_eq!((migrated.ran.exit, told), (exit, Some(verdict)), "{migrated:#?}");
}

#[test]
fn a_guest_moves_there_and_back_with_its_reservations() {
    let (_served, stage) = set(2);
    stage.start_qemu("web", Host::Beta, Life::Waits, &[]).unwrap();
    let planned = stage.migrate("web", Host::Alpha, &["--plan"]).unwrap();
    ended(&planned, 0, Verdict::Possible);
    let luns = planned.report.unwrap().luns;
    assert!(luns.iter().all(|lun| lun.key.as_deref() == Some("0x000000000000004b")), "{luns:?}");
    for from in [Host::Alpha, Host::Beta, Host::Alpha] {
        let migrated = stage.migrate("web", from, &[]).unwrap();
        ended(&migrated, 0, Verdict::Moved);
        assert!(migrated.report.unwrap().downtime.unwrap().round_trips <= 5);
        is_at(&stage, from.other());
        stage.quit_qemu("web", from).unwrap();
        stage.start_qemu("web", from, Life::Waits, &[]).unwrap();
    }
    stage.ran_once("web").unwrap();
}

#[test]
fn a_destination_that_does_not_wait_for_the_guest_is_refused_with_what_to_do() {
    let (_served, stage) = set(1);
    ended(&stage.migrate("web", Host::Alpha, &[]).unwrap(), 4, Verdict::Refused);
    is_at(&stage, Host::Alpha);
}
