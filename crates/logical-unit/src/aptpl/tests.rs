//! The format: golden bytes, both ways, and every kind of damage refused.

use super::*;
use crate::envelope::EnvelopeError;
use proptest::prelude::*;
use scsi::{IscsiName, Isid};

fn nexus(at: u64, target_port: u16) -> ItNexus {
    ItNexus { initiator: TransportId::Sas(at), target_port }
}

fn saved(at: u64, key: u64) -> SavedRegistration {
    SavedRegistration { nexus: nexus(at, 1), key: Key(key), all_target_ports: at.is_multiple_of(2) }
}

fn sample() -> Image {
    Image {
        aptpl: true,
        lost: false,
        registrations: vec![saved(0x5000_0000_0000_0001, 0xA), saved(0x5000_0000_0000_0002, 0xB)],
        reservation: Some((ReservationType::EXCLUSIVE_ACCESS, Some(1))),
    }
}

#[test]
fn version_1_stays_readable() {
    let golden = include_bytes!("../../tests/golden/aptpl-v1.bin");
    assert_eq!(Image::parse(golden), Ok(sample()));
    assert_eq!(sample().to_bytes(), golden, "and is what this version writes");
}

#[test]
fn golden_header_is_the_documented_one() {
    let bytes = sample().to_bytes();
    assert_eq!(&bytes[..10], b"TENUREPR\x00\x01");
    assert_eq!(bytes[10..14], (bytes.len() as u32 - 18).to_be_bytes());
    assert_eq!(bytes[14..18], crc32c::crc32c(&bytes[18..]).to_be_bytes());
    assert_eq!(bytes[18..28], [1, 3, 0, 0, 0, 1, 0, 0, 0, 2]);
}

#[test]
fn every_changed_bit_and_every_cut_is_refused() {
    let bytes = sample().to_bytes();
    for at in 0..bytes.len() {
        assert!(Image::parse(&bytes[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(Image::parse(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
    assert_eq!(Image::parse(&[bytes, vec![0]].concat()), Err(EnvelopeError::Length.into()));
}

#[test]
fn later_formats_are_named() {
    let mut bytes = sample().to_bytes();
    bytes[9] = 2;
    assert_eq!(Image::parse(&bytes), Err(EnvelopeError::Version(2).into()));
    bytes[0] = b'X';
    assert_eq!(Image::parse(&bytes), Err(EnvelopeError::Magic.into()));
}

#[test]
fn contradictions_are_refused() {
    let none = ReservationType(0);
    let wrong = [
        Image { registrations: vec![saved(1, 0)], reservation: None, ..sample() },
        Image { registrations: vec![saved(1, 1), saved(1, 2)], reservation: None, ..sample() },
        Image { aptpl: false, ..sample() },
        Image { lost: true, ..sample() },
        Image { reservation: Some((ReservationType::EXCLUSIVE_ACCESS, None)), ..sample() },
        Image { reservation: Some((ReservationType::EXCLUSIVE_ACCESS, Some(2))), ..sample() },
        Image { reservation: Some((ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS, Some(1))), ..sample() },
        Image { reservation: Some((ReservationType(2), Some(1))), ..sample() },
        Image { reservation: Some((none, Some(1))), ..sample() },
        Image {
            registrations: vec![],
            reservation: Some((ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS, None)),
            ..sample()
        },
    ];
    for image in wrong {
        let refused = Image::parse(&image.to_bytes());
        assert!(matches!(refused, Err(ImageError::Content(_))), "{image:?}: {refused:?}");
    }
}

#[test]
fn a_count_without_content_takes_no_memory() {
    let mut body = sample().body();
    body[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes(), &(body.len() as u32).to_be_bytes()].concat();
    bytes.extend(crc32c::crc32c(&body).to_be_bytes());
    bytes.extend(body);
    assert_eq!(Image::parse(&bytes), Err(EnvelopeError::Length.into()));
}

fn any_image() -> impl Strategy<Value = Image> {
    let port = prop_oneof![
        any::<u64>().prop_map(TransportId::Sas),
        "[a-z]{1,60}".prop_map(|name| TransportId::iscsi(IscsiName::new(&name).unwrap(), Isid([1; 6]))),
    ];
    let registrations = prop::collection::btree_map((port, any::<u16>()), (1_u64.., any::<bool>()), 1..20);
    (registrations, proptest::sample::select(&ReservationType::ALL[..]), any::<prop::sample::Index>())
        .prop_map(|(registrations, kind, holder)| {
            let holder = holder.index(registrations.len()) as u32;
            let registrations = registrations
                .into_iter()
                .map(|((initiator, target_port), (key, all_target_ports))| SavedRegistration {
                    nexus: ItNexus { initiator, target_port },
                    key: Key(key),
                    all_target_ports,
                })
                .collect();
            let reservation = Some((kind, (!kind.is_all_registrants()).then_some(holder)));
            Image { aptpl: true, lost: false, registrations, reservation }
        })
}

proptest! {
    #[test]
    fn images_survive_both_ways(image in any_image()) {
        prop_assert_eq!(Image::parse(&image.to_bytes()), Ok(image));
    }

    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes(), &(body.len() as u32).to_be_bytes()].concat();
        bytes.extend(crc32c::crc32c(&body).to_be_bytes());
        bytes.extend(&body);
        if let Ok(image) = Image::parse(&bytes) {
            prop_assert_eq!(image.to_bytes(), bytes);
        }
        let _ = Image::parse(&body);
    }
}
