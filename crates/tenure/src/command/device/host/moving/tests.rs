//! What of a guest's logical units leaves a process and comes into one, and what keeps them from it.

use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;
use iscsi::target::{Target, TargetConfig};
use ledger::{Ledger, Owner, Record, State};
use logical_unit::Device;
use scsi::pr::Key;
use scsi::{AdditionalSense, Completion, DataPhase, IscsiName, Request, opcode};
use std::path::Path;
use vhost_user_scsi::unit::{Admission, Arrival, Ending};

fn host(folder: &Path, more: &[&str]) -> Host {
    let socket = folder.join("a.sock").display().to_string();
    let lun = format!("file={},size=1M", folder.join("disk").display());
    let line = [&["tenure", "device", "--socket", &socket, "--lun", &lun], more].concat();
    let Command::Device(args) = Cli::try_parse_from(line).unwrap().command else { panic!("another command") };
    let guests = crate::command::device::guests::guests(&args).unwrap();
    Host::open(&args, &guests, false, None).unwrap()
}

#[test]
fn logical_units_are_put_down_and_taken_up_again() {
    let folder = tempfile::TempDir::new().unwrap();
    let (here, there) = (host(folder.path(), &[]), folder.path().to_owned());
    let state = here.save().unwrap();
    here.check(&state).unwrap();
    here.close().unwrap();
    assert!(here.guests()[0].device.target().table().get(0).is_none());
    // The file is free.
    let other = host(&there, &[]);
    assert!(matches!(here.resume(&state), Err(MoveError::Resume(0, _))));
    assert!(!here.is_open());
    drop(other);
    here.resume(&state).unwrap();
    assert!(here.is_open() && here.guests()[0].device.target().table().get(0).is_some());
    assert_eq!(here.save().unwrap(), state);
    here.close().unwrap();
    assert!(matches!(here.save(), Err(MoveError::Closed)));
    here.reopen().unwrap();
}

#[test]
fn what_is_given_is_taken_up_only_until_somebody_serves_the_file_and_only_with_that_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let (here, disk) = (host(folder.path(), &[]), folder.path().join("disk"));
    let given = here.give(7).unwrap();
    assert!(here.remove(0).is_err(), "it is part of what is on its way");
    here.close().unwrap();
    let stale =
        |host: &Host, state| matches!(host.resume(state), Err(MoveError::Resume(0, ResumeError::Stamp)));
    let mut other = given.clone();
    other[15] = 8;
    assert!(stale(&here, &other) && !here.is_open());
    // As on a host of its own, where a file of the same name lies on another disk.
    let stamp = folder.path().join("disk.pr.given");
    let kept = std::fs::read(&stamp).unwrap();
    std::fs::remove_file(&stamp).unwrap();
    assert!(stale(&here, &given));
    std::fs::write(&stamp, kept).unwrap();
    here.resume(&given).unwrap();
    here.begin().unwrap();
    here.close().unwrap();
    assert!(stale(&here, &given) && disk.exists(), "it was served");
}

#[test]
fn a_logical_unit_in_use_is_not_let_go_and_goes_on() {
    let folder = tempfile::TempDir::new().unwrap();
    let host = host(folder.path(), &[]);
    let used = host.guests()[0].device.target().table().get(0).cloned().unwrap();
    assert!(matches!(host.close(), Err(MoveError::InUse(0))));
    assert!(host.is_open() && host.guests()[0].device.target().table().get(0).is_some());
    assert_eq!(used.unit.data_out_length(&[0; 6]), Some(0));
    drop(used);
    host.close().unwrap();
}

#[test]
fn what_is_open_with_another_state_is_taken_up_anew() {
    let folder = tempfile::TempDir::new().unwrap();
    let here = host(folder.path(), &[]);
    let open = |host: &Host| host.lock().slots.get(&0).and_then(|slot| slot.unit.clone()).unwrap();
    let (first, state) = (here.save().unwrap(), |more: &[&str]| host(folder.path(), more).save().unwrap());
    here.close().unwrap();
    let second = state(&["--num-queues", "1"]);
    here.resume(&first).unwrap();
    let before = Arc::as_ptr(&open(&here));
    here.resume(&first).unwrap();
    assert_eq!(Arc::as_ptr(&open(&here)), before, "once");
    let held = Arc::downgrade(&open(&here));
    here.resume(&second).unwrap();
    assert!(held.upgrade().is_none() && here.is_open());
}

/// Two LUNs of one target.
fn target() -> (Target, [String; 2]) {
    let unit = || LogicalUnit::open(&"memory=1M".parse().unwrap()).unwrap();
    let name = "iqn.2026-11.example:disk";
    let config = TargetConfig::new(
        "127.0.0.1:0".parse().unwrap(),
        IscsiName::new(name).unwrap(),
        Device::new(vec![unit(), unit()]),
    );
    let target = Target::bind(config).unwrap();
    let urls = [0, 1].map(|lun| format!("iscsi://{}/{name}/{lun}", target.local_addr()));
    (target, urls)
}

/// A guest with LUNs at a target, here or elsewhere.
fn at_target(folder: &Path, state: &str, urls: &[String], closed: bool) -> Host {
    let socket = folder.join("a.sock").display().to_string();
    let state = folder.join(state).display().to_string();
    let line = ["tenure", "device", "--socket", &socket, "--state", &state].map(str::to_owned);
    let luns = urls.iter().flat_map(|url| ["--lun".to_owned(), url.clone()]);
    let Command::Device(args) = Cli::try_parse_from(line.into_iter().chain(luns)).unwrap().command else {
        panic!("another command")
    };
    let guests = crate::command::device::guests::guests(&args).unwrap();
    Host::open(&args, &guests, closed, None).unwrap()
}

#[test]
fn who_served_nobody_lets_go_of_a_target_that_has_ended_the_session() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let here = at_target(folder.path(), "here", &urls, false);
    let there = at_target(folder.path(), "there", &urls, true);
    let state = here.save().unwrap();
    here.close().unwrap();
    there.resume(&state).unwrap();
    // Goes on by itself, as the same initiator port: that ends the other one's session.
    here.resume(&state).unwrap();
    here.begin().unwrap();
    there.close().unwrap();
    assert!(!there.is_open() && here.is_open());
    let state = here.save().unwrap();
    here.close().unwrap();
    there.resume(&state).unwrap();
}

/// What the guest gets for TEST UNIT READY.
fn ready(host: &Host, number: u8) -> Completion {
    let unit = host.guests()[0].real.unit(number).unwrap().unit();
    let arrival = Arrival { id: 1, cdb: &[0; 32], data_out: 0, data_in: 0 };
    let Admission::Work(work) = unit.admit(&arrival) else { panic!("not to be waited for") };
    let Ending::Status(ended) = work.run(&[]) else { panic!("lost") };
    ended
}

#[test]
fn what_was_taken_for_a_move_that_comes_to_nothing_is_given_to_the_guest() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let host = at_target(folder.path(), "here", &urls, false);
    for lun in [0, 1] {
        assert!((0..8).any(|_| ready(&host, lun).status.is_good()));
    }
    let unit = |lun| host.guests()[0].real.unit(lun).unwrap();
    assert_eq!(unit(0).unit().manage(unit::Function::LogicalUnitReset), unit::Managed::Complete);
    let reserve = Request { cdb: vec![opcode::RESERVE_6, 0, 0, 0, 0, 0], data: DataPhase::None };
    assert!(unit(1).nexus().unwrap().execute(&reserve).unwrap().status.is_good());
    host.guests()[0].device.gate().shut().unwrap();
    assert!(matches!(host.save(), Err(MoveError::Real(1, Hindrance::Reserved))));
    let told = nexus::unit_attention(&ready(&host, 0));
    assert_eq!(told, Some(AdditionalSense::TARGET_RESET));
    assert!(ready(&host, 0).status.is_good(), "once");
}

/// State and key as the ledger has them.
fn recorded(folder: &Path, state: &str) -> Vec<(State, Option<Key>)> {
    let guest = Ledger::open(&folder.join(state)).unwrap().guest(&Owner("a".into())).unwrap();
    let key = |record: &Record| record.paths.iter().find_map(|path| path.tracked.key);
    guest.records().iter().map(|record| (record.standing(), key(record))).collect()
}

/// The guest registers; `known`: by its own command, of which account is kept.
fn register(host: &Host, known: bool) {
    let request = scsi::pr::request::register(Key::NONE, Key(7), false);
    let DataPhase::Out(list) = &request.data else { panic!("no list") };
    assert!((0..8).any(|_| ready(host, 0).status.is_good()));
    let unit = host.guests()[0].real.unit(0).unwrap();
    if known {
        let mut cdb = [0; 32];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let arrival = Arrival { id: 1, cdb: &cdb, data_out: list.len(), data_in: 0 };
        let Admission::Work(work) = unit.unit().admit(&arrival) else { panic!("not to be waited for") };
        assert!(matches!(work.run(list), Ending::Status(ended) if ended.status.is_good()));
    } else {
        assert!(unit.nexus().unwrap().execute(&request).unwrap().status.is_good());
    }
}

#[test]
fn a_registration_that_the_other_host_did_not_tell_of_is_found() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let here = at_target(folder.path(), "here", &urls[..1], false);
    let there = at_target(folder.path(), "there", &urls[..1], true);
    register(&here, false);
    let state = here.save().unwrap();
    assert_eq!(recorded(folder.path(), "here"), []);
    here.close().unwrap();
    there.resume(&state).unwrap();
    assert_eq!(recorded(folder.path(), "there"), [(State::Active, Some(Key(7)))]);
}

#[test]
fn a_guest_that_custody_says_is_here_is_not_kept_from_its_registration_by_the_record() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let here = at_target(folder.path(), "here", &urls[..1], false);
    register(&here, true);
    here.close().unwrap();
    assert_eq!(recorded(folder.path(), "here"), [(State::Moved, Some(Key(7)))]);
    drop(here);
    let here = at_target(folder.path(), "here", &urls[..1], false);
    assert_eq!(recorded(folder.path(), "here"), [(State::Active, Some(Key(7)))]);
    here.save().unwrap();
}

#[test]
fn the_record_of_a_guest_that_is_elsewhere_says_so_also_after_a_kill() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let here = at_target(folder.path(), "here", &urls[..1], false);
    register(&here, true);
    let state = here.save().unwrap();
    here.close().unwrap();
    let there = at_target(folder.path(), "there", &urls[..1], true);
    there.resume(&state).unwrap();
    assert_eq!(recorded(folder.path(), "there"), [(State::Active, Some(Key(7)))]);
    drop(there);
    let there = at_target(folder.path(), "there", &urls[..1], true);
    assert_eq!(recorded(folder.path(), "there"), [(State::Moved, Some(Key(7)))]);
    there.resume(&state).unwrap();
    assert_eq!(recorded(folder.path(), "there"), [(State::Active, Some(Key(7)))]);
}

#[test]
fn a_block_device_moves_only_past_the_page_cache() {
    let spec_of = |text: &str| {
        let slot = Slot { lun: crate::command::device::lun::Lun::parse(text).unwrap(), unit: None };
        spec(3, &slot).map(drop)
    };
    assert!(spec_of("block=/dev/a,reservations=/b").is_ok());
    assert!(spec_of("file=/a,direct=off").is_ok());
    assert!(matches!(spec_of("block=/dev/a,reservations=/b,direct=off"), Err(MoveError::Buffered(3))));
}

#[test]
fn a_block_device_moves_only_if_it_names_itself() {
    let folder = tempfile::TempDir::new().unwrap();
    let host = host(folder.path(), &[]);
    // Of no block device, so that nothing is known of it.
    let lun = crate::command::device::lun::Lun::parse("block=/dev/null,reservations=/b").unwrap();
    let of = |spec: &str| {
        let unit = LogicalUnit::open(&spec.parse().unwrap()).unwrap();
        let direct = matches!(unit.caching(), Caching::Direct { .. });
        host.lock().slots.insert(3, Slot { lun: lun.clone(), unit: Some(unit) });
        (host.save(), direct)
    };
    assert!(matches!(of("memory=1M").0, Err(MoveError::Buffered(3))));
    let file = format!("file={},size=1M,direct=on", folder.path().join("other").display());
    match of(&file) {
        (Err(MoveError::Nameless(3)), true) | (Err(MoveError::Buffered(3)), false) => {}
        other => panic!("{other:?}"),
    }
    let state = Snapshot { profile: "spc".into(), ..Snapshot::default() }.to_bytes();
    let saved = SavedLun { number: 3, kind: Kind::Emulated, changed: false, name: String::new(), state };
    let Source::Emulated(spec) = &lun.kind else { panic!("another kind") };
    assert!(matches!(read_own(3, spec, &saved), Err(MoveError::Nameless(3))));
}

#[test]
fn what_a_killed_device_left_is_not_gone_on_with_where_the_guest_was_elsewhere_since() {
    let folder = tempfile::TempDir::new().unwrap();
    let of = |closed: bool| {
        let lun = format!("file={},size=1M", folder.path().join("disk").display());
        let socket = folder.path().join("a.sock").display().to_string();
        let line = ["tenure", "device", "--socket", &socket, "--lun", &lun];
        let Command::Device(args) = Cli::try_parse_from(line).unwrap().command else { panic!("another") };
        Host::open(&args, &crate::command::device::guests::guests(&args).unwrap(), closed, None).unwrap()
    };
    let unit = |host: &Host| host.lock().slots.get(&0).and_then(|slot| slot.unit.clone()).unwrap();
    let registrations =
        |host: &Host| unit(host).inspect(|unit| unit.reservations().registrations().iter().count());
    let here = of(false);
    let nexus = hosted_nexus(&here);
    let request = scsi::pr::request::register(Key::NONE, Key(7), false);
    let DataPhase::Out(list) = &request.data else { panic!("no list") };
    let mut cdb = [0; 32];
    cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
    let arrival = Arrival { id: 1, cdb: &cdb, data_out: list.len(), data_in: 0 };
    let Admission::Work(work) = nexus.admit(&arrival) else { panic!("not to be waited for") };
    assert!(matches!(work.run(list), Ending::Status(ended) if ended.status.is_good()));
    assert_eq!(registrations(&here), 1);
    drop((nexus, here));
    let here = of(true);
    here.reopen().unwrap();
    assert_eq!(registrations(&here), 0);
    let arrival = Arrival { id: 2, cdb: &[0; 32], data_out: 0, data_in: 0 };
    let told = match hosted_nexus(&here).admit(&arrival) {
        Admission::Work(work) => work.run(&[]),
        Admission::Ended(ended) => ended,
        other => panic!("{other:?}"),
    };
    let Ending::Status(told) = told else { panic!("{told:?}") };
    assert_eq!(nexus::unit_attention(&told), Some(AdditionalSense::POWER_ON), "{told:?}");
}

fn hosted_nexus(host: &Host) -> Arc<dyn unit::Unit> {
    let table = host.guests()[0].device.target().table();
    Arc::clone(&table.get(0).unwrap().unit)
}

#[test]
fn logical_units_that_were_found_before_one_that_is_missing_are_let_go() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let here = at_target(folder.path(), "here", &urls, false);
    let state = here.save().unwrap();
    here.close().unwrap();
    let wrong = at_target(folder.path(), "wrong", &[urls[0].clone(), urls[0].clone()], true);
    assert!(matches!(wrong.resume(&state), Err(MoveError::Real(1, _))));
    assert!(!wrong.is_open() && !wrong.guests()[0].real.has(0), "its session would keep the guest out");
    here.resume(&state).unwrap();
}

#[test]
fn who_has_served_the_guest_lets_go_only_with_a_logout_that_is_confirmed() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let here = at_target(folder.path(), "here", &urls[..1], false);
    let there = at_target(folder.path(), "there", &urls[..1], true);
    let state = here.save().unwrap();
    here.close().unwrap();
    here.resume(&state).unwrap();
    here.begin().unwrap();
    // Another one as the same initiator port: that ends the session here.
    there.resume(&state).unwrap();
    assert!(here.close().is_err() && here.is_open());
}

#[test]
fn what_somebody_else_has_handed_over_is_not_taken_back_unasked() {
    let (folder, (_target, urls)) = (tempfile::TempDir::new().unwrap(), target());
    let here = at_target(folder.path(), "here", &urls[..1], false);
    register(&here, true);
    drop(here);
    let guest = Ledger::open(&folder.path().join("here")).unwrap().guest(&Owner("a".into())).unwrap();
    let lun = guest.records().remove(0).lun.clone();
    let handover = Some(ledger::HandoverId(5));
    let moved = ledger::Change::State { state: State::Moved, handover, why: None };
    guest.append(&[(lun, moved)]).unwrap();
    drop(guest);
    let _here = at_target(folder.path(), "here", &urls[..1], false);
    assert_eq!(recorded(folder.path(), "here"), [(State::Moved, Some(Key(7)))]);
}

#[test]
fn what_cannot_move_says_why() {
    let folder = tempfile::TempDir::new().unwrap();
    let state = host(folder.path(), &["--num-queues", "2"]).save().unwrap();
    assert!(matches!(host(folder.path(), &["--lun", "memory=1M"]).save(), Err(MoveError::Memory(1))));
    let second = folder.path().join("b.sock").display().to_string();
    assert!(matches!(host(folder.path(), &["--socket", &second]).save(), Err(MoveError::Shared)));
    let refused = |more: &[&str]| host(folder.path(), more).check(&state).unwrap_err().to_string();
    let message = refused(&["--num-queues", "1"]);
    assert!(message.contains("--num-queues 2"), "{message}");
    let message = refused(&["--lun", "memory=1M"]);
    assert!(message.contains("LUN 1 is here and not there"), "{message}");
    let message = refused(&["--name", "b"]);
    assert!(message.contains("guest a"), "{message}");
    let here = host(folder.path(), &["--num-queues", "2"]);
    assert!(matches!(here.check(&[0; 5]), Err(MoveError::Cut)));
    let lun = Saved::parse(&state[16..]).unwrap().luns.remove(0);
    let text = format!("file={},serial=a", folder.path().join("disk").display());
    let presented = read_own(0, &text.parse().unwrap(), &lun).map(drop).unwrap_err().to_string();
    assert!(presented.contains("serial= is a here, and none where it comes from"), "{presented}");
}
