//! The lines byte for byte, both ways, and what of a newer version is kept or refused.

use super::*;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = Key> {
    any::<u64>().prop_map(Key)
}

fn path() -> impl Strategy<Value = PathId> {
    prop_oneof!["[a-c]", "\\PC{1,20}"].prop_map(PathId)
}

fn intended() -> impl Strategy<Value = Intended> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u8>(), any::<u8>(), key(), key(), flags).prop_map(
        |(action, kind, reservation_key, service_action_key, (aptpl, all_target_ports, unregister))| {
            Intended {
                action: OutAction(action),
                kind: ReservationType(kind),
                reservation_key,
                service_action_key,
                aptpl,
                all_target_ports,
                unregister,
            }
        },
    )
}

fn tracked() -> impl Strategy<Value = Tracked> {
    let held = prop::option::of(any::<u8>().prop_map(ReservationType));
    (prop::option::of(key()), held, any::<bool>(), any::<bool>())
        .prop_map(|(key, held, aptpl, all_target_ports)| Tracked { key, held, aptpl, all_target_ports })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let sense = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
    let handover = prop::option::of(any::<u128>().prop_map(HandoverId));
    let state = prop::sample::select(State::ALL.to_vec());
    let why = prop::option::of(any::<String>());
    prop_oneof![
        (path(), any::<String>()).prop_map(|(path, node)| Change::Seen { path, node }),
        (path(), intended()).prop_map(|(path, intended)| Change::Intent { path, intended }),
        (path(), tracked(), any::<Option<u32>>()).prop_map(|(path, tracked, generation)| Change::Commit {
            path,
            tracked,
            generation
        }),
        (path(), sense).prop_map(|(path, sense)| Change::Owed { path, sense }),
        any::<Option<u8>>().prop_map(|kind| Change::Reservation { kind: kind.map(ReservationType) }),
        (state, handover, why).prop_map(|(state, handover, why)| Change::State { state, handover, why }),
    ]
}

pub(crate) fn lun() -> impl Strategy<Value = LunId> {
    "naa\\.[0-2]".prop_map(LunId)
}

/// The line of a text that another version wrote.
pub(crate) fn foreign(json: &str) -> String {
    framed(json)
}

fn parse(text: &str) -> Result<Line, Wrong> {
    let mut lines = Line::parse(text.strip_suffix('\n').unwrap().as_bytes())?;
    assert_eq!(lines.len(), 1);
    Ok(lines.remove(0))
}

proptest! {
    #[test]
    fn every_change_survives_its_line(at in any::<u64>(), lun in lun(), change in change()) {
        let line = Line::new(at, lun, change).unwrap();
        prop_assert_eq!(parse(&line.text).unwrap(), line);
    }

    #[test]
    fn changes_that_are_packed_together_come_out_as_they_went_in(
        changes in prop::collection::vec((lun(), change()), 1..200)
    ) {
        let lines: Vec<_> = (0..).zip(changes).map(|(at, (lun, change))| Line::new(at, lun, change).unwrap()).collect();
        let (packed, count) = Line::pack(&lines);
        let texts: Vec<_> = packed.split_inclusive('\n').collect();
        prop_assert_eq!(texts.len() as u64, count);
        prop_assert!(texts.iter().all(|text| text.len() <= LONGEST));
        let read = texts.iter().flat_map(|text| Line::parse(text.trim_end_matches('\n').as_bytes()).unwrap());
        prop_assert!(read.eq(lines));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Line::parse(&bytes).is_err());
    }
}

#[test]
fn every_kind_of_change_has_the_form_of_schema_1() {
    for (golden, change) in golden() {
        let line = Line::new(1_763_700_000_000, LunId("naa.6000".into()), change).unwrap();
        assert_eq!(line.text.split_once(' ').unwrap().1.trim_end(), golden);
    }
    let line = Line::new(1, LunId("naa.6000".into()), Change::Reservation { kind: None }).unwrap();
    assert_eq!(
        line.text,
        format!("{SUM} {{\"at\":1,\"lun\":\"naa.6000\",\"change\":\"reservation\",\"type\":null}}\n")
    );
}

/// Computed once by another implementation of CRC-32C.
const SUM: &str = "8f53063b";

fn golden() -> [(&'static str, Change); 6] {
    let path = || PathId("p".into());
    let intended = Intended {
        action: OutAction::PREEMPT,
        kind: ReservationType(5),
        reservation_key: Key(0xa),
        service_action_key: Key(u64::MAX),
        aptpl: true,
        all_target_ports: false,
        unregister: false,
    };
    let tracked =
        Tracked { key: Some(Key(0xa)), held: Some(ReservationType(5)), aptpl: true, all_target_ports: false };
    [
        (
            r#"{"at":1763700000000,"lun":"naa.6000","change":"seen","path":"p","node":"/dev/sdb"}"#,
            Change::Seen { path: path(), node: "/dev/sdb".into() },
        ),
        (
            r#"{"at":1763700000000,"lun":"naa.6000","change":"intent","path":"p","action":4,"type":5,"reservation_key":"0x000000000000000a","service_action_key":"0xffffffffffffffff","aptpl":true,"all_target_ports":false,"unregister":false}"#,
            Change::Intent { path: path(), intended },
        ),
        (
            r#"{"at":1763700000000,"lun":"naa.6000","change":"commit","path":"p","key":"0x000000000000000a","held":5,"aptpl":true,"all_target_ports":false,"generation":7}"#,
            Change::Commit { path: path(), tracked, generation: Some(7) },
        ),
        (
            r#"{"at":1763700000000,"lun":"naa.6000","change":"owed","path":"p","sense":"70000600"}"#,
            Change::Owed { path: path(), sense: Some(vec![0x70, 0, 6, 0]) },
        ),
        (
            r#"{"at":1763700000000,"lun":"naa.6000","change":"reservation","type":8}"#,
            Change::Reservation { kind: Some(ReservationType(8)) },
        ),
        (
            r#"{"at":1763700000000,"lun":"naa.6000","change":"state","state":"moved","handover":"0000000000000000000000000000000f","why":"to hv2"}"#,
            Change::State { state: State::Moved, handover: Some(HandoverId(15)), why: Some("to hv2".into()) },
        ),
    ]
}

#[test]
fn an_unknown_field_is_kept_and_an_unknown_word_is_refused() {
    let more = foreign(r#"{"at":1,"lun":"l","change":"seen","path":"p","node":"n","color":"red"}"#);
    let line = parse(&more).unwrap();
    assert_eq!(line.said, Said::Change(Change::Seen { path: PathId("p".into()), node: "n".into() }));
    assert_eq!(line.text, more);
    for newer in [
        r#"{"at":1,"lun":"l","change":"teleport"}"#,
        r#"{"at":1,"lun":"l","change":"teleport","optional":false}"#,
        r#"{"at":1,"lun":"l","change":"state","state":"elsewhere","handover":null,"why":null}"#,
        r#"{"at":1,"lun":"l","change":"state","state":"moved","handover":"+f","why":null}"#,
        r#"{"at":1,"lun":"l","change":"owed","path":"p","sense":"abc"}"#,
        r#"{"at":1,"lun":"l","change":"commit","path":"p"}"#,
        r"[]",
    ] {
        assert!(matches!(parse(&foreign(newer)), Err(Wrong::Newer(_))), "{newer}");
    }
    let optional = foreign(r#"{"at":1,"lun":"l","change":"teleport","path":"p","optional":true}"#);
    assert_eq!(parse(&optional).unwrap().said, Said::Unknown("teleport".into(), Some("p".into())));
}

#[test]
fn changes_of_one_append_are_one_line_unless_they_are_too_long_for_it() {
    let line = |length| {
        let change = Change::Seen { path: PathId("p".into()), node: "n".repeat(length) };
        Line::new(1, LunId("l".into()), change).unwrap()
    };
    assert_eq!(Line::pack(&[line(1), line(2), line(3)]).1, 1);
    assert_eq!(Line::pack(&[line(30_000), line(30_000), line(30_000)]).1, 2);
    let (packed, _) = Line::pack(&[line(1), line(2)]);
    let json = packed.trim_end().split_once(' ').unwrap().1;
    assert_eq!(json, format!("[{},{}]", line(1).json(), line(2).json()));
}
