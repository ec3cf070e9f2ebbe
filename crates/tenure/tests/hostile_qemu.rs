//! A guest's QEMU that lies, floods or stalls, at either host, in a whole migration between two agents: it ends with a reason, the
//! guest's registrations are where the guest is, it never runs twice, and an agent takes no memory for what it is sent.
#![allow(clippy::unwrap_used, reason = "a test")]

use agent::migrate::{Order, Report};
use lab::process::{DEADLINE, wait_for};
use lab::served::Served;
use lab::stage::{Disk, Guest, Host, Life, Qemus, Stage, be_a_qemu, has_key, insist};
use lab::tenure::Tenure;
use qmp::qemu::RunState;
use scsi::Status;
use scsi::pr::{Key, ReservationType, request};
use std::fs;
use std::path::Path;
use std::thread;

const KEY: Key = Key(0x4b);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
/// Of what an agent may have had in memory at any time.
const MOST_KIB: u64 = 64 << 10;

/// What is wrong with the QEMU of a host, and what comes of it: exit status, words, and where the registrations and the guest end.
struct Case(Host, &'static str, u8, &'static str, Host);

#[test]
#[ignore = "a process that the other tests start"]
fn a_scripted_qemu() {
    be_a_qemu().unwrap();
}

/// A guest that has registered and reserved on alpha, and runs there; on beta its QEMU waits. One of the two has a fault.
fn set(host: Host, fault: &str) -> (Served, Stage) {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = tenure.target(&["memory=64K"]).unwrap();
    let guest = Guest::new("web", vec![Disk::of(&served, 0).with_key(KEY)]);
    let stage = Stage::open(&tenure, Qemus::OfThisTest("a_scripted_qemu"), vec![guest]).unwrap();
    for command in [request::register(Key::NONE, KEY, false), request::reserve(KEY, KIND)] {
        assert_eq!(insist(&device(&stage, Host::Alpha), &command).unwrap().status, Status::GOOD);
    }
    for (at, life) in [(Host::Alpha, Life::Runs), (Host::Beta, Life::Waits)] {
        let faults: &[&str] = if at == host { &["--fault", fault] } else { &[] };
        stage.start_qemu("web", at, life, faults).unwrap();
    }
    (served, stage)
}

fn device(stage: &Stage, host: Host) -> String {
    stage.guest("web").unwrap().disks.first().unwrap().at(host).to_owned()
}

fn migrate(stage: &Stage) -> Report {
    stage.order(Host::Alpha, &Order { wait: 1, ..Order::new("web", "beta") }).unwrap()
}

/// The most memory that an agent ever had.
fn peak(stage: &Stage, host: Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.agent_id(host).unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The registrations are at `host` alone, the guest runs nowhere else and never ran twice, and both agents live.
fn is_at(stage: &Stage, host: Host, what: &str) {
    for agent in Host::BOTH {
        assert!(peak(stage, agent) < MOST_KIB, "{} KiB: {what}", peak(stage, agent));
        assert!(stage.status("web", agent).is_ok(), "{agent:?}: {what}");
    }
    stage.ran_once("web").unwrap();
    let elsewhere = stage.run_state("web", host.other());
    assert!(!matches!(&elsewhere, Ok(Some(state)) if *state == RunState::RUNNING), "{elsewhere:?}: {what}");
    for agent in Host::BOTH {
        // Its own look would end the session under that name.
        stage.kill_agent(agent).unwrap();
    }
    let has = Host::BOTH.map(|at| has_key(&device(stage, at), KEY, false).unwrap());
    assert_eq!(has, Host::BOTH.map(|at| at == host), "{what}");
}

fn each_ends_as_told<const N: usize>(cases: [Case; N]) {
    thread::scope(|scope| {
        for Case(host, fault, exit, words, at) in cases {
            scope.spawn(move || {
                let (_served, stage) = set(host, fault);
                let report = migrate(&stage);
                let what = format!("{host:?}, {fault}: exit {}, {}", report.exit, report.reason);
                assert_eq!(report.exit, exit, "{what}");
                assert!(report.reason.contains(words), "{what}");
                is_at(&stage, at, &what);
            });
        }
    });
}

#[test]
fn a_run_state_that_nobody_knows_is_no_ground_to_run_a_guest() {
    each_ends_as_told([
        Case(
            Host::Alpha,
            "running=say:quantum",
            4,
            "it can be moved while it runs or is paused",
            Host::Alpha,
        ),
        Case(Host::Beta, "inmigrate=say:quantum", 4, "start it with -incoming defer and -S", Host::Alpha),
        // Sent whole, and not given away: it stands at beta.
        Case(Host::Alpha, "postmigrate=say:quantum", 7, "QEMU does not answer", Host::Beta),
    ]);
}

#[test]
fn a_migration_in_a_state_that_nobody_knows_is_waited_for_until_it_is_cancelled() {
    let (_served, stage) = set(Host::Alpha, "pre-switchover=say:quantum");
    let report = thread::scope(|scope| {
        let migrating = scope.spawn(|| migrate(&stage));
        let stands =
            || (stage.run_state("web", Host::Alpha).ok()?? == RunState::FINISH_MIGRATE).then_some(());
        wait_for(DEADLINE, stands).unwrap();
        stage.cancel("web", Host::Alpha).unwrap();
        migrating.join().unwrap()
    });
    assert_eq!((report.exit, report.reason.contains("cancelled")), (5, true), "{report:#?}");
    is_at(&stage, Host::Alpha, &report.reason);
}

#[test]
fn megabytes_cost_the_connection_and_no_memory() {
    let longer = "a message longer than";
    each_ends_as_told([
        Case(Host::Alpha, "answer:stop=bloat", 7, longer, Host::Alpha),
        Case(Host::Alpha, "answer:migrate-continue=bloat", 7, longer, Host::Beta),
        Case(Host::Beta, "answer:migrate-incoming=bloat", 5, longer, Host::Alpha),
        Case(Host::Beta, "answer:cont=bloat", 7, longer, Host::Beta),
        Case(Host::Alpha, "answer:migrate=flood", 7, longer, Host::Alpha),
        Case(Host::Beta, "answer:migrate-incoming=flood", 5, longer, Host::Alpha),
    ]);
}

#[test]
fn an_answer_to_a_command_that_nobody_gave_is_believed_in_nothing() {
    let nobody = "an answer that nobody asked for";
    each_ends_as_told([
        Case(Host::Alpha, "answer:stop=stray", 7, nobody, Host::Alpha),
        Case(Host::Beta, "answer:migrate-incoming=stray", 5, nobody, Host::Alpha),
        Case(Host::Beta, "answer:cont=stray", 7, nobody, Host::Beta),
    ]);
}

/// Twenty thousand times that the guest runs again; QEMU itself knows better, or it is not handed over.
#[test]
fn a_flood_of_events_lets_nobody_run_a_guest_twice() {
    for fault in [(Host::Alpha, "answer:migrate-continue=chatter"), (Host::Beta, "arrived=chatter")] {
        let (_served, stage) = set(fault.0, fault.1);
        let report = migrate(&stage);
        let what = format!("{fault:?}: exit {}, {}", report.exit, report.reason);
        assert!([0, 5].contains(&report.exit), "{what}");
        is_at(&stage, if report.exit == 0 { Host::Beta } else { Host::Alpha }, &what);
    }
}

/// The operator sees it stand still, and does what helps.
#[test]
fn a_qemu_that_stalls_and_is_killed_then_leaves_the_registrations_at_the_source() {
    let cases = [(Host::Alpha, "command:migrate=hang"), (Host::Beta, "command:migrate-incoming=hang")];
    for (host, fault) in cases {
        let (_served, stage) = set(host, fault);
        let report = thread::scope(|scope| {
            let migrating = scope.spawn(|| migrate(&stage));
            let stat = format!("/proc/{}/stat", stage.qemu_id("web", host).unwrap());
            let stalled = || fs::read_to_string(&stat).ok()?.contains(") T ").then_some(());
            wait_for(DEADLINE, stalled).unwrap();
            stage.kill_qemu("web", host).unwrap();
            migrating.join().unwrap()
        });
        let what = format!("{fault}: exit {}, {}", report.exit, report.reason);
        assert!(report.exit == 5 && report.reason.contains("QEMU is gone"), "{what}");
        is_at(&stage, Host::Alpha, &what);
    }
}
