//! The units that are shipped: how exposed systemd finds them, and that they agree with the program and each other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod support;

use clap::CommandFactory;
use pr_helper::daemon::CommandLine;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SERVICES: [&str; 2] = ["tenure-pr-helper.service", "tenure-pr-helper@.service"];
/// Tenths, as systemd counts in `--threshold`.
const EXPOSURE_MAX: u32 = 25;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd").join(name)
}

/// The settings of one section, in order of their text; comments aside.
fn settings(name: &str, section: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(shipped(name)).unwrap();
    let body = text.split(&format!("[{section}]\n")).nth(1).unwrap();
    let lines = body.lines().take_while(|line| !line.starts_with('['));
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// `systemd-analyze security --offline=true` with this unit, from a directory where it is the only one.
fn analyze(unit: &Path, threshold: u32) -> Option<std::process::Output> {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager", &format!("--threshold={threshold}")]);
    match command.arg(unit).output() {
        Ok(output) => Some(output),
        Err(error) => {
            support::skipped(&format!(
                "systemd-analyze cannot be run ({error}); it is in the package systemd"
            ));
            None
        }
    }
}

#[test]
fn exposure_is_at_most_two_and_a_half() {
    for service in SERVICES {
        let Some(output) = analyze(&shipped(service), EXPOSURE_MAX) else { return };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("Overall exposure level"), "{said}{complaints}");
        assert!(output.status.success(), "{said}{complaints}");
        assert_eq!(complaints, "", "systemd understands every line of {service}");
    }
}

#[test]
fn the_threshold_is_looked_at_by_systemd() {
    let Some(output) = analyze(&shipped(SERVICES[0]), 1) else { return };
    assert!(!output.status.success(), "no service reaches 0.1");
}

#[test]
fn the_instance_differs_from_the_shared_service_only_in_whose_record_it_keeps() {
    let [shared, instance] = SERVICES.map(|service| settings(service, "Service"));
    let only_there: Vec<_> = instance.difference(&shared).collect();
    let [own_options, exec] = only_there[..] else { panic!("{only_there:?}") };
    assert_eq!(own_options, "EnvironmentFile=-/etc/default/tenure-pr-helper-%i");
    assert!(shared.contains(&exec.replace(" --vm %i", "")), "{exec}");
}

/// `%I` would make of the instance `db-1` the guest `db/1`, which is in no policy.
#[test]
fn a_guest_is_called_as_its_instance_is() {
    for unit in ["tenure-pr-helper@.service", "tenure-pr-helper@.socket"] {
        assert!(!fs::read_to_string(shipped(unit)).unwrap().contains("%I"), "{unit}");
    }
}

#[test]
fn sockets_for_metrics_and_the_agent_can_be_made_where_tmpfiles_makes_their_directories() {
    let tmpfiles = fs::read_to_string(shipped("tenure.tmpfiles.conf")).unwrap();
    assert!(tmpfiles.contains("\nd /run/tenure/agents 0755 root root -"));
    for service in SERVICES {
        assert!(settings(service, "Service").contains("ReadWritePaths=-/run/tenure"), "{service}");
    }
}

#[test]
fn the_program_takes_the_options_that_the_units_give_it() {
    for service in SERVICES {
        let settings = settings(service, "Service");
        assert!(settings.contains("Type=notify"), "systemd waits until it serves");
        let exec = settings.iter().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).unwrap();
        let words = exec.split(' ').filter(|word| !word.starts_with("$TENURE"));
        let taken = CommandLine::command().try_get_matches_from(words);
        assert!(taken.is_ok(), "{service}: {}", taken.unwrap_err());
    }
}

#[test]
fn raw_io_stays_because_nothing_else_lets_reservations_through() {
    for service in SERVICES {
        let settings = settings(service, "Service");
        assert!(settings.contains("CapabilityBoundingSet=CAP_SYS_RAWIO"));
        // Each of these would take CAP_SYS_RAWIO, or its meaning, away.
        for harmful in ["PrivateDevices", "PrivateUsers", "DynamicUser"] {
            assert!(!settings.iter().any(|line| line.starts_with(harmful)), "{service}: {harmful}");
        }
    }
}

#[test]
fn sockets_lie_in_the_directory_that_tmpfiles_makes_and_are_for_the_group_that_sysusers_makes() {
    let tmpfiles = fs::read_to_string(shipped("tenure.tmpfiles.conf")).unwrap();
    let sysusers = fs::read_to_string(shipped("tenure.sysusers.conf")).unwrap();
    assert!(tmpfiles.contains("d /run/tenure ") && tmpfiles.contains("d /var/lib/tenure 0700 root root"));
    assert!(sysusers.contains("\ng tenure -"));
    for socket in ["tenure-pr-helper.socket", "tenure-pr-helper@.socket"] {
        let settings = settings(socket, "Socket");
        assert!(settings.contains("SocketGroup=tenure") && settings.contains("SocketMode=0660"));
        assert!(settings.iter().any(|line| line.starts_with("ListenStream=/run/tenure/")));
    }
}
