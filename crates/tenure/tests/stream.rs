//! `tenure migrate --fd`: a guest is sent through whatever its operator has laid between the hosts.
#![allow(clippy::unwrap_used, reason = "a test")]

use agent::migrate::{Report, Verdict};
use lab::stage::{Disk, Guest, Host, Life, Qemus, Stage, has_key, insist};
use lab::tenure::Tenure;
use scsi::Status;
use scsi::pr::{Key, request};
use std::io::{Read, Write, copy};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

const KEY: Key = Key(0x4b);

fn tenure(stage: &Stage, uri: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
    let control = stage.control(Host::Alpha);
    command.args(["-q", "migrate", "web", "--to", Host::Beta.name(), "--json", "--uri", uri, "--control"]);
    command.arg(control);
    command
}

/// Brings what comes out of the descriptor to where the destination listens by then, and back; how many bytes went there.
fn tunnel(end: &UnixStream, address: String) -> u64 {
    let mut first = [0];
    (&*end).read_exact(&mut first).unwrap();
    let to = TcpStream::connect(address).unwrap();
    (&to).write_all(&first).unwrap();
    let (mut back, mut home) = (to.try_clone().unwrap(), end.try_clone().unwrap());
    thread::spawn(move || copy(&mut back, &mut home));
    1 + copy(&mut &*end, &mut &to).unwrap()
}

#[test]
fn a_guest_moves_through_a_descriptor_that_the_command_inherited() {
    let program = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = program.target(&["memory=1M"]).unwrap();
    let disk = Disk::of(&served, 0).with_key(KEY);
    let stage = Stage::open(&program, Qemus::Threads, vec![Guest::new("web", vec![disk])]).unwrap();
    let at = |host| stage.guest("web").unwrap().disks.first().unwrap().at(host).to_owned();
    let registered = insist(&at(Host::Alpha), &request::register(Key::NONE, KEY, false)).unwrap();
    assert_eq!(registered.status, Status::GOOD);
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    stage.start_qemu("web", Host::Beta, Life::Waits, &[]).unwrap();
    // A port that nobody has: the destination listens there in a moment.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let uri = format!("tcp:{address}");
    let (end, given) = UnixStream::pair().unwrap();
    let carried = thread::spawn(move || tunnel(&end, address));
    let ran =
        tenure(&stage, &uri).args(["--fd", "0"]).stdin(Stdio::from(OwnedFd::from(given))).output().unwrap();
    let report: Report = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((report.verdict, ran.status.code()), (Verdict::Moved, Some(0)), "{report:?}");
    assert!(carried.join().unwrap() > 1, "it went another way");
    assert!(has_key(&at(Host::Beta), KEY, false).unwrap() && !has_key(&at(Host::Alpha), KEY, false).unwrap());
    stage.ran_once("web").unwrap();
}

#[test]
fn a_descriptor_that_was_not_inherited_is_a_usage_error_and_nothing_is_begun() {
    let program = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let stage = Stage::open(&program, Qemus::Threads, vec![Guest::new("web", Vec::new())]).unwrap();
    let ran = tenure(&stage, "tcp:127.0.0.1:1").args(["--fd", "999"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(told.contains("--fd 999: no such descriptor was inherited"), "{told}");
}
