//! `tenure device` with LUNs at an iSCSI target: what its guests register is recorded, whatever dies meanwhile, and what cannot be
//! served is named.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lab::front_end::Shape;
use lab::front_end::scsi::{VirtioScsi, setting};
use lab::kept::{self, SLOW, Story};
use lab::process::DEADLINE;
use lab::tenure::Tenure;
use qmp::{Client, Opening};
use scsi::{AdditionalSense, DataPhase, Request, Status};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;

const SHAPE: Shape =
    Shape { size: 64, requests: 16, room: 1 << 16, segment: 4096, indirect: true, event_idx: true };

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

fn ready() -> Request {
    Request { cdb: vec![0; 6], data: DataPhase::None }
}

#[test]
fn a_guest_keeps_what_it_registered_at_a_target_until_it_is_fenced() {
    let target = tenure().target(&["memory=4M"]).unwrap();
    kept::run(&tenure(), &target.url(0), &target.device(0, "other")).unwrap();
}

#[test]
fn a_device_that_dies_with_a_command_under_way_finds_out_what_came_of_it() {
    let target = tenure().target(&[&format!("memory=4M,delay={}ms", SLOW.as_millis())]).unwrap();
    let mut story = Story::begin(&tenure(), &target.url(0), &target.device(0, "other"), &[]).unwrap();
    story.holds().unwrap();
    story.dies_with(&kept::release()).unwrap();
    story.expect_truth().unwrap();
}

#[test]
fn each_guest_logs_in_as_itself_and_the_status_says_what_it_has() {
    let (directory, target) =
        (TempDir::new().unwrap(), tenure().target(&["memory=4M", "memory=4M"]).unwrap());
    let control = directory.path().join("control");
    let state = directory.path().join("state");
    let more = ["--state", state.to_str().unwrap(), "--control", control.to_str().unwrap()];
    let luns = [target.url(0), format!("{},migrate-pr=off", target.url(1))];
    let luns: Vec<&str> = luns.iter().map(String::as_str).collect();
    let device = tenure().device(directory.path(), &["a", "b"], &luns, &more).unwrap();
    let mut drivers: Vec<_> = device
        .sockets
        .iter()
        .map(|socket| VirtioScsi::connect(socket, &setting(4, SHAPE)).unwrap())
        .collect();
    let [a, b] = drivers.as_mut_slice() else { panic!() };
    let send = |driver: &mut VirtioScsi, lun, request: &Request| {
        nexus::retry_unit_attention(&mut driver.disk(lun), request, 8).unwrap().completion
    };
    let (key, kind) = (scsi::pr::Key(7), scsi::pr::ReservationType::EXCLUSIVE_ACCESS);
    let register = scsi::pr::request::register(scsi::pr::Key::NONE, key, false);
    assert_eq!(send(a, 0, &register).status, Status::GOOD);
    assert_eq!(send(a, 0, &scsi::pr::request::reserve(key, kind)).status, Status::GOOD);
    let read = Request { cdb: vec![0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], data: DataPhase::In(512) };
    assert_eq!(send(b, 0, &read).status, Status::RESERVATION_CONFLICT);
    assert_eq!(send(b, 1, &read).status, Status::GOOD);
    let capabilities = scsi::pr::request::read(scsi::pr::InAction::REPORT_CAPABILITIES, 8);
    assert_eq!(send(a, 0, &capabilities).data.get(2).map(|byte| byte & 0x0C), Some(0));
    assert_ne!(send(a, 1, &capabilities).data.get(2).map(|byte| byte & 0x0C), Some(0), "migrate-pr=off");
    let told = query(&control);
    let guests = told["guests"].as_array().unwrap();
    let lun = |guest: usize, lun: usize| guests.get(guest).unwrap()["luns"].get(lun).unwrap().clone();
    let record = &lun(0, 0)["record"];
    assert_eq!(
        (&record["state"], &record["role"], &record["type"]),
        (&json!("active"), &json!("holder"), &json!(3))
    );
    assert_eq!(record["key"], json!("0x0000000000000007"));
    assert_eq!((lun(1, 0)["record"].clone(), lun(1, 0)["present"].clone()), (Value::Null, json!(true)));
}

fn query(control: &Path) -> Value {
    let client = Client::connect(control, &Opening::default(), Instant::now() + DEADLINE).unwrap();
    client.execute("query-device", Map::new(), Instant::now() + DEADLINE).unwrap()
}

#[test]
fn a_target_that_goes_away_and_comes_back_is_the_same_logical_unit_or_is_refused() {
    let (directory, disk) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let lun = format!("file={},size=4M", disk.path().join("lun").display());
    let other = format!("file={},size=4M", disk.path().join("other").display());
    let mut target = tenure().target(&[&lun]).unwrap();
    let (port, url) = (target.portal.clone(), target.url(0));
    let state = directory.path().join("state");
    let device =
        tenure().device(directory.path(), &["a"], &[&url], &["--state", state.to_str().unwrap()]).unwrap();
    let mut driver = VirtioScsi::connect(device.sockets.first().unwrap(), &setting(4, SHAPE)).unwrap();
    let mut send = || nexus::retry_unit_attention(&mut driver.disk(0), &ready(), 8).unwrap().completion;
    assert_eq!(send().status, Status::GOOD);
    let again = |lun: &str| {
        let args =
            ["-q", "target", "--listen", &port, "--target", "iqn.2026-11.example.tenure:lab", "--lun", lun];
        lab::process::Background::start_and_read_line(&mut tenure().command(&args)).unwrap().0
    };
    target.process.kill();
    let mut back = again(&lun);
    assert_eq!(send().status, Status::GOOD, "the command waits for the new session");
    back.kill();
    let _other = again(&other);
    let refused = send();
    let code = refused.decoded_sense().map(|sense| sense.code);
    assert_eq!(code, Some(AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE), "{refused:?}");
}

#[test]
fn what_cannot_be_served_is_named() {
    let directory = TempDir::new().unwrap();
    let target = tenure().target(&["memory=4M"]).unwrap();
    let (url, state) = (target.url(0), directory.path().join("state"));
    let absent = url.replace("/0", "/5");
    let named = format!("{url}?initiator=iqn.2026-11.example:a");
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let run = |guests: &[&str], luns: &[&str], state: &Path| {
        let mut args = vec!["device", "--state", state.to_str().unwrap()];
        let sockets: Vec<_> = guests.iter().map(|guest| directory.path().join(guest)).collect();
        sockets.iter().for_each(|socket| args.extend(["--socket", socket.to_str().unwrap()]));
        luns.iter().for_each(|lun| args.extend(["--lun", lun]));
        let ran = tenure().run(&args).unwrap();
        (ran.exit, ran.err)
    };
    for (guests, luns, exit, told) in [
        (&["a"][..], &["/no/such/disk"][..], 1, "lsblk"),
        (&["a"], &["/dev/null"], 1, "/dev/null"),
        (&["a"], &[file.to_str().unwrap()], 1, "device"),
        (&["a", "b"], &["/dev/sda"], 2, "only one guest"),
        (&["a", "b"], &[&named], 2, "initiator="),
        (&["a"], &[&url, &url], 2, "LUN 0"),
        (&["a"], &[&absent], 1, "LUN 5"),
        (&["a"], &["iscsi://127.0.0.1:1/iqn.2026-11.example.tenure:lab/0"], 1, "127.0.0.1:1"),
    ] {
        let (ended, err) = run(guests, luns, &state);
        assert!(ended == exit && err.contains(told), "{luns:?}: {ended}, {err}");
    }
    let (exit, err) = run(&["a"], &[&url], &file);
    assert!(exit == 1 && err.contains("--state"), "{exit}, {err}");
}
