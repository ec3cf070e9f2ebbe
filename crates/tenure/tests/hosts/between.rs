//! What tests of registrations that are handed from host to host have in common.
#![allow(dead_code, reason = "no test uses all of it")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use crate::hosts::*;
use lab::front_end::scsi::VirtioScsi;
use lab::process::{DEADLINE, wait_for};
use lab::served::Device;
use scsi::Status;
use scsi::pr::{InAction, Key, ReadKeys, ReadReservation, Reservation, ReservationType, request};
use std::fs;
use std::path::PathBuf;
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
    let arguments = serde_json::json!({ "guest": "db1", "without-state": without_state });
    let arguments = arguments.as_object().unwrap().clone();
    let told = hosts.control_of(host).execute("guest-claim", arguments, Instant::now() + DEADLINE * 2);
    told.map(drop).map_err(|error| error.to_string())
}

/// The other node fences the guest.
pub(crate) fn fence(hosts: &mut Hosts) {
    assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
    hosts.elsewhere(&request::preempt(OTHER, OWN, KIND));
}
