//! Commands that their caller carries out: which are admitted as such, what they hold meanwhile, and a capacity that grows.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use logical_unit::{Admission, LogicalUnit, Move, Room};
use scsi::pr::{Key, ReservationType, request};
use scsi::{AdditionalSense, SenseKey};
use std::fs::OpenOptions;
use std::sync::Arc;
use support::{BLOCK, Host, good, memory, open, refused};
use tempfile::TempDir;

fn file() -> (TempDir, Arc<LogicalUnit>) {
    let folder = tempfile::tempdir().unwrap();
    let unit = open(&format!("file={},size=1M,direct=on", folder.path().join("lun").display()));
    (folder, unit)
}

fn admit(host: &Host, cdb: &[u8], data: usize) -> Admission {
    let room = Room { data_out: data, data_in: data };
    host.unit.admit(&host.handle, host.begin(1), cdb, room)
}

const READ_BLOCK_8: [u8; 10] = [0x28, 0, 0, 0, 0, 8, 0, 0, 2, 0];
const WRITE_BLOCK_8: [u8; 10] = [0x2A, 0, 0, 0, 0, 8, 0, 0, 2, 0];

#[test]
fn a_plain_transfer_names_bytes_of_the_medium() {
    let (_folder, unit) = file();
    let host = Host::new(&unit, 1);
    for (cdb, action) in [(READ_BLOCK_8, Move::Read), (WRITE_BLOCK_8, Move::Write { durable: false })] {
        let Admission::Transfer(transfer) = admit(&host, &cdb, 2 * BLOCK) else { panic!() };
        assert_eq!((transfer.action(), transfer.offset(), transfer.length()), (action, 4096, 1024));
        good(transfer.end(&Ok(())));
    }
    let Admission::Transfer(flush) = admit(&host, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0) else { panic!() };
    assert_eq!((flush.action(), flush.length()), (Move::Flush, 0));
}

/// Each of them has another status, needs other data than is there, or is two operations.
#[test]
fn everything_else_is_executed() {
    let (_folder, unit) = file();
    let host = Host::new(&unit, 1);
    let with = |at: usize, bits: u8, cdb: [u8; 10]| {
        let mut cdb = cdb;
        cdb[at] |= bits;
        cdb
    };
    for (cdb, data) in [
        (READ_BLOCK_8, 2 * BLOCK - 1),
        (WRITE_BLOCK_8, 2 * BLOCK - 1),
        (with(1, 0x08, READ_BLOCK_8), 2 * BLOCK),
        (with(1, 0x20, READ_BLOCK_8), 2 * BLOCK),
        (with(2, 0x80, READ_BLOCK_8), 2 * BLOCK),
        (with(9, 0x04, READ_BLOCK_8), 2 * BLOCK),
        ([0x28, 0, 0, 0, 0, 8, 0, 0, 0, 0], 0),
        ([0x2F, 0, 0, 0, 0, 8, 0, 0, 2, 0], 0),
    ] {
        assert!(matches!(admit(&host, &cdb, data), Admission::Execute(_)), "{cdb:02x?}");
    }
    let in_memory = Host::new(&memory(), 1);
    assert!(matches!(admit(&in_memory, &READ_BLOCK_8, 2 * BLOCK), Admission::Execute(_)));
}

#[test]
fn a_stopped_or_write_protected_unit_admits_no_transfer() {
    let (_folder, unit) = file();
    let host = Host::new(&unit, 1);
    good(host.raw(&[0x1B, 0, 0, 0, 0, 0], &[]));
    assert!(matches!(admit(&host, &READ_BLOCK_8, 2 * BLOCK), Admission::Execute(_)));
    good(host.raw(&[0x1B, 0, 0, 0, 1, 0], &[]));
    // MODE SELECT(6), Control page with SWP.
    let list = [0, 0, 0, 0, 0x0A, 0x0A, 0, 0x10, 0x08, 0, 0, 0, 0xFF, 0xFF, 0, 0];
    good(host.raw(&[0x15, 0x10, 0, 0, 16, 0], &list));
    assert!(matches!(admit(&host, &WRITE_BLOCK_8, 2 * BLOCK), Admission::Execute(_)));
    assert!(matches!(admit(&host, &READ_BLOCK_8, 2 * BLOCK), Admission::Transfer(_)));
}

#[test]
fn a_sanitize_waits_for_a_transfer_under_way_and_keeps_others_out() {
    let (_folder, unit) = file();
    let host = Host::new(&unit, 1);
    let Admission::Transfer(transfer) = admit(&host, &WRITE_BLOCK_8, 2 * BLOCK) else { panic!() };
    good(host.raw(&[0x48, 0x82, 0, 0, 0, 0, 0, 0, 0, 0], &[]));
    let in_progress = (SenseKey::NOT_READY, AdditionalSense::SANITIZE_IN_PROGRESS);
    assert_eq!(refused(&host.raw(&[0; 6], &[])), in_progress);
    assert!(matches!(admit(&host, &READ_BLOCK_8, 2 * BLOCK), Admission::Execute(_)));
    assert_eq!(refused(&host.raw(&[0; 6], &[])), in_progress, "it waits for the transfer");
    good(transfer.end(&Ok(())));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !host.raw(&[0; 6], &[]).status.is_good() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
}

/// Host 1 is fenced while its WRITE is on a medium that does not answer: the others' reservations do not wait for that.
#[test]
fn a_preempt_that_waits_for_a_command_on_the_medium_holds_up_no_other_nexus() {
    let (_folder, unit) = file();
    let hosts = [Host::new(&unit, 1), Host::new(&unit, 2), Host::new(&unit, 3)];
    for (host, key) in hosts.iter().zip(1..) {
        good(host.send(&request::register(Key(0), Key(key), false)));
    }
    let Admission::Transfer(transfer) = admit(&hosts[0], &WRITE_BLOCK_8, 2 * BLOCK) else { panic!() };
    let mut abort = request::preempt(Key(2), Key(1), ReservationType(5));
    abort.cdb[1] = 5;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| hosts[1].send(&abort));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while good(hosts[2].raw(&[0x5E, 0, 0, 0, 0, 0, 0, 0, 64, 0], &[]))[7] != 16 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        good(hosts[2].send(&request::register(Key(3), Key(33), false)));
        assert!(!waiting.is_finished(), "what was admitted is on the medium still");
        good(transfer.end(&Ok(())));
        good(waiting.join().unwrap());
    });
    assert_eq!(refused(&hosts[0].raw(&[0; 6], &[])).0, SenseKey::UNIT_ATTENTION);
}

#[test]
fn a_file_that_has_grown_is_told_of_to_every_nexus() {
    let (folder, unit) = file();
    let hosts = [Host::new(&unit, 1), Host::new(&unit, 2)];
    assert!(!unit.measure().unwrap());
    let file = OpenOptions::new().write(true).open(folder.path().join("lun")).unwrap();
    file.set_len(2 << 20).unwrap();
    assert!(unit.measure().unwrap());
    for host in &hosts {
        let told = refused(&host.raw(&[0; 6], &[]));
        assert_eq!(told, (SenseKey::UNIT_ATTENTION, AdditionalSense::CAPACITY_CHANGED));
        assert_eq!(good(host.raw(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]))[..4], 4095_u32.to_be_bytes());
        host.write(4095, &[1; BLOCK]);
    }
    file.set_len(1 << 20).unwrap();
    unit.measure().unwrap_err();
    assert_eq!(good(hosts[0].raw(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]))[..4], 4095_u32.to_be_bytes());
}
