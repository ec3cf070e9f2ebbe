//! The client against real QEMU. Debian has it in the package qemu-system-x86; without it there is nothing to ask.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use qmp::qemu::{MigrationStatus, Qemu, RunState};
use qmp::{CallError, Client, ConnectError, ErrorClass, Heard, Object, Opening};
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn later() -> Instant {
    Instant::now() + PATIENCE
}

/// A QEMU without a machine, or with a halted one.
struct Running {
    process: Child,
    path: PathBuf,
    _directory: TempDir,
}

impl Running {
    /// `None` where it is not installed.
    fn start(arguments: &[&str]) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("qmp");
        let mut command = Command::new("qemu-system-x86_64");
        command.args("-nodefaults -no-user-config -display none -machine none".split(' '));
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", path.display())]).args(arguments);
        let process = match command.stdin(Stdio::null()).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                assert!(std::env::var_os("TENURE_NO_SKIP").is_none(), "qemu-system-x86_64 is not installed");
                eprintln!("skipped: qemu-system-x86_64 is not installed");
                return None;
            }
            started => started.unwrap(),
        };
        Some(Self { process, path, _directory: directory })
    }

    fn qemu(&self) -> Qemu {
        let end = later();
        loop {
            match Qemu::connect(&self.path, PATIENCE) {
                Ok(qemu) => return qemu,
                Err(ConnectError::Connect { .. }) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn it_says_who_it_is_and_how_it_stands() {
    let Some(running) = Running::start(&["-uuid", "6F4AB9A1-0D1F-4B1E-9A3E-1D2C3B4A5968"]) else { return };
    let qemu = running.qemu();
    assert!(qemu.version().unwrap().major >= 7);
    assert_eq!(qemu.uuid().unwrap(), "6f4ab9a1-0d1f-4b1e-9a3e-1d2c3b4a5968");
    assert!(qemu.status().unwrap().running);
    assert_eq!(qemu.migration().unwrap().status(), MigrationStatus::NONE);
    assert!(qemu.blocks().unwrap().is_empty());
    assert!(qemu.block_nodes().unwrap().is_empty());
    assert!(qemu.pr_managers().unwrap().is_empty());
    assert!(qemu.qom_list("/machine").unwrap().iter().any(|property| property.name == "type"));
    assert!(qemu.capabilities().unwrap().iter().any(|(name, on)| name == "return-path" && !on));
    assert_eq!(qemu.parameters().unwrap()["downtime-limit"], 300);
}

#[test]
fn its_schema_tells_what_it_understands() {
    let Some(running) = Running::start(&[]) else { return };
    let schema = running.qemu().schema().unwrap();
    assert!(schema.has_command("migrate-continue") && !schema.has_command("migrate-teleport"));
    assert!(schema.has_argument("migrate", "uri") && !schema.has_argument("migrate", "warp"));
    assert!(schema.has_event("MIGRATION") && !schema.has_event("LUNCH"));
}

#[test]
fn stop_and_cont_are_told_by_events_and_only_when_they_change_something() {
    let Some(running) = Running::start(&[]) else { return };
    let qemu = running.qemu();
    let events = qemu.events();
    for _ in 0..2 {
        qemu.stop().unwrap();
        assert_eq!(qemu.status().unwrap().status, RunState::PAUSED);
    }
    qemu.cont().unwrap();
    let mut told = Vec::new();
    while let Heard::Event(event) = events.next(Instant::now() + Duration::from_millis(50)) {
        assert!(event.timestamp.seconds > 1_500_000_000);
        told.push(event.event);
    }
    assert_eq!(told, ["STOP", "RESUME"]);
}

#[test]
fn a_descriptor_arrives_under_its_name() {
    let Some(running) = Running::start(&[]) else { return };
    let qemu = running.qemu();
    qemu.getfd("log", File::open("/dev/null").unwrap()).unwrap();
    qemu.execute("closefd", json!({ "fdname": "log" })).unwrap();
    let closed = qemu.execute("closefd", json!({ "fdname": "log" }));
    assert!(closed.is_err(), "there was one descriptor of that name");
    assert!(qemu.execute("getfd", json!({ "fdname": "log" })).is_err(), "none came along");
}

#[test]
fn what_it_refuses_has_a_class_and_leaves_the_connection() {
    let Some(running) = Running::start(&[]) else { return };
    let qemu = running.qemu();
    let unknown = qemu.client().execute("lunch", Object::new(), later()).unwrap_err();
    assert_eq!(unknown.refusal().unwrap().class, ErrorClass::COMMAND_NOT_FOUND);
    let argument = json!({ "what": 1 }).as_object().unwrap().clone();
    let argument = qemu.client().execute("stop", argument, later()).unwrap_err();
    assert_eq!(argument.refusal().unwrap().class, ErrorClass::GENERIC);
    assert!(qemu.migrate_continue().is_err(), "nothing to be continued");
    assert!(qemu.status().is_ok());
}

#[test]
fn a_second_client_is_told_why_it_hears_nothing() {
    let Some(running) = Running::start(&[]) else { return };
    let first = running.qemu();
    let deadline = Instant::now() + Duration::from_millis(200);
    let second = Client::connect(&running.path, &Opening::default(), deadline);
    assert!(matches!(second, Err(ConnectError::NoGreeting)), "{second:?}");
    drop(first);
    assert!(running.qemu().status().is_ok(), "now it is its turn");
}

#[test]
fn quitting_ends_the_connection_and_every_wait() {
    let Some(mut running) = Running::start(&[]) else { return };
    let qemu = running.qemu();
    let events = qemu.events();
    let _ = qemu.quit();
    running.process.wait().unwrap();
    assert!(matches!(events.next(later()), Heard::Event(event) if event.event == "SHUTDOWN"));
    assert_eq!(events.next(later()), Heard::Closed);
    let after = qemu.client().execute("stop", Object::new(), later());
    assert!(matches!(after, Err(CallError::NotSent { .. })), "{after:?}");
}
