//! Two devices of two hosts, the target that both reach, and another node of the guest's cluster.
#![allow(dead_code, reason = "no test uses all of it")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use agent::drive::{Device as Way, Opened};
use lab::front_end::Shape;
use lab::front_end::scsi::{VirtioScsi, setting};
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

pub(crate) const BLOCK: u32 = 4096;
pub(crate) const SHAPE: Shape =
    Shape { size: 64, requests: 16, room: BLOCK, segment: 4096, indirect: true, event_idx: true };
pub(crate) const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
pub(crate) const OWN: Key = Key(0xA1);
pub(crate) const OTHER: Key = Key(0xB2);
pub(crate) const NAMES: [&str; 2] = ["alpha", "beta"];

pub(crate) fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

/// Two hosts, the target that both reach, and another node of the guest's cluster.
pub(crate) struct Hosts {
    pub(crate) directory: TempDir,
    pub(crate) target: Served,
    pub(crate) other: Opened,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        Self::with(&["memory=4M", "memory=4M"])
    }

    pub(crate) fn with(luns: &[&str]) -> Self {
        let (directory, target) = (TempDir::new().unwrap(), tenure().target(luns).unwrap());
        NAMES.iter().for_each(|name| std::fs::create_dir(directory.path().join(name)).unwrap());
        let way: Way = target.device(0, "other").parse().unwrap();
        Self { directory, target, other: way.open(DEADLINE).unwrap() }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    pub(crate) fn control(&self, host: usize) -> PathBuf {
        self.at(NAMES[host]).join("control")
    }

    pub(crate) fn state(&self, host: usize) -> String {
        self.text(&format!("{}/state", NAMES[host]))
    }

    pub(crate) fn start(&self, host: usize, luns: &[&str], more: &[&str]) -> Device {
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
    pub(crate) fn alpha(&self) -> Device {
        self.start(0, &[&self.target.url(0)], &[])
    }

    /// The second host's device, where the guest is expected, with this LUN.
    pub(crate) fn beta(&self, lun: &str) -> Device {
        self.start(1, &[lun], &["--incoming", "alpha"])
    }

    pub(crate) fn both(&self) -> [Device; 2] {
        [self.alpha(), self.beta(&self.target.url(0))]
    }

    pub(crate) fn control_of(&self, host: usize) -> Client {
        Client::connect(&self.control(host), &Opening::default(), Instant::now() + DEADLINE).unwrap()
    }

    pub(crate) fn guest(&self, host: usize) -> Value {
        let client = self.control_of(host);
        let told = client.execute("query-device", serde_json::Map::new(), Instant::now() + DEADLINE).unwrap();
        told["guests"][0].clone()
    }

    /// Waits until a host says that the guest is there in this way.
    pub(crate) fn wait_for(&self, host: usize, place: &str) {
        let is = || (self.guest(host)["place"] == place).then_some(());
        assert!(wait_for(DEADLINE, is).is_some(), "not {place}: {}", self.guest(host));
    }

    /// State, role and key of the first record.
    pub(crate) fn record(&self, host: usize) -> [String; 3] {
        let ran = tenure().run(&["status", "--state", &self.state(host), "--vm", "db1", "--json"]).unwrap();
        let row = ran.json().unwrap()["records"][0].clone();
        ["state", "role", "key"].map(|what| row[what].as_str().unwrap_or("none").to_owned())
    }

    pub(crate) fn expect_record(&self, host: usize, expected: [&str; 3]) {
        let is = || (self.record(host) == expected).then_some(());
        assert!(wait_for(DEADLINE, is).is_some(), "{:?}, not {expected:?}", self.record(host));
    }

    /// The other node's command, past the unit attentions of its own.
    pub(crate) fn elsewhere(&mut self, request: &Request) -> Completion {
        nexus::retry_unit_attention(&mut self.other, request, 8).unwrap().completion
    }
}

pub(crate) fn connect(device: &Device) -> VirtioScsi {
    VirtioScsi::connect(&device.sockets[0], &setting(2, SHAPE)).unwrap()
}

pub(crate) fn send(driver: &mut VirtioScsi, request: &Request) -> Completion {
    driver.disk(0).execute(request).unwrap()
}

/// Without a unit attention before it.
pub(crate) fn good(driver: &mut VirtioScsi, request: &Request) -> Completion {
    let ended = send(driver, request);
    assert_eq!(ended.status, Status::GOOD, "{request:?}: {ended:?}");
    ended
}

/// While the device says BUSY: it is not yet this guest's turn.
pub(crate) fn patiently(driver: &mut VirtioScsi, request: &Request) -> Completion {
    let tried =
        wait_for(DEADLINE, || Some(send(driver, request)).filter(|ended| ended.status != Status::BUSY));
    tried.unwrap()
}

pub(crate) fn code(ended: &Completion) -> AdditionalSense {
    ended.decoded_sense().unwrap().code
}

pub(crate) fn ready() -> Request {
    Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None }
}

pub(crate) fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 16, 0, 0, 0, 1, 0], data: DataPhase::Out(vec![7; 512]) }
}

/// The guest registers and reserves.
pub(crate) fn reserve(driver: &mut VirtioScsi) {
    assert!(
        nexus::retry_unit_attention(&mut driver.disk(0), &ready(), 8).unwrap().completion.status.is_good()
    );
    good(driver, &request::register(Key::NONE, OWN, false));
    good(driver, &request::reserve(OWN, KIND));
}

pub(crate) fn holds(driver: &mut VirtioScsi) {
    let held = good(driver, &request::read(InAction::READ_RESERVATION, 64));
    let held = ReadReservation::parse(&held.data).unwrap().reservation.unwrap();
    assert_eq!((held.key, held.kind), (OWN, KIND));
    let full = good(driver, &request::read(InAction::READ_FULL_STATUS, 4096));
    let full = FullStatus::parse(&full.data).unwrap();
    assert_eq!(full.descriptors.len(), 1, "{full:?}");
    good(driver, &write());
}
