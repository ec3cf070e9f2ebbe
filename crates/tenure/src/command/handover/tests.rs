//! How verdicts become exit statuses and documents.

use super::report::{Report, exit_of};
use crate::exit::Exit;
use ::handover::plan::{PlannedCommand, Warning};
use ::handover::{Cause, Doubt, Method, Path, Phase, Plan, Reason, Role, Verdict};
use agent::drive::Record;
use scsi::pr::{Key, ReservationType, request};
use std::collections::BTreeMap;

fn plan() -> Plan {
    let command = request::register(Key(0), Key(0xA), false);
    Plan {
        method: Method::SourceNonce,
        role: Role::Holder(ReservationType(5)),
        passed_over: vec![(Method::PreemptOwnKey, Reason::SenderNotKept)],
        warnings: vec![Warning::NonceWindow],
        commands: vec![PlannedCommand {
            phase: Phase::Freeze,
            path: Path::destination(0),
            words: "REGISTER 0x0 -> 0xa".into(),
            request: Some(command),
        }],
    }
}

#[test]
fn every_verdict_has_the_exit_status_of_the_manual() {
    let kept = Verdict::KeptAtSource { cause: Cause::Rejected, leftover: false };
    let cases = [
        (Verdict::Moved, Exit::Done),
        (kept, Exit::RolledBack),
        (Verdict::Refused(Reason::KeyShared), Exit::Refused),
        (Verdict::Fenced { nonce_left: false }, Exit::Fenced),
        (Verdict::Lost, Exit::Failed),
        (Verdict::InDoubt(Doubt::Mismatch), Exit::InDoubt),
    ];
    for (verdict, exit) in cases {
        assert_eq!(exit_of(&verdict), exit, "{verdict}");
    }
}

#[test]
fn a_plan_gives_the_exact_bytes_and_to_whom() {
    let names = BTreeMap::from([(Path::destination(0), "/dev/sg3".to_owned())]);
    let report = Report::planned(&names, Some(&plan()), None, &Record::default());
    let document = serde_json::to_value(report.document()).unwrap();
    assert_eq!((&document["schema"], &document["exit"]), (&1.into(), &0.into()));
    assert_eq!((&document["verdict"], &document["method"]), (&"ready".into(), &"source-nonce".into()));
    let command = &document["commands"][0];
    assert_eq!(command["device"], "/dev/sg3");
    assert_eq!(command["cdb"], "5f000000000000001800");
    assert_eq!(command["data"], "0000000000000000000000000000000a0000000000000000");
    let text = report.text();
    assert!(text.contains("not      preempt-own-key") && text.contains("5f0000"), "{text}");
}

#[test]
fn a_refusal_tells_the_reason_and_exits_4() {
    let mut record = Record::default();
    record.advice = Some("do that".into());
    let refused = Some(Verdict::Refused(Reason::KeyShared));
    let report = Report::planned(&BTreeMap::new(), None, refused, &record);
    let document = serde_json::to_value(report.document()).unwrap();
    assert_eq!((&document["verdict"], &document["exit"]), (&"refused".into(), &4.into()));
    assert!(document["reason"].as_str().unwrap().contains("shares the key"), "{document}");
    assert!(document["reason"].as_str().unwrap().ends_with("; do that"), "{document}");
    assert!(report.text().ends_with("; do that\n"), "{}", report.text());
    assert_eq!(report.exit(), Exit::Refused);
}

#[test]
fn a_run_that_did_not_move_has_no_pause_to_boast_of() {
    let verdict = Verdict::Fenced { nonce_left: false };
    let report = Report::ran(Some(&plan()), Some(Method::SourceNonce), verdict, &Record::default());
    let document = serde_json::to_value(report.document()).unwrap();
    assert!(document["pause"].is_null());
    assert_eq!(document["exit"], 6);
}
