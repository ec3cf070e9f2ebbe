//! PR commands and parameter data: golden bytes, refusals with their field pointers, truncation, and
//! properties both ways for every format.

use super::*;
use crate::field::FieldError;
use crate::task::DataPhase;
use crate::transport_id::tests::any_id;
use crate::{TransportId, truncate};
use proptest::collection::vec;
use proptest::prelude::*;

const KEY: Key = Key(0x0012_3ABC);
const KEY_BYTES: [u8; 8] = [0, 0, 0, 0, 0, 0x12, 0x3A, 0xBC];
const ZEROS: [u8; 8] = [0; 8];

fn any_key() -> impl Strategy<Value = Key> {
    any::<u64>().prop_map(Key)
}

fn any_basic() -> impl Strategy<Value = BasicParameters> {
    (any_key(), any_key(), prop::option::of(vec(any_id(), 0..4)), any::<(bool, bool)>()).prop_map(
        |(reservation_key, service_action_key, initiator_ports, (all_target_ports, aptpl))| BasicParameters {
            reservation_key,
            service_action_key,
            initiator_ports,
            all_target_ports,
            aptpl,
        },
    )
}

fn any_move() -> impl Strategy<Value = MoveParameters> {
    (any_key(), any_key(), any::<(bool, bool, u16)>(), any_id()).prop_map(
        |(reservation_key, service_action_key, (unregister, aptpl, relative_target_port), initiator_port)| {
            MoveParameters {
                reservation_key,
                service_action_key,
                unregister,
                aptpl,
                relative_target_port,
                initiator_port,
            }
        },
    )
}

fn any_held() -> impl Strategy<Value = (Scope, ReservationType)> {
    (0_u8..16, 0_u8..16).prop_map(|(scope, kind)| (Scope(scope), ReservationType(kind)))
}

fn any_descriptor() -> impl Strategy<Value = FullStatusDescriptor> {
    let unreadable = vec(any::<u8>(), 0..23).prop_map(Err);
    let port = prop_oneof![3 => any_id().prop_map(Ok), 1 => unreadable].prop_filter("readable", |port| {
        port.as_ref().is_ok() || port.as_ref().is_err_and(|raw| TransportId::parse_reported(raw).is_err())
    });
    (any_key(), any::<bool>(), prop::option::of(any_held()), any::<u16>(), port).prop_map(
        |(key, all_target_ports, holds, relative_target_port, initiator_port)| FullStatusDescriptor {
            key,
            all_target_ports,
            holds,
            relative_target_port,
            initiator_port,
        },
    )
}

fn any_capabilities() -> impl Strategy<Value = Capabilities> {
    any::<([bool; 7], u8, u16)>().prop_map(|(bits, allow, type_mask)| Capabilities {
        replace_lost: bits[0],
        compatible_reservation_handling: bits[1],
        specify_initiator_ports: bits[2],
        all_target_ports: bits[3],
        persist_capable: bits[4],
        type_mask_valid: bits[5],
        persist_active: bits[6],
        allow_commands: allow & 7,
        type_mask,
    })
}

fn list(request: &crate::Request) -> &[u8] {
    let DataPhase::Out(list) = &request.data else { panic!("PERSISTENT RESERVE OUT sends data") };
    list
}

#[test]
fn register_has_the_golden_bytes() {
    let request = request::register(Key::NONE, KEY, true);
    assert_eq!(request.cdb, [0x5F, 0, 0, 0, 0, 0, 0, 0, 0x18, 0]);
    assert_eq!(list(&request), [ZEROS, KEY_BYTES, [0, 0, 0, 0, 1, 0, 0, 0]].concat());
}

#[test]
fn reserve_and_preempt_have_the_golden_bytes() {
    let reserve = request::reserve(KEY, ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
    assert_eq!(reserve.cdb, [0x5F, 1, 5, 0, 0, 0, 0, 0, 0x18, 0]);
    assert_eq!(list(&reserve), [KEY_BYTES, ZEROS, ZEROS].concat());
    let preempt = request::preempt(KEY, KEY, ReservationType::EXCLUSIVE_ACCESS);
    assert_eq!(preempt.cdb, [0x5F, 4, 3, 0, 0, 0, 0, 0, 0x18, 0]);
    assert_eq!(list(&preempt), [KEY_BYTES, KEY_BYTES, ZEROS].concat());
}

#[test]
fn register_and_move_has_the_golden_bytes() {
    let request = request::register_and_move(&MoveParameters {
        reservation_key: KEY,
        service_action_key: KEY,
        unregister: true,
        aptpl: false,
        relative_target_port: 1,
        initiator_port: TransportId::FibreChannel(0x1000_0000_C9F3_A571),
    });
    assert_eq!(request.cdb, [0x5F, 7, 0, 0, 0, 0, 0, 0, 0x30, 0]);
    let wwpn = [0x10, 0, 0, 0, 0xC9, 0xF3, 0xA5, 0x71];
    let golden = [KEY_BYTES, KEY_BYTES, [0, 2, 0, 1, 0, 0, 0, 0x18], ZEROS, wwpn, ZEROS].concat();
    assert_eq!(list(&request), golden);
}

#[test]
fn each_request_carries_its_service_action() {
    let kind = ReservationType::WRITE_EXCLUSIVE;
    let requests = [
        (request::release(KEY, kind), 2),
        (request::clear(KEY), 3),
        (request::preempt_and_abort(KEY, KEY, kind), 5),
        (request::register_and_ignore(KEY, false), 6),
        (request::replace_lost(KEY, kind), 8),
    ];
    for (request, action) in requests {
        let cdb = PrOutCdb::parse(&request.cdb).unwrap();
        assert_eq!((cdb.action.0, cdb.parameter_list_length), (action, 24));
        assert!(BasicParameters::parse(list(&request)).is_ok());
    }
    let read = request::read(InAction::READ_FULL_STATUS, 0x1234);
    assert_eq!(read.cdb, [0x5E, 3, 0, 0, 0, 0, 0, 0x12, 0x34, 0]);
    assert_eq!(read.data, DataPhase::In(0x1234));
}

#[test]
fn read_reservation_has_the_golden_bytes() {
    let none = ReadReservation { generation: 7, reservation: None };
    assert_eq!(none.to_bytes(), [0, 0, 0, 7, 0, 0, 0, 0]);
    let kind = ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS;
    let reservation = Some(Reservation { key: Key::NONE, scope: Scope::LOGICAL_UNIT, kind });
    let held = ReadReservation { generation: 7, reservation };
    let golden = [[0, 0, 0, 7, 0, 0, 0, 0x10], ZEROS, [0, 0, 0, 0, 0, 7, 0, 0]].concat();
    assert_eq!(held.to_bytes(), golden);
    assert_eq!(ReadReservation::parse(&golden[..22]), Some(held), "the obsolete bytes may be cut");
    assert_eq!(ReadReservation::parse(&golden[..21]), None);
}

#[test]
fn read_reservation_takes_the_scope_of_the_logical_unit_and_refuses_odd_lengths() {
    let extent = [KEY_BYTES, [0, 0, 0, 0, 0, 0x21, 0, 0]].concat();
    let unit = [KEY_BYTES, [0, 0, 0, 0, 0, 0x05, 0, 0]].concat();
    let two = [vec![0, 0, 0, 1, 0, 0, 0, 32], extent.clone(), unit].concat();
    let kind = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
    assert_eq!(ReadReservation::parse(&two).unwrap().reservation.unwrap().kind, kind);
    let alone = [vec![0, 0, 0, 1, 0, 0, 0, 16], extent].concat();
    assert_eq!(ReadReservation::parse(&alone).unwrap().reservation.unwrap().scope, Scope(2));
    let odd = [vec![0, 0, 0, 1, 0, 0, 0, 15], vec![0; 24]].concat();
    assert_eq!(ReadReservation::parse(&odd), None);
}

#[test]
fn report_capabilities_of_a_known_target_is_understood() {
    let bytes = [0, 8, 0x1D, 0x90, 0xEA, 1, 0, 0];
    let read = Capabilities::parse(&bytes).unwrap();
    let expected = Capabilities {
        compatible_reservation_handling: true,
        specify_initiator_ports: true,
        all_target_ports: true,
        persist_capable: true,
        type_mask_valid: true,
        allow_commands: 1,
        type_mask: Capabilities::ALL_TYPES,
        ..Capabilities::default()
    };
    assert_eq!(read, expected);
    assert_eq!(read.to_bytes(), bytes);
    assert!(ReservationType::ALL.into_iter().all(|kind| read.supports(kind)));
    assert!(!read.supports(ReservationType(2)));
    assert_eq!(Capabilities::parse(&[0, 7, 0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn each_type_has_its_own_bit_in_the_mask() {
    for (kind, mask) in ReservationType::ALL.into_iter().zip([0x0200, 0x0800, 0x2000, 0x4000, 0x8000, 1]) {
        let only = Capabilities { type_mask_valid: true, type_mask: mask, ..Capabilities::default() };
        for other in ReservationType::ALL {
            assert_eq!(only.supports(other), other == kind);
        }
    }
}

#[test]
fn full_status_reads_a_port_of_a_careless_device_server() {
    let id = b"\x45\x00\x00\x13iqn.a,i,0x010203040506\0";
    let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 24 + 27];
    bytes.extend([KEY_BYTES, [0, 0, 0, 0, 3, 5, 0, 0], [0, 0, 0, 1, 0, 0, 0, 27]].concat());
    bytes.extend(id);
    let status = FullStatus::parse(&bytes).unwrap();
    assert!(!status.truncated);
    let port = &status.descriptors[0].initiator_port;
    assert_eq!(port.as_ref().unwrap().to_string(), "iqn.a,i,0x010203040506");
}

#[test]
fn full_status_keeps_what_precedes_a_descriptor_that_overruns() {
    let good = FullStatus { generation: 9, descriptors: vec![], truncated: false };
    let mut bytes = good.to_bytes();
    bytes[7] = 24;
    bytes.extend([0; 20]);
    bytes.extend([0xFF; 4]);
    let read = FullStatus::parse(&bytes).unwrap();
    assert!(read.truncated && read.descriptors.is_empty());
}

#[test]
fn basic_lists_are_refused_where_the_error_table_says() {
    let length_error = Err(FieldError::list_length());
    for length in 0..24 {
        assert_eq!(BasicParameters::parse(&vec![0xFF; length]), length_error, "{length} bytes");
    }
    let mut bytes = [0; 24].to_vec();
    bytes[20] = 0x08;
    assert!(BasicParameters::specifies_initiator_ports(&bytes));
    assert_eq!(BasicParameters::parse(&bytes), length_error, "no room for the length of the TransportIDs");
    bytes.extend([0, 0, 0, 4]);
    assert_eq!(BasicParameters::parse(&bytes), length_error, "shorter than it announces");
    bytes.extend([6, 0, 0, 0]);
    assert_eq!(BasicParameters::parse(&bytes), Err(FieldError::parameter(28)), "a TransportID cut");
    bytes[27] = 0;
    assert_eq!(BasicParameters::parse(&bytes).unwrap().initiator_ports, Some(vec![]));
    bytes[24..28].fill(0xFF);
    assert_eq!(BasicParameters::parse(&bytes), length_error);
}

#[test]
fn move_lists_are_refused_where_the_error_table_says() {
    let good = MoveParameters {
        reservation_key: KEY,
        service_action_key: KEY,
        unregister: false,
        aptpl: true,
        relative_target_port: 1,
        initiator_port: TransportId::Sas(1),
    }
    .to_bytes();
    for length in 0..24 {
        assert_eq!(MoveParameters::parse(&good[..length]), Err(FieldError::list_length()));
    }
    assert_eq!(MoveParameters::parse(&good[..47]), Err(FieldError::parameter(20)));
    for announced in [0, 23, 25, 28] {
        let mut bytes = good.clone();
        bytes[23] = announced;
        bytes.resize(24 + usize::from(announced), 0);
        let refused = MoveParameters::parse(&bytes).unwrap_err();
        assert!(refused == FieldError::parameter(20) || refused == FieldError::parameter(24));
    }
    let mut bytes = good;
    bytes[24] = 0x46;
    assert_eq!(MoveParameters::parse(&bytes), Err(FieldError::parameter(24)));
}

#[test]
fn upper_bytes_of_the_parameter_list_length_count() {
    let cdb = PrOutCdb::parse(&[0x5F, 0, 0, 0, 0, 0, 1, 0, 24, 0]).unwrap();
    assert_eq!(cdb.parameter_list_length, 65_536 + 24);
}

#[test]
fn a_key_shared_by_nexuses_is_listed_for_each_and_a_cut_key_is_dropped() {
    let keys = ReadKeys { generation: 2, keys: vec![KEY, KEY], truncated: false };
    let bytes = keys.to_bytes();
    assert_eq!(bytes[..8], [0, 0, 0, 2, 0, 0, 0, 16]);
    let cut = ReadKeys::parse(&bytes[..23]).unwrap();
    assert_eq!(cut, ReadKeys { keys: vec![KEY], truncated: true, ..keys });
    assert_eq!(ReadKeys::parse(&bytes[..7]), None);
}

#[test]
fn keys_are_read_in_decimal_and_hexadecimal() {
    assert_eq!("0x123abc".parse(), Ok(KEY));
    assert_eq!("1194684".parse(), Ok(KEY));
    assert_eq!("0xFFFFFFFFFFFFFFFF".parse(), Ok(Key(u64::MAX)));
    for text in ["", "0x", "123abc", "+1", "-1", "0x+1", "0x1_0", " 1", "18446744073709551616"] {
        assert_eq!(text.parse::<Key>(), Err(ParseKeyError), "{text:?}");
    }
}

#[test]
fn types_are_read_by_number_short_name_and_name() {
    for kind in ReservationType::ALL {
        assert_eq!(kind.0.to_string().parse(), Ok(kind));
        assert_eq!(kind.short_name().to_lowercase().parse(), Ok(kind));
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    for text in ["", "0", "2", "4", "9", "WE-XX", "?", "256"] {
        assert_eq!(text.parse::<ReservationType>(), Err(ParseTypeError), "{text:?}");
    }
}

/// Every way to cut a reply leaves a prefix of it, lengths and all.
fn truncation_only_cuts(full: &[u8]) {
    for allocation_length in 0..=full.len() + 1 {
        let cut = truncate(full.to_vec(), allocation_length);
        assert_eq!(cut, full[..allocation_length.min(full.len())]);
    }
}

proptest! {
    #[test]
    fn in_cdbs_round_trip(action in 0_u8..32, allocation_length: u16, control: u8) {
        let cdb = PrInCdb { action: InAction(action), allocation_length, control };
        prop_assert_eq!(PrInCdb::parse(&cdb.to_bytes()), Ok(cdb));
    }

    #[test]
    fn out_cdbs_round_trip(action in 0_u8..32, (scope, kind) in any_held(), parameter_list_length: u32, control: u8) {
        let cdb = PrOutCdb { action: OutAction(action), scope, kind, parameter_list_length, control };
        prop_assert_eq!(PrOutCdb::parse(&cdb.to_bytes()), Ok(cdb));
    }

    #[test]
    fn arbitrary_cdbs_settle_after_one_parse(mut cdb in vec(any::<u8>(), 0..17), opcode in 0x5E_u8..0x60) {
        if let Some(first) = cdb.first_mut() {
            *first = opcode;
        }
        let (read, wrote) = (PrInCdb::parse(&cdb), PrOutCdb::parse(&cdb));
        prop_assert_eq!(read.is_ok() || wrote.is_ok(), cdb.len() >= 10);
        prop_assert!(read.is_err() || PrInCdb::parse(&read.unwrap().to_bytes()) == read);
        prop_assert!(wrote.is_err() || PrOutCdb::parse(&wrote.unwrap().to_bytes()) == wrote);
    }

    #[test]
    fn basic_lists_round_trip(parameters in any_basic()) {
        let bytes = parameters.to_bytes();
        prop_assert_eq!(bytes.len() == 24, parameters.initiator_ports.is_none());
        prop_assert_eq!(BasicParameters::parse(&bytes), Ok(parameters));
    }

    #[test]
    fn move_lists_round_trip(parameters in any_move()) {
        prop_assert_eq!(MoveParameters::parse(&parameters.to_bytes()), Ok(parameters));
    }

    #[test]
    fn arbitrary_lists_settle_after_one_parse(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(parameters) = BasicParameters::parse(&bytes) {
            prop_assert_eq!(BasicParameters::parse(&parameters.to_bytes()), Ok(parameters));
        }
        if let Ok(parameters) = MoveParameters::parse(&bytes) {
            prop_assert_eq!(MoveParameters::parse(&parameters.to_bytes()), Ok(parameters));
        }
    }

    #[test]
    fn a_cut_list_is_never_taken_for_a_shorter_one(parameters in any_basic(), cut in any::<prop::sample::Index>()) {
        let bytes = parameters.to_bytes();
        prop_assert_eq!(BasicParameters::parse(&bytes[..cut.index(bytes.len())]), Err(FieldError::list_length()));
    }

    #[test]
    fn read_keys_round_trips(generation: u32, keys in vec(any_key(), 0..20)) {
        let reply = ReadKeys { generation, keys, truncated: false };
        let full = reply.to_bytes();
        truncation_only_cuts(&full);
        for length in 8..full.len() {
            let cut = ReadKeys::parse(&full[..length]).unwrap();
            prop_assert!(cut.truncated);
            prop_assert_eq!(&cut.keys[..], &reply.keys[..(length - 8) / 8]);
        }
        prop_assert_eq!(ReadKeys::parse(&full), Some(reply));
    }

    #[test]
    fn read_reservation_round_trips(generation: u32, key in any_key(), held in prop::option::of(any_held())) {
        let reservation = held.map(|(scope, kind)| Reservation { key, scope, kind });
        let reply = ReadReservation { generation, reservation };
        truncation_only_cuts(&reply.to_bytes());
        prop_assert_eq!(ReadReservation::parse(&reply.to_bytes()), Some(reply));
    }

    #[test]
    fn report_capabilities_round_trips(capabilities in any_capabilities()) {
        truncation_only_cuts(&capabilities.to_bytes());
        prop_assert_eq!(Capabilities::parse(&capabilities.to_bytes()), Some(capabilities));
    }

    #[test]
    fn read_full_status_round_trips(generation: u32, descriptors in vec(any_descriptor(), 0..5)) {
        let reply = FullStatus { generation, descriptors, truncated: false };
        let full = reply.to_bytes();
        truncation_only_cuts(&full);
        for length in 8..full.len() {
            let cut = FullStatus::parse(&full[..length]).unwrap();
            prop_assert!(cut.truncated && reply.descriptors.starts_with(&cut.descriptors));
        }
        prop_assert_eq!(FullStatus::parse(&full), Some(reply));
    }

    #[test]
    fn arbitrary_replies_settle_after_one_parse(mut bytes in vec(any::<u8>(), 0..300), additional in 0_u8..=255) {
        if let Some([high, middle, low, last]) = bytes.get_mut(4..).and_then(|rest| rest.first_chunk_mut()) {
            (*high, *middle, *low, *last) = (0, 0, 0, additional);
        }
        if let Some(keys) = ReadKeys::parse(&bytes).map(|keys| ReadKeys { truncated: false, ..keys }) {
            prop_assert_eq!(ReadKeys::parse(&keys.to_bytes()), Some(keys));
        }
        if let Some(reservation) = ReadReservation::parse(&bytes) {
            prop_assert_eq!(ReadReservation::parse(&reservation.to_bytes()), Some(reservation));
        }
        if let Some(capabilities) = Capabilities::parse(&bytes) {
            prop_assert_eq!(Capabilities::parse(&capabilities.to_bytes()), Some(capabilities));
        }
        if let Some(status) = FullStatus::parse(&bytes).map(|all| FullStatus { truncated: false, ..all }) {
            prop_assert_eq!(FullStatus::parse(&status.to_bytes()), Some(status));
        }
    }
}
