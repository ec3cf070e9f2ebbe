//! What a document keeps, which ones are refused, and what an interrupted export leaves.

use super::*;
use handover::Tracked;
use ledger::{Intended, Ledger, Owner, PathId};
use proptest::prelude::*;
use scsi::TransportId;
use scsi::pr::{Key, OutAction, ReservationType};
use std::time::Duration;

const ID: HandoverId = HandoverId(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF);
const GOLDEN: &str = include_str!("golden-1.txt");

fn lun(number: u8) -> LunId {
    LunId(format!("naa.6{number:03}"))
}

fn path() -> PathId {
    PathId("iqn.2026-11.test:a,i,0x800000000001 port 1".into())
}

fn tracked() -> Tracked {
    Tracked { key: Some(Key(0x10)), held: Some(ReservationType(5)), aptpl: true, all_target_ports: false }
}

fn guest(state: &tempfile::TempDir) -> Guest {
    let guest = Ledger::open(state.path()).unwrap().guest(&Owner("db".into())).unwrap();
    let commit =
        |number| (lun(number), Change::Commit { path: path(), tracked: tracked(), generation: Some(9) });
    guest.append(&[commit(1), commit(2)]).unwrap();
    let owed = Change::Owed { path: path(), sense: Some(vec![0x70, 0, 6]) };
    let fenced = Change::State { state: State::Fenced, handover: None, why: None };
    let nothing = Change::Commit { path: path(), tracked: Tracked::default(), generation: None };
    guest.append(&[(lun(1), owed), (lun(2), nothing), (lun(2), fenced)]).unwrap();
    guest
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn states(guest: &Guest) -> Vec<State> {
    guest.refresh().unwrap();
    guest.records().iter().map(|record| record.state).collect()
}

#[test]
fn the_document_of_version_1_is_read_and_written_as_ever() {
    let state = tempfile::tempdir().unwrap();
    let guest = guest(&state);
    let export = Export::begin(&guest, ID, soon()).unwrap();
    let document = export.document();
    assert_eq!(document.to_text(), GOLDEN);
    assert_eq!(Document::parse(GOLDEN).as_ref(), Ok(&document));
    assert_eq!(
        document.luns[0].ports,
        ["iqn.2026-11.test:a,i,0x800000000001".parse::<TransportId>().unwrap()]
    );
}

#[test]
fn a_newer_a_damaged_and_a_cut_document_are_refused() {
    let newer = GOLDEN.replacen("guest 1", "guest 2", 1);
    assert!(matches!(Document::parse(&newer), Err(Flaw::Newer(_))));
    let again = |json: &str| format!("tenure-guest 1\n{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    let json = GOLDEN.lines().nth(1).unwrap().split_once(' ').unwrap().1;
    assert!(Document::parse(&again(json)).is_ok());
    for strange in [json.replacen("\"vm\"", "\"more\":1,\"vm\"", 1), json.replacen("fenced", "asleep", 1)] {
        assert!(matches!(Document::parse(&again(&strange)), Err(Flaw::Newer(_))), "{strange}");
    }
    for at in 0..GOLDEN.len() {
        assert!(matches!(Document::parse(&GOLDEN[..at]), Err(Flaw::Damaged(_) | Flaw::Newer(_))), "{at}");
    }
}

proptest! {
    #[test]
    fn one_wrong_character_is_noticed(at in 0..GOLDEN.len(), byte in 0x20_u8..0x7F) {
        let mut bytes = GOLDEN.as_bytes().to_vec();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(Document::parse(&String::from_utf8(bytes).unwrap()).is_err());
    }

    #[test]
    fn no_bytes_are_too_strange(text in ".{0,200}") {
        let _ = Document::parse(&text);
        let _ = Document::parse(&format!("tenure-guest 1\n{text}\n"));
    }
}

#[test]
fn an_exported_guest_is_gone_from_this_host_and_is_not_exported_twice() {
    let state = tempfile::tempdir().unwrap();
    let guest = guest(&state);
    Export::begin(&guest, ID, soon()).unwrap().finish().unwrap();
    assert_eq!(states(&guest), [State::Moved, State::Moved]);
    let again = Export::begin(&guest, HandoverId(2), soon());
    assert!(matches!(again, Err(Error::NotHere { state: State::Moved, .. })), "{again:?}");
}

#[test]
fn an_export_that_was_interrupted_goes_on_and_one_that_fails_changes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let guest = guest(&state);
    drop(Export::begin(&guest, ID, soon()).unwrap());
    assert_eq!(states(&guest), [State::Handover, State::Handover]);
    let again = Export::begin(&guest, HandoverId(2), soon()).unwrap();
    assert_eq!(again.document().to_text(), GOLDEN, "it is the same export");
    again.give_up().unwrap();
    assert_eq!(states(&guest), [State::Active, State::Fenced]);
}

#[test]
fn a_guest_with_a_command_or_a_handover_under_way_is_not_exported() {
    let state = tempfile::tempdir().unwrap();
    let guest = guest(&state);
    let command = guest.share(&lun(2), soon()).unwrap();
    assert!(matches!(Export::begin(&guest, ID, Instant::now()), Err(Error::Ledger(_))));
    drop(command);
    assert_eq!(states(&guest), [State::Active, State::Fenced], "nothing is left of the attempt");
    let handover = Change::State { state: State::Handover, handover: Some(HandoverId(3)), why: None };
    guest.append(&[(lun(1), handover)]).unwrap();
    let refused = Export::begin(&guest, ID, soon());
    assert!(matches!(refused, Err(Error::NotHere { state: State::Handover, .. })), "{refused:?}");
}

#[test]
fn what_nobody_is_sure_of_is_not_exported() {
    let state = tempfile::tempdir().unwrap();
    let guest = guest(&state);
    let intended = Intended {
        action: OutAction::REGISTER,
        kind: ReservationType(0),
        reservation_key: Key(0x10),
        service_action_key: Key(0x20),
        aptpl: false,
        all_target_ports: false,
        unregister: false,
    };
    guest.append(&[(lun(1), Change::Intent { path: path(), intended })]).unwrap();
    assert!(matches!(Export::begin(&guest, ID, soon()), Err(Error::Unverified(of)) if of == lun(1)));
    assert_eq!(states(&guest), [State::Active, State::Fenced]);
}
