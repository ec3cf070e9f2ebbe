//! `tenure demo`: every type, every profile, every method, and what the document and the time-line must tell.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use lab::tenure::{Ran, Tenure};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

const TYPES: [&str; 6] = ["1", "3", "5", "6", "7", "8"];

fn demo(args: &[&str]) -> Ran {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    tenure.run(&[&["demo"], args].concat()).unwrap()
}

fn passes(args: &[&str]) -> serde_json::Value {
    let ran = demo(&[args, &["--json"]].concat());
    assert_eq!(ran.exit, 0, "{args:?}: {ran:?}");
    let document = ran.json().unwrap();
    assert_eq!((&document["schema"], &document["verdict"]), (&json!(1), &json!("pass")), "{document}");
    document
}

#[test]
fn every_type_passes_within_five_seconds() {
    for kind in TYPES {
        let started = Instant::now();
        let document = passes(&["--type", kind]);
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(document["type"].to_string(), kind);
        let pause = document["pause"]["round_trips"].as_u64().unwrap();
        assert_eq!(pause, 4, "the pause took {pause} round trips");
        assert!(document["observer"]["looks"].as_u64().unwrap() >= 50, "{document}");
        assert!(!document["commands"].as_array().unwrap().is_empty());
        let phases: Vec<_> =
            document["timeline"].as_array().unwrap().iter().map(|span| &span["phase"]).collect();
        assert_eq!(phases[..5], ["plan", "prepare", "freeze", "take", "verify"]);
    }
}

#[test]
fn every_profile_passes() {
    for profile in ["spc", "keep-self", "lio", "scst", "tgt", "spdk", "comstar", "ctl"] {
        for kind in TYPES {
            passes(&["--profile", profile, "--type", kind]);
        }
    }
}

#[test]
fn every_method_passes_and_is_the_one_that_was_asked_for() {
    let methods = ["identity", "register-and-move", "preempt-own-key", "source-nonce", "destination-nonce"];
    for (method, kind) in methods.map(|method| (method, "5")).into_iter().chain([("make-before-break", "7")])
    {
        let document = passes(&["--method", method, "--type", kind]);
        assert_eq!(document["method"], json!(method));
        let source = if method == "identity" { "no session" } else { "rejected" };
        assert_eq!(document["source"], json!(source));
    }
}

#[test]
fn a_method_that_does_not_fit_shows_that_it_is_refused() {
    let ran = demo(&["--method", "make-before-break", "--json"]);
    let document = ran.json().unwrap();
    assert_eq!(
        (ran.exit, &document["verdict"], &document["handover"]),
        (4, &json!("fail"), &json!("refused"))
    );
}

#[test]
fn the_time_line_is_plain_text_where_nobody_watches() {
    let ran = demo(&[]);
    assert_eq!((ran.exit, ran.err.as_str()), (0, ""));
    assert!(!ran.out.contains('\u{1b}'), "{}", ran.out);
    for word in
        ["the guest pauses on alpha", "the guest runs on beta", "round trips", "RESERVATION CONFLICT", "PASS"]
    {
        assert!(ran.out.contains(word), "{word} is missing:\n{}", ran.out);
    }
}
