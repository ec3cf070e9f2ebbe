//! The form of a journal: what version 1 looks like, both ways, and what is refused.

use super::super::line::{LONGEST, Lun, OwnPath, Wrong};
use super::*;
use crate::entry::EntryForm;
use handover::journal::Stage;
use handover::known_targets::TargetIdentity;
use handover::{Method, Port, Role, Side};
use ledger::HandoverId;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use scsi::pr::{Key, ReservationType};

/// A journal as version 1 writes it. Never edited: a new version gets a file of its own.
const GOLDEN: &str = include_str!("../../../tests/golden/handovers-1.log");
/// The lines that came later, of a guest that was given back. Never edited either.
const GIVEN_BACK: &str = include_str!("../../../tests/golden/handovers-1-given-back.log");

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = any::<u8>().prop_map(ReservationType);
    let role = (0..6u8, kind).prop_map(|(role, kind)| match role {
        0 => Role::Registrant,
        1 => Role::Member(kind),
        2 => Role::AllRegistrants(kind),
        3 => Role::Holder(kind),
        4 => Role::HolderOrSharer(kind),
        _ => Role::Unregistered,
    });
    let place = (select(Stage::ALL.to_vec()), select(Method::ALL.to_vec()), role);
    let keys = (any::<u64>(), any::<u64>(), any::<bool>(), any::<u32>());
    let paths = (any::<u8>(), of(0..8u8), any::<u8>(), any::<u16>());
    (place, keys, paths).prop_map(|((stage, method, role), (key, nonce, aptpl, generation), paths)| {
        let (source_paths, holder, destination_had, sharers) = paths;
        let (key, nonce) = (Key(key), Key(nonce));
        Entry {
            stage,
            method,
            key,
            nonce,
            role,
            aptpl,
            generation,
            source_paths,
            holder,
            destination_had,
            sharers,
        }
    })
}

fn any_port() -> impl Strategy<Value = Port> {
    let initiator = of(select(vec![
        "iqn.2026-01.test:a,i,0x800000000000",
        "iqn.2026-01.test:a",
        "fc:21000024ff31eb2c",
        "sas:5000c50012345678",
    ]));
    (initiator, of(any::<u16>())).prop_map(|(initiator, target_port)| Port {
        initiator: initiator.map(|text| text.parse().unwrap()),
        target_port,
    })
}

fn any_lun() -> impl Strategy<Value = Lun> {
    let own = (any::<String>(), any_port()).prop_map(|(device, port)| OwnPath { device, port });
    let target = any::<([u8; 8], [u8; 16], [u8; 4])>();
    let target = target.prop_map(|(vendor, product, revision)| TargetIdentity { vendor, product, revision });
    let names = (any::<String>(), vec(own, 0..3), vec(any_port(), 0..3));
    (names, of(any::<u64>()), any::<u64>(), of(target)).prop_map(|((lun, own, peer), key, nonce, target)| {
        Lun { lun, own, peer, key: key.map(Key), nonce: Key(nonce), target }
    })
}

fn any_begun() -> impl Strategy<Value = Begun> {
    let side = select(vec![Side::Source, Side::Destination]);
    let method = of(select(Method::ALL.to_vec()));
    (any::<u128>(), any::<String>(), side, any::<String>(), vec(any_lun(), 3..5), method, any::<[bool; 3]>())
        .prop_map(
            |(handover, uuid, side, peer, luns, method, [allow_absence, stays_paused, orchestrated])| {
                let handover = HandoverId(handover);
                Begun { handover, uuid, side, peer, luns, method, allow_absence, stays_paused, orchestrated }
            },
        )
}

fn any_unit() -> impl Strategy<Value = UnitIndex> {
    (0..3u16).prop_map(UnitIndex)
}

fn any_said() -> impl Strategy<Value = Said> {
    prop_oneof![
        any_begun().prop_map(Said::Begin),
        (any::<u64>(), vec((any_unit(), any_entry()), 0..4))
            .prop_map(|(round, entries)| Said::Entries { round, entries }),
        vec(any_unit(), 0..3).prop_map(Said::Turn),
        vec((any_unit(), any_port()), 0..3).prop_map(Said::From),
        select(Mark::ALL.to_vec()).prop_map(Said::Mark),
        Just(Said::Resumed),
        Just(Said::RanThere),
        any::<String>().prop_map(|verdict| Said::End { verdict }),
    ]
}

/// What can follow each other, and the journal that says so.
fn any_story() -> impl Strategy<Value = (Vec<Said>, String)> {
    vec(any_said(), 0..12).prop_map(|all| {
        let (mut log, mut text, mut told) = (Log::default(), header("a", "vm"), Vec::new());
        log.begin("a", "vm");
        for said in all {
            let line = said.to_line().unwrap();
            if log.take(said.clone(), length(line.as_bytes())).is_ok() {
                text.push_str(&line);
                told.push(said);
            }
        }
        (told, text)
    })
}

#[test]
fn what_a_guest_was_claimed_from_is_alone_what_is_left_of_the_other_hosts_paths() {
    let port = |number: u16| Port { initiator: None, target_port: Some(number) };
    let lun = |name: &str| Lun {
        lun: name.into(),
        own: Vec::new(),
        peer: vec![port(1), port(2)],
        key: None,
        nonce: Key(9),
        target: None,
    };
    let begun = Begun {
        handover: HandoverId(1),
        uuid: String::new(),
        side: Side::Destination,
        peer: String::new(),
        luns: vec![lun("a"), lun("b")],
        method: None,
        allow_absence: true,
        stays_paused: false,
        orchestrated: false,
    };
    let from = Said::From(vec![(UnitIndex(1), port(2))]);
    let lines = [Said::Begin(begun), from].map(|said| said.to_line().unwrap());
    let log = Log::parse(format!("{}{}", header("a", "vm"), lines.concat()).as_bytes()).unwrap();
    let ports: Vec<_> = log.handovers()[0].begun.luns.iter().map(|lun| lun.peer.clone()).collect();
    assert_eq!(ports, [vec![port(1), port(2)], vec![port(2)]]);
}

proptest! {
    #[test]
    fn what_was_written_is_what_is_read((told, text) in any_story()) {
        let mut expected = Log::default();
        expected.begin("a", "vm");
        for said in told {
            let bytes = length(said.to_line().unwrap().as_bytes());
            prop_assert_eq!(expected.take(said, bytes), Ok(()));
        }
        prop_assert_eq!(Log::parse(text.as_bytes()), Ok(expected));
    }

    #[test]
    fn cut_anywhere_the_whole_lines_count((_, text) in any_story(), at in any::<prop::sample::Index>()) {
        let at = at.index(text.len() + 1);
        let log = Log::parse(&text.as_bytes()[..at]).unwrap();
        let whole = text.as_bytes()[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        prop_assert_eq!(log.length(), u64::try_from(whole).unwrap());
        prop_assert_eq!(Log::parse(&text.as_bytes()[..whole]), Ok(log));
    }

    #[test]
    fn one_changed_bit_is_damage_or_the_end((_, text) in any_story(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = text.clone().into_bytes();
        let body = header("a", "vm").len();
        prop_assume!(bytes.len() > body);
        let at = body + at.index(bytes.len() - body);
        bytes[at] ^= 1 << bit;
        let before = Log::parse(text.as_bytes()).unwrap();
        if let Ok(log) = Log::parse(&bytes) {
            prop_assert!(log.length() < before.length(), "a change went unnoticed");
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Log::parse(&bytes);
    }

    #[test]
    fn an_entry_reads_back_from_its_fields(entry in any_entry()) {
        let text = serde_json::to_string(&EntryForm::new(&entry)).unwrap();
        let fields: EntryForm = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(fields.to_entry(), Ok(entry));
    }
}

#[test]
fn version_1_is_read_and_written_as_it_was() {
    let log = Log::parse(GOLDEN.as_bytes()).unwrap();
    assert_eq!(log.length(), length(GOLDEN.as_bytes()));
    assert_eq!(log.owner(), Some(("alpha", "db1")));
    let mut lines = GOLDEN.lines();
    assert_eq!(lines.next().map(|line| format!("{line}\n")), Some(header("alpha", "db1")));
    let mut kinds = Vec::new();
    for line in lines {
        let said = Said::parse(line.as_bytes()).unwrap();
        assert_eq!(said.to_line().unwrap(), format!("{line}\n"));
        kinds.push(std::mem::discriminant(&said));
    }
    assert_eq!(kinds.len(), 9, "every kind of line is there");
    let [first, second] = log.handovers() else { panic!("two handovers") };
    assert_eq!(first.verdict.as_deref(), Some("kept at the source: given up on request"));
    assert!(second.is_open());
    assert_eq!(second.begun.luns[0].key, Some(Key(0xabcd)));
    assert_eq!(second.begun.luns[0].own[0].device, "/dev/disk/by-id/wwn-0x6001405aabbccdd");
    let last = second.last[&UnitIndex(0)];
    assert_eq!(
        (last.turn, last.entry.stage, last.entry.role),
        (1, Stage::Freeze, Role::Holder(ReservationType(5)))
    );
    assert_eq!(second.last[&UnitIndex(1)].turn, 0);
    assert_eq!(second.marks, [Mark::Taken]);
}

fn flaw(body: &str) -> Flaw {
    let text = format!("{}{body}{}", header("a", "vm"), Said::Mark(Mark::Go).to_line().unwrap());
    Log::parse(text.as_bytes()).unwrap_err()
}

fn line(json: &str) -> String {
    format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()))
}

#[test]
fn what_a_newer_version_wrote_is_refused_as_such() {
    for json in [
        r#"{"line":"dance"}"#,
        r#"{"line":"mark","mark":"sideways"}"#,
        r#"{"line":"end","verdict":"x","by":"root"}"#,
        r#"{"line":"turn"}"#,
    ] {
        assert!(flaw(&line(json)).newer, "{json}");
        assert_eq!(flaw(&line(json)).line, 2);
    }
    let newer = Log::parse(b"tenure-handovers 2 {}\n").unwrap_err();
    assert!(newer.newer && newer.to_string().contains("format 2"));
}

#[test]
fn a_guest_that_was_given_back_and_one_that_ran_there_are_read_and_written_as_they_were() {
    let log = Log::parse(GIVEN_BACK.as_bytes()).unwrap();
    let [given_back] = log.handovers() else { panic!("one handover") };
    assert!(given_back.resumed && given_back.ran_there && given_back.is_open());
    for line in GIVEN_BACK.lines().skip(1) {
        assert_eq!(Said::parse(line.as_bytes()).unwrap().to_line().unwrap(), format!("{line}\n"));
    }
}

#[test]
fn a_field_that_nobody_knows_is_a_newer_programs_in_every_line() {
    for json in [
        r#"{"line":"resumed","by":"operator"}"#,
        r#"{"line":"ran_there","by":"operator"}"#,
        r#"{"line":"mark","mark":"go","by":"operator"}"#,
        r#"{"line":"end","verdict":"x","by":"operator"}"#,
    ] {
        let text = line(json);
        assert!(matches!(Said::parse(text.trim_end().as_bytes()), Err(Wrong::Newer(_))), "{json}");
    }
}

#[test]
fn what_does_not_belong_there_is_damage() {
    let begun = GOLDEN.lines().nth(1).unwrap();
    let twice = format!("{begun}\n{begun}\n");
    let of_no_unit = format!("{begun}\n{}", line(r#"{"line":"turn","units":[9]}"#));
    for (body, number) in [
        (line(r#"{"line":"end","verdict":"x"}"#), 2),
        (twice, 3),
        (of_no_unit, 3),
        ("00000000 {}\n".to_owned(), 2),
        ("no checksum\n".to_owned(), 2),
    ] {
        let flaw = flaw(&body);
        assert!(!flaw.newer, "{body}: {flaw}");
        assert_eq!(flaw.line, number, "{body}");
    }
    for header in ["tenure-ledger 1 \"x\"\n", "tenure-handovers x {}\n", "\u{0}\n", "tenure-handovers 1 5\n"]
    {
        assert!(!Log::parse(header.as_bytes()).unwrap_err().newer, "{header}");
    }
}

#[test]
fn a_line_that_is_too_long_is_never_written() {
    assert_eq!(Said::End { verdict: "x".repeat(LONGEST) }.to_line(), None);
}
