//! TransportIDs: golden bytes, malformed producers, text forms, and properties both ways.

use super::*;
use proptest::prelude::*;

/// `iqn.2026-01.x:a` with ISID 00023D000001: 32 characters and a NUL, padded to 36.
const ISCSI_PORT: &[u8] = b"\x45\x00\x00\x24iqn.2026-01.x:a,i,0x00023d000001\0\0\0\0";

fn name(text: &str) -> IscsiName {
    IscsiName::new(text).unwrap()
}

pub(crate) fn any_name() -> impl Strategy<Value = IscsiName> {
    "(iqn|eui|naa)\\.[a-z0-9.:-]{0,219}".prop_map(|text| name(&text))
}

pub(crate) fn any_id() -> impl Strategy<Value = TransportId> {
    let undefined = prop::sample::select(vec![0x2_u8, 0x7, 0x8, 0x9, 0xB, 0xC, 0xF]);
    prop_oneof![
        any::<u64>().prop_map(TransportId::FibreChannel),
        any::<(u16, u16)>()
            .prop_map(|(address, relative_port)| TransportId::ParallelScsi { address, relative_port }),
        any::<u64>().prop_map(TransportId::Ieee1394),
        any::<[u8; 16]>().prop_map(TransportId::Srp),
        (any_name(), any::<Option<[u8; 6]>>())
            .prop_map(|(name, isid)| TransportId::Iscsi { name, isid: isid.map(Isid) }),
        any::<u64>().prop_map(TransportId::Sas),
        any::<u16>().prop_map(TransportId::Sop),
        (undefined, any::<[u8; 23]>()).prop_map(|(protocol, rest)| {
            let mut bytes = [protocol; FIXED_LENGTH];
            bytes[1..].copy_from_slice(&rest);
            TransportId::Opaque(bytes)
        }),
    ]
}

#[test]
fn iscsi_port_has_the_golden_bytes() {
    let port = TransportId::iscsi(name("iqn.2026-01.x:a"), Isid([0, 2, 0x3D, 0, 0, 1]));
    assert_eq!(port.to_bytes(), ISCSI_PORT);
    assert_eq!(TransportId::parse(ISCSI_PORT), Ok((port, 40)));
}

#[test]
fn iscsi_device_name_is_padded_to_twenty_bytes() {
    let device = TransportId::Iscsi { name: name("iqn.2026-01.x:a"), isid: None };
    assert_eq!(device.to_bytes(), b"\x05\x00\x00\x14iqn.2026-01.x:a\0\0\0\0\0");
}

#[test]
fn payload_of_each_fixed_protocol_stands_where_the_standard_says() {
    let at = |id: TransportId, start: usize, end: usize| id.to_bytes()[start..end].to_vec();
    let number = 0x1122_3344_5566_7788_u64;
    assert_eq!(at(TransportId::FibreChannel(number), 8, 16), number.to_be_bytes());
    assert_eq!(at(TransportId::Ieee1394(number), 8, 16), number.to_be_bytes());
    assert_eq!(at(TransportId::Sas(number), 4, 12), number.to_be_bytes());
    assert_eq!(at(TransportId::Srp([7; 16]), 8, 24), [7; 16]);
    assert_eq!(at(TransportId::Sop(0x1234), 2, 4), [0x12, 0x34]);
    let spi = TransportId::ParallelScsi { address: 0x0102, relative_port: 0x0304 };
    assert_eq!(at(spi, 0, 8), [1, 0, 1, 2, 0, 0, 3, 4]);
}

#[test]
fn longest_iscsi_name_fits_the_largest_transport_id() {
    let longest = format!("iqn.{}", "x".repeat(219));
    let bytes = TransportId::iscsi(name(&longest), Isid([0xFF; 6])).to_bytes();
    assert_eq!(bytes.len(), MAX_LENGTH);
    assert!(TransportId::parse(&bytes).is_ok());
    assert_eq!(IscsiName::new(&format!("{longest}x")), Err(TransportIdError::Name));
}

#[test]
fn illegal_lengths_formats_and_names_are_refused() {
    let changed = |at: usize, value: u8| {
        let mut bytes = ISCSI_PORT.to_vec();
        bytes[at] = value;
        TransportId::parse(&bytes)
    };
    assert_eq!(changed(3, 16), Err(TransportIdError::Length(16)));
    assert_eq!(changed(3, 35), Err(TransportIdError::Length(35)));
    assert_eq!(changed(3, 248), Err(TransportIdError::Length(248)));
    assert_eq!(changed(3, 40), Err(TransportIdError::Short));
    assert_eq!(changed(0, 0x85), Err(TransportIdError::Format { format: 2, protocol: 5 }));
    assert_eq!(changed(0, 0x46), Err(TransportIdError::Format { format: 1, protocol: 6 }));
    assert_eq!(changed(35, b'g'), Err(TransportIdError::Name));
    assert_eq!(changed(4, 0), Err(TransportIdError::Name));
    assert_eq!(changed(4, 0xFF), Err(TransportIdError::Name));
    assert_eq!(TransportId::parse(&ISCSI_PORT[..39]), Err(TransportIdError::Short));
    assert_eq!(TransportId::parse(&[0; 23]), Err(TransportIdError::Short));
    assert_eq!(TransportId::parse(&[]), Err(TransportIdError::Short));
}

#[test]
fn names_and_isids_compare_without_regard_to_case() {
    let upper: TransportId = "IQN.2026-01.X:A,i,0X00023D00000A".parse().unwrap();
    assert_eq!(upper, "iqn.2026-01.x:a,i,0x00023d00000a".parse().unwrap());
}

#[test]
fn a_name_without_isid_names_every_port_of_the_device() {
    let port = TransportId::parse(ISCSI_PORT).unwrap().0;
    let device: TransportId = "iqn.2026-01.x:a".parse().unwrap();
    assert!(device.names(&port) && device.names(&device) && port.names(&port));
    assert!(!port.names(&device));
    assert!(!"iqn.2026-01.x:b".parse::<TransportId>().unwrap().names(&port));
}

#[test]
fn reported_ids_of_careless_device_servers_still_name_their_port() {
    let short = b"\x45\x00\x00\x13iqn.a,i,0x010203040506\0".as_slice();
    let binary = b"\x45\x00\x00\x14iqn.2026-01.x:a\0,i,0x\x01\x02\x03\x04\x05\x06\0".as_slice();
    let unterminated = b"\x05\x00\x00\x05iqn.a".as_slice();
    for bytes in [short, binary, unterminated] {
        assert!(TransportId::parse(bytes).is_err(), "a sender of parameter lists gets no such licence");
    }
    let read = |bytes| TransportId::parse_reported(bytes).unwrap().to_string();
    assert_eq!(read(short), "iqn.a,i,0x010203040506");
    assert_eq!(read(binary), "iqn.2026-01.x:a,i,0x010203040506");
    assert_eq!(read(unterminated), "iqn.a");
    assert_eq!(TransportId::parse_reported(b"\x45\0\0\x05iqn.a"), Err(TransportIdError::Length(5)));
    assert_eq!(TransportId::parse_reported(b"\x06\0\0\0"), Err(TransportIdError::Short));
}

#[test]
fn text_forms_of_people_and_of_sg3_utils_are_read() {
    let fc = TransportId::FibreChannel(0x1000_0000_C9F3_A571);
    for text in ["fc:10000000c9f3a571", "fcp,10000000C9F3A571", "FC:0x10:00:00:00:c9:f3:a5:71"] {
        assert_eq!(text.parse(), Ok(fc.clone()), "{text}");
    }
    assert_eq!("sas,5000c50005b32001".parse(), Ok(TransportId::Sas(0x5000_C500_05B3_2001)));
    assert_eq!("spi,7,2".parse(), Ok(TransportId::ParallelScsi { address: 7, relative_port: 2 }));
    assert_eq!("sop:00ff".parse(), Ok(TransportId::Sop(0xFF)));
}

#[test]
fn text_errors_say_what_was_expected() {
    let refused = |text: &str| text.parse::<TransportId>().unwrap_err().to_string();
    assert!(refused("").contains("expected iqn.NAME"));
    assert!(refused("usb:1234").contains("expected iqn.NAME"));
    assert_eq!(refused("sas:123"), "sas: takes exactly 16 hexadecimal digits");
    assert_eq!(refused("sas:500000000000000g"), "sas: takes exactly 16 hexadecimal digits");
    assert!(refused("spi:7").starts_with("spi: takes"));
    assert!(refused("iqn.a,i,0x12").starts_with("after an iSCSI name"));
    assert!(refused("iqn.a,00023d000001").starts_with("after an iSCSI name"));
    assert!(refused("iqn.with space").starts_with("an iSCSI name has"));
}

proptest! {
    #[test]
    fn emitted_ids_parse_to_the_same_value(id in any_id(), behind in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut bytes = id.to_bytes();
        let length = bytes.len();
        prop_assert!((FIXED_LENGTH..=MAX_LENGTH).contains(&length) && length.is_multiple_of(4));
        bytes.extend(behind);
        prop_assert_eq!(TransportId::parse(&bytes), Ok((id.clone(), length)));
        prop_assert_eq!(TransportId::parse_reported(&bytes), Ok(id));
    }

    #[test]
    fn displayed_ids_parse_to_the_same_value(id in any_id()) {
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn cut_ids_are_short(id in any_id(), cut in any::<prop::sample::Index>()) {
        let bytes = id.to_bytes();
        let kept = &bytes[..cut.index(bytes.len())];
        prop_assert_eq!(TransportId::parse(kept), Err(TransportIdError::Short));
    }

    #[test]
    fn arbitrary_bytes_settle_after_one_parse(mut bytes in prop::collection::vec(any::<u8>(), 0..260), iscsi: bool) {
        if let (true, [head, _, high, ..]) = (iscsi, bytes.as_mut_slice()) {
            (*head, *high) = (*head & 0xC0 | protocol::ISCSI, 0);
        }
        let strict = TransportId::parse(&bytes).map(|(id, _)| id);
        for id in [strict, TransportId::parse_reported(&bytes)].into_iter().flatten() {
            prop_assert_eq!(TransportId::parse(&id.to_bytes()).map(|(again, _)| again), Ok(id));
        }
    }

    #[test]
    fn arbitrary_text_is_answered(text in ".{0,64}") {
        if let Ok(id) = text.parse::<TransportId>() {
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}

#[test]
fn a_name_that_is_typed_has_one_of_the_three_types() {
    for good in [
        "iqn.2001-04.com.example",
        "IQN.2026-12.com.Example:storage:disk_1.a-b",
        "eui.02004567A425678D",
        "naa.52004567BA64678D",
        "naa.62004567BA64678D0123456789ABCDEF",
    ] {
        assert_eq!(good.parse(), IscsiName::new(good).map_err(|_| IscsiNameTextError), "{good}");
    }
    for bad in [
        "",
        "bad",
        "garbage",
        "iqn",
        "iqn.",
        "iqn.disk",
        "iqn.2026-11",
        "iqn.2026-11.",
        "iqn.2026-11.:disk",
        "iqn.2026-13.com.example",
        "iqn.2026-00.com.example",
        "iqn.2026-1.com.example",
        "iqn.26-11.com.example",
        "iqn.2026-11.com..example",
        "iqn.2026-11.com.example,x",
        "iqn.2026-11.com.exam ple",
        "iqn.2026-+1.com",
        "eui.",
        "eui.0123456789abcde",
        "eui.0123456789abcdeg",
        "naa.012345678",
        "naa.0123456789abcdef01",
        "x.y",
    ] {
        assert_eq!(bad.parse::<IscsiName>(), Err(IscsiNameTextError), "{bad}");
    }
}
