//! What tests of registrations that are handed from host to host have in common.
#![allow(dead_code, reason = "no test uses all of it")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use crate::hosts::*;
use lab::front_end::scsi::VirtioScsi;
use lab::process::{DEADLINE, wait_for};
use lab::served::Device;
use qmp::{Client, Opening};
use scsi::pr::{InAction, Key, ReadKeys, ReadReservation, Reservation, ReservationType, request};
use scsi::{Completion, Status};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) const HOLDER: [&str; 3] = ["active", "holder", "0x00000000000000a1"];
pub(crate) const MEMBER: [&str; 3] = ["active", "member", "0x00000000000000a1"];
pub(crate) const GONE: [&str; 3] = ["moved", "unregistered", "none"];
pub(crate) const ALL: ReservationType = ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS;

pub(crate) fn keys(driver: &mut VirtioScsi) -> Vec<Key> {
    let told = good(driver, &request::read(InAction::READ_KEYS, 256));
    ReadKeys::parse(&told.data).unwrap().keys
}

pub(crate) fn reservation(driver: &mut VirtioScsi) -> Option<Reservation> {
    let held = good(driver, &request::read(InAction::READ_RESERVATION, 64));
    ReadReservation::parse(&held.data).unwrap().reservation
}

/// The guest holds it by the nexus of the host where it is, by that alone, and the other node is kept out.
pub(crate) fn holds_here(hosts: &mut Hosts, driver: &mut VirtioScsi, host: usize) {
    assert_eq!(keys(driver), [OWN]);
    assert_eq!(reservation(driver).map(|held| (held.key, held.kind)), Some((OWN, KIND)));
    good(driver, &write());
    assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
    hosts.wait_for(host, "here");
    hosts.expect_record(host, HOLDER);
    hosts.expect_record(1 - host, GONE);
}

/// Where a host's journals of such handovers are.
pub(crate) fn journals(hosts: &Hosts, host: usize) -> PathBuf {
    PathBuf::from(hosts.state(host)).join("devices/handovers")
}

/// Lines of a host's journal: its header, how a handover began, one for each stage, its end.
pub(crate) fn lines(hosts: &Hosts, host: usize) -> usize {
    let Ok(folder) = fs::read_dir(journals(hosts, host)) else { return 0 };
    let logs = folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "log"));
    logs.filter_map(|path| fs::read(path).ok()).flatten().filter(|byte| *byte == b'\n').count()
}

/// What a host's journals say.
pub(crate) fn journal(hosts: &Hosts, host: usize) -> String {
    let files = fs::read_dir(journals(hosts, host)).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    files
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

/// From now on no handover is begun there: its journal cannot be made.
pub(crate) fn block(hosts: &Hosts, host: usize) {
    fs::create_dir_all(journals(hosts, host).parent().unwrap()).unwrap();
    fs::write(journals(hosts, host), "").unwrap();
}

pub(crate) fn unblock(hosts: &Hosts, host: usize) {
    fs::remove_file(journals(hosts, host)).unwrap();
}

/// The guest has been committed to the second host, and its registration is still at the first one's nexus.
pub(crate) fn parted(hosts: &Hosts) -> (Device, Device, VirtioScsi, VirtioScsi, Vec<u16>) {
    let [alpha, beta] = hosts.both();
    let mut source = connect(&alpha);
    reserve(&mut source);
    block(hosts, 0);
    let bases = source.front.stop().unwrap();
    let destination = connect(&beta);
    hosts.wait_for(0, "away");
    hosts.wait_for(1, "owned");
    let why = wait_for(DEADLINE, || hosts.guest(1)["waits"].as_str().map(str::to_owned)).unwrap();
    assert!(why.contains("alpha"), "{why}");
    (alpha, beta, source, destination, bases)
}

/// The keys that are registered, as the other node sees them.
pub(crate) fn keys_elsewhere(hosts: &mut Hosts) -> Vec<Key> {
    let told = hosts.elsewhere(&request::read(InAction::READ_KEYS, 256));
    ReadKeys::parse(&told.data).unwrap().keys
}

/// The operator says that the guest is this host's.
pub(crate) fn claim(hosts: &Hosts, host: usize, without_state: bool) -> Result<(), String> {
    claim_by(&hosts.control(host), without_state)
}

/// The same by this control socket.
pub(crate) fn claim_by(control: &Path, without_state: bool) -> Result<(), String> {
    let (end, opening) = (Instant::now() + DEADLINE * 2, Opening::default());
    let arguments = serde_json::json!({ "guest": "db1", "without-state": without_state });
    let arguments = arguments.as_object().unwrap().clone();
    let told = Client::connect(control, &opening, end).unwrap().execute("guest-claim", arguments, end);
    told.map(drop).map_err(|error| error.to_string())
}

/// The other node fences the guest.
pub(crate) fn fence(hosts: &mut Hosts) {
    assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
    hosts.elsewhere(&request::preempt(OTHER, OWN, KIND));
}

/// Why the guest waits at a host, when it says so and the words are these.
pub(crate) fn waits_for(hosts: &Hosts, host: usize, words: &str) -> String {
    let why = || hosts.guest(host)["waits"].as_str().filter(|why| why.contains(words)).map(str::to_owned);
    let told = wait_for(DEADLINE, why);
    assert!(told.is_some(), "{}", hosts.guest(host));
    told.unwrap()
}

/// State, key and reason of every record of a host.
pub(crate) fn records(hosts: &Hosts, host: usize) -> Vec<[String; 3]> {
    let ran = tenure().run(&["status", "--state", &hosts.state(host), "--vm", "db1", "--json"]).unwrap();
    let rows = ran.json().unwrap()["records"].as_array().unwrap().clone();
    let row = |row: &serde_json::Value| {
        ["state", "key", "why"].map(|what| row[what].as_str().unwrap_or("none").to_owned())
    };
    rows.iter().map(row).collect()
}

/// The guest's command to one of its logical units, past the unit attentions.
pub(crate) fn on(driver: &mut VirtioScsi, lun: u16, request: &scsi::Request) -> Completion {
    let mut ended = || nexus::retry_unit_attention(&mut driver.disk(lun), request, 8).unwrap().completion;
    wait_for(DEADLINE, || Some(ended()).filter(|ended| ended.status != Status::BUSY)).unwrap()
}
