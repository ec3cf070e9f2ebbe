//! The conflict table, cell by cell, and the gate against it.

use super::*;
use crate::profile::{LIO, SPC, SPDK, TGT};

/// Columns: Write Exclusive of another; Exclusive Access of another; sharing registrant; stranger to a
/// write-exclusive shared type; stranger to an exclusive shared type; SPC-2 reservation of another.
const ALWAYS: [bool; 6] = [true, true, true, true, true, false];
const EVEN_RESERVED: [bool; 6] = [true; 6];
const READ: [bool; 6] = [true, false, true, true, false, false];
const WRITE: [bool; 6] = [false, false, true, false, false, false];

const COLUMNS: [(Standing, usize); 8] = [
    (Standing::WRITE_EXCLUSIVE_REGISTRANT, 0),
    (Standing::WRITE_EXCLUSIVE_STRANGER, 0),
    (Standing::EXCLUSIVE_ACCESS_REGISTRANT, 1),
    (Standing::EXCLUSIVE_ACCESS_STRANGER, 1),
    (Standing::SHARED_REGISTRANT, 2),
    (Standing::SHARED_WRITE_STRANGER, 3),
    (Standing::SHARED_ACCESS_STRANGER, 4),
    (Standing::SPC2_STRANGER, 5),
];

fn check(profile: &Profile, cdb: &[u8], expected: [bool; 6]) {
    let access = profile.access.access(cdb);
    assert!(access.permits(Standing::FREE));
    for (standing, column) in COLUMNS {
        let name = profile.name;
        assert_eq!(access.permits(standing), expected[column], "{name}: {cdb:02x?} under {standing:?}");
    }
}

/// A CDB with its operation code and second byte.
fn cdb(code: u8, second: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (code, second);
    cdb
}

#[test]
fn every_command_of_the_standard_table() {
    let always = [(0x00, 0), (0x86, 0), (0x87, 0), (0x9E, 0x13), (0xAB, 0x01)];
    let even_reserved = [
        (0x4D, 0),
        (0x25, 0),
        (0x9E, 0x10),
        (0xA3, 0x05),
        (0xA3, 0x0A),
        (0xA3, 0x0B),
        (0xA3, 0x0E),
        (0xA3, 0x0F),
    ];
    let reads = [
        0x08, 0x28, 0xA8, 0x88, 0x2F, 0xAF, 0x8F, 0x34, 0x90, 0x37, 0xB7, 0x1A, 0x5A, 0x3C, 0x8C, 0x1C, 0xA2,
    ];
    let reads_by_action = [(0x9E, 0x12), (0xA3, 0x0C), (0xA3, 0x0D), (0xA3, 0x10)];
    let writes = [
        0x0A, 0x2A, 0xAA, 0x8A, 0x2E, 0xAE, 0x8E, 0x41, 0x93, 0x3F, 0x42, 0x89, 0x8B, 0x9C, 0x04, 0x48, 0x07,
        0x3E, 0x35, 0x91, 0x15, 0x55, 0x4C, 0x3B, 0x8D, 0x1D, 0x83, 0x84, 0xB5, 0xA4, 0x94, 0xC0, 0xFF, 0x1B,
    ];
    always.iter().for_each(|(code, action)| check(&SPC, &cdb(*code, *action), ALWAYS));
    even_reserved.iter().for_each(|(code, action)| check(&SPC, &cdb(*code, *action), EVEN_RESERVED));
    reads.iter().for_each(|code| check(&SPC, &cdb(*code, 0), READ));
    reads_by_action.iter().for_each(|(code, action)| check(&SPC, &cdb(*code, *action), READ));
    writes.iter().for_each(|code| check(&SPC, &cdb(*code, 0), WRITE));
    check(&SPC, &cdb(0x9E, 0x11), WRITE);
    check(&SPC, &[], WRITE);
}

#[test]
fn commands_that_differ_by_a_bit() {
    check(&SPC, &[0x1E, 0, 0, 0, 0, 0], EVEN_RESERVED);
    check(&SPC, &[0x1E, 0, 0, 0, 1, 0], WRITE);
    check(&SPC, &[0x1B, 0, 0, 0, 0x01, 0], ALWAYS);
    check(&SPC, &[0x1B, 0, 0, 0, 0x00, 0], WRITE);
    check(&SPC, &[0x1B, 0, 0, 0, 0x11, 0], WRITE);
    let variable = |action: u8| [0x7F, 0, 0, 0, 0, 0, 0, 24, 0, action];
    check(&SPC, &variable(0x09), READ);
    check(&SPC, &variable(0x0A), READ);
    check(&SPC, &variable(0x0B), WRITE);
}

#[test]
fn tables_of_other_targets() {
    check(&LIO, &cdb(0x25, 0), READ);
    check(&LIO, &cdb(0x9E, 0x10), READ);
    for code in [0x35, 0x91, 0x1B] {
        let access = LIO.access.access(&cdb(code, 0));
        assert!(access.permits(Standing::WRITE_EXCLUSIVE_STRANGER), "no data-out");
        assert!(access.permits(Standing::SHARED_WRITE_STRANGER));
        assert!(!access.permits(Standing::WRITE_EXCLUSIVE_REGISTRANT));
        assert!(!access.permits(Standing::EXCLUSIVE_ACCESS_STRANGER));
    }
    for code in [0x41, 0x93, 0x42, 0x04, 0x1D] {
        check(&TGT, &cdb(code, 0), ALWAYS);
    }
    for code in [0x2E, 0xAE, 0x8E, 0x8B] {
        check(&TGT, &cdb(code, 0), READ);
    }
    check(&TGT, &cdb(0x1A, 0), WRITE);
    check(&SPDK, &cdb(0xC0, 0), [false; 6]);
    check(&SPDK, &cdb(0xA3, 0x1F), [false; 6]);
    check(&SPDK, &cdb(0x1B, 0), ALWAYS);
    for standing in [Standing::WRITE_EXCLUSIVE_REGISTRANT, Standing::EXCLUSIVE_ACCESS_REGISTRANT] {
        assert!(SPDK.access.access(&cdb(0x15, 0)).permits(standing));
    }
    assert!(!SPDK.access.access(&cdb(0x15, 0)).permits(Standing::WRITE_EXCLUSIVE_STRANGER));
}

#[test]
fn rights_by_type_and_relation() {
    use Relation::{Holder, Registrant, Unregistered};
    for kind in ReservationType::ALL {
        assert!(verdict(Access::WRITE, kind, Holder) && verdict(Access::READ, kind, Holder));
        assert!(!verdict(Access::WRITE, kind, Unregistered));
        assert_eq!(verdict(Access::READ, kind, Unregistered), matches!(kind.0, 1 | 5 | 7), "{kind}");
        assert_eq!(verdict(Access::READ, kind, Registrant), kind.0 != 3, "{kind}");
        assert_eq!(verdict(Access::WRITE, kind, Registrant), kind.0 >= 5, "{kind}");
    }
}

#[test]
fn pr_out_table() {
    let rows = [
        (OutAction::REGISTER, true, true),
        (OutAction::REGISTER_AND_IGNORE, true, true),
        (OutAction::CLEAR, true, false),
        (OutAction::PREEMPT, true, false),
        (OutAction::PREEMPT_AND_ABORT, true, false),
        (OutAction::RELEASE, true, false),
        (OutAction::RESERVE, false, false),
        (OutAction::REGISTER_AND_MOVE, false, false),
        (OutAction::REPLACE_LOST, false, false),
    ];
    for (action, registrant, stranger) in rows {
        let kind = ReservationType::EXCLUSIVE_ACCESS;
        assert!(pr_out_verdict(action, kind, Relation::Holder));
        assert_eq!(pr_out_verdict(action, kind, Relation::Registrant), registrant, "{action}");
        assert_eq!(pr_out_verdict(action, kind, Relation::Unregistered), stranger, "{action}");
    }
}

#[test]
fn gate_decides_alone_unless_something_waits() {
    let gate = AccessGate::new(Standing::FREE);
    let (read, write, inquiry) = (cdb(0x28, 0), cdb(0x2A, 0), cdb(0x12, 0));
    assert_eq!(gate.decide(&SPC, &write), Decision::Execute);
    gate.set(Standing::WRITE_EXCLUSIVE_STRANGER);
    assert_eq!(gate.decide(&SPC, &read), Decision::Execute);
    assert_eq!(gate.decide(&SPC, &write), Decision::Conflict);
    gate.set(Standing::WRITE_EXCLUSIVE_STRANGER.consulting());
    assert_eq!(gate.decide(&SPC, &read), Decision::Consult);
    assert_eq!(gate.decide(&SPC, &inquiry), Decision::Execute);
    for code in [0x03, 0x5E, 0x5F, 0x16, 0x17, 0x56, 0x57] {
        assert_eq!(AccessGate::new(Standing::FREE).decide(&SPC, &cdb(code, 0)), Decision::Consult);
    }
}
