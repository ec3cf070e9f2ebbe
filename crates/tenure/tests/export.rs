//! A guest that leaves and arrives without a handover, beside agents that run: saved and restored on another host, fenced while it
//! was saved, and started again where it was by who watches over it.
#![allow(clippy::unwrap_used, reason = "a test")]

use agent::journal::{Begun, Journals};
use handover::Side;
use lab::served::Served;
use lab::stage::{Disk, Guest, Host, Life, Qemus, Stage, has_key, insist};
use lab::tenure::{Ran, Tenure};
use ledger::{Change, HandoverId, Ledger, Owner, State};
use scsi::Status;
use scsi::pr::{InAction, Key, ReadReservation, ReservationType, request};
use std::path::{Path, PathBuf};

const KEY: Key = Key(0x4b);
const OTHER: Key = Key(0xa);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

fn tenure(words: &[&str]) -> Ran {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure"))).run(words).unwrap()
}

/// A guest that runs on beta, where it came from alpha; both agents run.
fn at_beta() -> (Served, Stage) {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = tenure.target(&["memory=1M"]).unwrap();
    let disks = vec![Disk::of(&served, 0).with_key(KEY)];
    let stage = Stage::open(&tenure, Qemus::Threads, vec![Guest::new("web", disks)]).unwrap();
    good(device(&stage, Host::Alpha), &request::register(Key::NONE, KEY, false));
    good(device(&stage, Host::Alpha), &request::reserve(KEY, KIND));
    good(&served.device(0, "other"), &request::register(Key::NONE, OTHER, false));
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    stage.start_qemu("web", Host::Beta, Life::Waits, &[]).unwrap();
    assert_eq!(stage.migrate("web", Host::Alpha, &[]).unwrap().ran.exit, 0);
    stage.quit_qemu("web", Host::Alpha).unwrap();
    (served, stage)
}

fn good(device: &str, command: &scsi::Request) {
    assert_eq!(insist(device, command).unwrap().status, Status::GOOD);
}

fn device(stage: &Stage, host: Host) -> &str {
    stage.guest("web").unwrap().disks.first().unwrap().at(host)
}

fn has(stage: &Stage, host: Host) -> bool {
    has_key(device(stage, host), KEY, false).unwrap()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn export(stage: &Stage, host: Host, file: &Path) -> Ran {
    let (state, config) = (text(&stage.state(host)), text(&stage.config(host)));
    tenure(&["export", "web", &text(file), "--state", &state, "--config", &config])
}

fn import(stage: &Stage, host: Host, words: &[&str]) -> Ran {
    let config = text(&stage.config(host));
    tenure(&[&["import", "--json", "--config", &config], words].concat())
}

/// Stopped, and exported from beta.
fn saved() -> (Served, Stage, PathBuf) {
    let (served, stage) = at_beta();
    let file = stage.path("web.tenure");
    let refused = export(&stage, Host::Beta, &file);
    assert_eq!(refused.exit, 4, "it runs: {refused:?}");
    stage.quit_qemu("web", Host::Beta).unwrap();
    let exported = export(&stage, Host::Beta, &file);
    assert_eq!(exported.exit, 0, "{exported:?}");
    (served, stage, file)
}

#[test]
fn a_saved_guest_goes_on_on_another_host_with_what_it_had_and_can_move_from_there() {
    let (served, stage, file) = saved();
    let refused = import(&stage, Host::Alpha, &[&text(&file)]);
    assert_eq!(refused.exit, 4, "beta's nexus has it: {refused:?}");
    assert!(has(&stage, Host::Beta), "and nothing was changed");
    let taken = import(&stage, Host::Alpha, &[&text(&file), "--take-over"]);
    assert_eq!(taken.exit, 0, "{taken:?}");
    assert!(has(&stage, Host::Alpha) && !has(&stage, Host::Beta), "{taken:?}");
    let read = insist(&served.device(0, "other"), &request::read(InAction::READ_RESERVATION, 24)).unwrap();
    let held = ReadReservation::parse(&read.data).unwrap().reservation.unwrap();
    assert_eq!((held.key, held.kind), (KEY, KIND));
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    stage.start_qemu("web", Host::Beta, Life::Waits, &[]).unwrap();
    let migrated = stage.migrate("web", Host::Alpha, &[]).unwrap();
    assert_eq!(migrated.ran.exit, 0, "{migrated:#?}");
    assert!(has(&stage, Host::Beta) && !has(&stage, Host::Alpha));
    stage.ran_once("web").unwrap();
}

#[test]
fn a_guest_that_was_fenced_while_it_was_saved_is_imported_without_and_stays_fenced() {
    let (served, stage, file) = saved();
    good(&served.device(0, "other"), &request::preempt(OTHER, KEY, KIND));
    let imported = import(&stage, Host::Alpha, &[&text(&file), "--take-over"]);
    assert_eq!(imported.exit, 6, "{imported:?}");
    assert!(!has(&stage, Host::Alpha) && !has(&stage, Host::Beta), "nobody restores it");
}

#[test]
fn a_guest_that_died_is_started_again_where_it_was_and_elsewhere_only_by_the_policy() {
    let (_served, stage) = at_beta();
    // Its QEMU dies, and high availability starts another one: on this host it has all it had.
    stage.quit_qemu("web", Host::Beta).unwrap();
    let own = import(&stage, Host::Beta, &["--vm", "web"]);
    assert_eq!(own.exit, 0, "{own:?}");
    assert_eq!(own.json().unwrap().pointer("/claims/0/claim").unwrap(), "its own", "{own:?}");
    assert!(has(&stage, Host::Beta));
    // On alpha, where it was before: beta may run it, for all that alpha knows.
    let refused = import(&stage, Host::Alpha, &["--vm", "web"]);
    assert_eq!(refused.exit, 4, "{refused:?}");
    assert!(has(&stage, Host::Beta) && !has(&stage, Host::Alpha));
    stage.start_qemu("web", Host::Beta, Life::Runs, &[]).unwrap();
    stage.start_qemu("web", Host::Alpha, Life::Waits, &[]).unwrap();
    assert_eq!(stage.migrate("web", Host::Beta, &[]).unwrap().ran.exit, 0);
}

#[test]
fn whoever_has_the_guests_key_where_it_never_was_loses_nothing_to_a_take_over() {
    let (served, stage) = at_beta();
    stage.quit_qemu("web", Host::Beta).unwrap();
    // Fenced; and another node begins to use its key.
    good(&served.device(0, "other"), &request::preempt(OTHER, KEY, KIND));
    good(&served.device(0, "sharer"), &request::register(Key::NONE, KEY, false));
    let refused = import(&stage, Host::Alpha, &["--vm", "web", "--take-over"]);
    assert_eq!(refused.exit, 4, "{refused:?}");
    assert!(has_key(&served.device(0, "sharer"), KEY, false).unwrap(), "{refused:?}");
    assert!(!has(&stage, Host::Alpha), "{refused:?}");
}

#[test]
fn a_guest_whose_host_died_is_taken_over_where_it_had_been_before() {
    let (_served, stage) = at_beta();
    stage.quit_qemu("web", Host::Beta).unwrap();
    stage.kill_agent(Host::Beta).unwrap();
    let taken = import(&stage, Host::Alpha, &["--vm", "web", "--take-over"]);
    assert_eq!(taken.exit, 0, "{taken:?}");
    assert!(has(&stage, Host::Alpha) && !has(&stage, Host::Beta), "{taken:?}");
}

#[test]
fn an_import_that_was_interrupted_is_put_in_order_by_the_same_import() {
    let (_served, stage) = at_beta();
    stage.quit_qemu("web", Host::Beta).unwrap();
    let mut book = Journals::new(&stage.state(Host::Beta), "beta").open("web").unwrap();
    let last = book.handovers().last().unwrap().begun.clone();
    let peer = String::new();
    book.begin(Begun { handover: HandoverId(78), side: Side::Destination, peer, ..last }).unwrap();
    drop(book);
    let guest = Ledger::open(&stage.state(Host::Beta)).unwrap().guest(&Owner("web".into())).unwrap();
    let handover = Change::State { state: State::Handover, handover: Some(HandoverId(78)), why: None };
    let changes: Vec<_> = guest.records().iter().map(|unit| (unit.lun.clone(), handover.clone())).collect();
    guest.append(&changes).unwrap();
    let imported = import(&stage, Host::Beta, &["--vm", "web"]);
    assert_eq!(imported.exit, 0, "{imported:?}");
    assert!(has(&stage, Host::Beta));
}

#[test]
fn a_host_to_which_the_guest_never_came_can_start_it_when_the_old_one_is_dead() {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = tenure.target(&["memory=1M"]).unwrap();
    let disks = vec![Disk::of(&served, 0).with_key(KEY)];
    let stage = Stage::open(&tenure, Qemus::Threads, vec![Guest::new("web", disks)]).unwrap();
    good(device(&stage, Host::Alpha), &request::register(Key::NONE, KEY, false));
    good(device(&stage, Host::Alpha), &request::reserve(KEY, KIND));
    let empty = import(&stage, Host::Beta, &["--vm", "web"]);
    assert_eq!(empty.exit, 4, "it knows nothing of it: {empty:?}");
    good(device(&stage, Host::Beta), &request::register(Key::NONE, OTHER, false));
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    stage.start_qemu("web", Host::Beta, Life::Waits, &[]).unwrap();
    assert_eq!(stage.migrate("web", Host::Alpha, &[]).unwrap().ran.exit, 4, "its nexus is another guest's");
    good(device(&stage, Host::Beta), &request::register(OTHER, Key::NONE, false));
    stage.quit_qemu("web", Host::Alpha).unwrap();
    stage.quit_qemu("web", Host::Beta).unwrap();
    stage.kill_agent(Host::Alpha).unwrap();
    let refused = import(&stage, Host::Beta, &["--vm", "web"]);
    assert_eq!(refused.exit, 4, "alpha may run it: {refused:?}");
    let taken = import(&stage, Host::Beta, &["--vm", "web", "--take-over"]);
    assert_eq!(taken.exit, 0, "{taken:?}");
    assert!(has(&stage, Host::Beta) && !has(&stage, Host::Alpha), "{taken:?}");
}
