//! `tenure handover abort`: the operator ends what agents left unfinished, with the other host and without it, as processes.
#![allow(clippy::unwrap_used, reason = "a test")]

use agent::journal::{Begun, Handover, Journals};
use agent::ownership::Mark;
use handover::journal::Stage as Entered;
use handover::{Entry, Method, Side, UnitIndex};
use lab::process::{DEADLINE, wait_for};
use lab::served::Served;
use lab::stage::{Disk, Guest, Host, Life, Qemus, Stage, has_key, insist};
use lab::tenure::{Ran, Tenure};
use ledger::HandoverId;
use qmp::qemu::Qemu;
use scsi::Status;
use scsi::pr::{Key, ReservationType, request};
use std::fs;
use std::path::Path;

const KEY: Key = Key(0x4b);
const NONCE: Key = Key(0x1234_5678_9abc);

/// A guest that went from alpha to beta, and runs there; no agent runs.
fn moved() -> (Served, Stage) {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = tenure.target(&["memory=1M"]).unwrap();
    let disks = vec![Disk::of(&served, 0).with_key(KEY)];
    let stage = Stage::open(&tenure, Qemus::Threads, vec![Guest::new("web", disks)]).unwrap();
    register(&stage, Host::Alpha, KEY);
    let reserve = request::reserve(KEY, ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
    assert_eq!(insist(device(&stage, Host::Alpha), &reserve).unwrap().status, Status::GOOD);
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    stage.start_qemu("web", Host::Beta, Life::Waits, &[]).unwrap();
    assert_eq!(stage.migrate("web", Host::Alpha, &[]).unwrap().ran.exit, 0);
    Host::BOTH.into_iter().for_each(|host| stage.kill_agent(host).unwrap());
    (served, stage)
}

fn device(stage: &Stage, host: Host) -> &str {
    stage.guest("web").unwrap().disks.first().unwrap().at(host)
}

fn register(stage: &Stage, host: Host, key: Key) {
    let command = request::register(Key::NONE, key, false);
    assert_eq!(insist(device(stage, host), &command).unwrap().status, Status::GOOD);
}

fn has(stage: &Stage, host: Host, key: Key) -> bool {
    has_key(device(stage, host), key, false).unwrap()
}

fn last(stage: &Stage, host: Host) -> Handover {
    let log = Journals::new(&stage.state(host), host.name()).read("web").unwrap();
    log.handovers().last().unwrap().clone()
}

/// The journal of a handover from beta to alpha that was interrupted when alpha had registered; at `host`.
fn interrupted(stage: &Stage, host: Host, change: impl Fn(&mut Entry)) {
    let before = last(stage, host);
    let mut entry = before.last.values().next().unwrap().entry;
    (entry.stage, entry.nonce, entry.destination_had) = (Entered::Freeze, NONCE, 0);
    change(&mut entry);
    let mut luns = before.begun.luns.clone();
    luns.iter_mut().for_each(|lun| lun.nonce = NONCE);
    let side = if host == Host::Beta { Side::Source } else { Side::Destination };
    let begun = Begun { handover: HandoverId(77), side, luns, stays_paused: true, ..before.begun };
    let mut book = Journals::new(&stage.state(host), host.name()).open("web").unwrap();
    book.begin(begun).unwrap();
    book.entries(1, vec![(UnitIndex(0), entry)]).unwrap();
}

fn abort(stage: &Stage, host: Host, more: &[&str]) -> Ran {
    let control = stage.control(host).display().to_string();
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    tenure.run(&[&["handover", "abort", "web", "--control", &control, "--json"], more].concat()).unwrap()
}

#[test]
fn a_destination_gives_up_and_leaves_what_it_has_to_the_source_or_removes_it_by_the_operators_word() {
    let (_served, stage) = moved();
    register(&stage, Host::Alpha, KEY);
    interrupted(&stage, Host::Alpha, |_| {});
    stage.start_agent(Host::Alpha).unwrap();
    let asked = abort(&stage, Host::Alpha, &[]);
    assert_eq!(asked.exit, 4, "nobody was there to confirm: {asked:?}");
    assert!(last(&stage, Host::Alpha).marks.is_empty(), "and nothing was done");
    let without_source = abort(&stage, Host::Alpha, &["--yes"]);
    assert_eq!(without_source.exit, 7, "{without_source:?}");
    assert!(last(&stage, Host::Alpha).marks.contains(&Mark::Abort));
    assert!(has(&stage, Host::Alpha, KEY), "it may be the only one");
    let released = abort(&stage, Host::Alpha, &["--yes", "--release"]);
    assert_eq!(released.exit, 0, "{released:?}");
    assert!(!has(&stage, Host::Alpha, KEY) && has(&stage, Host::Beta, KEY), "{released:?}");
    assert!(!last(&stage, Host::Alpha).is_open());
    let again = abort(&stage, Host::Alpha, &["--yes"]);
    assert_eq!(again.exit, 4, "nothing is unfinished: {again:?}");
}

#[test]
fn what_the_destination_had_before_is_another_guests_and_stays() {
    let (_served, stage) = moved();
    register(&stage, Host::Alpha, KEY);
    interrupted(&stage, Host::Alpha, |entry| entry.destination_had = 1);
    stage.start_agent(Host::Alpha).unwrap();
    assert_eq!(abort(&stage, Host::Alpha, &["--yes", "--release"]).exit, 0);
    assert!(has(&stage, Host::Alpha, KEY));
}

#[test]
fn a_source_takes_everything_back_without_a_destination_that_does_not_answer() {
    let (_served, stage) = moved();
    register(&stage, Host::Alpha, KEY);
    interrupted(&stage, Host::Beta, |_| {});
    stage.start_agent(Host::Beta).unwrap();
    let aborted = abort(&stage, Host::Beta, &["--yes"]);
    assert_eq!(aborted.exit, 0, "{aborted:?}");
    assert!(has(&stage, Host::Beta, KEY), "{aborted:?}");
    assert!(last(&stage, Host::Beta).marks.contains(&Mark::Back));
}

#[test]
fn what_one_host_was_told_to_end_the_other_ends_with_it_when_it_is_back() {
    for (told, alone) in [(Host::Alpha, 7), (Host::Beta, 0)] {
        let (_served, stage) = moved();
        register(&stage, Host::Alpha, KEY);
        Host::BOTH.into_iter().for_each(|host| interrupted(&stage, host, |_| {}));
        stage.start_agent(told).unwrap();
        let aborted = abort(&stage, told, &["--yes"]);
        assert_eq!(aborted.exit, alone, "{told:?}: {aborted:?}");
        assert!(last(&stage, told).marks.contains(&Mark::Abort), "{told:?}");
        stage.start_agent(told.other()).unwrap();
        let over = || Host::BOTH.into_iter().all(|host| !last(&stage, host).is_open()).then_some(());
        wait_for(DEADLINE, over).unwrap();
        assert!(has(&stage, Host::Beta, KEY) && !has(&stage, Host::Alpha, KEY), "{told:?}: {aborted:?}");
    }
}

#[test]
fn a_guest_that_was_given_back_keeps_its_registration_when_the_rest_is_given_up() {
    for paused in [false, true] {
        let (_served, stage) = moved();
        interrupted(&stage, Host::Beta, |entry| entry.stage = Entered::UndoProved);
        let mut book = Journals::new(&stage.state(Host::Beta), "beta").open("web").unwrap();
        [Mark::Abort, Mark::Back].into_iter().for_each(|mark| book.mark(mark).unwrap());
        drop(book);
        if paused {
            Qemu::connect(&stage.second_qmp("web", Host::Beta), DEADLINE).unwrap().stop().unwrap();
        }
        stage.start_agent(Host::Beta).unwrap();
        let released = abort(&stage, Host::Beta, &["--yes", "--release"]);
        assert_eq!(released.exit, 0, "{released:?}");
        assert!(has(&stage, Host::Beta, KEY), "{paused}: {released:?}");
        assert!(!last(&stage, Host::Beta).is_open(), "{released:?}");
    }
}

#[test]
fn a_guest_that_was_given_away_is_not_taken_back() {
    let (_served, stage) = moved();
    interrupted(&stage, Host::Beta, |entry| entry.stage = Entered::Moved);
    let mut book = Journals::new(&stage.state(Host::Beta), "beta").open("web").unwrap();
    [Mark::Taken, Mark::Go].into_iter().for_each(|mark| book.mark(mark).unwrap());
    drop(book);
    stage.start_agent(Host::Beta).unwrap();
    let refused = abort(&stage, Host::Beta, &["--yes"]);
    assert_eq!(refused.exit, 4, "{refused:?}");
    assert!(!last(&stage, Host::Beta).marks.contains(&Mark::Abort));
}

#[test]
fn the_nonce_of_a_guest_that_was_fenced_is_removed_and_the_guest_is_not_restored() {
    let (_served, stage) = moved();
    let command = request::register(KEY, NONCE, false);
    assert_eq!(insist(device(&stage, Host::Beta), &command).unwrap().status, Status::GOOD);
    interrupted(&stage, Host::Beta, |entry| entry.stage = Entered::FencedWithNonce);
    let mut book = Journals::new(&stage.state(Host::Beta), "beta").open("web").unwrap();
    [Mark::Abort, Mark::Back].into_iter().for_each(|mark| book.mark(mark).unwrap());
    book.end("kept").unwrap();
    drop(book);
    stage.start_agent(Host::Beta).unwrap();
    let released = abort(&stage, Host::Beta, &["--yes", "--release"]);
    assert_eq!(released.exit, 0, "{released:?}");
    assert!(!has(&stage, Host::Beta, NONCE) && !has(&stage, Host::Beta, KEY), "{released:?}");
}

#[test]
fn a_damaged_journal_is_told_by_the_agent_and_by_its_check_and_to_whoever_asks() {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let guests = ["web", "db"].map(|name| Guest::new(name, Vec::new()));
    let stage = Stage::set(&tenure, Qemus::Threads, guests.into()).unwrap();
    drop(Journals::new(&stage.state(Host::Alpha), "alpha").open("web").unwrap());
    let path = stage.state(Host::Alpha).join("handovers/web.log");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}nonsense\n{text}")).unwrap();
    stage.start_agent(Host::Alpha).unwrap();
    let told = || {
        let log = fs::read_to_string(stage.log(Host::Alpha)).unwrap();
        log.lines().any(|line| line.contains("is damaged") && line.contains("vm=\"web\"")).then_some(())
    };
    wait_for(DEADLINE, told).unwrap();
    let control = stage.control(Host::Alpha).display().to_string();
    let resumed = tenure.run(&["handover", "resume", "web", "--control", &control]).unwrap();
    assert!(resumed.exit == 4 && resumed.err.contains("is damaged"), "{resumed:?}");
    let config = stage.config(Host::Alpha).display().to_string();
    let checked = tenure.run(&["agent", "--check", "--config", &config]).unwrap();
    assert!(checked.exit == 1 && checked.err.contains("web.log is damaged"), "{checked:?}");
}

/// The journal of an import on alpha that was interrupted when alpha's nexus had the nonce or, later, the key.
fn interrupted_import(stage: &Stage, key: Key) {
    register(stage, Host::Alpha, key);
    let before = last(stage, Host::Alpha);
    let entry = before.last.values().next().unwrap().entry;
    let nonce = NONCE;
    let entry =
        Entry { stage: Entered::Take, method: Method::DestinationNonce, nonce, destination_had: 0, ..entry };
    let peer = String::new();
    let mut book = Journals::new(&stage.state(Host::Alpha), "alpha").open("web").unwrap();
    book.begin(Begun { handover: HandoverId(78), side: Side::Destination, peer, ..before.begun }).unwrap();
    book.entries(1, vec![(UnitIndex(0), entry)]).unwrap();
}

#[test]
fn an_import_that_stays_in_doubt_is_given_up_by_the_operators_word_and_leaves_nothing_that_passes_for_the_guests()
 {
    for key in [NONCE, KEY] {
        let (_served, stage) = moved();
        interrupted_import(&stage, key);
        stage.start_agent(Host::Alpha).unwrap();
        let refused = abort(&stage, Host::Alpha, &["--yes"]);
        assert_eq!(refused.exit, 4, "only the import knows how to go on: {refused:?}");
        assert!(has(&stage, Host::Alpha, key) && last(&stage, Host::Alpha).is_open(), "{refused:?}");
        let released = abort(&stage, Host::Alpha, &["--yes", "--release"]);
        assert_eq!(released.exit, 0, "{released:?}");
        assert!(!has(&stage, Host::Alpha, NONCE) && !has(&stage, Host::Alpha, KEY), "{released:?}");
        assert!(has(&stage, Host::Beta, KEY), "and nothing else is touched: {released:?}");
        assert_eq!(last(&stage, Host::Alpha).verdict.as_deref(), Some("released"));
        // The next one asks the devices: the guest is not this host's.
        let config = stage.config(Host::Alpha).display().to_string();
        let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
        let again = tenure.run(&["import", "--vm", "web", "--config", &config, "--json"]).unwrap();
        assert_eq!(again.exit, 4, "{again:?}");
        assert!(!has(&stage, Host::Alpha, KEY) && has(&stage, Host::Beta, KEY), "{again:?}");
    }
}

#[test]
fn an_import_whose_guest_runs_here_by_now_is_not_given_up() {
    let (_served, stage) = moved();
    stage.quit_qemu("web", Host::Alpha).unwrap();
    interrupted_import(&stage, KEY);
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    stage.start_agent(Host::Alpha).unwrap();
    let refused = abort(&stage, Host::Alpha, &["--yes", "--release"]);
    assert_eq!(refused.exit, 4, "{refused:?}");
    assert!(has(&stage, Host::Alpha, KEY) && last(&stage, Host::Alpha).is_open(), "{refused:?}");
}
