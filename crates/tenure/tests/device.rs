//! `tenure device` as a guest has it: the synthetic front end of the lab is its VMM and its driver.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use lab::front_end::Shape;
use lab::front_end::keeper::Keeper;
use lab::front_end::kills::Kills;
use lab::front_end::message::{Code, Link};
use lab::front_end::scsi::{Function, MISSED, REQUESTS, VirtioScsi, flat, setting};
use lab::process::DEADLINE;
use lab::served::Device;
use lab::tenure::Tenure;
use nexus::Nexus;
use qmp::{Client, Opening};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scsi::pr::{Key, ReservationType, request};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Status, opcode};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BLOCK: u32 = 4096;
const BLOCKS: usize = 256;
const SMALL: Shape =
    Shape { size: 64, requests: 16, room: 1 << 16, segment: 4096, indirect: true, event_idx: true };
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

/// A disk in a file, and one in memory, for two guests.
fn serve(directory: &TempDir) -> Device {
    let file = format!("file={},size=16M", directory.path().join("disk").display());
    tenure().device(directory.path(), &["a", "b"], &[&file, "memory=4M"], &["--num-queues", "2"]).unwrap()
}

fn connect(device: &Device, guest: usize, shape: Shape) -> VirtioScsi {
    VirtioScsi::connect(&device.sockets[guest], &setting(2, shape)).unwrap()
}

fn send(driver: &mut VirtioScsi, lun: u16, request: &Request) -> Completion {
    driver.disk(lun).execute(request).unwrap()
}

/// Whatever unit attentions are owed before.
fn good(driver: &mut VirtioScsi, lun: u16, request: &Request) -> Completion {
    let ended = nexus::retry_unit_attention(&mut driver.disk(lun), request, 8).unwrap().completion;
    assert_eq!(ended.status, Status::GOOD, "{request:?}: {ended:?}");
    ended
}

fn command(cdb: &[u8], room: usize) -> Request {
    Request { cdb: cdb.to_vec(), data: if room == 0 { DataPhase::None } else { DataPhase::In(room) } }
}

fn ready() -> Request {
    command(&[opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], 0)
}

fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 8, 0, 0, 0, 1, 0], data: DataPhase::Out(vec![7; 512]) }
}

fn sense(ended: &Completion) -> AdditionalSense {
    ended.decoded_sense().unwrap().code
}

fn keep(keeper: &mut Keeper, driver: &mut VirtioScsi, queue: usize, writes: u64) {
    let (dialect, end) = (driver.dialect(0).unwrap(), keeper.written + writes);
    let ring = driver.front.ring(REQUESTS + queue).unwrap();
    keeper.run(ring, &dialect, 16, |keeper| keeper.written < end).unwrap();
    keeper.settle(ring, &dialect).unwrap();
}

#[test]
fn it_says_where_guests_connect_and_who_they_are_and_ends_in_good_order() {
    let directory = TempDir::new().unwrap();
    let mut device = serve(&directory);
    assert_eq!(device.initiators.len(), 2);
    assert_ne!(device.initiators[0], device.initiators[1]);
    let mut driver = connect(&device, 0, SMALL);
    good(&mut driver, 0, &ready());
    assert_eq!(device.process.stop().unwrap().code(), Some(0));
    assert!(device.sockets.iter().all(|socket| !socket.exists()));
}

/// A host's usual limit of 1,024 descriptors is that of a few front ends with all the memory slots that they may use.
#[test]
fn it_takes_all_the_descriptors_that_it_may_have() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(most - 1), ..limit }).unwrap();
    let directory = TempDir::new().unwrap();
    let device = serve(&directory);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", device.process.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some(most.to_string().as_str()), "{line}");
}

#[test]
fn a_driver_finds_two_disks_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let device = serve(&directory);
    let mut driver = connect(&device, 0, SMALL);
    for (lun, blocks) in [(0, 16 << 11), (1, 4 << 11)] {
        let capacity =
            good(&mut driver, lun, &command(&[opcode::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8));
        assert_eq!(capacity.data, [u32::to_be_bytes(blocks - 1), 512u32.to_be_bytes()].concat());
    }
    let luns =
        good(&mut driver, 0, &command(&[opcode::REPORT_LUNS, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256)).data;
    assert_eq!(luns, [&[0, 0, 0, 16, 0, 0, 0, 0][..], &[0; 8], &[0, 1, 0, 0, 0, 0, 0, 0]].concat());
    // A LUN that is not there: INQUIRY says so, everything else is refused.
    let inquiry = send(&mut driver, 5, &command(&[opcode::INQUIRY, 0, 0, 0, 36, 0], 36));
    assert_eq!((inquiry.status, inquiry.data[0]), (Status::GOOD, 0x7F));
    assert_eq!(sense(&send(&mut driver, 5, &ready())), AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    // Another target is no target.
    let elsewhere = driver.execute(0, [1, 1, 0x40, 0, 0, 0, 0, 0], &ready()).unwrap();
    assert_eq!(elsewhere.response, 3, "VIRTIO_SCSI_S_BAD_TARGET");
}

#[test]
fn what_is_written_is_found_again_however_the_rings_are_made() {
    for (indirect, event_idx) in [(true, true), (false, true), (true, false), (false, false)] {
        let directory = TempDir::new().unwrap();
        let device = serve(&directory);
        let shape = Shape { indirect, event_idx, room: BLOCK, segment: 1536, ..SMALL };
        let mut driver = connect(&device, 0, shape);
        let mut keeper = Keeper::new(32, BLOCK, 1).unwrap();
        for queue in [0, 1, 0] {
            keep(&mut keeper, &mut driver, queue, 40);
        }
        let dialect = driver.dialect(0).unwrap();
        keeper.check_all(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
    }
}

#[test]
fn a_buffer_longer_than_the_command_is_a_residual_and_the_rest_of_it_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let device = serve(&directory);
    let mut driver = connect(&device, 0, SMALL);
    good(&mut driver, 0, &ready());
    let read = command(&[opcode::READ_10, 0, 0, 0, 0, 0, 0, 0, 1, 0], 4096);
    let answer = driver.execute(0, flat(0), &read).unwrap();
    assert_eq!((answer.response, answer.status, answer.residual), (0, 0, 3584));
    let long = Request { data: DataPhase::Out(vec![1; 2048]), ..write() };
    let answer = driver.execute(0, flat(0), &long).unwrap();
    assert_eq!((answer.response, answer.status, answer.residual), (0, 0, 1536));
    let short = Request { data: DataPhase::Out(vec![1; 256]), ..write() };
    let answer = driver.execute(0, flat(0), &short).unwrap();
    assert!(answer.response != 0 || answer.status != 0, "{answer:?}");
}

#[test]
fn guests_of_one_process_are_nodes_of_a_cluster() {
    let directory = TempDir::new().unwrap();
    let device = serve(&directory);
    let (mut a, mut b) = (connect(&device, 0, SMALL), connect(&device, 1, SMALL));
    good(&mut a, 0, &request::register(Key::NONE, Key(1), false));
    good(&mut b, 0, &request::register(Key::NONE, Key(2), false));
    good(&mut a, 0, &request::reserve(Key(1), KIND));
    good(&mut b, 0, &write());
    good(&mut a, 0, &request::preempt(Key(1), Key(2), KIND));
    assert_eq!(sense(&send(&mut b, 0, &ready())), AdditionalSense::REGISTRATIONS_PREEMPTED);
    assert_eq!(send(&mut b, 0, &write()).status, Status::RESERVATION_CONFLICT);
    good(&mut b, 1, &write());
    // The registrations are the guest's, not the connection's.
    drop(a);
    let mut a = connect(&device, 0, SMALL);
    good(&mut a, 0, &write());
    good(&mut a, 0, &request::release(Key(1), KIND));
    good(&mut b, 0, &write());
}

#[test]
fn tasks_are_managed() {
    let directory = TempDir::new().unwrap();
    let device = serve(&directory);
    let (mut a, mut b) = (connect(&device, 0, SMALL), connect(&device, 1, SMALL));
    for driver in [&mut a, &mut b] {
        good(driver, 0, &ready());
    }
    for function in [Function::ABORT_TASK, Function::ABORT_TASK_SET, Function::CLEAR_TASK_SET] {
        assert_eq!(a.manage(function, flat(0), 99).unwrap(), 0, "{function:?}");
    }
    assert_eq!(send(&mut b, 0, &ready()).status, Status::GOOD);
    assert_eq!(a.manage(Function::UNIT_RESET, flat(0), 0).unwrap(), 0);
    assert_eq!(send(&mut b, 0, &ready()).status, Status::CHECK_CONDITION, "a reset is everybody's");
    for (function, unit) in [(Function(77), flat(0)), (Function::UNIT_RESET, flat(9))] {
        assert_ne!(a.manage(function, unit, 0).unwrap(), 0, "{function:?}");
    }
    assert_eq!(a.event(Instant::now() + Duration::from_millis(50)).unwrap(), None);
}

#[test]
fn logical_units_come_and_go_while_the_guest_runs_and_it_hears_of_them() {
    let directory = TempDir::new().unwrap();
    let control = directory.path().join("control");
    let more = ["--num-queues", "2", "--control", control.to_str().unwrap()];
    let device = tenure().device(directory.path(), &["a"], &["memory=4M"], &more).unwrap();
    let mut driver = connect(&device, 0, SMALL);
    good(&mut driver, 0, &ready());
    let client = Client::connect(&control, &Opening::default(), Instant::now() + DEADLINE).unwrap();
    let ask = |command: &str, arguments: &Value| {
        client.execute(command, arguments.as_object().unwrap().clone(), Instant::now() + DEADLINE)
    };
    let added = ask("lun-add", &json!({ "spec": "memory=2M", "lun": 7 })).unwrap();
    assert_eq!(added, json!({ "lun": 7 }));
    let event = driver.event(Instant::now() + DEADLINE).unwrap().unwrap();
    // As REPORT LUNS tells it, which is how Linux reads it: peripheral, not flat.
    let seven = [1, 0, 0, 7, 0, 0, 0, 0];
    // VIRTIO_SCSI_T_TRANSPORT_RESET with VIRTIO_SCSI_EVT_RESET_RESCAN.
    assert_eq!((event.event & !MISSED, event.unit, event.reason), (1, seven, 1));
    good(&mut driver, 7, &ready());
    let told = ask("query-device", &json!({})).unwrap();
    assert_eq!(told["luns"][1], json!({ "lun": 7, "spec": "memory=2M" }));
    assert!(told["guests"][0]["luns"][1]["commands"].as_u64().unwrap() > 0, "{told}");
    ask("lun-remove", &json!({ "lun": 7 })).unwrap();
    let event = driver.event(Instant::now() + DEADLINE).unwrap().unwrap();
    // VIRTIO_SCSI_EVT_RESET_REMOVED.
    assert_eq!((event.event & !MISSED, event.unit, event.reason), (1, seven, 2));
    assert_eq!(sense(&send(&mut driver, 7, &ready())), AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    let file = directory.path().join("grows");
    let spec = format!("file={},size=1M", file.display());
    ask("lun-add", &json!({ "spec": spec, "lun": 7 })).unwrap();
    driver.event(Instant::now() + DEADLINE).unwrap().unwrap();
    assert_eq!(ask("lun-resize", &json!({ "lun": 7 })).unwrap(), json!({ "grown": false }));
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(2 << 20).unwrap();
    assert_eq!(ask("lun-resize", &json!({ "lun": 7 })).unwrap(), json!({ "grown": true }));
    let event = driver.event(Instant::now() + DEADLINE).unwrap().unwrap();
    // VIRTIO_SCSI_T_PARAM_CHANGE, and CAPACITY DATA HAS CHANGED (2Ah/09h).
    assert_eq!((event.event & !MISSED, event.unit, event.reason), (3, seven, 0x092A));
    assert_eq!(sense(&send(&mut driver, 7, &ready())), AdditionalSense::CAPACITY_CHANGED);
    ask("lun-remove", &json!({ "lun": 7 })).unwrap();
    for (command, arguments) in [
        ("lun-resize", json!({ "lun": 7 })),
        ("lun-add", json!({ "spec": "memory=nothing" })),
        ("lun-add", json!({ "spec": "memory=1M", "lun": 0 })),
        ("lun-add", json!({ "lun": 300, "spec": "memory=1M" })),
        ("lun-add", json!({})),
        ("lun-remove", json!({ "lun": 7 })),
        ("lun-remove", json!({ "lun": 0, "other": 1 })),
        ("nonsense", json!({})),
    ] {
        assert!(ask(command, &arguments).is_err(), "{command} {arguments}");
    }
}

/// `cargo xtask lab device-kills` does it a hundred times.
#[test]
fn nothing_acknowledged_is_lost_when_the_device_is_killed_and_the_reservation_stays() {
    for (seed, aio) in [(1, "io_uring"), (2, "threads")] {
        let directory = TempDir::new().unwrap();
        let kills = Kills { tenure: &tenure(), directory: directory.path(), kills: 5, seed, aio };
        println!("{}", kills.play().unwrap());
    }
}

/// Whoever may not use io_uring is served by threads, and heard of it; whoever insists on it is refused.
#[test]
fn a_device_is_asked_what_it_does_and_told_to_change() {
    let directory = TempDir::new().unwrap();
    let control = directory.path().join("control");
    let control = control.to_str().unwrap();
    let more = ["--num-queues", "2", "--control", control, "--aio", "threads"];
    let device = tenure().device(directory.path(), &["a"], &["memory=2M"], &more).unwrap();
    let ask = |words: &[&str]| tenure().run(&[&["device"], words, &["--control", control]].concat()).unwrap();
    let told = ask(&["status", "--interval", "0", "--json"]).json().unwrap();
    assert_eq!(
        (&told["schema"], &told["guests"][0]["state"], &told["guests"][0]["aio"]),
        (&json!(1), &json!("idle"), &json!("threads"))
    );
    let mut driver = connect(&device, 0, SMALL);
    good(&mut driver, 0, &ready());
    good(&mut driver, 0, &write());
    let told = ask(&["status", "--interval", "0", "--json", "--guest", "a"]).json().unwrap();
    let (guest, written) = (&told["guests"][0], &told["guests"][0]["luns"][0]["write"]);
    assert_eq!(
        (&guest["state"], &written["commands"], &written["bytes"]),
        (&json!("running"), &json!(1), &json!(512))
    );
    assert!(written["longest"].as_u64().unwrap() >= written["microseconds"].as_u64().unwrap());
    let table = ask(&["status", "--interval", "0"]).out;
    assert!(table.starts_with("GUEST  STATE    LUN") && table.contains("a      running    0"), "{table}");
    assert_eq!(ask(&["lun-add", "memory=2M", "--lun", "9"]).out, "LUN 9\n");
    good(&mut driver, 9, &ready());
    assert_eq!(ask(&["lun-remove", "9"]).exit, 0);
    for words in [
        &["lun-remove", "9"][..],
        &["lun-add", "memory=x"],
        &["status", "--guest", "nobody", "--interval", "0"],
    ] {
        assert_eq!(ask(words).exit, 1, "{words:?}");
    }
    drop(device);
    assert_eq!(ask(&["status", "--interval", "0"]).exit, 1, "nobody answers");
}

#[test]
fn a_guest_moves_to_another_device_and_every_page_that_was_written_was_logged() {
    let directory = TempDir::new().unwrap();
    let device = serve(&directory);
    let mut driver = connect(&device, 0, Shape { room: BLOCK, ..SMALL });
    let mut keeper = Keeper::new(BLOCKS, BLOCK, 6).unwrap();
    keep(&mut keeper, &mut driver, 0, 100);
    let dialect = driver.dialect(0).unwrap();
    let moved = driver.front.migrate(&device.sockets[1], |front, _| {
        let end = keeper.written + 100;
        // What is under way at the end of a round is so while memory is copied, and when the rings stop.
        keeper.run(front.ring(REQUESTS)?, &dialect, 16, |keeper| keeper.written < end)
    });
    let moved = moved.unwrap();
    // Sixteen responses at least, in each of three rounds; a page that was not logged would have been an error.
    assert!(moved.logged > 48, "{moved:?}");
    keeper.settle(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
    keep(&mut keeper, &mut driver, 1, 100);
    keeper.check_all(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
}

/// Guest `a` at sockets 0 and 2, guest `b` at socket 1.
fn serve_twice(directory: &TempDir, more: &[&str]) -> Device {
    let file = format!("file={},size=16M", directory.path().join("disk").display());
    let named = ["--num-queues", "2", "--name", "a", "--name", "b", "--name", "a"];
    tenure().device(directory.path(), &["a1", "b", "a2"], &[&file], &[&named, more].concat()).unwrap()
}

#[test]
fn a_fenced_guest_that_moves_to_another_socket_stays_fenced_and_hears_why_there() {
    let directory = TempDir::new().unwrap();
    let device = serve_twice(&directory, &[]);
    let (mut a, mut b) = (connect(&device, 0, Shape { room: BLOCK, ..SMALL }), connect(&device, 1, SMALL));
    let mut keeper = Keeper::new(BLOCKS, BLOCK, 8).unwrap();
    good(&mut a, 0, &request::register(Key::NONE, Key(1), false));
    good(&mut a, 0, &request::reserve(Key(1), KIND));
    keep(&mut keeper, &mut a, 0, 50);
    good(&mut b, 0, &request::register(Key::NONE, Key(2), false));
    for (to, fenced) in [(2, false), (0, true)] {
        let moved = a.front.migrate(&device.sockets[to], |_, round| {
            if fenced && round == 2 {
                good(&mut b, 0, &request::preempt(Key(2), Key(1), KIND));
            }
            Ok(())
        });
        moved.unwrap();
        if !fenced {
            // Nothing waits for it: for the target nothing has happened.
            assert_eq!(send(&mut a, 0, &write()).status, Status::GOOD);
            assert_eq!(send(&mut b, 0, &write()).status, Status::GOOD);
        }
    }
    assert_eq!(sense(&send(&mut a, 0, &ready())), AdditionalSense::REGISTRATIONS_PREEMPTED);
    assert_eq!(send(&mut a, 0, &write()).status, Status::RESERVATION_CONFLICT);
    let register = request::register(Key(1), Key(1), false);
    assert_eq!(send(&mut a, 0, &register).status, Status::RESERVATION_CONFLICT);
    good(&mut a, 0, &request::register(Key::NONE, Key(1), false));
    good(&mut a, 0, &write());
    let dialect = a.dialect(0).unwrap();
    keeper.check_all(a.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
}

#[test]
fn of_two_front_ends_of_one_guest_one_is_served_and_the_other_busy() {
    let directory = TempDir::new().unwrap();
    let device = serve_twice(&directory, &["--wait", "0"]);
    let mut source = connect(&device, 0, SMALL);
    good(&mut source, 0, &write());
    let mut destination = connect(&device, 2, SMALL);
    assert_eq!(send(&mut destination, 0, &write()).status, Status::BUSY);
    let bases = source.front.stop().unwrap();
    // It has the turn as soon as it hears of it.
    let end = Instant::now() + DEADLINE;
    while send(&mut destination, 0, &write()).status == Status::BUSY {
        assert!(
            Instant::now() < end,
            "the rings of the source have stopped, and the destination's are not served"
        );
    }
    source.front.resume(&bases).unwrap();
    assert_eq!(send(&mut source, 0, &write()).status, Status::BUSY);
    drop(destination);
    let end = Instant::now() + DEADLINE;
    while send(&mut source, 0, &write()).status == Status::BUSY {
        assert!(Instant::now() < end, "the destination has gone, and the source is not served");
    }
}

#[test]
fn a_front_end_that_lies_loses_its_connection_and_nobody_else_notices() {
    let directory = TempDir::new().unwrap();
    let mut device = serve(&directory);
    let mut other = connect(&device, 1, SMALL);
    good(&mut other, 0, &ready());
    let link = || Link::new(UnixStream::connect(&device.sockets[0]).unwrap()).unwrap();
    link().send_bytes(&[0xFF; 64], &[]).unwrap();
    let _ = link().ask(Code(9999), &[], &[]).unwrap_err();
    for payload in [&[0xFF; 32][..], &[], &[0; 8]] {
        let _ = link().send(Code::SET_MEM_TABLE, 1, payload, &[]);
        let _ = link().send(Code::SET_VRING_ADDR, 1, payload, &[]);
        let _ = link().send(Code::SET_INFLIGHT_FD, 1, payload, &[]);
        let _ = link().ask(Code::GET_VRING_BASE, payload, &[]);
    }
    good(&mut other, 0, &write());
    let mut next = connect(&device, 0, SMALL);
    good(&mut next, 0, &ready());
    assert!(device.process.is_running());
}

#[test]
fn what_cannot_be_served_is_refused_before_anybody_can_connect() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("a.sock");
    let socket = socket.to_str().unwrap();
    let _device = serve(&directory);
    let disk = format!("file={}", directory.path().join("disk").display());
    for (lun, exit) in
        [(disk.as_str(), 4), ("file=/nowhere/at/all", 1), ("memory=0", 2), ("block=/dev/null", 1)]
    {
        let other = directory.path().join("other.sock");
        let ran = tenure().run(&["device", "--socket", other.to_str().unwrap(), "--lun", lun]).unwrap();
        assert_eq!((ran.exit, ran.out.as_str(), other.exists()), (exit, "", false), "{lun}: {ran:?}");
    }
    let ran = tenure().run(&["device", "--socket", socket, "--lun", "memory=1M"]).unwrap();
    assert_eq!((ran.exit, ran.out.as_str()), (1, ""), "somebody serves that socket: {ran:?}");
}

#[test]
fn its_descriptor_names_the_kind_of_device_that_it_says_it_is() {
    let said = tenure().run(&["device", "--print-capabilities"]).unwrap().json().unwrap();
    let descriptor =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/vhost-user/50-tenure-device.json");
    let descriptor: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(descriptor).unwrap()).unwrap();
    assert_eq!((&said["type"], &descriptor["type"]), (&json!("scsi"), &json!("scsi")));
    assert_eq!(said["features"], descriptor["features"]);
    assert!(descriptor["binary"].as_str().unwrap().ends_with("/tenure-device"));
}
