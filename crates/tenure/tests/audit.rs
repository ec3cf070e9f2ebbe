//! `tenure audit` as a program, on an audit written before it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use lab::tenure::{Ran, Tenure};
use std::path::Path;

const LINES: &str = concat!(
    r#"{"schema":1,"at":1000,"vm":"db","uid":0,"name":"q","action":"CLEAR","status":"GOOD","took_us":1,"new":[]}"#,
    "\n{\"torn\n",
    r#"{"schema":1,"at":4102444800000,"vm":"web","uid":0,"name":"q","action":"RESERVE","status":"GOOD","took_us":1}"#,
    "\n"
);

fn audit(args: &[&str]) -> Ran {
    let state = tempfile::tempdir().unwrap();
    let guest = state.path().join("guests/db");
    std::fs::create_dir_all(&guest).unwrap();
    std::fs::write(guest.join("audit.jsonl"), LINES).unwrap();
    let state = ["audit", "--state", state.path().to_str().unwrap()];
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure"))).run(&[&state, args].concat()).unwrap()
}

/// The guests whose events are shown.
fn shown(args: &[&str]) -> Vec<String> {
    let document = audit(&[args, &["--json"]].concat()).json().unwrap();
    assert_eq!(document["schema"], 1);
    let events = document["events"].as_array().unwrap();
    events.iter().map(|event| event["vm"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn events_are_chosen_by_guest_and_age_and_a_damaged_line_hides_none() {
    assert_eq!(shown(&[]), ["db", "web"]);
    assert_eq!(shown(&["--vm", "db"]), ["db"]);
    assert_eq!(shown(&["--since", "7d"]), ["web"]);
    assert_eq!(audit(&[]).exit, 0);
}

#[test]
fn one_guests_damage_hides_no_other_and_is_a_failure() {
    let state = tempfile::tempdir().unwrap();
    let guests = state.path().join("guests");
    std::fs::create_dir_all(guests.join("bad/audit.jsonl")).unwrap();
    std::fs::create_dir_all(guests.join("db")).unwrap();
    std::fs::write(guests.join("db/audit.jsonl"), LINES).unwrap();
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let ran = tenure.run(&["audit", "--json", "--state", state.path().to_str().unwrap()]).unwrap();
    assert_eq!((ran.exit, ran.json().unwrap()["events"].as_array().unwrap().len()), (1, 2));
}

#[test]
fn no_state_directory_is_a_failure_and_a_wrong_age_is_usage() {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    assert_eq!(tenure.run(&["audit", "--state", "/nonexistent"]).unwrap().exit, 1);
    assert_eq!(audit(&["--since", "yesterday"]).exit, 2);
}
