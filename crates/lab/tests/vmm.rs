//! What the agent does with a QEMU (`agent::vmm`), against real ones and against stand-ins that fail, hang, lie and die.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use agent::ownership::Guest;
use agent::vmm::{Backing, Finding, HELD, Limits, MigratePr, Role, Stage, Stopped, Vmm, VmmError};
use lab::process::{Background, DEADLINE, wait_for};
use lab::scripted::diary;
use qmp::Object;
use qmp::qemu::RunState;
use serde_json::json;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{Kind, kinds};
use tempfile::TempDir;

const UUID: &str = "6f4ab9a1-0d1f-4b1e-9a3e-1d2c3b4a5968";
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

struct One {
    vmm: Vmm,
    process: Background,
    path: PathBuf,
}

impl One {
    fn start(kind: Kind, directory: &Path, name: &str, more: &[&str]) -> Self {
        let (mut process, path) = kind.start(directory, name, more);
        let vmm = wait_for(DEADLINE, || {
            assert!(process.is_running(), "{name} ended");
            Vmm::connect(&path, DEADLINE).ok()
        });
        Self { vmm: vmm.unwrap(), process, path }
    }

    fn scripted(directory: &TempDir, more: &[&str]) -> Self {
        Self::start(Kind::Scripted("7.2"), directory.path(), "one", more)
    }

    fn reach(&self, stage: Stage) {
        let end = Instant::now() + DEADLINE;
        while self.vmm.progress().unwrap().stage != stage {
            assert!(Instant::now() < end, "not {stage:?}: {:?}", self.vmm.progress());
            self.vmm.wait(Instant::now() + Duration::from_millis(100));
        }
    }
}

fn nothing() -> Object {
    Object::new()
}

/// Both ends, configured, and the destination listening: without `-S`, which must not matter.
fn pair(kind: Kind, directory: &TempDir, faults: [&[&str]; 2]) -> (One, One, String) {
    let incoming = [kind.incoming(false), faults[1]].concat();
    let source = One::start(kind, directory.path(), "source", faults[0]);
    let destination = One::start(kind, directory.path(), "destination", &incoming);
    for one in [&source, &destination] {
        one.vmm.configure(&nothing(), &nothing()).unwrap();
    }
    let uri = destination.vmm.listen("tcp:127.0.0.1:0").unwrap();
    assert!(!uri.ends_with(":0"), "{uri}");
    (source, destination, uri)
}

/// So slow that the guest stays where it is.
const HELD_BACK: Limits = Limits { bandwidth: Some(HELD), downtime: Some(Duration::ZERO) };

fn begin_held_back(source: &One, uri: &str) {
    source.vmm.limit(HELD_BACK).unwrap();
    source.vmm.send(uri).unwrap();
    source.reach(Stage::Active);
}

/// Held back, stopped while memory is sent, and on to the pause.
fn stop_while_active(source: &One, uri: &str) {
    begin_held_back(source, uri);
    assert_eq!(source.vmm.stop().unwrap(), Stopped::ForGood);
    to_the_switchover(source);
}

fn to_the_switchover(source: &One) {
    // No limit, as QEMU has it.
    let through = Limits { bandwidth: Some(0), downtime: Some(Duration::from_secs(3600)) };
    source.vmm.limit(through).unwrap();
    source.reach(Stage::PreSwitchover);
}

#[test]
fn a_guest_moves_and_runs_where_it_is_told_to_and_not_before() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let (source, destination, uri) = pair(kind, &directory, [&[], &[]]);
        assert_eq!(
            (source.vmm.guest(), destination.vmm.guest()),
            (Guest::Running, Guest::Loading),
            "{kind:?}"
        );
        assert!(matches!(destination.vmm.cont(), Err(VmmError::Unfit(_))), "{kind:?}");
        stop_while_active(&source, &uri);
        assert_eq!(
            (source.vmm.guest(), destination.vmm.guest()),
            (Guest::Paused, Guest::Loading),
            "{kind:?}"
        );
        assert!(matches!(source.vmm.cont(), Err(VmmError::Unfit(_))), "{kind:?}");
        source.vmm.switch_over().unwrap();
        source.reach(Stage::Completed);
        assert!(!source.vmm.ran(), "{kind:?}: it stood still since our stop");
        destination.reach(Stage::Completed);
        assert_eq!((source.vmm.guest(), destination.vmm.guest()), (Guest::Paused, Guest::Paused), "{kind:?}");
        assert!(source.vmm.progress().unwrap().downtime.is_some());
        destination.vmm.cont().unwrap();
        assert_eq!(destination.vmm.guest(), Guest::Running, "{kind:?}");
        let lines = diary::read(&directory.path().join("diary")).unwrap();
        assert_eq!(diary::ran_twice(&lines), None);
    }
}

/// QEMU 7.2 ends at a cancelled destination, so that there is no second try.
#[test]
fn a_guest_whose_memory_is_all_zeros_is_held_until_a_busy_host_has_looked_at_it() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let (source, _destination, uri) = pair(kind, &directory, [&[], &[]]);
        begin_held_back(&source, &uri);
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            assert_eq!(source.vmm.progress().unwrap().stage, Stage::Active, "{kind:?}");
            source.vmm.wait(end);
        }
    }
}

#[test]
fn a_guest_goes_into_a_descriptor_that_leads_to_the_destination() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let (source, destination, uri) = pair(kind, &directory, [&[], &[]]);
        let stream = TcpStream::connect(uri.strip_prefix("tcp:").unwrap()).unwrap();
        source.vmm.limit(HELD_BACK).unwrap();
        source.vmm.send_into(&stream).unwrap();
        drop(stream);
        source.reach(Stage::Active);
        assert_eq!(source.vmm.stop().unwrap(), Stopped::ForGood);
        to_the_switchover(&source);
        source.vmm.switch_over().unwrap();
        source.reach(Stage::Completed);
        destination.reach(Stage::Completed);
        destination.vmm.cont().unwrap();
        assert_eq!(
            (source.vmm.guest(), destination.vmm.guest()),
            (Guest::Paused, Guest::Running),
            "{kind:?}"
        );
    }
}

#[test]
fn a_guest_stopped_while_active_stays_so_when_the_destination_dies() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let (source, mut destination, uri) = pair(kind, &directory, [&[], &[]]);
        stop_while_active(&source, &uri);
        destination.process.kill();
        assert_eq!(destination.vmm.guest(), Guest::Absent, "{kind:?}");
        source.vmm.switch_over().unwrap();
        source.reach(Stage::Failed);
        assert_eq!(source.vmm.guest(), Guest::Paused, "{kind:?}");
        source.vmm.cont().unwrap();
        assert_eq!(source.vmm.guest(), Guest::Running, "{kind:?}");
    }
}

#[test]
fn a_guest_is_let_run_after_a_failure_though_qemu_says_failed_before_it_has_left_the_migration() {
    let directory = TempDir::new().unwrap();
    let faults: [&[&str]; 2] = [&["--fault", "failed=linger"], &[]];
    let (source, mut destination, uri) = pair(Kind::Scripted("7.2"), &directory, faults);
    stop_while_active(&source, &uri);
    destination.process.kill();
    source.vmm.switch_over().unwrap();
    source.reach(Stage::Failed);
    assert_eq!(source.vmm.qemu().status().unwrap().status, RunState::FINISH_MIGRATE);
    source.vmm.cont().unwrap();
    assert_eq!(source.vmm.guest(), Guest::Running);
}

#[test]
fn a_guest_that_somebody_resumed_after_our_stop_is_known_though_the_migration_halts_it_again() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let (source, _destination, uri) = pair(kind, &directory, [&[], &[]]);
        begin_held_back(&source, &uri);
        assert_eq!(source.vmm.stop().unwrap(), Stopped::ForGood);
        assert_eq!((source.vmm.guest(), source.vmm.ran()), (Guest::Paused, false), "{kind:?}");
        source.vmm.qemu().cont().unwrap();
        to_the_switchover(&source);
        assert_eq!((source.vmm.guest(), source.vmm.ran()), (Guest::Paused, true), "{kind:?}");
        source.vmm.cancel().unwrap();
        source.reach(Stage::Cancelled);
        assert_eq!(source.vmm.guest(), Guest::Running, "{kind:?}: and QEMU lets it run by itself");
    }
}

#[test]
fn a_stop_that_came_too_late_is_known_and_the_guest_runs_again_after_a_cancel() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let (source, _destination, uri) = pair(kind, &directory, [&[], &[]]);
        source.vmm.send(&uri).unwrap();
        source.reach(Stage::PreSwitchover);
        assert_eq!(source.vmm.stop().unwrap(), Stopped::ByMigration, "{kind:?}");
        source.vmm.cancel().unwrap();
        source.reach(Stage::Cancelled);
        assert_eq!(source.vmm.guest(), Guest::Running, "{kind:?}");
    }
}

#[test]
fn nothing_keeps_a_plain_guest_from_being_moved() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let source = One::start(kind, directory.path(), "source", &[]);
        let destination = One::start(kind, directory.path(), "destination", kind.incoming(true));
        assert_eq!(source.vmm.findings(Role::Source, NOBODY).unwrap(), [], "{kind:?}");
        assert_eq!(destination.vmm.findings(Role::Destination, NOBODY).unwrap(), [], "{kind:?}");
        let wrong = destination.vmm.findings(Role::Source, UUID).unwrap();
        let another = Finding::AnotherGuest { expected: UUID.into(), found: NOBODY.into() };
        assert_eq!(wrong, [another, Finding::State(RunState::INMIGRATE)], "{kind:?}");
        let wrong = source.vmm.findings(Role::Destination, NOBODY).unwrap();
        assert_eq!(wrong, [Finding::NotWaiting(RunState::RUNNING)], "{kind:?}");
    }
}

#[test]
fn a_failed_migration_must_be_over_and_the_guest_have_run_before_the_next() {
    let directory = TempDir::new().unwrap();
    let (source, mut destination, uri) = pair(Kind::Scripted("7.2"), &directory, [&[], &[]]);
    assert!(destination.vmm.findings(Role::Destination, NOBODY).unwrap().len() == 1, "it listens already");
    stop_while_active(&source, &uri);
    let under_way = source.vmm.findings(Role::Source, NOBODY).unwrap();
    assert!(matches!(under_way[..], [Finding::UnderWay(_)]), "{under_way:?}");
    destination.process.kill();
    source.vmm.switch_over().unwrap();
    source.reach(Stage::Failed);
    assert_eq!(source.vmm.findings(Role::Source, NOBODY).unwrap(), [Finding::Postmigrate]);
    assert!(matches!(source.vmm.send(&uri), Err(VmmError::Refused(_))));
}

const DISKS: [&str; 10] = [
    "--disk",
    "a=scsi-block,file=/dev/sda,migrate-pr=on",
    "--disk",
    "b=scsi-generic,file=/dev/sg1",
    "--disk",
    "c=scsi-hd,file=/dev/sdc",
    "--disk",
    "d=scsi-block,driver=iscsi,file=iscsi://h/iqn.2026-01.org.example:d/0,migrate-pr=fixed",
    "--disk",
    "e=scsi-block,driver=raw,file=/image,migrate-pr=off",
];

#[test]
fn disks_that_pass_reservations_through_are_found_with_what_is_behind_them() {
    let directory = TempDir::new().unwrap();
    let one = One::scripted(&directory, &DISKS);
    let disks = one.vmm.disks().unwrap();
    let names: Vec<&str> = disks.iter().map(|disk| disk.device.as_str()).collect();
    assert_eq!(names, ["a", "b", "d", "e"].map(|id| format!("/machine/peripheral/{id}")));
    assert_eq!(disks[0].backing, Backing::HostDevice("/dev/sda".into()));
    let own: Vec<MigratePr> = disks.iter().map(|disk| disk.migrate_pr).collect();
    assert_eq!(own, [MigratePr::On, MigratePr::Absent, MigratePr::Fixed, MigratePr::Off]);
    one.vmm.switch_off_migrate_pr().unwrap();
    assert_eq!(one.vmm.disks().unwrap()[0].migrate_pr, MigratePr::Off);
}

#[test]
fn disks_that_cannot_be_moved_are_refused_with_the_reason() {
    let directory = TempDir::new().unwrap();
    let one = One::scripted(&directory, &DISKS);
    let findings = one.vmm.findings(Role::Source, NOBODY).unwrap();
    let no_helper = |id| Finding::NoHelper { device: format!("/machine/peripheral/{id}") };
    let device = "/machine/peripheral/d".to_owned();
    let url = "iscsi://h/iqn.2026-01.org.example:d/0".to_owned();
    let own = [Finding::MigratePr { device: device.clone() }, Finding::OwnInitiator { device, url }];
    assert_eq!(findings, [&[no_helper("a"), no_helper("b")][..], &own].concat());
    assert!(findings[2].to_string().contains("migrate-pr=off"), "it says what to do");
}

#[test]
fn a_helper_makes_a_host_device_movable() {
    let directory = TempDir::new().unwrap();
    let one = One::scripted(&directory, &["--disk", "a=scsi-block,file=/dev/sda", "--pr-manager", "helper"]);
    assert_eq!(one.vmm.findings(Role::Source, NOBODY).unwrap(), []);
}

#[test]
fn a_qemu_that_lies_or_hangs_is_silent_and_one_that_died_is_gone() {
    let directory = TempDir::new().unwrap();
    let one = One::scripted(&directory, &["--fault", "command:query-status=lie"]);
    assert_eq!(one.vmm.guest(), Guest::Unknown);
    assert!(matches!(one.vmm.stop(), Err(VmmError::Silent(_))));

    let directory = TempDir::new().unwrap();
    let mut one = One::scripted(&directory, &["--fault", "answer:stop=die"]);
    assert!(matches!(one.vmm.stop(), Err(VmmError::Gone(_))));
    assert_eq!(one.vmm.guest(), Guest::Absent);
    assert_eq!(Vmm::guest_at(&one.path, DEADLINE), Guest::Absent);
    one.process.wait().unwrap();

    let directory = TempDir::new().unwrap();
    let (mut process, path) =
        Kind::Scripted("7.2").start(directory.path(), "one", &["--fault", "command:stop=hang"]);
    let connect = || Vmm::connect(&path, Duration::from_millis(300)).ok();
    let vmm = wait_for(DEADLINE, connect).unwrap();
    assert!(matches!(vmm.stop(), Err(VmmError::Silent(_))));
    assert_eq!(vmm.guest(), Guest::Unknown);
    assert_eq!(Vmm::guest_at(&path, Duration::from_millis(300)), Guest::Unknown);
    process.kill();
    assert_eq!(vmm.guest(), Guest::Absent);
}

#[test]
fn a_flood_costs_the_connection_and_says_so() {
    let directory = TempDir::new().unwrap();
    let one = One::scripted(&directory, &["--fault", "command:stop=flood"]);
    let Err(VmmError::Silent(why)) = one.vmm.stop() else { panic!("a flood was taken") };
    assert!(why.contains("longer than"), "{why}");
    assert_eq!(
        Vmm::guest_at(&one.path, DEADLINE),
        Guest::Paused,
        "a lost answer proves nothing: it did stop"
    );
}

#[test]
fn an_unknown_state_is_a_migration_under_way() {
    let directory = TempDir::new().unwrap();
    let (source, _destination, uri) =
        pair(Kind::Scripted("11.1"), &directory, [&["--fault", "pre-switchover=say:quantum"], &[]]);
    source.vmm.send(&uri).unwrap();
    let said = wait_for(DEADLINE, || {
        source.vmm.qemu().migration().ok().filter(|info| info.status().as_str() == "quantum")
    });
    assert!(said.is_some());
    assert_eq!(source.vmm.progress().unwrap().stage, Stage::Active);
}

#[test]
fn post_copy_and_migrations_without_a_return_path_are_refused() {
    let directory = TempDir::new().unwrap();
    let one = One::scripted(&directory, &[]);
    let postcopy = json!({ "postcopy-ram": true }).as_object().unwrap().clone();
    assert!(matches!(one.vmm.configure(&postcopy, &nothing()), Err(VmmError::Unfit(_))));
    let multifd = json!({ "multifd": true }).as_object().unwrap().clone();
    let channels = json!({ "multifd-channels": 4 }).as_object().unwrap().clone();
    one.vmm.configure(&multifd, &channels).unwrap();
    let unknown = json!({ "warp": true }).as_object().unwrap().clone();
    assert!(matches!(one.vmm.configure(&unknown, &nothing()), Err(VmmError::Refused(_))));
    assert!(matches!(one.vmm.listen("tcp:127.0.0.1:0"), Err(VmmError::Unfit(_))), "it has a guest");
}

#[test]
fn a_destination_that_cannot_load_is_absent_and_the_source_paused() {
    for release in ["7.2", "11.1"] {
        let directory = TempDir::new().unwrap();
        let (source, destination, uri) =
            pair(Kind::Scripted(release), &directory, [&[], &["--fault", "load=fail"]]);
        stop_while_active(&source, &uri);
        source.vmm.switch_over().unwrap();
        source.reach(Stage::Failed);
        assert_eq!(source.vmm.guest(), Guest::Paused);
        let absent = wait_for(DEADLINE, || (destination.vmm.guest() == Guest::Absent).then_some(()));
        assert!(absent.is_some());
    }
}
