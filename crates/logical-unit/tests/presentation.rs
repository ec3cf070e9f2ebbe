//! A logical unit as its operator presents it: the bytes that `sg_inq`, `sg_vpd` and `sg_modes` show, and a medium that nobody writes to.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use logical_unit::snapshot::ResumeError;
use logical_unit::{Admission, LogicalUnit, LunSpec, Room};
use scsi::{AdditionalSense, Completion, Sense, SenseKey, Status};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::{Host, good, open};

const NAMED: &str = "serial=SER-1,wwn=0x5000c500a1b2c3d4";

/// A vital product data page.
fn page(host: &Host, code: u8) -> Vec<u8> {
    good(host.raw(&[0x12, 1, code, 0, 0xFF, 0], &[]))
}

/// With a file that nobody may write to.
fn spec(folder: &Path, more: &str) -> LunSpec {
    let disk = folder.join("disk");
    if !disk.exists() {
        std::fs::write(&disk, [7; 8192]).unwrap();
        std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(0o444)).unwrap();
    }
    format!("file={},{more}", disk.display()).parse().unwrap()
}

fn protected(ended: &Completion) -> bool {
    let sense = Sense::parse(&ended.sense);
    let told = sense.map(|sense| (sense.key, sense.code));
    ended.status == Status::CHECK_CONDITION
        && told == Some((SenseKey::DATA_PROTECT, AdditionalSense::WRITE_PROTECTED))
}

#[test]
fn a_serial_number_and_a_wwn_are_told_where_initiators_look_for_them() {
    let host = Host::new(&open(&format!("memory=1M,{NAMED}")), 1);
    assert_eq!(page(&host, 0x80), b"\0\x80\0\x05SER-1");
    let identification = page(&host, 0x83);
    let wanted = b"\x01\x03\0\x08\x50\0\xC5\0\xA1\xB2\xC3\xD4\x02\x01\0\x0DTENURE  SER-1";
    assert_eq!(&identification[4..4 + wanted.len()], wanted);
    assert_eq!(usize::from(identification[3]), identification.len() - 4);
    let long = Host::new(&open("memory=1M,wwn=600140512345678912345678912345ab"), 1);
    let wanted = b"\x01\x03\0\x10\x60\x01\x40\x51\x23\x45\x67\x89\x12\x34\x56\x78\x91\x23\x45\xAB";
    assert_eq!(&page(&long, 0x83)[4..4 + wanted.len()], wanted);
}

#[test]
fn only_the_names_that_were_given_are_others_than_the_medium_s() {
    let folder = tempfile::tempdir().unwrap();
    let pages = |more: &str| {
        let unit = LogicalUnit::open(&spec(folder.path(), more)).unwrap();
        let host = Host::new(&unit, 1);
        (page(&host, 0x80), page(&host, 0x83)[4..16].to_vec())
    };
    let plain = pages("readonly=on");
    let serial = pages("readonly=on,serial=a");
    assert_eq!((serial.0, &serial.1), (b"\0\x80\0\x01a".to_vec(), &plain.1));
    let wwn = pages("readonly=on,wwn=3000000000000001");
    assert_eq!((&wwn.0, &wwn.1[..]), (&plain.0, &b"\x01\x03\0\x08\x30\0\0\0\0\0\0\x01"[..]));
}

#[test]
fn a_read_only_medium_says_so_and_whatever_would_write_ends_with_write_protected() {
    let folder = tempfile::tempdir().unwrap();
    for more in ["readonly=on", "readonly=on,direct=on"] {
        let unit = LogicalUnit::open(&spec(folder.path(), more)).unwrap();
        let host = Host::new(&unit, 1);
        assert_eq!(good(host.raw(&[0x1A, 8, 0x0A, 0, 255, 0], &[]))[2] & 0x80, 0x80, "WP, MODE SENSE (6)");
        assert_eq!(good(host.raw(&[0x5A, 8, 0x0A, 0, 0, 0, 0, 0, 255, 0], &[]))[3] & 0x80, 0x80, "and (10)");
        let writes: [(&[u8], usize); 8] = [
            (&[0x0A, 0, 0, 0, 1, 0], 512),
            (&[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512),
            (&[0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], 512),
            (&[0x2E, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512),
            (&[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512),
            (&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], 1024),
            (&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24),
            (&[0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0], 0),
        ];
        for (cdb, length) in writes {
            let ended = host.raw(cdb, &vec![0; length]);
            assert!(protected(&ended), "{cdb:02X?}: {ended:?}");
        }
        let room = Room { data_out: 512, data_in: 0 };
        let admitted = unit.admit(&host.handle, host.begin(2), writes[1].0, room);
        assert!(matches!(admitted, Admission::Execute(_)), "a queue does not write either");
        drop(admitted);
        assert_eq!(host.read(0, 16), [7; 8192]);
        assert_eq!(
            good(host.raw(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])),
            [],
            "a flush has nothing to write"
        );
        assert_eq!(good(host.raw(&[0x2F, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[])), [], "VERIFY");
    }
    assert_eq!(std::fs::read(folder.path().join("disk")).unwrap(), [7; 8192]);
}

#[test]
fn a_reservation_of_a_read_only_medium_is_kept_like_any_other() {
    use scsi::pr::{Key, request};
    let folder = tempfile::tempdir().unwrap();
    let unit = LogicalUnit::open(&spec(folder.path(), "readonly=on")).unwrap();
    let host = Host::new(&unit, 1);
    good(host.send(&request::register(Key::NONE, Key(1), true)));
    drop((host, unit));
    let host = Host::new(&LogicalUnit::open(&spec(folder.path(), "readonly=on")).unwrap(), 1);
    let _power_on = host.raw(&[0; 6], &[]);
    good(host.send(&request::register(Key(1), Key(1), true)));
}

#[test]
fn a_guest_that_arrives_finds_its_disk_presented_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let given = spec(folder.path(), &format!("readonly=on,{NAMED}"));
    let snapshot = LogicalUnit::open(&given).unwrap().snapshot().unwrap();
    assert!(LogicalUnit::resume(&given, &snapshot).is_ok());
    for (more, wrong) in [
        (NAMED.to_owned(), "readonly"),
        ("readonly=on,wwn=5000c500a1b2c3d4".to_owned(), "serial"),
        ("readonly=on,serial=SER-1,wwn=5000c500a1b2c3d5".to_owned(), "wwn"),
    ] {
        let resumed = LogicalUnit::resume(&spec(folder.path(), &more), &snapshot);
        assert!(matches!(resumed, Err(ResumeError::Presentation { part, .. }) if part == wrong), "{more}");
    }
}
