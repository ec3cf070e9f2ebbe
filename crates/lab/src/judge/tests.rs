//! Made-up logs: a good one is let pass, and each violation is found.

use super::*;
use crate::guest::{Answer, What};
use scsi::pr::Scope;

const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const KEY: Key = Key(0xA1);
const MEMBER: Key = Key(0xC1);

fn of(port: &str, key: Key, holds: Option<ReservationType>) -> Registration {
    Registration { port: port.into(), key, holds }
}

fn promise() -> Promise {
    Promise {
        key: KEY,
        hosts: vec!["a".into(), "b".into()],
        kind: Some(KIND),
        aptpl: true,
        foreign: vec![of("member", MEMBER, None)],
        guest: Standing::Member,
        blind: Duration::from_millis(100),
    }
}

fn sights(seen: Vec<Seen>) -> Vec<Sight> {
    let at = Duration::from_millis;
    let sight = |(number, seen): (u64, Seen)| Sight {
        from: at(number * 10),
        first: at(number * 10 + 1),
        last: at(number * 10 + 8),
        to: at(number * 10 + 9),
        times: 3,
        blind: at(9),
        seen,
    };
    (0..).zip(seen).map(sight).collect()
}

fn answer(status: u8, sense: &[u8]) -> Answer {
    Answer { status, sense: sense.into(), data: Vec::new() }
}

fn wrote(sequence: u64) -> What {
    What::Wrote(sequence, answer(0, &[]))
}

fn diary(what: Vec<What>) -> Vec<Entry> {
    what.into_iter().map(|what| Entry { at: 0, what }).collect()
}

fn held(kind: ReservationType, key: Key) -> Seen {
    Seen::Reservation(Some(Reservation { key, scope: Scope(0), kind }))
}

/// A move of a holder from a to b by a nonce.
fn moved() -> Vec<Seen> {
    let member = || of("member", MEMBER, None);
    [
        vec![of("a", KEY, Some(KIND)), member()],
        vec![of("a", KEY, Some(KIND)), of("b", KEY, None), member()],
        vec![of("a", Key(7), Some(KIND)), of("b", KEY, None), member()],
        vec![of("b", KEY, Some(KIND)), member()],
    ]
    .map(Seen::Registrations)
    .into()
}

fn violations(seen: Vec<Seen>) -> Vec<Violation> {
    judge(&promise(), &[sights(seen)], &[], "b")
}

#[test]
fn a_move_that_keeps_everything_is_let_pass() {
    let keys = [vec![KEY, MEMBER], vec![KEY, KEY, MEMBER], vec![Key(7), KEY, MEMBER], vec![KEY, MEMBER]];
    let reservation = [held(KIND, KEY), held(KIND, Key(7)), held(KIND, KEY)];
    let seen = [
        sights(moved()),
        sights(keys.map(Seen::Keys).into()),
        sights(reservation.into()),
        sights(vec![Seen::Aptpl(true)]),
    ];
    let attention = What::Wrote(3, answer(2, &[0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2A, 3, 0, 0, 0, 0]));
    let read = What::Read { sequence: 3, found: Some(3), answer: answer(0, &[]) };
    let diaries = [diary(vec![wrote(1), wrote(2)]), diary(vec![wrote(2), attention, wrote(3), read])];
    assert_eq!(judge(&promise(), &seen, &diaries, "b"), []);
}

#[test]
fn a_moment_without_the_guests_key_is_found() {
    let mut seen = moved();
    seen.insert(3, Seen::Registrations(vec![of("a", Key(7), Some(KIND)), of("member", MEMBER, None)]));
    assert_eq!(violations(seen), [Violation::KeyGap(Duration::from_millis(30))]);
    let keys = vec![Seen::Keys(vec![KEY, MEMBER]), Seen::Keys(vec![MEMBER])];
    assert_eq!(violations(keys), [Violation::KeyGap(Duration::from_millis(10))]);
}

#[test]
fn a_key_that_a_bystander_shares_does_not_hide_the_gap() {
    let shared = Promise { foreign: vec![of("member", KEY, None)], ..promise() };
    let seen = [sights(vec![Seen::Keys(vec![KEY, KEY]), Seen::Keys(vec![KEY])])];
    assert_eq!(judge(&shared, &seen, &[], "b"), [Violation::KeyGap(Duration::from_millis(10))]);
}

#[test]
fn a_moment_without_reservation_is_found() {
    assert_eq!(violations(vec![Seen::Reservation(None)]), [Violation::ReservationGap(Duration::ZERO)]);
    let mut seen = moved();
    seen.insert(3, Seen::Registrations(vec![of("b", KEY, None), of("member", MEMBER, None)]));
    assert_eq!(violations(seen), [Violation::ReservationGap(Duration::from_millis(30))]);
}

#[test]
fn a_reservation_that_is_another_members_must_stay_so() {
    let other = Promise { foreign: vec![of("member", MEMBER, Some(KIND))], ..promise() };
    let seen = [sights(vec![held(KIND, MEMBER), held(KIND, KEY)])];
    assert_eq!(judge(&other, &seen, &[], "b"), [Violation::ReservationGap(Duration::from_millis(10))]);
}

#[test]
fn all_registrants_hold_a_reservation_of_that_type() {
    let kind = ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS;
    let all = Promise { kind: Some(kind), foreign: vec![of("member", MEMBER, Some(kind))], ..promise() };
    let good = Seen::Registrations(vec![of("b", KEY, Some(kind)), of("member", MEMBER, Some(kind))]);
    assert_eq!(judge(&all, &[sights(vec![good, held(kind, Key(0))])], &[], "b"), []);
    let bad = Seen::Registrations(vec![of("b", KEY, None), of("member", MEMBER, Some(kind))]);
    assert_eq!(judge(&all, &[sights(vec![bad])], &[], "b"), [Violation::ReservationGap(Duration::ZERO)]);
}

#[test]
fn a_changed_type_is_found_by_either_command() {
    let kind = ReservationType::WRITE_EXCLUSIVE;
    assert_eq!(violations(vec![held(kind, KEY)]), [Violation::Type(Duration::ZERO, kind)]);
    let seen = Seen::Registrations(vec![of("b", KEY, Some(kind)), of("member", MEMBER, None)]);
    assert_eq!(violations(vec![seen]), [Violation::Type(Duration::ZERO, kind)]);
}

#[test]
fn lost_aptpl_is_found_where_it_was_promised() {
    let seen = vec![Seen::Aptpl(true), Seen::Aptpl(false)];
    assert_eq!(violations(seen.clone()), [Violation::Aptpl(Duration::from_millis(10))]);
    let none = Promise { aptpl: false, ..promise() };
    assert_eq!(judge(&none, &[sights(seen)], &[], "b"), []);
}

#[test]
fn a_foreign_registration_that_is_touched_is_found() {
    for touched in [vec![], vec![of("member", Key(9), None)], vec![of("member", MEMBER, Some(KIND))]] {
        let seen = Seen::Registrations([vec![of("b", KEY, Some(KIND))], touched].concat());
        let foreign = Violation::Foreign(Duration::ZERO, of("member", MEMBER, None));
        assert!(violations(vec![seen]).contains(&foreign));
    }
    let keys = vec![Seen::Keys(vec![KEY])];
    assert_eq!(violations(keys), [Violation::Foreign(Duration::ZERO, of("member", MEMBER, None))]);
}

#[test]
fn a_stranger_is_found() {
    let stranger = of("c", Key(5), None);
    let seen =
        Seen::Registrations(vec![of("b", KEY, Some(KIND)), of("member", MEMBER, None), stranger.clone()]);
    assert_eq!(violations(vec![seen]), [Violation::Stranger(Duration::ZERO, stranger)]);
}

#[test]
fn in_the_end_the_guest_is_registered_where_it_is_and_nowhere_else() {
    let mut seen = moved();
    seen.truncate(2);
    assert!(matches!(violations(seen).as_slice(), [Violation::End(found)] if found.len() == 2));
    let mut kept = moved();
    kept.truncate(1);
    assert!(matches!(violations(kept).as_slice(), [Violation::End(found)] if found[0].port == "a"));
}

#[test]
fn a_watch_that_was_blind_proves_nothing() {
    let mut blind = sights(moved());
    blind[2].blind = Duration::from_millis(101);
    let found = [Violation::Blind(Duration::from_millis(29), Duration::from_millis(101))];
    assert_eq!(judge(&promise(), &[blind], &[], "b"), found);
    assert!(matches!(judge(&promise(), &[vec![]], &[], "b").as_slice(), [Violation::Blind(..)]));
}

#[test]
fn a_refused_write_and_a_refused_read_are_found() {
    let read = What::Read { sequence: 2, found: None, answer: answer(0x18, &[]) };
    let diaries = [diary(vec![wrote(1), What::Wrote(2, answer(0x18, &[])), read])];
    let refused = [Violation::Refused(2, 0x18), Violation::Refused(2, 0x18)];
    assert_eq!(judge(&promise(), &[], &diaries, "b"), refused);
}

#[test]
fn a_write_that_was_acknowledged_and_is_not_there_is_found() {
    let read = What::Read { sequence: 9, found: Some(1), answer: answer(0, &[]) };
    let diaries = [diary(vec![wrote(9), read])];
    assert_eq!(judge(&promise(), &[], &diaries, "b"), [Violation::Lost(9, Some(1))]);
}

#[test]
fn a_guest_that_forgot_what_it_wrote_is_found() {
    for next in [1, 7] {
        let diaries = [diary(vec![wrote(4), wrote(5)]), diary(vec![wrote(next)])];
        assert_eq!(judge(&promise(), &[], &diaries, "b"), [Violation::Jump(5, next)]);
    }
}

#[test]
fn a_fenced_guest_that_comes_back_is_found_and_one_that_does_not_is_let_pass() {
    let fenced =
        Promise { guest: Standing::Fenced, foreign: vec![of("member", MEMBER, Some(KIND))], ..promise() };
    let member = || of("member", MEMBER, Some(KIND));
    let gone = vec![Seen::Registrations(vec![member()]), Seen::Keys(vec![MEMBER]), held(KIND, MEMBER)];
    // What it writes is refused.
    let refused = [diary(vec![What::Wrote(1, answer(0x18, &[]))])];
    assert_eq!(judge(&fenced, &[sights(gone)], &refused, "b"), []);
    let back = vec![
        Seen::Keys(vec![KEY, MEMBER]),
        Seen::Registrations(vec![of("b", KEY, None), member()]),
        Seen::Registrations(vec![member()]),
    ];
    let found = judge(&fenced, &[sights(back)], &refused, "b");
    let unfenced = |one: &&Violation| matches!(one, Violation::Unfenced(_));
    assert_eq!(found.iter().filter(unfenced).count(), 2, "{found:?}");
    let last =
        judge(&fenced, &[sights(vec![Seen::Registrations(vec![of("b", KEY, None), member()])])], &[], "b");
    assert!(last.iter().any(|one| matches!(one, Violation::End(_))), "{last:?}");
}

/// A guest that is fenced from 20 ms to 29 ms, and what is seen of it: every 10 ms something.
fn fenced_in_move(seen: Vec<Seen>, diaries: &[Vec<Entry>]) -> Vec<Violation> {
    let after = Promise {
        guest: Standing::FencedInMove,
        foreign: vec![of("member", MEMBER, Some(KIND))],
        ..promise()
    };
    let happened = Duration::from_millis(20)..Duration::from_millis(29);
    judge_turn([&promise(), &after], &happened, &[sights(seen)], diaries, "b")
}

#[test]
fn a_guest_that_is_fenced_in_its_move_may_be_listed_for_a_proof_and_not_in_the_end() {
    let holds = |port: &str, key| of(port, key, Some(KIND));
    let seen = |end: Vec<Registration>| {
        let start = vec![holds("a", KEY), of("member", MEMBER, None)];
        let proof = vec![of("b", KEY, None), holds("member", MEMBER)];
        [start.clone(), start, vec![of("c", Key(5), None)], proof, end].map(Seen::Registrations).into()
    };
    let refused = |sequence| What::Wrote(sequence, answer(0x18, &[]));
    let diaries = [diary(vec![wrote(1)]), diary(vec![refused(2), refused(3)])];
    assert_eq!(fenced_in_move(seen(vec![holds("member", MEMBER)]), &diaries), []);
    let back = vec![of("b", KEY, None), holds("member", MEMBER)];
    assert!(matches!(fenced_in_move(seen(back), &diaries).as_slice(), [Violation::End(_)]));
    let lost = vec![Seen::Registrations(vec![of("member", MEMBER, None)]); 5];
    let found = fenced_in_move(lost, &diaries);
    assert!(found.contains(&Violation::KeyGap(Duration::ZERO)), "before it {found:?}");
}

#[test]
fn a_fenced_guest_that_writes_again_or_never_finds_out_is_found() {
    let fenced = Promise { guest: Standing::Fenced, foreign: Vec::new(), ..promise() };
    let judged = |what| judge(&fenced, &[], &[diary(what)], "b");
    let refused = || What::Wrote(2, answer(0x18, &[]));
    assert_eq!(judged(vec![wrote(1), refused(), wrote(3)]), [Violation::Wrote(3)]);
    assert_eq!(judged(vec![wrote(1), wrote(2)]), [Violation::NotRefused]);
    assert_eq!(judged(vec![wrote(1), wrote(5), refused()]), [Violation::Jump(1, 5)]);
}
