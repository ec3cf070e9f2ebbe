//! A guest with LUNs at iSCSI targets that migrates between two `tenure device` processes: to the target it is one host all the time, and
//! what it registered there is on the record of the process that has it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use agent::drive::{Device as Way, Opened};
use lab::front_end::Shape;
use lab::front_end::keeper::Keeper;
use lab::front_end::scsi::{Function, REQUESTS, VirtioScsi, flat, setting};
use lab::process::{DEADLINE, wait_for};
use lab::served::{Device, Served};
use lab::tenure::Tenure;
use nexus::Nexus;
use qmp::{Client, Opening};
use scsi::pr::{FullStatus, InAction, Key, ReadReservation, ReservationType, request};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Status, opcode};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

const BLOCK: u32 = 4096;
const SHAPE: Shape =
    Shape { size: 64, requests: 16, room: BLOCK, segment: 4096, indirect: true, event_idx: true };
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const OWN: Key = Key(0xA1);
const OTHER: Key = Key(0xB2);
const NAMES: [&str; 2] = ["alpha", "beta"];

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

/// Two hosts, the target that both reach, and another node of the guest's cluster.
struct Hosts {
    directory: TempDir,
    target: Served,
    other: Opened,
}

impl Hosts {
    fn new() -> Self {
        Self::with(&["memory=4M", "memory=4M"])
    }

    fn with(luns: &[&str]) -> Self {
        let (directory, target) = (TempDir::new().unwrap(), tenure().target(luns).unwrap());
        NAMES.iter().for_each(|name| std::fs::create_dir(directory.path().join(name)).unwrap());
        let way: Way = target.device(0, "other").parse().unwrap();
        Self { directory, target, other: way.open(DEADLINE).unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn control(&self, host: usize) -> PathBuf {
        self.at(NAMES[host]).join("control")
    }

    fn state(&self, host: usize) -> String {
        self.text(&format!("{}/state", NAMES[host]))
    }

    fn start(&self, host: usize, luns: &[&str], more: &[&str]) -> Device {
        let (own, other) = (NAMES[host], NAMES[1 - host]);
        let address = |name: &str| format!("unix:{}", self.text(&format!("{name}.peer")));
        let (listen, peer) = (address(own), format!("{other}={}", address(other)));
        let (state, control) = (self.state(host), self.control(host).display().to_string());
        let words = ["--num-queues", "2", "--host", own, "--peer-listen", &listen, "--peer", &peer];
        let named = ["--state", &state, "--control", &control];
        let new: &[&str] = if more.contains(&"--incoming") { &[] } else { &["--first"] };
        tenure().device(&self.at(own), &["db1"], luns, &[&words[..], &named, more, new].concat()).unwrap()
    }

    /// The first host's device.
    fn alpha(&self) -> Device {
        self.start(0, &[&self.target.url(0)], &[])
    }

    /// The second host's device, where the guest is expected, with this LUN.
    fn beta(&self, lun: &str) -> Device {
        self.start(1, &[lun], &["--incoming", "alpha"])
    }

    fn both(&self) -> [Device; 2] {
        [self.alpha(), self.beta(&self.target.url(0))]
    }

    fn guest(&self, host: usize) -> Value {
        let client =
            Client::connect(&self.control(host), &Opening::default(), Instant::now() + DEADLINE).unwrap();
        let told = client.execute("query-device", serde_json::Map::new(), Instant::now() + DEADLINE).unwrap();
        told["guests"][0].clone()
    }

    /// Waits until a host says that the guest is there in this way.
    fn wait_for(&self, host: usize, place: &str) {
        let is = || (self.guest(host)["place"] == place).then_some(());
        assert!(wait_for(DEADLINE, is).is_some(), "not {place}: {}", self.guest(host));
    }

    /// State, role and key of the first record.
    fn record(&self, host: usize) -> [String; 3] {
        let ran = tenure().run(&["status", "--state", &self.state(host), "--vm", "db1", "--json"]).unwrap();
        let row = ran.json().unwrap()["records"][0].clone();
        ["state", "role", "key"].map(|what| row[what].as_str().unwrap_or("none").to_owned())
    }

    fn expect_record(&self, host: usize, expected: [&str; 3]) {
        let is = || (self.record(host) == expected).then_some(());
        assert!(wait_for(DEADLINE, is).is_some(), "{:?}, not {expected:?}", self.record(host));
    }

    /// The other node's command, past the unit attentions of its own.
    fn elsewhere(&mut self, request: &Request) -> Completion {
        nexus::retry_unit_attention(&mut self.other, request, 8).unwrap().completion
    }
}

fn connect(device: &Device) -> VirtioScsi {
    VirtioScsi::connect(&device.sockets[0], &setting(2, SHAPE)).unwrap()
}

fn send(driver: &mut VirtioScsi, request: &Request) -> Completion {
    driver.disk(0).execute(request).unwrap()
}

/// Without a unit attention before it.
fn good(driver: &mut VirtioScsi, request: &Request) -> Completion {
    let ended = send(driver, request);
    assert_eq!(ended.status, Status::GOOD, "{request:?}: {ended:?}");
    ended
}

/// While the device says BUSY: it is not yet this guest's turn.
fn patiently(driver: &mut VirtioScsi, request: &Request) -> Completion {
    let tried =
        wait_for(DEADLINE, || Some(send(driver, request)).filter(|ended| ended.status != Status::BUSY));
    tried.unwrap()
}

fn code(ended: &Completion) -> AdditionalSense {
    ended.decoded_sense().unwrap().code
}

fn ready() -> Request {
    Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None }
}

fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 16, 0, 0, 0, 1, 0], data: DataPhase::Out(vec![7; 512]) }
}

/// The guest registers and reserves.
fn reserve(driver: &mut VirtioScsi) {
    assert!(
        nexus::retry_unit_attention(&mut driver.disk(0), &ready(), 8).unwrap().completion.status.is_good()
    );
    good(driver, &request::register(Key::NONE, OWN, false));
    good(driver, &request::reserve(OWN, KIND));
}

fn holds(driver: &mut VirtioScsi) {
    let held = good(driver, &request::read(InAction::READ_RESERVATION, 64));
    let held = ReadReservation::parse(&held.data).unwrap().reservation.unwrap();
    assert_eq!((held.key, held.kind), (OWN, KIND));
    let full = good(driver, &request::read(InAction::READ_FULL_STATUS, 4096));
    let full = FullStatus::parse(&full.data).unwrap();
    assert_eq!(full.descriptors.len(), 1, "{full:?}");
    good(driver, &write());
}

#[test]
fn a_guest_moves_there_and_back_with_its_session_its_registration_and_its_record() {
    let mut hosts = Hosts::new();
    let devices = hosts.both();
    assert_eq!(devices[0].initiators, devices[1].initiators, "one host to the target");
    let mut driver = connect(&devices[0]);
    reserve(&mut driver);
    let mut keeper = Keeper::new(64, BLOCK, 3).unwrap();
    for to in [1, 0, 1] {
        let (dialect, end) = (driver.dialect(0).unwrap(), keeper.written + 40);
        let moved = driver.front.migrate(&devices[to].sockets[0], |front, _| {
            keeper.run(front.ring(REQUESTS)?, &dialect, 8, |keeper| keeper.written < end)
        });
        moved.unwrap();
        keeper.settle(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
        holds(&mut driver);
        assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
        hosts.wait_for(1 - to, "away");
        hosts.expect_record(to, ["active", "holder", "0x00000000000000a1"]);
        assert_eq!(hosts.record(1 - to)[0], "moved");
    }
    let dialect = driver.dialect(0).unwrap();
    keeper.check_all(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
    good(&mut driver, &request::release(OWN, KIND));
    good(&mut driver, &request::register(OWN, Key::NONE, false));
    hosts.expect_record(1, ["active", "unregistered", "none"]);
}

#[test]
fn a_unit_attention_that_waits_moves_along_and_that_of_the_login_is_not_added() {
    let hosts = Hosts::new();
    let [alpha, beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    assert_eq!(driver.manage(Function::UNIT_RESET, flat(0), 0).unwrap(), 0);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(code(&send(&mut driver, &ready())), AdditionalSense::TARGET_RESET);
    holds(&mut driver);
}

#[test]
fn a_guest_that_was_fenced_on_its_way_is_fenced_where_it_arrives_and_back_again() {
    let mut hosts = Hosts::new();
    let [alpha, beta] = hosts.both();
    let mut source = connect(&alpha);
    reserve(&mut source);
    source.front.stop().unwrap();
    assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
    assert!(hosts.elsewhere(&request::preempt(OTHER, OWN, KIND)).status.is_good());
    let mut destination = connect(&beta);
    let told = patiently(&mut destination, &write());
    assert_eq!(code(&told), AdditionalSense::REGISTRATIONS_PREEMPTED, "{told:?}");
    assert_eq!(send(&mut destination, &write()).status, Status::RESERVATION_CONFLICT);
    hosts.expect_record(1, ["fenced", "unregistered", "none"]);
    drop(source);
    destination.front.migrate(&alpha.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(send(&mut destination, &write()).status, Status::RESERVATION_CONFLICT);
    hosts.expect_record(0, ["fenced", "unregistered", "none"]);
    good(&mut destination, &request::register(Key::NONE, OWN, false));
    good(&mut destination, &write());
    hosts.expect_record(0, ["active", "member", "0x00000000000000a1"]);
}

/// The source has given, and the destination finds another logical unit than the guest's.
fn stuck(hosts: &Hosts, more: &[&str]) -> (Device, Device, VirtioScsi, VirtioScsi, Vec<u16>) {
    let [own, wrong] = [hosts.target.url(0), hosts.target.url(1)];
    let busy = ["--wait", "0"];
    let alpha = hosts.start(0, &[&[own.as_str()], more].concat(), &busy);
    let beta =
        hosts.start(1, &[&[wrong.as_str()], more].concat(), &[&busy[..], &["--incoming", "alpha"]].concat());
    let mut source = connect(&alpha);
    reserve(&mut source);
    let bases = source.front.stop().unwrap();
    let mut destination = connect(&beta);
    assert_eq!(send(&mut destination, &ready()).status, Status::BUSY);
    hosts.wait_for(0, "giving");
    hosts.wait_for(1, "taking");
    let why = wait_for(DEADLINE, || hosts.guest(1)["waits"].as_str().map(str::to_owned)).unwrap();
    assert!(why.contains("another logical unit"), "{why}");
    (alpha, beta, source, destination, bases)
}

#[test]
fn another_logical_unit_behind_the_address_is_left_alone_and_all_of_the_guest_goes_on_where_it_was() {
    let hosts = Hosts::new();
    let file = format!("file={},size=4M", hosts.text("disk"));
    let (_alpha, _beta, mut source, mut destination, bases) = stuck(&hosts, &[&file]);
    source.front.resume(&bases).unwrap();
    assert_eq!(
        patiently(&mut source, &ready()).status,
        Status::GOOD,
        "and no unit attention of a new session"
    );
    holds(&mut source);
    assert!(source.disk(1).execute(&ready()).unwrap().status.is_good(), "with the file");
    assert_eq!(send(&mut destination, &write()).status, Status::BUSY);
    hosts.wait_for(1, "expected");
    hosts.expect_record(0, ["active", "holder", "0x00000000000000a1"]);
    holds(&mut source);
}

#[test]
fn either_device_may_be_killed_in_the_middle_and_one_of_them_has_the_guest_in_the_end() {
    for (kill, stays) in [(&[0][..], false), (&[1], false), (&[0, 1], false), (&[0], true), (&[0, 1], true)] {
        let hosts = Hosts::new();
        let (mut alpha, mut beta, mut source, mut destination, _) = stuck(&hosts, &[]);
        if kill.contains(&1) || !stays {
            beta.process.kill();
        }
        if kill.contains(&0) {
            alpha.process.kill();
            alpha = hosts.alpha();
            assert_eq!(hosts.guest(0)["place"], "giving");
        }
        let winner = if stays {
            source.front.reconnect(&alpha.sockets[0]).unwrap();
            &mut source
        } else {
            beta = hosts.beta(&hosts.target.url(0));
            assert_eq!(hosts.guest(1)["place"], "taking");
            destination.front.reconnect(&beta.sockets[0]).unwrap();
            &mut destination
        };
        assert_eq!(patiently(winner, &ready()).status, Status::GOOD, "{kill:?} {stays}");
        holds(winner);
        hosts.wait_for(usize::from(!stays), "here");
        hosts.expect_record(usize::from(!stays), ["active", "holder", "0x00000000000000a1"]);
        drop((alpha, beta));
    }
}

#[test]
fn after_the_move_each_device_may_be_killed_and_knows_where_the_guest_is() {
    let hosts = Hosts::new();
    let [mut alpha, mut beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    holds(&mut driver);
    alpha.process.kill();
    alpha = hosts.alpha();
    assert_eq!(hosts.guest(0)["place"], "away");
    // It has not logged in: that would have ended the guest's session.
    holds(&mut driver);
    beta.process.kill();
    beta = hosts.beta(&hosts.target.url(0));
    driver.front.reconnect(&beta.sockets[0]).unwrap();
    let ended = nexus::retry_unit_attention(&mut driver.disk(0), &ready(), 8).unwrap().completion;
    assert!(ended.status.is_good(), "{ended:?}");
    holds(&mut driver);
    driver.front.migrate(&alpha.sockets[0], |_, _| Ok(())).unwrap();
    holds(&mut driver);
}

#[test]
fn what_could_not_come_is_turned_away_before_the_guest_is_stopped() {
    let hosts = Hosts::new();
    let alpha = hosts.alpha();
    let mut source = connect(&alpha);
    reserve(&mut source);
    let (url, other) = (hosts.target.url(0), tenure().target(&["memory=4M"]).unwrap());
    for lun in [
        format!("{url}?initiator=iqn.2026-11.example:b"),
        format!("{url},migrate-pr=off"),
        format!("file={},size=4M", hosts.text("disk")),
        other.url(0).replace(&other.iqn, "iqn.2026-11.example.tenure:another"),
    ] {
        let beta = hosts.beta(&lun);
        assert!(VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err(), "{lun}");
        holds(&mut source);
    }
    good(&mut source, &request::release(OWN, KIND));
    good(&mut source, &request::register(OWN, Key::NONE, false));
    let beta = hosts.beta(&url);
    good(&mut source, &Request { cdb: vec![opcode::RESERVE_6, 0, 0, 0, 0, 0], data: DataPhase::None });
    assert!(
        VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err(),
        "RESERVE ends with the session"
    );
    good(&mut source, &Request { cdb: vec![opcode::RELEASE_6, 0, 0, 0, 0, 0], data: DataPhase::None });
    source.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    good(&mut source, &write());
}

#[test]
fn at_a_target_that_ends_registrations_with_the_session_only_a_guest_without_one_moves() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let [alpha, beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    assert!(VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err());
    good(&mut driver, &request::release(OWN, KIND));
    good(&mut driver, &request::register(OWN, Key::NONE, false));
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    good(&mut driver, &write());
}

#[test]
fn between_two_sockets_of_one_device_the_session_and_the_record_stay() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let (state, directory) = (hosts.state(0), hosts.at("alpha"));
    let more = ["--name", "db1", "--name", "db1", "--state", &state, "--num-queues", "2"];
    let device = tenure().device(&directory, &["a", "b"], &[&hosts.target.url(0)], &more).unwrap();
    let mut driver = connect(&device);
    reserve(&mut driver);
    for to in [1, 0, 1] {
        driver.front.migrate(&device.sockets[to], |_, _| Ok(())).unwrap();
        good(&mut driver, &request::reserve(OWN, KIND));
        good(&mut driver, &write());
        hosts.expect_record(0, ["active", "holder", "0x00000000000000a1"]);
    }
}
