//! Two agents hand a guest's logical units over: what that costs in round trips to the target while the guest stands still.
#![allow(clippy::unwrap_used, reason = "a test")]

use handover::Method;
use lab::agents::conduct;
use lab::tenure::Tenure;
use std::path::Path;

fn round_trips(luns: u16, method: Option<Method>) -> u32 {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = tenure.target(&vec!["memory=1M"; usize::from(luns)]).unwrap();
    let state = tempfile::TempDir::new().unwrap();
    conduct(&served, luns, state.path(), method).unwrap().round_trips()
}

#[test]
fn the_pause_of_one_logical_unit_takes_at_most_four_round_trips() {
    let trips = round_trips(1, None);
    assert!((1..=4).contains(&trips), "{trips}");
}

#[test]
fn the_pause_of_64_logical_units_takes_at_most_four_round_trips() {
    let trips = round_trips(64, None);
    assert!((1..=4).contains(&trips), "{trips}");
}

#[test]
fn a_nonce_takes_one_round_trip_more_for_64_logical_units_too() {
    let trips = round_trips(64, Some(Method::SourceNonce));
    assert!((1..=5).contains(&trips), "{trips}");
}
