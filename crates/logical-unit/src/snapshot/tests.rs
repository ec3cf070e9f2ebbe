//! The format: golden bytes, both ways, and every kind of damage refused.

use super::*;
use crate::envelope::EnvelopeError;
use proptest::prelude::*;
use scsi::pr::Key;

fn nexus(at: u64) -> ItNexus {
    ItNexus { initiator: TransportId::Sas(at), target_port: 1 }
}

fn saved(at: u64, key: u64) -> SavedRegistration {
    SavedRegistration { nexus: nexus(at), key: Key(key), all_target_ports: false }
}

fn sample() -> Snapshot {
    Snapshot {
        profile: "spc".into(),
        naa: 0x3000_0000_0000_00AB,
        blocks: 2048,
        aptpl: false,
        lost: false,
        stopped: true,
        generation: 7,
        registrations: vec![saved(0x5000_0000_0000_0001, 0xA), saved(0x5000_0000_0000_0002, 0xB)],
        reservation: Some((ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Some(1))),
        spc2: None,
        attentions: vec![(nexus(9), vec![Attention::RegistrationsPreempted, Attention::PowerOn])],
        modes: vec![(0x0A, vec![2, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0])],
        presentation: Presentation {
            read_only: true,
            serial: "S 1".parse().ok(),
            wwn: "5000c500a1b2c3d4".parse().ok(),
        },
    }
}

#[test]
fn version_1_stays_readable() {
    let golden = include_bytes!("../../tests/golden/snapshot-v1.bin");
    assert_eq!(Snapshot::parse(golden), Ok(sample()));
    assert_eq!(sample().to_bytes(), golden, "and is what this version writes");
}

#[test]
fn a_newer_one_is_refused_and_says_so() {
    let mut newer = sample().to_bytes();
    newer[9] = 2;
    assert_eq!(Snapshot::parse(&newer), Err(EnvelopeError::Version(2).into()));
}

#[test]
fn every_changed_bit_and_every_cut_is_refused() {
    let bytes = sample().to_bytes();
    for at in 0..bytes.len() {
        assert!(Snapshot::parse(&bytes[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(Snapshot::parse(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
    assert!(Snapshot::parse(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn what_contradicts_itself_is_refused() {
    let again = |change: fn(&mut Snapshot)| {
        let mut changed = sample();
        change(&mut changed);
        Snapshot::parse(&changed.to_bytes())
    };
    assert!(again(|_| {}).is_ok());
    let wrong: [fn(&mut Snapshot); 8] = [
        |it| it.registrations[1].nexus = it.registrations[0].nexus.clone(),
        |it| it.registrations[0].key = Key::NONE,
        |it| it.reservation = Some((ReservationType::EXCLUSIVE_ACCESS, None)),
        |it| it.reservation = Some((ReservationType::EXCLUSIVE_ACCESS, Some(2))),
        |it| it.reservation = Some((ReservationType(9), Some(0))),
        |it| it.lost = true,
        |it| it.attentions.push(it.attentions[0].clone()),
        |it| it.attentions[0].1.clear(),
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        assert!(matches!(again(change), Err(ImageError::Content(_))), "{number}");
    }
}

prop_compose! {
    fn any_snapshot()(
        (naa, blocks, generation) in any::<(u64, u64, u32)>(),
        (aptpl, stopped) in any::<(bool, bool)>(),
        keys in prop::collection::btree_map(any::<u64>(), 1..u64::MAX, 0..20),
        kind in prop::option::of(prop::sample::select(vec![1_u8, 3, 5, 6, 7, 8])),
        place in any::<prop::sample::Index>(),
        waiting in prop::collection::btree_map(any::<u64>(), prop::sample::subsequence(Attention::ALL.to_vec(), 1..13), 0..5),
        spc2 in prop::option::of(any::<u64>()),
        modes in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5),
        (read_only, serial, wwn) in (any::<bool>(), "([!-+\\--~]{1,64})?", prop::sample::select(vec!["", "6123456789abcdef0123456789abcdef"])),
    ) -> Snapshot {
        let registrations: Vec<_> = keys.into_iter().map(|(at, key)| saved(at, key)).collect();
        let kind = kind.map(ReservationType).filter(|_| !registrations.is_empty());
        let reservation = kind.map(|kind| {
            let place = u32::try_from(place.index(registrations.len())).unwrap();
            (kind, (!kind.is_all_registrants()).then_some(place))
        });
        let attentions = waiting.into_iter().map(|(at, waiting)| (nexus(at), waiting)).collect();
        let spc2 = spc2.map(nexus);
        Snapshot { naa, blocks, generation, aptpl, stopped, registrations, reservation, attentions, spc2, modes,
            profile: "spc".into(), lost: false,
            presentation: Presentation { read_only, serial: serial.parse().ok(), wwn: wwn.parse().ok() } }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(snapshot in any_snapshot()) {
        prop_assert_eq!(Snapshot::parse(&snapshot.to_bytes()), Ok(snapshot));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Snapshot::parse(&bytes);
        // Past the checksum, too.
        let mut whole = MAGIC.to_vec();
        whole.extend(VERSION.to_be_bytes());
        whole.extend((bytes.len() as u32).to_be_bytes());
        whole.extend(crc32c::crc32c(&bytes).to_be_bytes());
        whole.extend(bytes);
        let _ = Snapshot::parse(&whole);
    }
}
