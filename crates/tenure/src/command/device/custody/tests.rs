//! What a device answers its peer, step by step, and what is left of it after a crash. The whole way with rings is in `tests/moving.rs`.

use super::*;
use crate::cli::{Cli, Command, DeviceArgs};
use crate::command::device::guests::guests;
use crate::command::device::parted::Parted;
use clap::Parser;
use peer::message::DeviceStep::{Check, Commit, Give, Look};
use std::path::Path;
use tempfile::TempDir;

fn args(folder: &Path, state: &str, more: &[&str]) -> DeviceArgs {
    let at = |name: &str| folder.join(name).display().to_string();
    let (lun, peer) = (format!("file={},size=1M", at("disk")), format!("there=unix:{}", at("nobody")));
    let (socket, state, listen) = (at("a.sock"), at(state), format!("unix:{}", at("here.peer")));
    let line = ["tenure", "device", "--socket", &socket, "--lun", &lun, "--host", "here", "--peer", &peer];
    let line = [&line[..], &["--peer-listen", &listen, "--state", &state], more].concat();
    match Cli::try_parse_from(line).unwrap().command {
        Command::Device(args) => args,
        other => panic!("{other:?}"),
    }
}

/// The custody of guest `a`, as a process that starts has it.
fn start(folder: &Path, state: &str, more: &[&str]) -> Arc<Custody> {
    let args = args(folder, state, more);
    let guests = guests(&args).unwrap();
    let parted = Parted::open(&args, &guests).unwrap();
    let host = Arc::new(Host::open(&args, &guests, parted.is_elsewhere()).unwrap());
    parted.custodies(&host).unwrap().remove(0)
}

fn ask(custody: &Custody, step: DeviceStep, id: u128) -> Result<Vec<u8>, String> {
    let question = Question { handover: Id(id), guest: "a".into(), step, format: saved::VERSION };
    let answer = custody.answer(&"there".parse().unwrap(), &question);
    answer.map(|answer| answer.state.0).map_err(|refusal| refusal.class)
}

fn word(custody: &Custody) -> &'static str {
    custody.status().0.word()
}

#[test]
fn a_guest_is_given_in_two_steps_which_may_both_be_asked_for_again() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let seen = ask(&source, Look, 0).unwrap();
    source.host.check(&seen).unwrap();
    assert_eq!(ask(&source, Commit, 1), Err("UnknownHandover".into()));
    let state = ask(&source, Give, 1).unwrap();
    assert!(!source.host.is_open() && source.device.gate().is_shut());
    assert_eq!(ask(&source, Give, 2).as_ref(), Ok(&state), "the first answer was lost");
    assert_eq!((ask(&source, Check, 1), ask(&source, Check, 2)), (Err("UnknownHandover".into()), Ok(vec![])));
    assert_eq!(ask(&source, Commit, 1), Err("UnknownHandover".into()), "nobody goes on with the old state");
    for _ in 0..2 {
        assert_eq!(ask(&source, Commit, 2), Ok(vec![]));
        assert_eq!(word(&source), "away");
    }
    assert_eq!(ask(&source, Give, 3), Err("NotHere".into()));
}

#[test]
fn after_a_crash_a_guest_is_where_the_record_says() {
    let folder = TempDir::new().unwrap();
    let state = ask(&start(folder.path(), "s", &[]), Give, 1).unwrap();
    // Killed in the middle: the state is kept, and the disk is not opened.
    let source = start(folder.path(), "s", &[]);
    assert_eq!((word(&source), source.host.is_open()), ("giving", false));
    assert_eq!(ask(&source, Give, 2).as_ref(), Ok(&state));
    ask(&source, Commit, 2).unwrap();
    drop(source);
    let source = start(folder.path(), "s", &["--incoming", "there"]);
    assert_eq!((word(&source), source.host.is_open()), ("away", false));
    assert_eq!(ask(&source, Commit, 2), Ok(vec![]), "an answer that was lost is given again");
}

#[test]
fn a_destination_goes_through_its_steps_and_gives_back_what_it_has_not_begun() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let state = ask(&source, Give, 1).unwrap();
    let there = start(folder.path(), "d", &["--incoming", "there"]);
    assert_eq!((word(&there), there.host.is_open()), ("expected", false));
    assert_eq!(ask(&there, Give, 9), Err("NotHere".into()));
    let from = "there".parse::<HostName>().unwrap();
    let taking = Place::Taking { id: Id(1), from: from.clone(), state: state.clone() };
    let before = there.status().0;
    assert!(matches!(there.change(&before, taking.clone()), Step::Next));
    assert!(matches!(there.open_for(&taking, &state), Step::Rest));
    assert!(there.host.is_open() && there.device.gate().is_shut());
    // It is not awaited here: the source may have it back, with the state that it gave.
    assert_eq!(ask(&there, Give, 2).as_ref(), Ok(&state));
    assert_eq!((word(&there), there.host.is_open()), ("giving", false));
    // And after the commit it is served.
    let giving = there.status().0;
    assert!(matches!(there.change(&giving, taking.clone()), Step::Next));
    assert!(matches!(there.open_for(&taking, &state), Step::Rest));
    assert!(matches!(there.arrive(&taking), Step::Rest));
    assert!(!there.device.gate().is_shut());
    drop(there);
    assert_eq!(word(&start(folder.path(), "d", &["--incoming", "there"])), "here");
}

#[test]
fn a_step_that_comes_too_late_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    ask(&source, Give, 1).unwrap();
    let before = Place::Expected { from: "there".parse().unwrap() };
    assert!(matches!(source.change(&before, Place::HERE), Step::Next));
    assert_eq!(word(&source), "giving");
}

#[test]
fn who_cannot_read_the_state_is_told_before_anything_happens() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let question = Question { handover: Id(1), guest: "a".into(), step: Give, format: 0 };
    let refusal = source.answer(&"there".parse().unwrap(), &question).unwrap_err();
    assert_eq!((refusal.class.as_str(), word(&source)), ("Version", "here"));
}

#[test]
fn the_operator_has_the_last_word() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    assert!(source.claim().is_err());
    ask(&source, Give, 1).unwrap();
    ask(&source, Commit, 1).unwrap();
    source.claim().unwrap();
    assert_eq!((word(&source), source.device.gate().is_shut(), source.host.is_open()), ("here", false, true));
    assert_eq!(ask(&source, Commit, 1), Err("UnknownHandover".into()));
}

#[test]
fn a_device_without_peers_does_not_serve_a_guest_that_is_elsewhere() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    ask(&source, Give, 1).unwrap();
    drop(source);
    let mut alone = args(folder.path(), "s", &[]);
    alone.peering.host = None;
    let guests = guests(&alone).unwrap();
    assert_eq!(Parted::open(&alone, &guests).unwrap_err().exit, crate::exit::Exit::Refused);
}
