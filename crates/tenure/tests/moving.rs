//! A guest that migrates between two `tenure device` processes: the synthetic front end of the lab is its VMMs, and nobody orchestrates.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use lab::front_end::Shape;
use lab::front_end::keeper::Keeper;
use lab::front_end::scsi::{Function, REQUESTS, VirtioScsi, flat, setting};
use lab::process::{DEADLINE, wait_for};
use lab::served::Device;
use lab::tenure::Tenure;
use nexus::Nexus;
use qmp::{Client, Opening};
use scsi::pr::{FullStatus, InAction, Key, ReadReservation, ReservationType, request};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Status, opcode};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

const BLOCK: u32 = 4096;
const SHAPE: Shape =
    Shape { size: 64, requests: 16, room: BLOCK, segment: 4096, indirect: true, event_idx: true };
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

/// Hosts that share a file system, and their addresses among peers.
struct Hosts {
    directory: TempDir,
    addresses: [String; 3],
    more: Vec<String>,
}

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

impl Hosts {
    /// On one machine.
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let address =
            |name: &str| format!("unix:{}", directory.path().join(format!("{name}.peer")).display());
        let addresses = NAMES.map(address);
        let hosts = Self { directory, addresses, more: Vec::new() };
        NAMES.iter().for_each(|name| std::fs::create_dir(hosts.at(name)).unwrap());
        hosts
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn lun(&self, more: &str) -> String {
        format!("file={},size=4M{more}", self.text("disk"))
    }

    /// The arguments of a host's device.
    fn arguments(&self, host: usize, more: &[&str]) -> Vec<String> {
        let own = NAMES[host];
        let words = ["--num-queues", "2", "--host", own, "--peer-listen", &self.addresses[host]];
        let others = (0..NAMES.len()).filter(|other| *other != host);
        let peer =
            |other: usize| ["--peer".to_owned(), format!("{}={}", NAMES[other], self.addresses[other])];
        let peers: Vec<String> = others.flat_map(peer).collect();
        let (state, control) = (self.text(&format!("{own}/state")), self.control(host).display().to_string());
        let named = ["--state", &state, "--control", &control];
        let new = (!more.contains(&"--incoming")).then_some(&"--first");
        let all = words.iter().chain(&named).chain(more).chain(new).map(|word| (*word).to_owned());
        all.chain(peers).chain(self.more.iter().map(|word| word.replace("HOST", own))).collect()
    }

    fn control(&self, host: usize) -> PathBuf {
        self.at(NAMES[host]).join("control")
    }

    fn start_with(&self, host: usize, luns: &[&str], more: &[&str]) -> Device {
        let arguments = self.arguments(host, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        tenure().device(&self.at(NAMES[host]), &["db1"], luns, &arguments).unwrap()
    }

    /// The first host's device.
    fn alpha(&self) -> Device {
        self.start_with(0, &[&self.lun("")], &[])
    }

    /// The second host's device, where the guest is expected.
    fn beta(&self, more: &[&str]) -> Device {
        self.start_with(1, &[&self.lun("")], &[&["--incoming", "alpha"], more].concat())
    }

    fn ask(&self, host: usize, command: &str, arguments: &Value) -> Value {
        let client =
            Client::connect(&self.control(host), &Opening::default(), Instant::now() + DEADLINE).unwrap();
        client.execute(command, arguments.as_object().unwrap().clone(), Instant::now() + DEADLINE).unwrap()
    }

    fn guest(&self, host: usize) -> Value {
        self.ask(host, "query-device", &json!({}))["guests"][0].clone()
    }

    /// Waits until a host says that the guest is there in this way.
    fn wait_for(&self, host: usize, place: &str) {
        let is = || (self.guest(host)["place"] == place).then_some(());
        assert!(wait_for(DEADLINE, is).is_some(), "not {place}: {}", self.guest(host));
    }
}

fn connect(device: &Device) -> VirtioScsi {
    VirtioScsi::connect(&device.sockets[0], &setting(2, SHAPE)).unwrap()
}

fn send(driver: &mut VirtioScsi, request: &Request) -> Completion {
    driver.disk(0).execute(request).unwrap()
}

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

fn ready() -> Request {
    Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None }
}

fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 16, 0, 0, 0, 1, 0], data: DataPhase::Out(vec![7; 512]) }
}

/// The guest registers, without APTPL, and reserves: nothing of it is on any disk.
fn reserve(driver: &mut VirtioScsi) {
    good(driver, &request::register(Key::NONE, Key(1), false));
    good(driver, &request::reserve(Key(1), KIND));
}

fn holds(driver: &mut VirtioScsi) {
    let held = good(driver, &request::read(InAction::READ_RESERVATION, 64));
    let held = ReadReservation::parse(&held.data).unwrap().reservation.unwrap();
    assert_eq!((held.key, held.kind), (Key(1), KIND));
    let full = good(driver, &request::read(InAction::READ_FULL_STATUS, 4096));
    let full = FullStatus::parse(&full.data).unwrap();
    assert_eq!((full.generation, full.descriptors.len()), (1, 1), "as if nothing had happened: {full:?}");
    good(driver, &write());
}

fn move_and_check(hosts: &Hosts) {
    let devices = [hosts.alpha(), hosts.beta(&[])];
    let mut driver = connect(&devices[0]);
    reserve(&mut driver);
    let mut keeper = Keeper::new(64, BLOCK, 3).unwrap();
    for to in [1, 0, 1] {
        let (dialect, end) = (driver.dialect(0).unwrap(), keeper.written + 60);
        let moved = driver.front.migrate(&devices[to].sockets[0], |front, _| {
            keeper.run(front.ring(REQUESTS)?, &dialect, 8, |keeper| keeper.written < end)
        });
        moved.unwrap();
        keeper.settle(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
        holds(&mut driver);
        assert_eq!(
            (hosts.guest(to)["place"].clone(), hosts.guest(1 - to)["place"].clone()),
            (json!("here"), json!("away"))
        );
    }
    let dialect = driver.dialect(0).unwrap();
    keeper.check_all(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
}

#[test]
fn a_guest_migrates_there_and_back_with_its_reservation_and_its_data() {
    move_and_check(&Hosts::new());
}

#[test]
fn over_tcp_both_ends_show_certificates() {
    let mut hosts = Hosts::new();
    let pki = hosts.text("pki");
    std::fs::create_dir(&pki).unwrap();
    let run = |arguments: &[&str]| assert_eq!(tenure().run(arguments).unwrap().exit, 0, "{arguments:?}");
    run(&["certs", "ca", "--dir", &pki]);
    for name in NAMES {
        run(&["certs", "host", name, "--dir", &pki]);
        let own = hosts.at(&format!("{name}/tls"));
        std::fs::create_dir(&own).unwrap();
        let files = [
            ("ca.pem".to_owned(), "ca.pem"),
            (format!("{name}.pem"), "host.pem"),
            (format!("{name}-key.pem"), "host-key.pem"),
        ];
        for (from, to) in files {
            std::fs::copy(Path::new(&pki).join(from), own.join(to)).unwrap();
        }
    }
    // Free ones, which nobody else gets soon.
    let listeners = NAMES.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    hosts.addresses = listeners.map(|listener| listener.local_addr().unwrap().to_string());
    hosts.more = vec!["--certificates".into(), hosts.text("HOST/tls")];
    move_and_check(&hosts);
}

#[test]
fn a_unit_attention_that_waits_moves_along_and_none_is_added() {
    let hosts = Hosts::new();
    let (alpha, beta) = (hosts.alpha(), hosts.beta(&[]));
    let mut driver = connect(&alpha);
    good(&mut driver, &ready());
    assert_eq!(driver.manage(Function::UNIT_RESET, flat(0), 0).unwrap(), 0);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    let told = send(&mut driver, &ready());
    assert_eq!(told.decoded_sense().unwrap().code, AdditionalSense::TARGET_RESET, "{told:?}");
    good(&mut driver, &ready());
}

#[test]
fn while_the_source_runs_the_destination_gets_busy_and_touches_nothing() {
    let hosts = Hosts::new();
    let (alpha, beta) = (hosts.alpha(), hosts.beta(&["--wait", "0"]));
    let mut source = connect(&alpha);
    reserve(&mut source);
    let mut destination = connect(&beta);
    assert_eq!(send(&mut destination, &write()).status, Status::BUSY);
    let waits = || hosts.guest(1)["waits"].as_str().map(str::to_owned);
    let why = wait_for(DEADLINE, waits).unwrap();
    assert!(why.contains("rings run"), "{why}");
    holds(&mut source);
    drop(destination);
    hosts.wait_for(1, "expected");
    holds(&mut source);
}

#[test]
fn a_migration_that_fails_before_anything_was_taken_leaves_the_guest_where_it_is() {
    let hosts = Hosts::new();
    let (alpha, _beta) = (hosts.alpha(), hosts.beta(&[]));
    let mut source = connect(&alpha);
    reserve(&mut source);
    let bases = source.front.stop().unwrap();
    source.front.resume(&bases).unwrap();
    holds(&mut source);
    assert_eq!(hosts.guest(0)["place"], "here");
}

#[test]
fn a_guest_that_was_taken_is_fetched_back_when_its_rings_start_at_the_source_again() {
    let hosts = Hosts::new();
    let (alpha, beta) = (hosts.start_with(0, &[&hosts.lun("")], &["--wait", "0"]), hosts.beta(&[]));
    let mut source = connect(&alpha);
    reserve(&mut source);
    let bases = source.front.stop().unwrap();
    let mut destination = connect(&beta);
    good(&mut destination, &ready());
    // Somebody resumes it at the source, while it runs at the destination.
    source.front.resume(&bases).unwrap();
    assert_eq!(send(&mut source, &write()).status, Status::BUSY);
    good(&mut destination, &ready());
    // Its VMM has gone there, with the guest's rings running: to the guest that is the loss of its nexus.
    drop(destination);
    let told = patiently(&mut source, &ready()).decoded_sense().map(|sense| sense.code);
    assert_eq!(told, Some(AdditionalSense::NEXUS_LOSS));
    holds(&mut source);
    assert_eq!(
        (hosts.guest(0)["place"].clone(), hosts.guest(1)["place"].clone()),
        (json!("here"), json!("away"))
    );
}

/// The source has given, and the destination cannot open what it was given: it is of another profile there.
fn stuck(hosts: &Hosts) -> (Device, Device, VirtioScsi, VirtioScsi, Vec<u16>) {
    let alpha = hosts.start_with(0, &[&hosts.lun("")], &["--wait", "0"]);
    let other = hosts.lun(",profile=lio");
    let beta = hosts.start_with(1, &[&other], &["--incoming", "alpha", "--wait", "0"]);
    let mut source = connect(&alpha);
    reserve(&mut source);
    let bases = source.front.stop().unwrap();
    let mut destination = connect(&beta);
    assert_eq!(send(&mut destination, &ready()).status, Status::BUSY);
    hosts.wait_for(0, "giving");
    hosts.wait_for(1, "taking");
    (alpha, beta, source, destination, bases)
}

#[test]
fn a_source_that_gave_and_was_not_taken_goes_on_as_soon_as_its_rings_run() {
    let hosts = Hosts::new();
    let (_alpha, _beta, mut source, mut destination, bases) = stuck(&hosts);
    source.front.resume(&bases).unwrap();
    assert_eq!(patiently(&mut source, &ready()).status, Status::GOOD);
    holds(&mut source);
    assert_eq!(send(&mut destination, &write()).status, Status::BUSY);
    hosts.wait_for(1, "expected");
    holds(&mut source);
}

#[test]
fn either_device_may_be_killed_in_the_middle_and_one_of_them_has_the_guest_in_the_end() {
    for (kill, stays) in [(&[0][..], false), (&[1], false), (&[0, 1], false), (&[0], true), (&[0, 1], true)] {
        let hosts = Hosts::new();
        let (mut alpha, mut beta, mut source, mut destination, _) = stuck(&hosts);
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
            beta = hosts.beta(&[]);
            assert_eq!(hosts.guest(1)["place"], "taking");
            destination.front.reconnect(&beta.sockets[0]).unwrap();
            &mut destination
        };
        // What was refused with BUSY, or was not answered at all, is sent again.
        assert_eq!(patiently(winner, &ready()).status, Status::GOOD, "{kill:?} {stays}");
        holds(winner);
        hosts.wait_for(usize::from(!stays), "here");
        drop((alpha, beta));
    }
}

#[test]
fn after_the_move_each_device_may_be_killed_and_knows_where_the_guest_is() {
    let hosts = Hosts::new();
    let (mut alpha, mut beta) = (hosts.alpha(), hosts.beta(&[]));
    let mut driver = connect(&alpha);
    good(&mut driver, &request::register(Key::NONE, Key(1), true));
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    good(&mut driver, &write());
    alpha.process.kill();
    alpha = hosts.alpha();
    assert_eq!(hosts.guest(0)["place"], "away");
    beta.process.kill();
    beta = hosts.beta(&[]);
    assert_eq!(hosts.guest(1)["place"], "here");
    driver.front.reconnect(&beta.sockets[0]).unwrap();
    good(&mut driver, &ready());
    good(&mut driver, &request::register(Key(1), Key(2), true));
    driver.front.migrate(&alpha.sockets[0], |_, _| Ok(())).unwrap();
    good(&mut driver, &request::register(Key(2), Key(3), true));
}

#[test]
fn what_could_not_come_is_turned_away_before_the_guest_is_stopped() {
    let hosts = Hosts::new();
    let alpha = hosts.start_with(0, &[&hosts.lun(""), "memory=1M"], &[]);
    let beta = hosts.start_with(1, &[&hosts.lun(""), "memory=1M"], &["--incoming", "alpha"]);
    assert!(VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err());
    let mut source = connect(&alpha);
    good(&mut source, &ready());
    drop(alpha);
    assert!(VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err(), "nobody to ask");
}

#[test]
fn the_operator_claims_a_guest_whose_other_host_is_gone_for_good() {
    let hosts = Hosts::new();
    let (alpha, mut beta) = (hosts.alpha(), hosts.beta(&[]));
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    holds(&mut driver);
    beta.process.kill();
    let mut again = connect(&alpha);
    let why = wait_for(DEADLINE, || hosts.guest(0)["waits"].as_str().map(str::to_owned)).unwrap();
    assert!(why.contains("beta"), "{why}");
    hosts.ask(0, "guest-claim", &json!({ "guest": "db1", "without-state": true }));
    let told = send(&mut again, &ready()).decoded_sense().map(|sense| sense.code);
    assert_eq!(told, Some(AdditionalSense::POWER_ON), "the guest hears that its state is gone");
    assert_eq!(
        send(&mut again, &ready()).status,
        Status::GOOD,
        "without APTPL nothing is left of the registration"
    );
    hosts.wait_for(0, "here");
}

#[test]
fn a_claim_while_the_other_host_does_not_answer_is_the_last_word() {
    let mut hosts = Hosts::new();
    hosts.more = vec!["--wait".into(), "0".into()];
    let (alpha, beta) =
        (hosts.alpha(), hosts.start_with(1, &[&hosts.lun(",profile=lio")], &["--incoming", "alpha"]));
    let mut source = connect(&alpha);
    reserve(&mut source);
    source.front.stop().unwrap();
    let mut destination = connect(&beta);
    assert_eq!(send(&mut destination, &ready()).status, Status::BUSY);
    hosts.wait_for(1, "taking");
    drop((alpha, beta));
    // It takes connections and says nothing.
    let silent = std::os::unix::net::UnixListener::bind(hosts.at("alpha.peer")).unwrap();
    let beta = hosts.start_with(1, &[&hosts.lun("")], &["--incoming", "alpha"]);
    destination.front.reconnect(&beta.sockets[0]).unwrap();
    let asked = silent.accept().unwrap();
    hosts.ask(1, "guest-claim", &json!({ "guest": "db1" }));
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    holds(&mut destination);
    drop((asked, silent));
    // The question that was under way ends now, and nothing comes of it.
    let ended = || (hosts.guest(1)["waits"] == Value::Null).then_some(());
    assert!(wait_for(DEADLINE, ended).is_some(), "{}", hosts.guest(1));
    holds(&mut destination);
    assert_eq!(hosts.guest(1)["place"], "here");
}

#[test]
fn a_source_whose_record_cannot_be_written_gives_nothing_until_it_can() {
    let hosts = Hosts::new();
    let (alpha, beta) = (hosts.alpha(), hosts.beta(&["--wait", "0"]));
    let mut source = connect(&alpha);
    reserve(&mut source);
    source.front.stop().unwrap();
    let (records, aside) = (hosts.at("alpha/state/devices"), hosts.at("aside"));
    std::fs::rename(&records, &aside).unwrap();
    let mut destination = connect(&beta);
    assert_eq!(send(&mut destination, &write()).status, Status::BUSY);
    let waits = || hosts.guest(0)["waits"].as_str().map(str::to_owned);
    assert!(wait_for(DEADLINE, waits).unwrap().contains("record"));
    assert_eq!(send(&mut destination, &write()).status, Status::BUSY);
    std::fs::rename(&aside, &records).unwrap();
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    holds(&mut destination);
}

#[test]
fn between_three_hosts_a_guest_is_found_where_it_went() {
    let hosts = Hosts::new();
    let gamma = hosts.start_with(2, &[&hosts.lun("")], &["--incoming", "alpha"]);
    let devices = [hosts.alpha(), hosts.beta(&[]), gamma];
    let mut driver = connect(&devices[0]);
    reserve(&mut driver);
    // The third is said that the first has it, and so does the first that the second has it, when it comes back to it.
    for to in [1, 2, 0, 2] {
        driver.front.migrate(&devices[to].sockets[0], |_, _| Ok(())).unwrap();
        holds(&mut driver);
        hosts.wait_for(to, "here");
    }
    assert_eq!(hosts.guest(1)["place"], "away");
}
