//! `tenure handover` when something is in the way: a run that was cut off, a dead source, an occupied destination, a
//! guest that was fenced, a method that does not fit.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use lab::process::{Background, DEADLINE, wait_for};
use lab::served::Served;
use lab::states::{GUEST, Guest, Nodes, Standing, good, login};
use lab::tenure::{Ran, Tenure};
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReadKeys, ReservationType, request};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const JOURNAL: &str = "handover.jsonl";
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const HOLDER: Guest = Guest::new(Standing::Holder(KIND), false);

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

/// A guest on alpha that holds type 5, on a LUN of this profile.
fn guest(profile: &str) -> (Served, Nodes) {
    let served = tenure().target(&[&format!("memory=1M,profile={profile}")]).unwrap();
    let mut nodes = Nodes::new(&served, 0).unwrap();
    nodes.set_up(HOLDER).unwrap();
    (served, nodes)
}

fn handover(verb: &str, nodes: &Nodes, more: &[&str]) -> Ran {
    let (from, to) = nodes.from_and_to();
    tenure().run(&[&["handover", verb, "--json", "--from", from, "--to", to], more].concat()).unwrap()
}

fn word(ran: &Ran, name: &str) -> String {
    ran.json().unwrap()[name].as_str().unwrap_or_default().to_owned()
}

fn assert_moved(nodes: &mut Nodes) {
    let (mut alpha, mut beta) = nodes.log_in_again().unwrap();
    nodes.check_moved(HOLDER, &mut alpha, &mut beta).unwrap();
}

fn assert_untouched(nodes: &mut Nodes) {
    let (mut alpha, mut beta) = nodes.log_in_again().unwrap();
    nodes.check_untouched(HOLDER, &mut alpha, &mut beta).unwrap();
}

/// A run that is killed as soon as its journal has that many lines; `false` if it was faster.
fn killed(between: (&str, &str), state: &Path, lines: usize, more: &[&str]) -> bool {
    let (from, to) = between;
    let args = ["-q", "handover", "run", "--from", from, "--to", to, "--state", state.to_str().unwrap()];
    let mut run = Background::start(&mut tenure().command(&[&args[..], more].concat())).unwrap();
    let written =
        || std::fs::read_to_string(state.join(JOURNAL)).unwrap_or_default().lines().count() >= lines;
    wait_for(DEADLINE, || (written() || !run.is_running()).then_some(())).unwrap();
    let cut_off = run.is_running();
    run.kill();
    cut_off
}

#[test]
fn the_key_is_learnt_where_the_target_tells_it() {
    let (_served, mut nodes) = guest("spc");
    let ran = handover("run", &nodes, &[]);
    assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (0, "moved"), "{ran:?}");
    assert_moved(&mut nodes);
}

#[test]
fn a_plan_changes_nothing_and_names_every_command() {
    let (_served, mut nodes) = guest("spc");
    let ran = handover("plan", &nodes, &[]);
    assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (0, "ready"), "{ran:?}");
    let document = ran.json().unwrap();
    let commands = document["commands"].as_array().unwrap();
    assert!(commands.iter().any(|command| command["cdb"].as_str().unwrap_or_default().starts_with("5f07")));
    assert!(
        commands.iter().all(|command| command["device"].as_str().unwrap_or_default().starts_with("iscsi:"))
    );
    assert_untouched(&mut nodes);
}

#[test]
fn every_method_that_fits_can_be_asked_for() {
    for method in ["register-and-move", "preempt-own-key", "source-nonce"] {
        let (_served, mut nodes) = guest("spc");
        let ran = handover("run", &nodes, &["--method", method]);
        assert_eq!((ran.exit, word(&ran, "method").as_str()), (0, method), "{ran:?}");
        assert_moved(&mut nodes);
    }
}

#[test]
fn a_method_that_does_not_fit_is_refused_with_the_reason() {
    let (_served, mut nodes) = guest("spc");
    for method in ["make-before-break", "identity", "destination-nonce"] {
        let ran = handover("run", &nodes, &["--method", method]);
        assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (4, "refused"), "{method}: {ran:?}");
        assert!(!word(&ran, "reason").is_empty());
    }
    assert_untouched(&mut nodes);
}

#[test]
fn an_occupied_destination_is_refused_and_the_other_guest_keeps_its_key() {
    let (_served, nodes) = guest("spc");
    let (_, to) = nodes.from_and_to();
    let mut beta = login(to).unwrap();
    let other = Key(0x0DD);
    good(&mut beta, &request::register(Key::NONE, other, false)).unwrap();
    let ran = handover("run", &nodes, &[]);
    assert_eq!(ran.exit, 4, "{ran:?}");
    good(&mut login(to).unwrap(), &request::register(other, other, false)).unwrap();
}

#[test]
fn a_guest_that_was_fenced_stays_fenced() {
    let (served, nodes) = guest("spc");
    let mut gamma = login(&served.device(0, "gamma")).unwrap();
    good(&mut gamma, &request::preempt(lab::states::OTHER, GUEST, KIND)).unwrap();
    let ran = handover("run", &nodes, &["--key", &GUEST.to_string()]);
    assert!([4, 6].contains(&ran.exit), "{ran:?}");
    let (mut alpha, mut beta) = nodes.log_in_again().unwrap();
    for host in [&mut alpha, &mut beta] {
        assert!(good(host, &request::register(GUEST, GUEST, false)).is_err(), "a host is registered");
    }
}

#[test]
fn the_identity_moves_where_it_belongs_to_the_guest() {
    let (_served, nodes) = guest("spc");
    let (from, _) = nodes.from_and_to();
    let both = ["--from", from, "--to", from];
    let run =
        |more: &[&str]| tenure().run(&[&["handover", "run", "--json"], &both[..], more].concat()).unwrap();
    let refused = run(&[]);
    assert_eq!(refused.exit, 4, "{refused:?}");
    let ran = run(&["--identity"]);
    assert_eq!((ran.exit, word(&ran, "method").as_str()), (0, "identity"), "{ran:?}");
}

#[test]
fn a_guest_with_two_paths_arrives_with_two_paths() {
    let (served, nodes) = guest("spc");
    let (from, to) = nodes.from_and_to();
    let (second_from, second_to) = (served.device(0, "alpha2"), served.device(0, "beta2"));
    good(&mut login(&second_from).unwrap(), &request::register(Key::NONE, GUEST, false)).unwrap();
    let paths = ["--from", from, "--from", &second_from, "--to", to, "--to", &second_to];
    let ran = tenure().run(&[&["handover", "run", "--json"], &paths[..]].concat()).unwrap();
    assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (0, "moved"), "{ran:?}");
    let registered =
        |device: &str| good(&mut login(device).unwrap(), &request::register(GUEST, GUEST, false));
    assert!(registered(to).is_ok() && registered(&second_to).is_ok());
    assert!(registered(from).is_err() && registered(&second_from).is_err());
}

#[test]
fn a_path_that_is_given_twice_is_a_usage_error() {
    let (_served, mut nodes) = guest("spc");
    let (from, to) = nodes.from_and_to();
    for (side, device) in [("--from", from), ("--to", to)] {
        let ran = handover("run", &nodes, &[side, device]);
        assert_eq!(ran.exit, 2, "{ran:?}");
        assert!(ran.err.contains("given twice"), "{ran:?}");
    }
    assert_untouched(&mut nodes);
}

#[test]
fn another_lun_is_refused_as_another_lun() {
    let served = tenure().target(&["memory=1M", "memory=1M"]).unwrap();
    let mut nodes = Nodes::new(&served, 0).unwrap();
    nodes.set_up(HOLDER).unwrap();
    let (from, other) = (nodes.from_and_to().0, served.device(1, "beta"));
    let ran = tenure().run(&["handover", "plan", "--json", "--from", from, "--to", &other]).unwrap();
    assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (4, "refused"), "{ran:?}");
    assert!(word(&ran, "reason").contains("different logical units"), "{ran:?}");
}

#[test]
fn a_key_that_the_source_does_not_have_is_not_taken_for_a_fencing() {
    let (_served, mut nodes) = guest("spc");
    for verb in ["plan", "run"] {
        let ran = handover(verb, &nodes, &["--key", "0xdead"]);
        assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (4, "refused"), "{ran:?}");
        assert!(word(&ran, "reason").contains("registered with another key"), "{ran:?}");
    }
    assert_untouched(&mut nodes);
}

#[test]
fn a_dead_source_is_left_only_if_the_gap_is_allowed() {
    let (_served, mut nodes) = guest("spc");
    let (from, to) = nodes.from_and_to();
    // Nothing listens there: this is what a host looks like that died.
    let dead = format!("iscsi://127.0.0.1:1/{}", from.splitn(4, '/').nth(3).unwrap());
    let key = GUEST.to_string();
    let args = ["handover", "run", "--json", "--from", &dead, "--to", to, "--key", &key];
    let refused = tenure().run(&args).unwrap();
    assert_eq!(refused.exit, 4, "{refused:?}");
    let ran = tenure().run(&[&args[..], &["--allow-gap"]].concat()).unwrap();
    assert_eq!((ran.exit, word(&ran, "method").as_str()), (0, "destination-nonce"), "{ran:?}");
    assert_moved(&mut nodes);
}

#[test]
fn a_run_that_was_killed_is_recovered_by_the_next() {
    let mut cut_off = 0;
    for method in ["register-and-move", "preempt-own-key", "source-nonce"] {
        for lines in 1..=4 {
            let (_served, mut nodes) = guest("spc,delay=15ms");
            let directory = TempDir::new().unwrap();
            killed(nodes.from_and_to(), directory.path(), lines, &["--method", method]);
            let left = std::fs::read_to_string(directory.path().join(JOURNAL)).unwrap();
            if left.contains("\"line\":\"end\"") {
                // On a busy machine the run was faster than its killer: nothing is left to recover.
                assert_moved(&mut nodes);
                continue;
            }
            cut_off += 1;
            let again = ["--state", directory.path().to_str().unwrap(), "--key", &GUEST.to_string()];
            let ran = handover("run", &nodes, &again);
            let told = std::fs::read_to_string(directory.path().join(JOURNAL)).unwrap();
            assert_eq!(ran.exit, 0, "{method}, {lines} lines: {ran:?}\n{told}");
            assert!(told.ends_with("}\n") && told.contains("\"line\":\"end\""), "{told}");
            assert_moved(&mut nodes);
        }
    }
    assert!(cut_off >= 6, "only {cut_off} runs were slow enough to be killed");
}

#[test]
fn a_target_that_fails_over_within_the_timeout_does_not_end_the_handover_in_doubt() {
    let (disk, directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let lun = format!("file={},size=1M,delay=15ms", disk.path().join("lun").display());
    let mut served = tenure().target(&[&lun]).unwrap();
    let mut nodes = Nodes::new(&served, 0).unwrap();
    nodes.set_up(HOLDER).unwrap();
    let (from, to) = nodes.from_and_to();
    good(&mut login(from).unwrap(), &request::register(GUEST, GUEST, true)).unwrap();
    let state = directory.path().to_str().unwrap();
    let args = ["-q", "handover", "run", "--from", from, "--to", to, "--state", state, "--timeout", "15"];
    let mut run = Background::start(&mut tenure().command(&args)).unwrap();
    let journal = || std::fs::read_to_string(directory.path().join(JOURNAL)).unwrap_or_default();
    wait_for(DEADLINE, || (journal().lines().count() >= 1).then_some(())).unwrap();
    served.process.kill();
    assert!(run.is_running(), "the run was faster than the crash");
    // By now the first attempts have been refused.
    assert!(wait_for(Duration::from_millis(300), || (!run.is_running()).then_some(())).is_none(), "given up");
    let again = ["-q", "target", "--listen", &served.portal, "--target", &served.iqn, "--lun", &lun];
    let _restarted = Background::start_and_read_line(&mut tenure().command(&again)).unwrap();
    let ended = run.wait().unwrap();
    assert!([Some(0), Some(5)].contains(&ended.code()), "{ended:?}: {}", journal());
}

#[test]
fn a_handover_that_ends_in_doubt_leaves_its_journal_open() {
    let (mut served, nodes) = guest("spc,delay=150ms");
    let directory = TempDir::new().unwrap();
    let (from, to) = nodes.from_and_to();
    let state = directory.path().to_str().unwrap();
    let args = ["-q", "handover", "run", "--from", from, "--to", to, "--state", state, "--timeout", "2"];
    let method = ["--method", "source-nonce"];
    let mut run = Background::start(&mut tenure().command(&[&args[..], &method].concat())).unwrap();
    let journal = || std::fs::read_to_string(directory.path().join(JOURNAL)).unwrap_or_default();
    // After the third line the source gives up its key.
    wait_for(DEADLINE, || (journal().lines().count() >= 3).then_some(())).unwrap();
    served.process.kill();
    assert_eq!(run.wait().unwrap().code(), Some(7), "{}", journal());
    assert!(!journal().contains("\"line\":\"end\""), "{}", journal());
}

#[test]
fn a_move_of_the_identity_that_was_killed_is_recovered_by_the_next() {
    for lines in 1..=3 {
        let (_served, nodes) = guest("spc,delay=15ms");
        let directory = TempDir::new().unwrap();
        let (from, _) = nodes.from_and_to();
        killed((from, from), directory.path(), lines, &["--identity"]);
        let state = directory.path().to_str().unwrap();
        let args =
            ["handover", "run", "--json", "--from", from, "--to", from, "--identity", "--state", state];
        let ran = tenure().run(&[&args[..], &["--key", &GUEST.to_string()]].concat()).unwrap();
        assert_eq!((ran.exit, word(&ran, "method").as_str()), (0, "identity"), "{lines} lines: {ran:?}");
        good(&mut login(from).unwrap(), &request::register(GUEST, GUEST, false)).unwrap();
    }
}

#[test]
fn an_open_journal_of_another_handover_is_refused_and_names_it() {
    let (_served, nodes) = guest("spc,delay=15ms");
    let directory = TempDir::new().unwrap();
    assert!(killed(nodes.from_and_to(), directory.path(), 2, &["--method", "source-nonce"]));
    let (from, to) = nodes.from_and_to();
    let state = directory.path().to_str().unwrap();
    let ran = tenure().run(&["handover", "run", "--from", to, "--to", from, "--state", state]).unwrap();
    assert_eq!(ran.exit, 4, "{ran:?}");
    assert!(ran.err.contains(from), "{ran:?}");
    assert!(std::fs::read_to_string(directory.path().join(JOURNAL)).unwrap().contains(from));
}

#[test]
fn a_destination_that_cannot_be_reached_does_not_stand_in_the_way_of_the_next_handover() {
    let (_served, mut nodes) = guest("spc");
    let directory = TempDir::new().unwrap();
    let state = ["--state", directory.path().to_str().unwrap()];
    let (from, to) = nodes.from_and_to();
    let nowhere = format!("iscsi://127.0.0.1:1/{}", to.splitn(4, '/').nth(3).unwrap());
    let args = [&["handover", "run", "--from", from, "--to", &nowhere], &state[..]].concat();
    assert_eq!(tenure().run(&args).unwrap().exit, 1);
    let journal = directory.path().join(JOURNAL);
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), "", "there is nothing to recover");
    let begun = serde_json::json!({"line": "begin", "schema": 1, "from": [from], "to": [nowhere]});
    std::fs::write(&journal, format!("{begun}\n")).unwrap();
    let ran = handover("run", &nodes, &state);
    assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (0, "moved"), "{ran:?}");
    assert_moved(&mut nodes);
}

#[test]
fn a_verdict_that_cannot_be_printed_is_still_the_exit_status() {
    let (_served, mut nodes) = guest("spc");
    let (from, to) = nodes.from_and_to();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = tenure().command(&["-q", "handover", "run", "--from", from, "--to", to]);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "the guest has moved: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("moved to the destination"), "{output:?}");
    assert_moved(&mut nodes);
}

#[test]
fn a_journal_that_cannot_be_closed_does_not_hide_the_verdict() {
    let (_served, mut nodes) = guest("spc");
    let directory = TempDir::new().unwrap();
    let journal = directory.path().join(JOURNAL);
    let state = ["--state", directory.path().to_str().unwrap()];
    let (from, to) = nodes.from_and_to();
    let back = [&["handover", "run", "--from", to, "--to", from], &state[..]].concat();
    assert_eq!(handover("run", &nodes, &state).exit, 0);
    let whole = std::fs::read_to_string(&journal).unwrap();
    let end = whole.trim_end().rfind('\n').unwrap() + 10;
    assert_eq!(tenure().run(&back).unwrap().exit, 0);
    // As on a full disk, there is room for all but the last line.
    let limited = "trap '' XFSZ; limit=$1; shift; exec prlimit --fsize=\"$limit\" \"$@\"";
    let args = [&["handover", "run", "--json", "--from", from, "--to", to], &state[..]].concat();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", limited, "sh", &end.to_string(), env!("CARGO_BIN_EXE_tenure")]).args(args);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "the guest has moved: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("journal stays open"), "{output:?}");
    assert!(!std::fs::read_to_string(&journal).unwrap().contains("\"end\""));
    assert_moved(&mut nodes);
}

#[test]
fn a_users_list_of_targets_outweighs_the_built_in_one() {
    let (_served, mut nodes) = guest("spc");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("targets");
    std::fs::write(&file, "TENURE: register-and-move=no keeps-sender=no\n").unwrap();
    let targets = file.to_str().unwrap();
    let ran = handover("run", &nodes, &["--targets", targets]);
    assert_eq!((ran.exit, word(&ran, "method").as_str()), (0, "source-nonce"), "{ran:?}");
    assert_moved(&mut nodes);
    std::fs::write(&file, "TENURE: colour=red\n").unwrap();
    let ran = handover("plan", &nodes, &["--targets", targets]);
    assert_eq!(ran.exit, 2, "{ran:?}");
    assert!(ran.err.contains("line 1"), "{ran:?}");
}

#[test]
fn a_run_repeated_after_a_success_says_so_and_changes_nothing() {
    let (_served, mut nodes) = guest("spc");
    assert_eq!(handover("run", &nodes, &[]).exit, 0);
    for verb in ["plan", "run"] {
        let again = handover(verb, &nodes, &["--key", &GUEST.to_string()]);
        assert_eq!((again.exit, word(&again, "verdict").as_str()), (4, "refused"), "{again:?}");
        assert!(word(&again, "reason").contains("already"), "{again:?}");
    }
    assert_moved(&mut nodes);
}

#[test]
fn a_registration_that_belongs_to_another_session_is_not_said_to_have_moved() {
    let (served, nodes) = guest("spdk");
    let ran = handover("run", &nodes, &[]);
    assert_eq!((ran.exit, word(&ran, "verdict").as_str()), (4, "refused"), "{ran:?}");
    assert!(word(&ran, "reason").contains("session"), "{ran:?}");
    let mut gamma = login(&served.device(0, "gamma")).unwrap();
    let read = gamma.execute(&request::read(InAction::READ_KEYS, 1024)).unwrap();
    let keys = ReadKeys::parse(&read.data).unwrap().keys;
    assert_eq!(keys.iter().filter(|key| **key == GUEST).count(), 1, "neither moved nor leaked: {keys:?}");
    drop(nodes);
}
