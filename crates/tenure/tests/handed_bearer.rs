//! The device whose nexus has the registration of a guest that is elsewhere: whom it follows, what it keeps, and what it tells.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "hosts/between.rs"]
mod between;
mod hosts;
#[path = "hosts/wire.rs"]
mod wire;

use between::*;
use hosts::*;
use lab::front_end::scsi::VirtioScsi;
use lab::process::{Background, DEADLINE, wait_for};
use lab::served::Device;
use ledger::{Change, Ledger, Owner, State};
use peer::message::{Guest, Id, Open, Options};
use peer::{Address, CallError, Link, Local, Patience, Peer, Request as Asked, Terms};
use scsi::pr::{Key, request};
use scsi::{AdditionalSense, Status};
use std::fs::{self, File};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use wire::*;

const GAMMA: &str = "gamma";

/// The way of one host to the target, which can be cut.
struct Way {
    portal: String,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let portal = listener.local_addr().unwrap().to_string();
        let (cut, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (is_cut, all, target) = (Arc::clone(&cut), Arc::clone(&open), target.to_owned());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(&target).ok().filter(|_| !is_cut.load(Ordering::SeqCst));
                let Some(far) = far else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                all.lock().unwrap().extend([near, far]);
            }
        });
        Self { portal, cut, open }
    }

    /// Nothing comes through any more, and connections are refused.
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }

    fn url(&self, hosts: &Hosts) -> String {
        hosts.target.url(0).replace(&hosts.target.portal, &self.portal)
    }
}

fn address(hosts: &Hosts, name: &str) -> String {
    format!("unix:{}", hosts.text(&format!("{name}.peer")))
}

/// A third host's device, where the guest is expected from the first one.
fn gamma(hosts: &Hosts) -> Device {
    let directory = hosts.at(GAMMA);
    fs::create_dir_all(&directory).unwrap();
    let (state, control) = (hosts.text("gamma/state"), hosts.text("gamma/control"));
    let listen = address(hosts, GAMMA);
    let peers = NAMES.map(|name| format!("{name}={}", address(hosts, name)));
    let words = ["--num-queues", "2", "--host", GAMMA, "--peer-listen", &listen, "--incoming", "alpha"];
    let named = ["--state", &state, "--control", &control, "--peer", &peers[0], "--peer", &peers[1]];
    tenure().device(&directory, &["db1"], &[&hosts.target.url(0)], &[&words[..], &named].concat()).unwrap()
}

/// The two hosts' devices, which have the third one as a peer, too; the first one's way to the target is that of `url`.
fn both_of_three(hosts: &Hosts, url: &str) -> [Device; 2] {
    let third = format!("{GAMMA}={}", address(hosts, GAMMA));
    let more = ["--peer", &third];
    [
        hosts.start(0, &[url], &more),
        hosts.start(1, &[&hosts.target.url(0)], &["--incoming", "alpha", "--peer", &third]),
    ]
}

/// Why the guest waits at a host.
fn waits(hosts: &Hosts, host: usize, with: &str, most: Duration) {
    let told = || hosts.guest(host)["waits"].as_str().filter(|why| why.contains(with)).map(drop);
    assert!(wait_for(most, told).is_some(), "not {with:?}: {}", hosts.guest(host));
}

/// The guest has been committed to the second host, and its registration is still at the first one's nexus.
fn part(hosts: &Hosts, [alpha, beta]: &[Device; 2]) -> (VirtioScsi, VirtioScsi, Vec<u16>) {
    let mut source = connect(alpha);
    reserve(&mut source);
    block(hosts, 0);
    let bases = source.front.stop().unwrap();
    let destination = connect(beta);
    hosts.wait_for(0, "away");
    hosts.wait_for(1, "owned");
    (source, destination, bases)
}

/// What a command of the guest gets in the end, and the unit attentions before that.
fn told(driver: &mut VirtioScsi) -> (Vec<AdditionalSense>, Status) {
    let mut codes = Vec::new();
    loop {
        let ended = patiently(driver, &ready());
        if ended.status != Status::CHECK_CONDITION {
            return (codes, ended.status);
        }
        codes.push(code(&ended));
    }
}

#[test]
fn looks_of_two_hosts_at_once_end_neither_each_other_nor_the_guests_session() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt,delay=15ms"]);
    let [alpha, beta] = both_of_three(&hosts, &hosts.target.url(0));
    let gamma = gamma(&hosts);
    let mut source = connect(&alpha);
    reserve(&mut source);
    for _ in 0..4 {
        thread::scope(|scope| {
            let looks = [&beta, &gamma].map(|device| scope.spawn(|| drop(connect(device))));
            looks.into_iter().for_each(|look| look.join().unwrap());
        });
    }
    good(&mut source, &write());
    assert_eq!(keys(&mut source), [OWN], "tgt would have forgotten it with the session");
}

/// The guest nearly came back to the bearer, which has a state of another handover since, or has given that up (`until`).
fn fell_from_away(until: &str) {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let way = Way::to(&hosts.target.portal);
    let devices = both_of_three(&hosts, &way.url(&hosts));
    let (mut source, mut destination, bases) = part(&hosts, &devices);
    let theirs = destination.front.stop().unwrap();
    way.cut();
    source.front.resume(&bases).unwrap();
    hosts.wait_for(0, "taking");
    if until == "taking" {
        source.front.stop().unwrap();
        destination.front.resume(&theirs).unwrap();
    } else {
        destination.front.resume(&theirs).unwrap();
        hosts.wait_for(0, until);
        source.front.stop().unwrap();
    }
    way.mend();
    unblock(&hosts, 0);
    let (codes, status) = told(&mut destination);
    assert_eq!(status, Status::GOOD, "{codes:?}");
    assert_eq!(keys(&mut destination), [OWN]);
    assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
    hosts.expect_record(1, HOLDER);
    hosts.expect_record(0, GONE);
}

#[test]
fn a_bearer_to_which_the_guest_nearly_came_back_follows_the_host_that_has_it() {
    fell_from_away("taking");
    fell_from_away("expected");
}

#[test]
fn a_bearer_that_does_not_reach_its_target_says_so_before_it_is_given_up() {
    let hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let way = Way::to(&hosts.target.portal);
    let devices = both_of_three(&hosts, &way.url(&hosts));
    let (_source, mut destination, _) = part(&hosts, &devices);
    way.cut();
    unblock(&hosts, 0);
    waits(&hosts, 1, "its device cannot be asked", Duration::from_secs(40));
    way.mend();
    assert_eq!(told(&mut destination).1, Status::GOOD);
    hosts.expect_record(1, HOLDER);
}

/// Another node reserved, and has released it when the guest, a member, was given: what tells of that waits at the bearer's nexus. A handover
/// has taken it, and came to nothing: the target takes no key from the second host.
struct Undone {
    hosts: Hosts,
    devices: [Device; 2],
    source: VirtioScsi,
    destination: VirtioScsi,
    bases: Vec<u16>,
    wire: Wire,
}

impl Undone {
    fn new() -> Self {
        let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
        assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
        assert!(hosts.elsewhere(&request::reserve(OTHER, KIND)).status.is_good());
        let wire = Wire::to(&hosts.target);
        let third = format!("{GAMMA}={}", address(&hosts, GAMMA));
        let devices = [
            hosts.start(0, &[&hosts.target.url(0)], &["--peer", &third]),
            hosts.start(1, &[&wire.url(&hosts.target, 0)], &["--incoming", "alpha", "--peer", &third]),
        ];
        let mut source = connect(&devices[0]);
        assert!(wait_for(DEADLINE, || send(&mut source, &ready()).status.is_good().then_some(())).is_some());
        good(&mut source, &request::register(Key::NONE, OWN, false));
        block(&hosts, 0);
        let bases = source.front.stop().unwrap();
        let destination = connect(&devices[1]);
        hosts.wait_for(1, "owned");
        assert!(hosts.elsewhere(&request::release(OTHER, KIND)).status.is_good());
        wire.meddle(|cdb| {
            if is_out(cdb, 0) || is_out(cdb, 6) {
                // There is no such service action.
                cdb[1] |= 0x1F;
            }
            Deed::Pass
        });
        unblock(&hosts, 0);
        assert!(wait_for(DEADLINE, || owes_release(&hosts).then_some(())).is_some(), "{}", hosts.guest(1));
        waits(&hosts, 1, "the guest's registration stays", DEADLINE);
        Self { hosts, devices, source, destination, bases, wire }
    }
}

/// Whether it is on record at the first host that the guest is to hear of it.
fn owes_release(hosts: &Hosts) -> bool {
    let book = Ledger::open(&hosts.at("alpha/state")).unwrap().guest(&Owner("db1".into())).unwrap();
    let records = book.records();
    let mut owed = records.iter().flat_map(|record| &record.paths).flat_map(|path| &path.owed);
    owed.any(|sense| scsi::Sense::parse(sense).is_some_and(|sense| sense.code == RELEASED))
}

const RELEASED: AdditionalSense = AdditionalSense::RESERVATIONS_RELEASED;

fn hears_it_once(driver: &mut VirtioScsi) {
    let (codes, status) = told(driver);
    assert_eq!(
        (codes.iter().filter(|code| **code == RELEASED).count(), status),
        (1, Status::GOOD),
        "{codes:?}"
    );
    good(driver, &write());
    assert_eq!(keys(driver).into_iter().filter(|key| *key == OWN).count(), 1);
}

#[test]
fn what_an_undone_handover_took_the_guest_hears_once_where_it_was() {
    let mut one = Undone::new();
    drop(one.destination);
    one.source.front.resume(&one.bases).unwrap();
    hears_it_once(&mut one.source);
    one.hosts.wait_for(0, "here");
    one.wire.release();
    one.source.front.migrate(&one.devices[1].sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(told(&mut one.source), (Vec::new(), Status::GOOD), "it has heard of it");
}

#[test]
fn what_an_undone_handover_took_the_guest_hears_once_where_it_goes() {
    let mut one = Undone::new();
    one.wire.release();
    hears_it_once(&mut one.destination);
    one.hosts.expect_record(0, GONE);
}

#[test]
fn what_an_undone_handover_took_the_guest_hears_once_at_a_third_host() {
    let mut one = Undone::new();
    let gamma = gamma(&one.hosts);
    one.destination.front.stop().unwrap();
    let mut third = connect(&gamma);
    assert!(wait_for(DEADLINE, || (one.hosts.guest(1)["place"] == "away").then_some(())).is_some());
    one.wire.release();
    hears_it_once(&mut third);
    one.hosts.expect_record(0, GONE);
}

/// A link to the first host's device, as from the device of the host `name`.
fn link(hosts: &Hosts, name: &str) -> Link {
    let local = Local {
        host: name.parse().unwrap(),
        program: env!("CARGO_PKG_VERSION").into(),
        engine: handover::ENGINE_REVISION,
        capabilities: Vec::new(),
    };
    let address: Address = address(hosts, "alpha").parse().unwrap();
    let alpha = Peer { name: "alpha".parse().unwrap(), address };
    let to = alpha.name.clone();
    let terms = Terms { local, credentials: None, peers: vec![alpha], patience: Patience::default() };
    Link::connect(&terms, &to).unwrap()
}

/// Why no handover is begun with this ticket.
fn refusal(link: &Link, ticket: String) -> peer::Refusal {
    let guest = Guest { vm: "db1".into(), uuid: ticket };
    let open = Open { handover: Id(1), guest, luns: Vec::new(), options: Options::default() };
    let told = link.call(&Asked::Open(open), DEADLINE);
    let refusal = if let Err(CallError::Refused(refusal)) = &told { Some(refusal.clone()) } else { None };
    assert!(refusal.is_some(), "followed: {told:?}");
    refusal.unwrap()
}

#[test]
fn who_comes_with_another_ticket_ends_nothing_that_is_under_way() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst,delay=15ms"]);
    let [alpha, mut beta] = hosts.both();
    let mut source = connect(&alpha);
    reserve(&mut source);
    source.front.stop().unwrap();
    let mut destination = connect(&beta);
    assert!(wait_for(DEADLINE, || (lines(&hosts, 0) >= 4).then_some(())).is_some());
    beta.process.kill();
    let refusal = refusal(&link(&hosts, "beta"), "0".repeat(31) + "7");
    assert!(refusal.class == "NotHere" && refusal.desc.contains("nothing is kept"), "{refusal}");
    beta = hosts.beta(&hosts.target.url(0));
    destination.front.reconnect(&beta.sockets[0]).unwrap();
    assert_eq!(told(&mut destination).1, Status::GOOD);
    holds_here(&mut hosts, &mut destination, 1);
}

#[test]
fn a_device_without_real_logical_units_leaves_no_ledger_when_it_ends() {
    let hosts = Hosts::new();
    let (file, state) = (format!("file={},size=4M", hosts.text("disk")), hosts.text("nowhere"));
    let mut device = tenure().device(&hosts.at("alpha"), &["db1"], &[&file], &["--state", &state]).unwrap();
    assert!(device.process.stop().unwrap().success());
    assert!(!hosts.at("nowhere/guests").exists() && !hosts.at("nowhere").exists());
}

#[test]
fn nobody_is_followed_but_the_host_that_has_the_guest_whatever_he_knows() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let devices = both_of_three(&hosts, &hosts.target.url(0));
    let (_source, mut destination, _) = part(&hosts, &devices);
    let ran = tenure().run(&["status", "--state", &hosts.state(0), "--vm", "db1", "--json"]).unwrap();
    let ticket = ran.out.split("given away in ").nth(1).and_then(|rest| rest.get(..32)).unwrap().to_owned();
    let refusal = refusal(&link(&hosts, GAMMA), ticket);
    assert!(refusal.class == "NotHere" && refusal.desc.contains("it is at beta"), "{refusal}");
    unblock(&hosts, 0);
    assert_eq!(told(&mut destination).1, Status::GOOD);
    hosts.expect_record(1, HOLDER);
}

/// The first host's device, whose log goes to a file.
fn logged(hosts: &Hosts) -> Device {
    let mut device = Command::new(env!("CARGO_BIN_EXE_tenure"));
    let socket = hosts.at("alpha").join("db1.sock");
    let words =
        ["-q", "device", "--lun", &hosts.target.url(0), "--num-queues", "2", "--host", "alpha", "--first"];
    let (state, control) = (hosts.state(0), hosts.control(0));
    let peer = format!("beta={}", address(hosts, "beta"));
    device.args(words).arg("--socket").arg(&socket).args(["--state", &state]).arg("--control").arg(control);
    device.args(["--peer-listen", &address(hosts, "alpha"), "--peer", &peer]);
    device.stderr(File::create(hosts.at("log")).unwrap());
    let (process, _) = Background::start_and_read_line(&mut device).unwrap();
    Device { process, sockets: vec![socket], initiators: Vec::new() }
}

#[test]
fn a_bearer_that_is_told_to_end_says_that_a_registration_is_awaited_from_it() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let mut devices = [logged(&hosts), hosts.beta(&hosts.target.url(0))];
    let _drivers = part(&hosts, &devices);
    assert!(devices[0].process.stop().unwrap().success());
    let log = fs::read_to_string(hosts.at("log")).unwrap();
    assert!(log.contains("is awaited from this host's nexus"), "{log}");
}

#[test]
fn a_bearer_that_is_told_to_end_in_the_middle_of_a_handover_follows_it_to_its_end() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt,delay=50ms"]);
    let mut devices = [logged(&hosts), hosts.beta(&hosts.target.url(0))];
    let mut source = connect(&devices[0]);
    reserve(&mut source);
    source.front.stop().unwrap();
    let mut destination = connect(&devices[1]);
    assert!(wait_for(DEADLINE, || (lines(&hosts, 0) >= 3).then_some(())).is_some());
    assert!(devices[0].process.stop().unwrap().success());
    assert_eq!(told(&mut destination), (Vec::new(), Status::GOOD));
    assert_eq!(keys(&mut destination), [OWN]);
    hosts.expect_record(1, HOLDER);
    let log = fs::read_to_string(hosts.at("log")).unwrap();
    assert!(!log.contains("is awaited"), "{log}");
}

#[test]
fn a_host_by_another_name_is_told_what_to_do_and_not_only_that_nothing_can_be_handed_over() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let [mut alpha, beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    good(&mut driver, &write());
    alpha.process.kill();
    let renamed = || {
        let (state, socket) = (hosts.state(0), hosts.text("alpha/db1.sock"));
        let (url, peer) = (hosts.target.url(0), format!("beta={}", address(&hosts, "beta")));
        let words = ["device", "--socket", &socket, "--lun", &url, "--state", &state, "--host", "delta"];
        let listen = address(&hosts, "delta");
        let more = ["--peer", &peer, "--peer-listen", &listen, "--incoming", "beta"];
        let mut device = Command::new(env!("CARGO_BIN_EXE_tenure"));
        device.args([&words[..], &more].concat()).stderr(File::create(hosts.at("log")).unwrap());
        // One that is not refused runs until it is ended here.
        let ended = Background::start(&mut device).unwrap().wait().unwrap();
        (ended, fs::read_to_string(hosts.at("log")).unwrap())
    };
    let (ended, log) = renamed();
    assert!(!ended.success() && log.contains("give --host alpha"), "{log}");
    // Whoever removes the record of the custody has the journal left.
    let records = fs::read_dir(hosts.at("alpha/state/devices")).unwrap().filter_map(Result::ok);
    records.filter(|entry| entry.path().is_file()).for_each(|entry| fs::remove_file(entry.path()).unwrap());
    let (ended, log) = renamed();
    assert!(!ended.success() && log.contains("started once more as alpha"), "{log}");
}

/// What the first host's device knew of the guest's registration is not known for sure any more.
fn doubt(hosts: &Hosts) {
    let book = Ledger::open(&hosts.at("alpha/state")).unwrap().guest(&Owner("db1".into())).unwrap();
    let lun = book.records()[0].lun.clone();
    let doubt = Change::State { state: State::Unverified, handover: None, why: None };
    book.append(&[(lun, doubt)]).unwrap();
}

#[test]
fn a_registration_that_is_found_when_the_guest_is_given_goes_from_nexus_to_nexus() {
    let hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let devices = hosts.both();
    let mut driver = connect(&devices[0]);
    assert!(wait_for(DEADLINE, || send(&mut driver, &ready()).status.is_good().then_some(())).is_some());
    good(&mut driver, &request::register(Key::NONE, OTHER, false));
    good(&mut driver, &request::register(OTHER, Key::NONE, false));
    let (name, isid) = devices[0].initiators[0].split_once(",i,0x").unwrap();
    let url = format!("{}?initiator={name}&isid={isid}", hosts.target.url(0));
    let way: agent::drive::Device = url.parse().unwrap();
    // Another program of this host, by the guest's nexus: it ends the device's session.
    let mut other = way.open(DEADLINE).unwrap();
    let registered = nexus::retry_unit_attention(&mut other, &request::register(Key::NONE, OWN, false), 8);
    assert!(registered.unwrap().completion.status.is_good());
    drop(other);
    told(&mut driver);
    // It has looked, and asks for the guest, which runs.
    let mut destination = connect(&devices[1]);
    doubt(&hosts);
    driver.front.stop().unwrap();
    assert_eq!(told(&mut destination).1, Status::GOOD);
    assert_eq!(keys(&mut destination), [OWN]);
    hosts.expect_record(0, GONE);
    hosts.wait_for(1, "here");
}

#[test]
fn a_claim_that_fails_half_way_leaves_what_is_kept_for_the_other_host() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let (url, disk) = (hosts.target.url(0), format!("file={},size=4M", hosts.text("disk")));
    let luns = [url.as_str(), disk.as_str()];
    let start = || hosts.start(1, &luns, &["--incoming", "alpha"]);
    let mut devices = [hosts.start(0, &luns, &[]), start()];
    let (_source, mut destination, _) = part(&hosts, &devices);
    devices[1].process.kill();
    unblock(&hosts, 0);
    fs::rename(hosts.at("disk"), hosts.at("elsewhere")).unwrap();
    fs::create_dir(hosts.at("disk")).unwrap();
    let why = claim(&hosts, 0, true).unwrap_err();
    assert!(why.contains("LUN 1"), "{why}");
    assert_eq!(hosts.record(0)[0], "handover");
    fs::remove_dir(hosts.at("disk")).unwrap();
    fs::rename(hosts.at("elsewhere"), hosts.at("disk")).unwrap();
    devices[1] = start();
    destination.front.reconnect(&devices[1].sockets[0]).unwrap();
    assert_eq!(told(&mut destination).1, Status::GOOD);
    assert_eq!(keys(&mut destination), [OWN], "tgt would have forgotten it with the session");
}

#[test]
fn a_guest_that_is_claimed_where_its_registration_stayed_has_its_sessions_as_its_own_again() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let mut devices = hosts.both();
    let (source, destination, _) = part(&hosts, &devices);
    assert!(hosts.guest(0)["keeps"].is_array(), "{}", hosts.guest(0));
    devices[1].process.kill();
    drop(destination);
    unblock(&hosts, 0);
    claim(&hosts, 0, true).unwrap();
    assert!(hosts.guest(0)["keeps"].is_null(), "{}", hosts.guest(0));
    drop(source);
    let mut again = connect(&devices[0]);
    assert_eq!(told(&mut again).1, Status::GOOD);
    assert_eq!(keys(&mut again), [OWN]);
}
