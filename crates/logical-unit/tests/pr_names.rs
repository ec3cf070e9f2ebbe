//! Nexuses that PERSISTENT RESERVE OUT makes known by name alone: bounded, and gone when the command fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use scsi::pr::{BasicParameters, InAction, Key, OutAction, ReadKeys, ReservationType, request};
use scsi::{AdditionalSense, IscsiName, Isid, Request, TransportId};
use std::time::{Duration, Instant};
use support::{Host, good, illegal, memory};

/// More names than one logical unit takes registrations, as many as one parameter list has room for.
const NAMES: u32 = 20_000;

fn invented(number: u32) -> TransportId {
    let [a, b, c, d] = number.to_be_bytes();
    TransportId::iscsi(IscsiName::new("iqn.x:made").unwrap(), Isid([0, 0, a, b, c, d]))
}

fn register_with(ports: Vec<TransportId>) -> Request {
    let parameters = BasicParameters {
        service_action_key: Key(7),
        initiator_ports: Some(ports),
        ..BasicParameters::default()
    };
    request::out(OutAction::REGISTER, ReservationType(0), &parameters)
}

#[test]
fn names_of_refused_commands_take_no_room_from_others() {
    let unit = memory();
    let (hostile, other) = (Host::new(&unit, 1), Host::new(&unit, 2));
    for round in 0..4 {
        let names = (0..NAMES).map(|number| invented(round * NAMES + number)).collect();
        illegal(&hostile.send(&register_with(names)), AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES);
    }
    good(other.send(&register_with(vec![invented(u32::MAX)])));
    let keys = good(other.send(&request::read(InAction::READ_KEYS, 64)));
    assert_eq!(ReadKeys::parse(&keys).unwrap().keys, [Key(7); 2]);
}

/// One list that names 2,000 ports, and then all of them again 30,000 times.
#[test]
fn a_wildcard_repeated_costs_no_more_than_once() {
    let host = Host::new(&memory(), 1);
    let every_port = TransportId::Iscsi { name: IscsiName::new("iqn.x:made").unwrap(), isid: None };
    let mut names: Vec<_> = (0..2_000).map(invented).collect();
    names.resize(32_000, every_port);
    let start = Instant::now();
    good(host.send(&register_with(names)));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let keys = good(host.send(&request::read(InAction::READ_KEYS, u16::MAX)));
    assert_eq!(ReadKeys::parse(&keys).unwrap().keys.len(), 2_001);
}
