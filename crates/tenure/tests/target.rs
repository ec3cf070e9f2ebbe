//! `tenure target` as a service: the ready line, signals, systemd, locks, and LUNs that must be refused.

use lab::process::{Background, DEADLINE};
use lab::tenure::Tenure;
use serde_json::{Value, json};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use tempfile::TempDir;

const IQN: &str = "iqn.2026-11.example:t";

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

fn spec(directory: &TempDir) -> String {
    format!("file={},size=1M", directory.path().join("lun").display())
}

fn serve(lun: &str) -> [&str; 7] {
    ["target", "--listen", "127.0.0.1:0", "--target", IQN, "--lun", lun]
}

#[test]
fn it_says_where_it_listens_and_ends_in_good_order_when_asked() {
    let mut command = tenure().command(&serve("memory=1M"));
    let (mut process, line) = Background::start_and_read_line(&mut command).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&ready["schema"], &ready["ready"], &ready["target"]), (&json!(1), &json!(true), &json!(IQN)));
    assert!(ready["listen"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(process.stop().unwrap().code(), Some(0));
}

#[test]
fn systemd_is_told_when_it_is_ready() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = tenure().command(&serve("memory=1M"));
    let (_process, _) = Background::start_and_read_line(command.env("NOTIFY_SOCKET", &path)).unwrap();
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
}

#[test]
fn a_file_that_another_process_serves_is_refused_before_listening() {
    let directory = TempDir::new().unwrap();
    let lun = spec(&directory);
    let _first = tenure().target(&[&lun]).unwrap();
    let ran = tenure().run(&serve(&lun)).unwrap();
    assert_eq!((ran.exit, ran.out.as_str()), (4, ""), "{ran:?}");
    assert!(ran.err.contains("lun"), "{ran:?}");
}

#[test]
fn what_cannot_be_served_is_refused_before_listening() {
    for lun in ["file=/nowhere/at/all/lun", "memory=1", "memory=1M,profile=nonesuch", "file=/dev/null"] {
        let ran = tenure().run(&serve(lun)).unwrap();
        assert!(ran.exit == 1 || ran.exit == 2, "{lun}: {ran:?}");
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{lun}: {ran:?}");
    }
}

#[test]
fn registrations_with_aptpl_survive_a_crash_of_the_target() {
    let directory = TempDir::new().unwrap();
    let lun = spec(&directory);
    let mut served = tenure().target(&[&lun]).unwrap();
    let device = served.device(0, "a");
    let ran = tenure().run(&["pr", "register", &device, "--new-key", "a", "--aptpl"]).unwrap();
    assert_eq!(ran.exit, 0, "{ran:?}");
    served.process.kill();
    let served = tenure().target(&[&lun]).unwrap();
    let ran = tenure().run(&["-q", "pr", "read-keys", &served.device(0, "a"), "--json"]).unwrap();
    let document = ran.json().unwrap();
    assert_eq!(document["keys"], json!(["0x000000000000000a"]));
    assert_eq!(document["prgeneration"], json!(0));
    let first = &document["unit_attentions"][0];
    assert_eq!((&first["asc"], &first["ascq"]), (&json!(0x29), &json!(1)), "POWER ON: {document}");
}

#[test]
fn with_chap_only_those_who_know_the_secret_get_in() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("chap");
    std::fs::write(&file, "me:a long secret\n").unwrap();
    let served = tenure().target_with(&["memory=1M"], &["--chap", file.to_str().unwrap()]).unwrap();
    let device = |login: &str| served.device(0, "a").replace("iscsi://", &format!("iscsi://{login}"));
    for (login, exit) in [("", 1), ("me%a wrong secret@", 1), ("me%a long secret@", 0)] {
        let ran = tenure().run(&["pr", "read-keys", &device(login)]).unwrap();
        assert_eq!(ran.exit, exit, "{login}: {ran:?}");
    }
}
