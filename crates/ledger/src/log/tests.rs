//! Logs as bytes: both ways, through compaction, and what other versions and damage do to them.

use super::*;
use crate::line::tests::{change, foreign, lun};
use crate::{HandoverId, State};
use proptest::prelude::*;

fn owner() -> Owner {
    Owner("win \"node\" 1\n".into())
}

fn text(lines: impl IntoIterator<Item = (LunId, Change)>) -> String {
    let line = |(at, (lun, change))| Line::new(at, lun, change).unwrap().text;
    header(&owner()) + &(0..).zip(lines).map(line).collect::<String>()
}

fn records(log: &Log) -> Vec<Record> {
    log.records().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn compaction_keeps_every_record_and_is_done_after_once(
        changes in prop::collection::vec((lun(), change()), 0..120)
    ) {
        let log = Log::parse(text(changes).as_bytes()).unwrap();
        let compacted = log.compacted();
        let again = Log::parse(compacted.as_bytes()).unwrap();
        prop_assert_eq!(records(&again), records(&log));
        prop_assert_eq!(again.owner(), Some(&owner()));
        prop_assert_eq!(again.compacted(), compacted);
    }

    #[test]
    fn it_matters_not_in_how_many_pieces_a_log_is_fed(
        changes in prop::collection::vec((lun(), change()), 0..20), cuts in prop::collection::vec(0.0..1.0, 0..6)
    ) {
        let bytes = text(changes).into_bytes();
        let mut log = Log::default();
        let mut ends: Vec<_> = cuts.iter().map(|cut| (cut * bytes.len() as f64) as usize).collect();
        ends.sort_unstable();
        for end in ends.into_iter().chain([bytes.len()]) {
            log.feed(&bytes[(log.length() as usize).min(end)..end]).unwrap();
        }
        prop_assert_eq!(log.length(), bytes.len() as u64);
        prop_assert_eq!(records(&log), records(&Log::parse(&bytes).unwrap()));
    }
}

#[test]
fn what_a_newer_version_added_is_kept_through_compaction() {
    let seen = r#"{"at":1,"lun":"naa.1","change":"seen","path":"p","node":"n","color":"red"}"#;
    let first = r#"{"at":2,"lun":"naa.1","change":"teleport","path":"p","optional":true,"to":1}"#;
    let last = r#"{"at":3,"lun":"naa.1","change":"teleport","path":"p","optional":true,"to":2}"#;
    let other = r#"{"at":4,"lun":"naa.1","change":"teleport","path":"q","optional":true,"to":3}"#;
    let log = header(&owner()) + &[seen, first, last, other].map(foreign).concat();
    let compacted = Log::parse(log.as_bytes()).unwrap().compacted();
    assert_eq!(compacted, header(&owner()) + &[seen, last, other].map(foreign).concat());
}

#[test]
fn a_newer_log_is_refused_and_says_so() {
    let refused = Log::parse(b"tenure-ledger 2 \"a\"\n").unwrap_err();
    assert_eq!((refused.newer, refused.line), (true, 1));
    let unknown = text([]) + &foreign(r#"{"at":1,"lun":"naa.1","change":"teleport"}"#);
    let refused = Log::parse(unknown.as_bytes()).unwrap_err();
    assert_eq!(
        (refused.newer, refused.line, refused.what.as_str()),
        (true, 2, "unknown change \"teleport\"")
    );
}

#[test]
fn what_is_no_ledger_is_refused() {
    for bad in ["\n", "hello\n", "tenure-ledger\n", "tenure-ledger 0 \"a\"\n", "tenure-ledger 1 a\n"] {
        assert!(Log::parse(bad.as_bytes()).is_err_and(|flaw| !flaw.newer), "{bad:?}");
    }
}

#[test]
fn a_flaw_takes_nothing_in() {
    let mut log = Log::parse(text([]).as_bytes()).unwrap();
    let good = foreign(r#"{"at":1,"lun":"naa.1","change":"reservation","type":5}"#);
    assert!(log.feed(format!("{good}damaged\n{good}").as_bytes()).is_err());
    assert_eq!((records(&log), log.length()), (vec![], text([]).len() as u64));
}

#[test]
fn an_attention_that_was_given_is_owed_no_more_and_a_full_queue_drops_the_last() {
    let path = || PathId("p".into());
    let lun = || LunId("naa.1".into());
    let owed = |number: u8| (lun(), Change::Owed { path: path(), sense: Some(vec![number]) });
    let given = || (lun(), Change::Owed { path: path(), sense: None });
    let seen = (lun(), Change::Seen { path: path(), node: "n".into() });
    let lines = [seen].into_iter().chain((0..40).map(owed)).chain([given()]);
    let log = Log::parse(text(lines).as_bytes()).unwrap();
    let queue = log.record(&lun()).unwrap().paths[0].owed.clone();
    assert_eq!(queue, (1..32).map(|number| vec![number]).collect::<Vec<_>>());
}

#[test]
fn what_is_found_of_a_guest_that_is_away_does_not_bring_it_back_also_after_compaction() {
    let state = |state, id: Option<u128>| {
        (LunId("naa.1".into()), Change::State { state, handover: id.map(HandoverId), why: None })
    };
    let after = |lines: &[(LunId, Change)]| {
        // History keeps lines that no longer count; here it is full of others.
        let path = PathId("p".into());
        let tracked = handover::Tracked::default();
        let others = std::iter::repeat_n(
            (LunId("naa.1".into()), Change::Commit { path, tracked, generation: None }),
            MOST_HISTORY,
        );
        let lines: Vec<_> = lines.iter().cloned().chain(others).collect();
        let log = Log::parse(text(lines).as_bytes()).unwrap();
        let record = records(&log).remove(0);
        assert_eq!(records(&Log::parse(log.compacted().as_bytes()).unwrap()), std::slice::from_ref(&record));
        (record.state, record.found)
    };
    let story = [
        (state(State::Active, None), State::Active),
        (state(State::Handover, Some(7)), State::Handover),
        (state(State::Fenced, None), State::Handover),
        (state(State::Active, Some(6)), State::Handover),
        (state(State::Moved, Some(7)), State::Moved),
        (state(State::Active, None), State::Moved),
        (state(State::Handover, Some(8)), State::Handover),
        (state(State::Lost, None), State::Handover),
        (state(State::Active, Some(8)), State::Active),
        (state(State::Fenced, None), State::Fenced),
    ];
    let lines = story.clone().map(|(line, _)| line);
    for (count, (_, expected)) in (1..).zip(story) {
        assert_eq!(after(&lines[..count]).0, expected, "after {count}");
    }
    assert_eq!(after(&lines[..3]).1, State::Fenced);
}
