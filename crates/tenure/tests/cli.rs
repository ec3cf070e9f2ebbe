//! `tenure` as a program: help, exit statuses, output, and `tenure pr` on a target of its own.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use lab::served::Served;
use lab::tenure::{Ran, Tenure};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

fn run(args: &[&str]) -> Ran {
    tenure().run(args).unwrap()
}

/// `tenure pr VERB DEVICE … --json`.
fn pr(args: &[&str]) -> (i32, Value) {
    let ran = run(&[&["-q", "pr"], args, &["--json"]].concat());
    (ran.exit, ran.json().unwrap())
}

fn good(args: &[&str]) {
    let (exit, document) = pr(args);
    assert_eq!((exit, &document["status"]), (0, &json!("GOOD")), "{args:?}: {document}");
}

/// A target with one LUN, and three initiators with keys 0xa, 0xb and 0xc.
fn three() -> (Served, [String; 3]) {
    let served = tenure().target(&["memory=1M"]).unwrap();
    let devices = ["a", "b", "c"].map(|name| served.device(0, name));
    for (device, key) in devices.iter().zip(["a", "b", "c"]) {
        good(&["register", device, "--new-key", key]);
    }
    (served, devices)
}

#[test]
fn help_is_as_it_was() {
    let mut pages = vec![vec!["--help"], vec!["-h"]];
    pages.extend(
        ["demo", "pr", "target", "device", "handover", "status", "doctor"]
            .map(|command| vec![command, "--help"]),
    );
    pages
        .extend(["read-keys", "register", "preempt", "register-move"].map(|verb| vec!["pr", verb, "--help"]));
    pages.push(vec!["handover", "run", "--help"]);
    for page in pages {
        let ran = run(&page);
        assert_eq!((ran.exit, ran.err.as_str()), (0, ""), "{page:?}");
        insta::assert_snapshot!(page.join("_").replace("--", ""), ran.out);
    }
}

#[test]
fn version_names_the_program() {
    let ran = run(&["--version"]);
    assert_eq!((ran.exit, ran.out.trim()), (0, concat!("tenure ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn nonsense_is_a_usage_error_on_standard_error() {
    let cases: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["pr", "read-keys"],
        &["pr", "read-keys", "sda"],
        &["pr", "reserve", "/dev/null", "--key", "xyz", "--type", "5"],
        &["demo", "--type", "2"],
        &["demo", "--method", "naive"],
        &["demo", "--profile", "nonesuch"],
        &["target", "--listen", "127.0.0.1:0", "--target", "iqn.2026-11.example:t", "--lun", "memory=0"],
        &["target", "--listen", "nonsense", "--target", "iqn.2026-11.example:t", "--lun", "memory=1M"],
        &["handover", "run", "--from", "/dev/null"],
    ];
    for args in cases {
        let ran = run(args);
        assert_eq!((ran.exit, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}

#[test]
fn what_cannot_be_reached_is_a_failure_that_names_it() {
    let url = "iscsi://127.0.0.1:1/iqn.2026-11.example:t/0";
    for device in [url, "/nowhere/sg0", "/dev/null"] {
        let ran = run(&["pr", "read-keys", device]);
        assert_eq!(ran.exit, 1, "{device}: {ran:?}");
        assert!(ran.err.contains(device) && ran.out.is_empty(), "{ran:?}");
    }
}

#[test]
fn a_failure_is_one_json_document_too() {
    let (nowhere, state) = ("iscsi://127.0.0.1:1/iqn.2026-11.example:x/0", "/dev/null/state");
    let cases: [(&[&str], i32, &str); 4] = [
        (&["pr", "read-keys", nowhere], 1, nowhere),
        (&["pr", "clear", nowhere, "--key", "a"], 4, "--yes"),
        (&["handover", "run", "--from", nowhere, "--to", nowhere, "--state", state], 1, state),
        (&["demo", "--profile", "none"], 2, "--profile"),
    ];
    for (args, exit, word) in cases {
        let ran = run(&[args, &["--json"]].concat());
        let document = ran.json().unwrap();
        assert_eq!(
            (ran.exit, &document["exit"], &document["schema"]),
            (exit, &json!(exit), &json!(1)),
            "{ran:?}"
        );
        assert!(document["error"].as_str().unwrap().contains(word) && ran.err.contains(word), "{ran:?}");
    }
}

#[test]
fn what_can_fence_somebody_needs_a_yes() {
    let (_served, [a, ..]) = three();
    let cases: [&[&str]; 3] = [
        &["clear", &a, "--key", "a"],
        &["preempt", &a, "--key", "a", "--victim", "b", "--type", "5"],
        &["preempt-abort", &a, "--key", "a", "--victim", "b", "--type", "5"],
    ];
    for args in cases {
        let ran = run(&[&["pr"], args].concat());
        assert_eq!(ran.exit, 4, "{ran:?}");
        assert!(ran.err.contains("--yes"), "{ran:?}");
    }
    let (_, document) = pr(&["read-keys", &a]);
    assert_eq!(document["keys"].as_array().unwrap().len(), 3);
    good(&["clear", &a, "--key", "a", "--yes"]);
}

#[test]
fn every_verb_has_its_document() {
    let (_served, [a, b, _]) = three();
    good(&["register-ignore", &b, "--new-key", "bb", "--aptpl"]);
    good(&["reserve", &a, "--key", "a", "--type", "we-ro"]);
    let (_, keys) = pr(&["read-keys", &a]);
    assert_eq!((&keys["schema"], &keys["prgeneration"]), (&json!(1), &json!(4)));
    let listed = ["0x000000000000000a", "0x00000000000000bb", "0x000000000000000c"];
    assert_eq!(keys["keys"], json!(listed));
    let (_, held) = pr(&["read-reservation", &b]);
    assert_eq!(held["reservation"], json!({"key": "0x000000000000000a", "scope": 0, "type": 5}));
    let (_, status) = pr(&["read-full-status", &b]);
    let first = &status["registrations"][0];
    assert_eq!((&first["holder"], &first["type"]), (&json!(true), &json!(5)));
    assert!(first["initiator_port"].as_str().unwrap().starts_with("iqn.2026-11.example.tenure:a,i,0x80000"));
    let (_, capabilities) = pr(&["report-capabilities", &b]);
    assert_eq!(capabilities["capabilities"]["types"], json!([1, 3, 5, 6, 7, 8]));
    assert_eq!(capabilities["capabilities"]["persist_through_power_loss_capable"], json!(true));
    good(&["release", &a, "--key", "a", "--type", "5"]);
    let (_, none) = pr(&["read-reservation", &b]);
    assert_eq!(none["reservation"], Value::Null);
}

#[test]
fn preempt_and_register_move_take_the_reservation_along() {
    let (_served, [a, b, c]) = three();
    good(&["reserve", &a, "--key", "a", "--type", "5"]);
    good(&["preempt", &b, "--key", "b", "--victim", "a", "--type", "5", "--yes"]);
    let (_, held) = pr(&["read-reservation", &c]);
    assert_eq!(held["reservation"]["key"], json!("0x000000000000000b"));
    let port = c.split_once("initiator=").unwrap().1.replace("&isid=", ",i,0x");
    good(&["register-move", &b, "--key", "b", "--new-key", "c", "--initiator-port", &port, "--unregister"]);
    let (_, held) = pr(&["read-reservation", &c]);
    assert_eq!(held["reservation"]["key"], json!("0x000000000000000c"));
}

#[test]
fn a_reservation_conflict_is_exit_3_and_a_rejection_exit_1_with_its_field() {
    let (_served, [a, b, _]) = three();
    good(&["reserve", &a, "--key", "a", "--type", "1"]);
    let (exit, conflict) = pr(&["reserve", &b, "--key", "b", "--type", "1"]);
    assert_eq!((exit, &conflict["status"]), (3, &json!("RESERVATION CONFLICT")));
    let (exit, rejected) = pr(&["reserve", &a, "--key", "a", "--type", "2"]);
    assert_eq!((exit, &rejected["sense"]["key"]), (1, &json!(5)), "{rejected}");
    let (exit, rejected) = pr(&["release", &a, "--key", "a", "--type", "5"]);
    assert_eq!((exit, &rejected["sense"]["asc"], &rejected["sense"]["ascq"]), (1, &json!(0x26), &json!(4)));
}

#[test]
fn a_unit_attention_is_reported_and_the_command_sent_again() {
    let (_served, [a, b, _]) = three();
    good(&["clear", &a, "--key", "a", "--yes"]);
    let ran = run(&["pr", "register", &b, "--new-key", "b", "--json"]);
    assert_eq!(ran.exit, 0, "{ran:?}");
    let document = ran.json().unwrap();
    let codes: Vec<_> =
        document["unit_attentions"].as_array().unwrap().iter().map(|sense| &sense["asc"]).collect();
    assert!(codes.contains(&&json!(0x2A)), "{document}");
    assert!(ran.err.contains("sent again"), "{ran:?}");
    good(&["clear", &b, "--key", "b", "--yes"]);
}

#[test]
fn without_retries_a_unit_attention_is_the_answer() {
    let (_served, [a, b, _]) = three();
    good(&["clear", &a, "--key", "a", "--yes"]);
    let (exit, document) = pr(&["register", &b, "--new-key", "b", "--retries", "0"]);
    assert_eq!((exit, &document["sense"]["key"]), (1, &json!(6)), "{document}");
}

#[test]
fn text_output_is_as_it_was() {
    let (_served, [a, b, _]) = three();
    good(&["reserve", &a, "--key", "a", "--type", "5"]);
    for verb in ["read-keys", "read-reservation", "read-full-status", "report-capabilities"] {
        let ran = run(&["pr", verb, &b]);
        assert_eq!((ran.exit, ran.err.as_str()), (0, ""));
        insta::assert_snapshot!(format!("text_{verb}"), ran.out);
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let (_served, [a, ..]) = three();
    let mut child = tenure()
        .command(&["pr", "read-keys", &a])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}
