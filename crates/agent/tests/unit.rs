//! The unit that is shipped: how exposed systemd finds it, and what it must say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tenths, as systemd counts in `--threshold`.
const EXPOSURE_MAX: &str = "20";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd/tenure-agent.service")
}

fn has(setting: &str) -> bool {
    fs::read_to_string(shipped()).unwrap().lines().any(|line| line == setting)
}

fn analyze(threshold: &str) -> Option<std::process::Output> {
    let threshold = format!("--threshold={threshold}");
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager", &threshold]).arg(shipped());
    let output = command.output();
    if let Err(error) = &output {
        eprintln!("skipped: systemd-analyze cannot be run ({error}); it is in the package systemd");
        assert!(std::env::var_os("TENURE_NO_SKIP").is_none(), "nothing may be skipped");
    }
    output.ok()
}

#[test]
fn exposure_is_at_most_two() {
    let Some(output) = analyze(EXPOSURE_MAX) else { return };
    let (said, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Overall exposure level") && output.status.success(), "{said}{complaints}");
    assert_eq!(complaints, "", "systemd understands every line");
    assert!(!analyze("1").unwrap().status.success(), "the threshold is looked at");
}

#[test]
fn the_agent_has_no_capability_and_systemd_waits_until_it_serves() {
    for setting in ["CapabilityBoundingSet=", "NoNewPrivileges=yes", "Type=notify", "StateDirectory=tenure"] {
        assert!(has(setting), "{setting}");
    }
    assert!(!fs::read_to_string(shipped()).unwrap().contains("\nUser="), "the ledger is root's");
}

#[test]
fn the_unit_reloads_by_the_signal_and_watches() {
    assert!(has("ExecReload=/bin/kill -HUP $MAINPID") && has("WatchdogSec=30"));
    assert!(has("ExecStart=/usr/bin/tenure agent"));
}
