//! What is found where, and how bad it is.

use super::{Finding, Findings, State, machine, unit};
use nexus::{Nexus, TransportError};
use scsi::{Completion, Request};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

/// A device server that answers every command alike.
struct Always(Completion);

impl Nexus for Always {
    fn execute(&mut self, _: &Request) -> Result<Completion, TransportError> {
        Ok(self.0.clone())
    }
}

fn states(findings: &[Finding]) -> Vec<State> {
    findings.iter().map(|finding| finding.state).collect()
}

#[test]
fn the_worst_line_is_the_verdict() {
    let worst = |checks| Findings::of(checks).state;
    assert_eq!(worst(vec![]), State::Ok);
    assert_eq!(worst(vec![Finding::warn("a", "b", "c"), Finding::ok("a", "b")]), State::Warn);
    assert_eq!(worst(vec![Finding::fail("a", "b", "c"), Finding::warn("a", "b", "c")]), State::Fail);
}

#[test]
fn whatever_is_not_ok_says_what_to_do() {
    let text = Finding::warn("socket", "not there", "start it").text();
    assert_eq!(text, "warn  socket: not there\n      start it\n");
}

#[test]
fn a_socket_is_ok_only_if_a_helper_answers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    assert_eq!(machine::socket(&path).state, State::Warn);
    let listener = UnixListener::bind(&path).unwrap();
    let helper = std::thread::spawn(move || {
        listener.accept().unwrap().0.write_all(&[0, 0, 0, 1]).unwrap();
        // The next one is hung up on in the middle of the word.
        listener.accept().unwrap().0.write_all(&[0, 0]).unwrap();
    });
    let answered = machine::socket(&path);
    assert_eq!(answered.state, State::Ok);
    assert!(answered.found.contains("0x00000001"), "{}", answered.found);
    assert_eq!(machine::socket(&path).state, State::Fail);
    helper.join().unwrap();
    assert_eq!(machine::socket(&path).state, State::Fail, "a socket file without a listener");
}

#[test]
fn a_state_directory_is_for_its_user_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(machine::state(path).state, State::Ok);
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o750)).unwrap();
    assert_eq!(machine::state(path).state, State::Warn);
    assert_eq!(machine::state(&path.join("absent")).state, State::Ok);
    std::fs::write(path.join("file"), "").unwrap();
    assert_eq!(machine::state(&path.join("file")).state, State::Fail);
}

/// Users are per thread, for the kernel.
#[test]
fn a_state_directory_that_cannot_be_written_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o500)).unwrap();
    let look = move || {
        let nobody = rustix::fs::Uid::from_raw(65534);
        // Fails for who is not root, and may not write there as it is.
        let _ = rustix::thread::set_thread_res_uid(nobody, nobody, nobody);
        machine::state(&path).state
    };
    assert_eq!(std::thread::spawn(look).join().unwrap(), State::Fail);
}

#[test]
fn a_socket_that_is_not_there_is_made_by_who_makes_it() {
    for (path, expected) in [
        ("/var/lib/libvirt/qemu/domain-1-no-such/pr-helper0.sock", "start the domain"),
        ("/run/tenure/no-such.sock", "systemctl"),
        ("/no/such.sock", "start the helper with -k"),
    ] {
        let advice = machine::socket(std::path::Path::new(path)).advice.unwrap();
        assert!(advice.starts_with(expected), "{path}: {advice}");
    }
}

#[test]
fn configuration_and_policy_are_read_as_the_helper_reads_them() {
    let directory = tempfile::tempdir().unwrap();
    let (config, policy) = (directory.path().join("c.toml"), directory.path().join("p.toml"));
    let look = |text: String| {
        std::fs::write(&config, text).unwrap();
        machine::configuration(Some(&config))
    };
    assert_eq!(look("verbose = 1".into()).state, State::Ok);
    let wrong = look("verbos = 1".into());
    assert!(wrong.state == State::Fail && wrong.found.contains("unknown key `verbos`"), "{}", wrong.found);
    std::fs::write(&policy, "version = 1").unwrap();
    let names_policy = format!("policy = '{}'", policy.display());
    assert_eq!(look(names_policy.clone()).state, State::Ok);
    std::fs::write(&policy, "version = 1\n[[rule]]\nvn = 'x'").unwrap();
    let wrong = look(names_policy);
    assert!(wrong.state == State::Fail && wrong.found.contains(":3:1: unknown key `vn`"), "{}", wrong.found);
}

#[test]
fn a_unit_without_persistent_reservations_fails() {
    let refusing = Completion { status: scsi::Status::CHECK_CONDITION, sense: vec![], data: vec![] };
    let findings = unit::examine_nexus("disk", &mut Always(refusing));
    assert_eq!(states(&findings), [State::Warn, State::Fail]);
}

#[test]
fn a_unit_that_answers_nothing_is_not_taken_for_a_good_one() {
    let empty = Completion { status: scsi::Status::GOOD, sense: vec![], data: vec![] };
    let findings = unit::examine_nexus("disk", &mut Always(empty));
    assert_eq!(states(&findings), [State::Warn, State::Fail]);
}

#[test]
fn a_unit_with_persistent_reservations_is_ok() {
    // READ KEYS with no key; as page 83h it names nobody.
    let good = Completion { status: scsi::Status::GOOD, sense: vec![], data: vec![0; 8] };
    let findings = unit::examine_nexus("disk", &mut Always(good));
    assert_eq!(states(&findings), [State::Warn, State::Ok]);
}
