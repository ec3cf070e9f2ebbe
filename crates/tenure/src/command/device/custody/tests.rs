//! What a device answers its peer, step by step, and what is left of it after a crash. All orders of steps are in `standing`, the whole way
//! with rings is in `tests/moving.rs`.

use super::*;
use crate::cli::{Cli, Command, DeviceArgs};
use crate::command::device::guests::guests;
use crate::command::device::parted::Parted;
use crate::exit::Exit;
use clap::Parser;
use peer::message::DeviceStep::{Check, Commit, Give, Look};
use std::path::Path;
use tempfile::TempDir;

fn args(folder: &Path, state: &str, more: &[&str]) -> DeviceArgs {
    let at = |name: &str| folder.join(name).display().to_string();
    let (lun, peer) = (format!("file={},size=1M", at("disk")), format!("there=unix:{}", at("nobody")));
    let (socket, state, listen) = (at("a.sock"), at(state), format!("unix:{}", at("here.peer")));
    let line = ["tenure", "device", "--socket", &socket, "--lun", &lun, "--host", "here", "--peer", &peer];
    let new = (!more.contains(&"--incoming")).then_some("--first");
    let wait = if more.contains(&"--wait") { &[][..] } else { &["--wait", "0"] };
    let line = [&line[..], wait, &["--peer-listen", &listen, "--state", &state], more].concat();
    let line = line.into_iter().chain(new);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Device(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn start(folder: &Path, state: &str, more: &[&str]) -> Arc<Custody> {
    let custody = begin(folder, state, more);
    custody.advance();
    custody
}

/// The custody of guest `a`, as a process that starts has it; nothing is served yet.
fn begin(folder: &Path, state: &str, more: &[&str]) -> Arc<Custody> {
    let args = args(folder, state, more);
    let guests = guests(&args).unwrap();
    let parted = Parted::open(&args, &guests).unwrap();
    let host = Arc::new(Host::open(&args, &guests, parted.is_elsewhere(), parted.ticket()).unwrap());
    parted.custodies(&host).unwrap().remove(0)
}

fn question(step: DeviceStep, id: Id) -> Question {
    Question { handover: id, guest: "a".into(), step, format: FORMAT }
}

fn ask_as(peer: &str, custody: &Custody, step: DeviceStep, id: Id) -> Result<DeviceState, String> {
    let answer = custody.answer(&peer.parse().unwrap(), &question(step, id));
    answer.map_err(|refusal| refusal.class)
}

fn ask(custody: &Custody, step: DeviceStep, id: Id) -> Result<DeviceState, String> {
    ask_as("there", custody, step, id)
}

/// A guest that is given: in which handover, and its state.
fn given(custody: &Custody, after: Id) -> (Id, Vec<u8>) {
    let given = ask(custody, Give, after).unwrap();
    (given.handover.unwrap(), given.state.0)
}

fn word(custody: &Custody) -> &'static str {
    custody.status().0.word()
}

const NONE: Id = Id(0);

fn unknown<T>() -> Result<T, String> {
    Err("UnknownHandover".into())
}

#[test]
fn a_guest_is_given_in_two_steps_which_may_both_be_asked_for_again() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let seen = ask(&source, Look, NONE).unwrap();
    source.host.check(&seen.state.0).unwrap();
    assert_eq!(ask(&source, Commit, Id(1)), unknown());
    let (first, state) = given(&source, NONE);
    assert!(!source.host.is_open() && source.device.gate().is_shut());
    let (second, again) = given(&source, NONE);
    assert_eq!((again, second == first), (state, false), "the first answer was lost");
    assert_eq!(ask(&source, Check, first), unknown());
    assert_eq!(ask(&source, Check, second), Ok(DeviceState::default()));
    assert_eq!(ask(&source, Commit, first), unknown(), "nobody goes on with the old state");
    for _ in 0..2 {
        assert_eq!(ask(&source, Commit, second), Ok(DeviceState::default()));
        assert_eq!(word(&source), "away");
    }
    assert_eq!(ask(&source, Give, NONE), Err("NotHere".into()));
    let told = ask_as("third", &source, Give, NONE).unwrap();
    assert_eq!(told.elsewhere.as_deref(), Some("there"), "a third one is told where it is");
}

#[test]
fn what_was_given_of_the_logical_units_stays_true_until_that_has_come_to_an_end() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let changes =
        |custody: &Custody| custody.host.add(None, "memory=1M").map(|lun| custody.host.remove(lun)).is_ok();
    assert!(changes(&source));
    let (id, _) = given(&source, NONE);
    assert!(!changes(&source));
    drop(source);
    let source = begin(folder.path(), "s", &[]);
    assert!(!changes(&source), "nor after a crash");
    ask(&source, Commit, id).unwrap();
    assert!(changes(&source), "the next state is compared with what there is then");
}

#[test]
fn what_another_device_gives_is_compared_with_logical_units_that_stay_as_they_are() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let (id, state) = given(&source, NONE);
    let there = start(folder.path(), "d", &["--incoming", "there"]);
    let stays = || there.host.add(None, "memory=1M").is_err();
    {
        let mut standing = there.lock();
        standing.on(Event::Rings(true));
        assert!(matches!(standing.act(id, true), Some(Act::Call(_))));
    }
    assert!(!stays());
    there.host.remove(1).unwrap();
    let told = |epoch: u64, state: &[u8]| DeviceState {
        handover: Some(id),
        epoch,
        state: peer::message::Bytes(state.to_vec()),
        ..DeviceState::default()
    };
    let from: HostName = "there".parse().unwrap();
    assert!(matches!(there.given(&from, told(1, &state)), (Answer::Given(_), None)));
    assert!(stays());
    let _ = ask(&there, Check, NONE);
    assert!(stays(), "a question of somebody else's changes nothing of that");
    let untied = [&[0; 16], &state[16..]].concat();
    let refused = |told| match there.given(&from, told) {
        (Answer::Lost, Some(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(told(1, &untied)).contains("ties"));
    put(&there, Place::Expected { from: from.clone() });
    assert!(refused(told(4, &state)).contains("is old"));
}

#[test]
fn after_a_crash_a_guest_is_where_the_record_says() {
    let folder = TempDir::new().unwrap();
    let (_, state) = given(&start(folder.path(), "s", &[]), NONE);
    // Killed in the middle: the state is kept, and the disk is not opened.
    let source = start(folder.path(), "s", &[]);
    assert_eq!((word(&source), source.host.is_open()), ("giving", false));
    let (id, again) = given(&source, NONE);
    assert_eq!(again, state);
    ask(&source, Commit, id).unwrap();
    drop(source);
    let source = start(folder.path(), "s", &["--incoming", "there"]);
    assert_eq!((word(&source), source.host.is_open()), ("away", false));
    assert_eq!(
        ask(&source, Commit, id),
        Ok(DeviceState::default()),
        "an answer that was lost is given again"
    );
}

/// What is written is done, as if the machine had decided it.
fn put(custody: &Custody, place: Place) {
    let entry = Entry { epoch: 5, place };
    custody.record.write(&entry).unwrap();
    *custody.lock() = Standing::new(entry, None);
}

#[test]
fn who_is_taking_gives_only_to_who_shows_the_handover_and_opens_what_is_its_own() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let (id, state) = given(&source, NONE);
    let there = start(folder.path(), "d", &["--incoming", "there"]);
    assert_eq!((word(&there), there.host.is_open()), ("expected", false));
    assert_eq!(ask(&there, Give, NONE), Err("NotHere".into()));
    put(&there, Place::Taking { id, from: "there".parse().unwrap(), state: state.clone().into() });
    assert_eq!(ask(&there, Give, NONE), Err("NotHere".into()), "that may be an old question");
    assert_eq!(given(&there, id).1, state, "the other one is away, which only the commit can have done");
    assert_eq!((word(&there), there.host.is_open()), ("giving", false));
    // And what is its own it opens, also after a crash.
    put(&there, Place::Owned { state: state.into() });
    drop(there);
    let there = start(folder.path(), "d", &["--incoming", "there"]);
    assert_eq!((word(&there), there.host.is_open(), there.device.gate().is_shut()), ("here", true, false));
}

#[test]
fn a_record_that_cannot_be_written_stops_everything_but_its_own_writing() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let records = folder.path().join("s/devices");
    let aside = folder.path().join("aside");
    std::fs::rename(&records, &aside).unwrap();
    assert_eq!(ask(&source, Give, NONE), Err("InDoubt".into()));
    assert!(source.device.gate().is_shut(), "it may be given by the record");
    for step in [Give, Check, Commit, Look] {
        assert_eq!(ask(&source, step, NONE), Err("InDoubt".into()), "{step:?}");
    }
    assert!(source.claim(false).is_err() && !source.advance());
    assert!(source.status().1.unwrap().contains("record"));
    std::fs::rename(&aside, &records).unwrap();
    assert!(source.advance());
    assert_eq!((word(&source), source.host.is_open()), ("giving", false));
}

#[test]
fn who_cannot_read_the_state_is_told_before_anything_happens() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let old = Question { format: 0, ..question(Give, NONE) };
    let refusal = source.answer(&"there".parse().unwrap(), &old).unwrap_err();
    assert_eq!((refusal.class.as_str(), word(&source)), ("Version", "here"));
}

#[test]
fn a_guest_whose_vmm_may_come_back_is_not_given() {
    let folder = TempDir::new().unwrap();
    let source = begin(folder.path(), "s", &["--wait", "60"]);
    assert_eq!(ask(&source, Give, NONE), Err("StillRunning".into()), "also before anything is served");
    let state = source.host.save().unwrap();
    put(&source, Place::Owned { state: state.into() });
    assert_eq!(ask(&source, Give, NONE), Err("StillRunning".into()), "nor before its LUNs are open again");
    put(&source, Place::Here);
    source.advance();
    assert_eq!(ask(&source, Give, NONE), Err("StillRunning".into()));
    assert_eq!(source.turns_away(), None, "its VMM has come");
    given(&source, NONE);
}

#[test]
fn the_operator_has_the_last_word() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    assert!(source.claim(false).is_err() && source.claim(true).is_err());
    given(&source, NONE);
    source.claim(false).unwrap();
    let is_served = |custody: &Custody| !custody.device.gate().is_shut() && custody.host.is_open();
    assert_eq!((word(&source), is_served(&source)), ("here", true), "with the state that it gave");
    let (id, _) = given(&source, NONE);
    ask(&source, Commit, id).unwrap();
    assert!(source.claim(false).is_err(), "not without saying that the state is lost");
    source.claim(true).unwrap();
    assert_eq!((word(&source), is_served(&source)), ("here", true));
    assert_eq!(ask(&source, Commit, id), unknown());
}

#[test]
fn a_claim_that_could_not_be_recorded_says_that_it_stands_and_comes_true_later() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    given(&source, NONE);
    let (records, aside) = (folder.path().join("s/devices"), folder.path().join("aside"));
    std::fs::rename(&records, &aside).unwrap();
    source.seen().stirred = false;
    let refusal = source.claim(false).unwrap_err();
    assert!(refusal.desc.contains("as soon as"), "{refusal}");
    assert!(source.seen().stirred, "the thread goes on with it");
    std::fs::rename(&aside, &records).unwrap();
    source.advance();
    assert_eq!(word(&source), "here");
}

#[test]
fn a_guest_without_a_record_is_served_only_if_it_is_said_to_be_new_and_no_peer_knows_better() {
    let folder = TempDir::new().unwrap();
    let open = |state: &str, first: bool| {
        let mut args = args(folder.path(), state, &[]);
        args.peering.first = first;
        Parted::open(&args, &guests(&args).unwrap()).map(drop).map_err(|failure| failure.reason.to_string())
    };
    assert!(open("new", false).unwrap_err().contains("--first"));
    assert_eq!(open("new", true), Ok(()), "nobody answers");
    assert_eq!(open("new", false), Ok(()), "from then on the record counts");
    // The peer has had it.
    let there = |state: &str, more: &[&str]| {
        let mut args = args(folder.path(), state, more);
        args.peering.host = Some("there".parse().unwrap());
        args.peering.peers[0].name = "here".parse().unwrap();
        args.peering.listen =
            Some(format!("unix:{}", folder.path().join("nobody").display()).parse().unwrap());
        let guests = guests(&args).unwrap();
        let parted = Parted::open(&args, &guests).unwrap();
        let host = Arc::new(Host::open(&args, &guests, parted.is_elsewhere(), parted.ticket()).unwrap());
        let peering = parted.peering().unwrap();
        let custodies = parted.custodies(&host).unwrap();
        let listener = peering.listen(args.peering.listen.as_ref().unwrap(), &custodies).unwrap();
        (custodies, listener)
    };
    let expects = there("t1", &["--incoming", "here"]);
    assert_eq!(open("new again", true), Ok(()));
    drop(expects);
    let another = there("t3", &["--name", "b"]);
    assert_eq!(open("new as well", true), Ok(()), "it has another guest");
    drop(another);
    let has = there("t2", &[]);
    assert!(open("lost", true).unwrap_err().contains("there knows it"));
    put(&has.0[0], Place::Away { id: Id(1), to: "gone".parse().unwrap() });
    assert!(open("lost", true).unwrap_err().contains("it is at gone"));
    put(&has.0[0], Place::Here);
    let (records, aside) = (folder.path().join("t2/devices"), folder.path().join("aside"));
    std::fs::rename(&records, &aside).unwrap();
    let own: HostName = "here".parse().unwrap();
    assert_eq!(has.0[0].answer(&own, &question(Give, NONE)).unwrap_err().class, "InDoubt");
    assert!(open("lost", true).unwrap_err().contains("there knows it"), "who is in doubt knows it");
    let (_, why) = (has, open("lost", false).unwrap_err());
    assert!(why.contains("--incoming"), "{why}");
}

#[test]
fn a_guest_that_went_to_a_host_that_is_gone_is_asked_for_where_the_operator_says_that_it_is() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    let (id, state) = given(&source, NONE);
    let gone: HostName = "gone".parse().unwrap();
    let open = |more: &[&str]| {
        let args = args(folder.path(), "s", more);
        Parted::open(&args, &guests(&args).unwrap()).map(drop).map_err(|failure| failure.exit)
    };
    put(&source, Place::Away { id, to: gone.clone() });
    drop(source);
    assert_eq!(open(&[]), Err(Exit::Refused), "it is no peer");
    assert_eq!(open(&["--incoming", "there"]), Ok(()));
    let source = start(folder.path(), "s", &["--incoming", "there"]);
    put(&source, Place::Taking { id, from: gone, state: state.into() });
    drop(source);
    assert_eq!(open(&["--incoming", "there"]), Err(Exit::Refused), "only that one can give it");
}

#[test]
fn a_device_without_peers_does_not_serve_a_guest_that_is_elsewhere() {
    let folder = TempDir::new().unwrap();
    let source = start(folder.path(), "s", &[]);
    given(&source, NONE);
    drop(source);
    let mut alone = args(folder.path(), "s", &[]);
    alone.peering.host = None;
    let guests = guests(&alone).unwrap();
    assert_eq!(Parted::open(&alone, &guests).unwrap_err().exit, Exit::Refused);
}
