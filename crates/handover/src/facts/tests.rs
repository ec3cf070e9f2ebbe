//! Tests of the module above: what READ FULL STATUS and READ RESERVATION tell, and what they do not.

use super::*;
use scsi::pr::Scope;
use scsi::{IscsiName, Isid, TransportId};

const K: Key = Key(1);
const WE: ReservationType = ReservationType(1);
const WE_AR: ReservationType = ReservationType(7);

fn name(n: u8) -> TransportId {
    TransportId::iscsi(IscsiName::new("iqn.2026-01.test:x").unwrap(), Isid([0, 0, 0, 0, 0, n]))
}

fn port(n: u8, target_port: Option<u16>) -> Port {
    Port { initiator: Some(name(n)), target_port }
}

fn descriptor(n: u8, target_port: u16, key: Key, holds: Option<ReservationType>) -> FullStatusDescriptor {
    FullStatusDescriptor {
        key,
        all_target_ports: false,
        holds: holds.map(|kind| (Scope::LOGICAL_UNIT, kind)),
        relative_target_port: target_port,
        initiator_port: Ok(name(n)),
    }
}

fn settings() -> Settings {
    let mut settings = Settings::new(Some(K), Key(2), port(1, Some(1)), port(9, Some(1)));
    settings.source.push(port(1, Some(2)));
    settings
}

fn digest(descriptors: Vec<FullStatusDescriptor>) -> Option<FullStatusDigest> {
    let status = FullStatus { generation: 7, descriptors, truncated: false };
    FullStatusDigest::of(&status, Some(K), &settings()).map(|(_, digest)| digest)
}

#[test]
fn paths_are_told_apart_by_initiator_and_target_port() {
    let all = vec![
        descriptor(1, 1, K, None),
        descriptor(1, 2, K, Some(WE)),
        descriptor(5, 1, K, None),
        descriptor(6, 1, Key(3), None),
        descriptor(9, 1, Key(4), None),
    ];
    let digest = digest(all).unwrap();
    assert_eq!(digest.source, Standing { with_key: 0b11, with_other_key: 0, holder: Some(1) });
    assert_eq!(digest.destination, Standing { with_key: 0, with_other_key: 1, holder: None });
    assert_eq!((digest.sharers, digest.kind, digest.generation), (1, Some(WE), 7));
    assert_eq!(digest.role(), Role::Holder(WE));
}

#[test]
fn the_role_follows_from_who_holds() {
    let source = |holds| descriptor(1, 1, K, holds);
    let sharer = |holds| descriptor(5, 1, K, holds);
    for (descriptors, role) in [
        (vec![source(None)], Role::Registrant),
        (vec![source(None), sharer(Some(WE))], Role::Member(WE)),
        (vec![source(Some(WE_AR)), sharer(Some(WE_AR))], Role::AllRegistrants(WE_AR)),
        (vec![sharer(Some(WE))], Role::Unregistered),
    ] {
        assert_eq!(digest(descriptors).unwrap().role(), role);
    }
}

#[test]
fn a_reply_that_is_cut_or_ambiguous_is_of_no_use() {
    let status = FullStatus { generation: 1, descriptors: vec![descriptor(1, 1, K, None)], truncated: true };
    assert_eq!(FullStatusDigest::of(&status, Some(K), &settings()), None);
    let mut nameless = settings();
    nameless.source[0].initiator = None;
    let status = FullStatus { truncated: false, ..status };
    assert_eq!(FullStatusDigest::of(&status, Some(K), &nameless), None);
    let mut portless = settings();
    portless.source = vec![port(1, None)];
    let both = vec![descriptor(1, 1, K, None), descriptor(1, 2, K, None)];
    let status = FullStatus { descriptors: both, ..status };
    assert_eq!(FullStatusDigest::of(&status, Some(K), &portless), None, "which of the two is the path?");
}

#[test]
fn a_registration_on_all_target_ports_is_on_each() {
    let all = FullStatusDescriptor { all_target_ports: true, ..descriptor(1, 0, K, None) };
    assert_eq!(digest(vec![all]).unwrap().source.with_key, 0b11);
}

#[test]
fn read_reservation_alone_does_not_tell_a_holder_from_a_sharer() {
    let held = |key, kind| Some(Reservation { key, scope: Scope::LOGICAL_UNIT, kind });
    let role = |reservation, shared| RoleEvidence { key: K, reservation, full_status: None, shared }.role();
    assert_eq!(role(None, true), Role::Registrant);
    assert_eq!(role(held(Key::NONE, WE_AR), true), Role::AllRegistrants(WE_AR));
    assert_eq!(role(held(Key(3), WE), false), Role::Member(WE));
    assert_eq!(role(held(K, WE), false), Role::Holder(WE));
    assert_eq!(role(held(K, WE), true), Role::HolderOrSharer(WE));
}
