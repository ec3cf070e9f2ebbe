//! What `tenure status` shows of a ledger, and what it says of one that it cannot show.

use super::*;
use crate::console::Verbosity;
use crate::console::tests::Kept;
use handover::Tracked;
use ledger::{Change, LunId, PathId, State};
use scsi::pr::{Key, ReservationType};
use std::fs;
use tempfile::TempDir;

/// What a run printed: exit status or reason, standard output, standard error.
fn run_on(state: &Path, vm: Option<&str>, json: bool) -> (Result<Exit, String>, String, String) {
    let (out, err) = (Kept::default(), Kept::default());
    let mut console = Console::new(Box::new(out.clone()), Box::new(err.clone()), Verbosity::Normal);
    let args = StatusArgs { state: state.to_owned(), vm: vm.map(str::to_owned), json };
    let ran = run(&args, &mut console).map_err(|failure| failure.to_string());
    (ran, out.text(), err.text())
}

fn commit(key: u64, held: Option<u8>) -> Change {
    let key = (key != 0).then_some(Key(key));
    let tracked = Tracked { key, held: held.map(ReservationType), aptpl: true, all_target_ports: false };
    Change::Commit { path: PathId("p".into()), tracked, generation: Some(7) }
}

/// A guest for each role, and one that was fenced.
fn host() -> TempDir {
    let state = TempDir::new().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    let write = |vm: &str, changes: &[Change]| {
        let changes: Vec<_> = changes.iter().map(|change| (LunId("naa.6".into()), change.clone())).collect();
        ledger.guest(&Owner(vm.into())).unwrap().append(&changes).unwrap();
    };
    write("a", &[commit(0xa, Some(5))]);
    write("b", &[commit(0xb, None), Change::Reservation { kind: Some(ReservationType(5)) }]);
    write("c", &[commit(0xc, None)]);
    write("d", &[commit(0xd, Some(8))]);
    let fenced = Change::State { state: State::Fenced, handover: None, why: Some("2A/05".into()) };
    write("e", &[commit(0, None), fenced]);
    state
}

#[test]
fn the_table_shows_every_role() {
    let (ran, out, err) = run_on(host().path(), None, false);
    assert_eq!((ran, err.as_str()), (Ok(Exit::Done), ""));
    insta::assert_snapshot!(out, @r"
    VM  LUN    KEY                 ROLE             TYPE  APTPL  PRGENERATION  STATE
    a   naa.6  0x000000000000000a  holder           5     yes    7             active
    b   naa.6  0x000000000000000b  member           5     yes    7             active
    c   naa.6  0x000000000000000c  registrant-only  -     yes    7             active
    d   naa.6  0x000000000000000d  all-registrants  8     yes    7             active
    e   naa.6  -                   unregistered     -     yes    7             fenced
    ");
}

#[test]
fn json_has_the_fields_of_the_interface() {
    let state = host();
    let (ran, out, _) = run_on(state.path(), Some("a"), true);
    assert_eq!(ran, Ok(Exit::Done));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!({"schema": 1, "errors": [], "records": [{
        "vm": "a", "lun": "naa.6", "key": "0x000000000000000a", "role": "holder", "type": 5, "aptpl": true,
        "prgeneration": 7, "state": "active", "why": null, "path": "p", "node": "",
    }]});
    assert_eq!(found, expected);
}

#[test]
fn a_missing_ledger_or_guest_says_what_to_do() {
    let state = host();
    let (ran, ..) = run_on(&state.path().join("none"), None, false);
    assert!(ran.unwrap_err().contains("--state"));
    let (ran, out, err) = run_on(state.path(), Some("nobody"), false);
    assert_eq!((ran, out.as_str()), (Ok(Exit::Failed), ""));
    assert!(err.contains("there is no ledger at") && err.contains("nobody"), "{err}");
}

#[test]
fn a_damaged_log_fails_the_command_and_hides_no_other_guest() {
    let state = host();
    fs::write(state.path().join("guests/b/log"), "garbage\n").unwrap();
    let (ran, out, err) = run_on(state.path(), None, false);
    assert_eq!((ran, out.lines().count()), (Ok(Exit::Failed), 5));
    assert!(err.contains("guests/b/log is damaged") && err.contains("restore it"), "{err}");
    let (_, out, _) = run_on(state.path(), None, true);
    assert!(out.contains("\"errors\":[\"") && out.lines().count() == 1, "{out}");
}

#[test]
fn a_name_cannot_move_the_cursor() {
    assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
}
