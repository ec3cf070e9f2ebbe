//! What a compromised peer may try out of turn.

use super::*;
use crate::message::{
    Abort, About, Advance, Back, Close, Guest, Incoming, Open as OpenMessage, Options, Word,
};
use proptest::prelude::*;

const OURS: Id = Id(7);

fn open(plan_only: bool) -> Request {
    let guest = Guest { vm: "web".into(), uuid: "u".into() };
    let options = Options { plan_only, ..Options::default() };
    Request::Open(OpenMessage { handover: OURS, guest, luns: Vec::new(), options })
}

fn advance(handover: Id, round: u64) -> Advance {
    Advance { handover, round, digest: Word(1), outcomes: Vec::new(), decisions: Vec::new() }
}

fn round(round: u64) -> Request {
    Request::Round(advance(OURS, round))
}

fn journal(round: u64) -> Request {
    Request::Journal(advance(OURS, round))
}

fn settle(round: u64) -> Request {
    Request::Settle(advance(OURS, round))
}

const fn go() -> Request {
    Request::Go(About { handover: OURS })
}

fn abort() -> Request {
    Request::Abort(Abort { handover: OURS, why: "link".into() })
}

fn close() -> Request {
    Request::Close(Close { handover: OURS, verdict: "moved".into() })
}

fn after(requests: &[Request]) -> Sequence {
    let mut sequence = Sequence::new();
    requests.iter().for_each(|request| sequence.admit(request).unwrap());
    sequence
}

/// The class and text with which it is refused, and that it changed nothing.
fn refused(requests: &[Request], request: &Request) -> (String, String) {
    let mut sequence = after(requests);
    let before = sequence;
    let refusal = sequence.admit(request).unwrap_err();
    assert_eq!(sequence, before);
    (refusal.class, refusal.desc)
}

#[test]
fn a_whole_handover_is_in_order() {
    let freeze = Request::Freeze(About { handover: OURS });
    let incoming = Incoming {
        handover: OURS,
        uri: None,
        capabilities: serde_json::Map::new(),
        parameters: serde_json::Map::new(),
    };
    let requests = [
        open(false),
        round(1),
        round(2),
        settle(2),
        Request::Incoming(incoming),
        freeze,
        journal(3),
        round(3),
        settle(3),
        go(),
        round(4),
        settle(4),
        close(),
    ];
    assert_eq!(after(&requests), Sequence::new());
}

#[test]
fn a_recovery_that_finds_everything_there_may_say_go() {
    let record = crate::message::Record {
        handover: OURS,
        led: true,
        marks: Vec::new(),
        luns: Vec::new(),
        verdict: None,
    };
    let guest = Guest { vm: "web".into(), uuid: "u".into() };
    let recover = crate::message::Recover { guest, record, prefer_destination: true, kept_at_source: false };
    after(&[Request::Recover(recover), round(1), settle(1), go(), close()]);
}

#[test]
fn a_replayed_round_is_refused() {
    let (class, desc) = refused(&[open(false), round(1), round(2)], &round(2));
    assert_eq!(class, "OutOfOrder");
    assert_eq!(desc, "round does not belong here: round 2 is a replay: 3 is next");
}

#[test]
fn a_round_out_of_order_is_refused() {
    let (class, desc) = refused(&[open(false), round(1)], &journal(3));
    assert_eq!(class, "OutOfOrder");
    assert_eq!(desc, "journal does not belong here: round 3 is a gap: 2 is next");
}

#[test]
fn a_round_of_entries_alone_is_followed_by_the_next_and_by_no_other() {
    let before = [open(false), journal(1)];
    after(&[open(false), journal(1), round(2), round(3)]);
    after(&[open(false), journal(1), journal(2), round(2)]);
    assert!(refused(&before, &round(3)).1.ends_with("round 3 is a gap: 2 is next"));
    assert!(refused(&before, &journal(1)).1.ends_with("round 1 is a replay: 2 is next"));
    assert!(refused(&before, &go()).1.contains("round 1 was journalled and not run"));
    assert!(refused(&before, &close()).1.contains("round 1 was journalled and not run"));
}

#[test]
fn a_round_whose_journal_failed_is_settled_or_aborted() {
    after(&[open(false), journal(1), settle(1), round(2)]);
    after(&[open(false), journal(1), abort(), round(2), close()]);
}

#[test]
fn the_way_back_counts_its_own_rounds() {
    let back = || Request::Back(Back { handover: OURS, units: Vec::new() });
    after(&[open(false), round(1), round(2), back(), round(1), settle(1)]);
    assert!(refused(&[open(false), round(1), back()], &round(2)).1.contains("a gap"));
    assert!(refused(&[open(false), go()], &back()).1.contains("go was said"));
}

#[test]
fn another_handovers_id_is_refused() {
    let other = Request::Round(advance(Id(8), 2));
    let (class, desc) = refused(&[open(false), round(1)], &other);
    assert_eq!(class, "UnknownHandover");
    assert!(desc.contains("00000000000000000000000000000008 is not open"), "{desc}");
}

#[test]
fn nothing_is_done_before_open_or_after_close() {
    for request in [round(1), journal(1), settle(0), go(), abort(), close()] {
        assert_eq!(refused(&[], &request).0, "UnknownHandover");
        assert_eq!(refused(&[open(false), close()], &request).0, "UnknownHandover");
    }
}

#[test]
fn a_second_handover_on_the_link_is_refused() {
    assert!(refused(&[open(false)], &open(false)).1.contains("is open on this link"));
}

#[test]
fn a_plan_changes_nothing_that_lasts() {
    for request in [journal(1), go(), Request::Freeze(About { handover: OURS })] {
        assert!(refused(&[open(true)], &request).1.contains("only for planning"));
    }
}

#[test]
fn go_and_abort_exclude_each_other() {
    assert!(refused(&[open(false), go()], &abort()).1.contains("go was said"));
    assert!(refused(&[open(false), go()], &go()).1.contains("go was said"));
    assert!(refused(&[open(false), abort()], &go()).1.contains("is being undone"));
}

fn any_request() -> impl Strategy<Value = Request> {
    let number = 0..4_u64;
    prop_oneof![
        Just(Request::Ping),
        any::<bool>().prop_map(open),
        number.clone().prop_map(round),
        number.clone().prop_map(journal),
        number.clone().prop_map(settle),
        number.prop_map(|number| Request::Round(advance(Id(8), number))),
        Just(go()),
        Just(abort()),
        Just(close()),
    ]
}

proptest! {
    #[test]
    fn rounds_are_run_once_each_and_without_a_gap(requests in prop::collection::vec(any_request(), 0..60)) {
        let mut sequence = Sequence::new();
        let mut run = 0;
        for request in requests {
            if sequence.admit(&request).is_err() {
                continue;
            }
            match request {
                Request::Open(_) => run = 0,
                Request::Round(advance) => {
                    prop_assert_eq!(advance.handover, OURS);
                    prop_assert!(advance.round > run);
                    run = advance.round;
                }
                _ => {}
            }
        }
    }
}
