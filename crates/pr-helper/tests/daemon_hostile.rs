//! Hostile clients of the real program, with everything that stands behind its socket.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::fs;
use support::daemon::Place;
use support::hostile::{attack, held, stays_flat};
use support::*;

#[test]
fn hostile_clients_leave_the_real_program_flat() {
    let place = Place::new();
    let helper = place.serve(["-q"]);
    wait_until("the first client is gone", || held(helper.pid()).1 == 1);
    // Its deadline is half a minute: who stalls hangs up here.
    stays_flat(&helper.socket, helper.pid(), 50, 150, |path| drop(attack(path)));
    let audit = fs::metadata(place.records().join("audit.jsonl")).unwrap().len();
    assert!(audit < 1 << 20, "{audit} bytes of audit");
    let idle: Vec<_> = (0..500).map(|_| helper.client()).collect();
    assert!(helper.client().request(&pr_in(8), null()).is_some(), "there is room beside idle clients");
    drop(idle);
    helper.end();
}
