//! Where targets deviate: the naive hand-over of a reservation (D registers the same key and preempts
//! it) on every profile, and one test for each deviation that a profile names.

use super::harness::*;
use logical_unit::profile::*;
use logical_unit::{ItNexus, NexusId};
use scsi::pr::request::*;
use scsi::pr::{BasicParameters, InAction, Key, OutAction, ReadKeys, ReservationType};
use scsi::{Completion, Request, Status, TransportId};

/// The source is A, the destination D, the other node B.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Situation {
    SourceHolds(ReservationType),
    OtherHolds,
    NoReservation,
    AllWithOther,
    AllAlone,
    Shared,
}
use Situation::*;

impl Situation {
    fn stage(self, profile: &'static Profile) -> Lun {
        let other = if self == Shared { K } else { KB };
        let mut lun = match self {
            AllAlone => Lun::with(profile, &[(A, K)]),
            _ => Lun::with(profile, &[(A, K), (B, other)]),
        };
        let reserved = match self {
            SourceHolds(kind) => Some((A, K, kind)),
            Shared => Some((A, K, WE_RO)),
            OtherHolds => Some((B, KB, WE_RO)),
            AllWithOther => Some((B, KB, WE_AR)),
            AllAlone => Some((A, K, WE_AR)),
            NoReservation => None,
        };
        if let Some((nexus, key, kind)) = reserved {
            lun.good(nexus, &reserve(key, kind));
        }
        lun
    }
}

/// What is left after the naive sequence.
#[derive(Debug, PartialEq)]
struct Left {
    /// Status of the PREEMPT and, for CHECK CONDITION, its ASC.
    answer: (Status, u8),
    /// Keys of A, B, D.
    keys: [Key; 3],
    held: Option<(ReservationType, Vec<NexusId>)>,
}

fn naive(profile: &'static Profile, situation: Situation, kind: ReservationType) -> Left {
    let mut lun = situation.stage(profile);
    lun.good(D, &register(NONE, K, false));
    let Completion { status, sense, .. } = lun.send(D, &preempt(K, K, kind));
    let asc = scsi::Sense::parse(&sense).map_or(0, |sense| sense.code.asc);
    let [a, b, _, d] = lun.keys();
    Left { answer: (status, asc), keys: [a, b, d], held: lun.held() }
}

fn left(keys: [Key; 3], held: Option<(ReservationType, &[NexusId])>) -> Left {
    let held = held.map(|(kind, holders)| (kind, holders.to_vec()));
    Left { answer: (Status::GOOD, 0), keys, held }
}

fn refused(asc: u8, keys: [Key; 3], held: Option<(ReservationType, &[NexusId])>) -> Left {
    Left { answer: (Status::CHECK_CONDITION, asc), ..left(keys, held) }
}

const NO_TYPE: ReservationType = ReservationType(0);

#[test]
fn naive_preempt_where_the_source_holds() {
    for profile in Profile::ALL {
        for kind in [WE, EA, WE_RO, EA_RO] {
            let seen = naive(profile, SourceHolds(kind), kind);
            let expected = match profile.name {
                "spdk" => Left { answer: (Status::RESERVATION_CONFLICT, 0), ..left([NONE, KB, NONE], None) },
                _ => left([NONE, KB, K], Some((kind, &[D]))),
            };
            assert_eq!(seen, expected, "{} {kind}", profile.name);
        }
    }
}

#[test]
fn naive_preempt_where_another_node_holds() {
    let held = Some((WE_RO, &[B][..]));
    for profile in Profile::ALL {
        let expected = match profile.name {
            "lio" | "scst" => refused(0x24, [K, KB, K], held),
            "keep-self" | "tgt" | "comstar" => left([NONE, KB, K], held),
            _ => left([NONE, KB, NONE], held),
        };
        assert_eq!(naive(profile, OtherHolds, NO_TYPE), expected, "{}", profile.name);
    }
}

#[test]
fn naive_preempt_without_reservation() {
    for profile in Profile::ALL {
        let expected = match profile.name {
            "lio" | "scst" => refused(0x24, [K, KB, K], None),
            "ctl" => refused(0x26, [K, KB, K], None),
            "keep-self" | "tgt" | "comstar" => left([NONE, KB, K], None),
            _ => left([NONE, KB, NONE], None),
        };
        assert_eq!(naive(profile, NoReservation, NO_TYPE), expected, "{}", profile.name);
    }
}

#[test]
fn naive_preempt_with_a_valid_type_still_removes_where_nothing_is_taken() {
    for (profile, d) in [(&SPC, NONE), (&LIO, NONE), (&SCST, K), (&KEEP_SELF, K), (&TGT, K)] {
        assert_eq!(naive(profile, NoReservation, WE), left([NONE, KB, d], None), "{}", profile.name);
    }
    for (profile, d) in [(&SPC, NONE), (&LIO, NONE), (&SCST, NONE), (&CTL, NONE), (&COMSTAR, K)] {
        let held = Some((WE_RO, &[B][..]));
        assert_eq!(naive(profile, OtherHolds, WE), left([NONE, KB, d], held), "{}", profile.name);
    }
}

#[test]
fn naive_preempt_under_all_registrants_with_another_node() {
    for profile in Profile::ALL {
        let expected = match profile.name {
            "ctl" => refused(0x26, [K, KB, K], Some((WE_AR, &[A, B, D]))),
            "spc" | "spdk" => left([NONE, KB, NONE], Some((WE_AR, &[B]))),
            _ => left([NONE, KB, K], Some((WE_AR, &[B, D]))),
        };
        assert_eq!(naive(profile, AllWithOther, WE_AR), expected, "{}", profile.name);
    }
}

#[test]
fn naive_preempt_under_all_registrants_alone() {
    for profile in Profile::ALL {
        let expected = match profile.name {
            "ctl" => refused(0x26, [K, NONE, K], Some((WE_AR, &[A, D]))),
            "spc" | "spdk" => left([NONE; 3], None),
            _ => left([NONE, NONE, K], Some((WE_AR, &[D]))),
        };
        assert_eq!(naive(profile, AllAlone, WE_AR), expected, "{}", profile.name);
    }
}

#[test]
fn lio_retypes_all_registrants_when_its_marked_holder_is_preempted() {
    assert_eq!(naive(&LIO, AllAlone, WE), left([NONE, NONE, K], Some((WE, &[D]))));
    let mut lun = Lun::with(&LIO, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, WE_AR));
    lun.good(D, &register(NONE, K, false));
    lun.good(D, &preempt(K, K, WE));
    assert_eq!(lun.held(), Some((WE, vec![D])), "all other registrants lost their access");
    assert!(!lun.writes(B));

    assert_eq!(naive(&LIO, AllWithOther, WE), left([NONE, KB, K], Some((WE_AR, &[B, D]))), "B is marked");
}

#[test]
fn lio_marks_the_next_registrant_when_the_marked_one_leaves() {
    let mut lun = Lun::with(&LIO, &[(A, K), (B, KB), (C, KC)]);
    lun.good(A, &reserve(K, WE_AR));
    lun.good(A, &register(K, NONE, false));
    lun.good(C, &preempt(KC, KB, WE));
    assert_eq!(lun.held(), Some((WE, vec![C])));
}

#[test]
fn naive_preempt_kills_whoever_shares_the_key() {
    for profile in Profile::ALL {
        let expected = match profile.name {
            "spdk" => Left { answer: (Status::RESERVATION_CONFLICT, 0), ..left([NONE; 3], None) },
            _ => left([NONE, NONE, K], Some((WE_RO, &[D]))),
        };
        assert_eq!(naive(profile, Shared, WE_RO), expected, "{}", profile.name);
    }
}

/// The unit attentions of A, B and C after the naive sequence on WE-RO, all types equal.
#[test]
fn attentions_of_a_preempt_by_profile() {
    for profile in Profile::ALL {
        let mut lun = Lun::with(profile, &[(A, K), (B, KB)]);
        lun.good(A, &reserve(K, WE_RO));
        lun.good(D, &register(NONE, K, false));
        lun.send(D, &preempt(K, K, WE_RO));
        let expected = match profile.name {
            "spdk" => [vec![], vec![], vec![]],
            "tgt" => [vec![PREEMPTED], vec![], vec![]],
            "comstar" => [const { REGISTRATION_GONE }; 3].map(|one| vec![one]),
            _ => [vec![REGISTRATION_GONE], vec![], vec![]],
        };
        assert_eq!(lun.waiting()[..3], expected, "{}", profile.name);
    }
}

#[test]
fn attentions_of_release_and_unregister_by_profile() {
    for profile in Profile::ALL {
        for kind in ReservationType::ALL {
            let told = |last: Request| {
                let mut lun = Lun::with(profile, &[(A, K), (B, KB)]);
                lun.good(A, &reserve(K, kind));
                lun.good(A, &last);
                !lun.waiting()[1].is_empty()
            };
            let (shared, single) = (kind.0 >= 5, !kind.is_all_registrants());
            let (release_tells, unregister_tells) = match profile.name {
                "spdk" => (false, false),
                "tgt" => (!shared, single),
                _ => (shared, shared && single),
            };
            assert_eq!(told(release(K, kind)), release_tells, "{} {kind}", profile.name);
            assert_eq!(told(register(K, NONE, false)), unregister_tells, "{} {kind}", profile.name);
        }
    }
}

#[test]
fn comstar_tells_everyone_and_clear_its_sender_too() {
    let mut lun = Lun::with(&COMSTAR, &[(A, K)]);
    lun.good(A, &clear(K));
    assert!(lun.waiting().iter().all(|waiting| *waiting == [PREEMPTED]));
}

#[test]
fn ctl_tells_a_changed_type_after_shared_types_only() {
    for (old, told) in [(WE, false), (EA, false), (WE_RO, true), (EA_RO, true)] {
        let mut lun = Lun::with(&CTL, &[(A, K), (B, KB)]);
        lun.good(A, &reserve(K, old));
        lun.good(A, &preempt(K, K, if old == WE { EA } else { WE }));
        assert_eq!(!lun.waiting()[1].is_empty(), told, "{old}");
    }
}

#[test]
fn comstar_holder_preempting_its_own_key_spares_sharers() {
    let mut lun = Lun::with(&COMSTAR, &[(A, K), (B, K)]);
    lun.good(A, &reserve(K, WE));
    lun.good(A, &preempt(K, K, EA));
    assert_eq!((lun.keys()[1], lun.held()), (K, Some((EA, vec![A]))));
}

#[test]
fn lio_reports_one_attention_and_clears_the_others() {
    let mut lun = Lun::with(&LIO, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, WE_RO));
    lun.good(A, &release(K, WE_RO));
    lun.good(A, &preempt(K, KB, WE));
    assert_eq!(lun.drain(B), [RELEASED]);
}

#[test]
fn generation_by_profile() {
    let generation = |profile: &'static Profile, requests: &[Request]| {
        let mut lun = Lun::with(profile, &[(A, K), (B, KB), (C, KB)]);
        lun.good(A, &reserve(K, WE));
        let before = lun.generation();
        requests.iter().for_each(|request| drop(lun.good(A, request)));
        lun.generation() - before
    };
    for profile in Profile::ALL {
        let name = profile.name;
        let unregister = match name {
            "lio" => 0,
            "tgt" | "spdk" => 2,
            _ => 1,
        };
        assert_eq!(generation(profile, &[register(K, NONE, false)]), unregister, "{name}");
        assert_eq!(generation(profile, &[register(K, K, false)]), 1, "{name}");
        let removal = if name == "spdk" { 3 } else { 1 };
        assert_eq!(generation(profile, &[preempt(K, KB, WE)]), removal, "{name}");
        assert_eq!(generation(profile, &[reserve(K, WE), release(K, WE)]), 0, "{name}");
    }
    let mut lun = Lun::new(&LIO);
    lun.good(A, &register(NONE, NONE, false));
    assert_eq!(lun.generation(), 0, "a no-op does not count");
    let parameters = BasicParameters { service_action_key: K, all_target_ports: true, ..Default::default() };
    lun.good(A, &register_with(&parameters));
    assert_eq!(lun.generation(), 2, "one for each registration made");
}

#[test]
fn support_by_profile() {
    for profile in Profile::ALL {
        let reduced = matches!(profile.name, "tgt" | "spdk");
        let mut lun = Lun::with(profile, &[(A, K)]);
        let full_status = lun.send(B, &read(InAction::READ_FULL_STATUS, 255)).status.is_good();
        assert_eq!(full_status, profile.name != "tgt", "{}", profile.name);
        let abort = lun.send(A, &preempt_and_abort(K, KB, WE));
        assert_eq!(abort.status == Status::CHECK_CONDITION, reduced, "{}", profile.name);
        for bit in [0x01, 0x04] {
            let mut list = BasicParameters { service_action_key: KB, ..Default::default() }.to_bytes();
            list[20] = bit;
            let answer = lun.send(B, &raw_out(OutAction::REGISTER, 0, 0, &list));
            let asc = answer.decoded_sense().map(|sense| sense.code.asc);
            assert_eq!(asc, reduced.then_some(0x24), "{}", profile.name);
            lun.send(B, &register_and_ignore(NONE, false));
            lun.send(A2, &register_and_ignore(NONE, false));
            lun.drain_all();
        }
    }
    let capabilities =
        |profile| Lun::new(profile).good(A, &read(InAction::REPORT_CAPABILITIES, 8))[2..6].to_vec();
    assert_eq!(capabilities(&LIO), [0x1D, 0x90, 0xEA, 0x01]);
    assert_eq!(capabilities(&SCST), [0x1D, 0xC0, 0xEA, 0x01]);
    assert_eq!(capabilities(&TGT), [0x00, 0x80, 0xEA, 0x01]);
    assert_eq!(capabilities(&SPDK), [0x10, 0x80, 0xEA, 0x01]);
}

/// (profile, answer): status and ASC.
type Answers = [(&'static Profile, (u8, u8)); 5];

fn answers(
    stage: &[(NexusId, Key)],
    held: Option<NexusId>,
    (nexus, request): (NexusId, Request),
    expected: Answers,
) {
    for (profile, answer) in expected {
        let mut lun = Lun::with(profile, stage);
        if let Some(holder) = held {
            lun.good(holder, &reserve(lun.unit.reservations().key_of(holder), WE_RO));
        }
        let completion = lun.send(nexus, &request);
        let asc = completion.decoded_sense().map_or(0, |sense| sense.code.asc);
        assert_eq!((completion.status.0, asc), answer, "{}: {:02x?}", profile.name, request);
    }
}

#[test]
#[rustfmt::skip]
fn errors_by_profile() {
    let two = &[(A, K), (B, KB)][..];
    let [good, conflict] = [(0, 0), (0x18, 0)];
    answers(two, None, (C, reserve(KC, WE)),
        [(&SPC, conflict), (&LIO, (2, 8)), (&SCST, conflict), (&TGT, conflict), (&SPDK, conflict)]);
    answers(two, None, (C, clear(KC)),
        [(&SPC, conflict), (&LIO, (2, 8)), (&SCST, conflict), (&TGT, conflict), (&SPDK, (2, 0))]);
    answers(two, Some(A), (C, clear(KC)),
        [(&SPC, conflict), (&LIO, conflict), (&SCST, conflict), (&TGT, conflict), (&SPDK, (2, 0))]);
    answers(two, None, (A, reserve(KC, WE)),
        [(&SPC, conflict), (&LIO, conflict), (&SCST, conflict), (&TGT, good), (&SPDK, conflict)]);
    answers(two, Some(A), (B, release(KC, WE_RO)),
        [(&SPC, conflict), (&LIO, good), (&SCST, conflict), (&TGT, good), (&SPDK, (2, 0x24))]);
    answers(two, None, (B, release(KC, WE_RO)),
        [(&SPC, conflict), (&LIO, good), (&SCST, good), (&TGT, good), (&SPDK, (2, 0x24))]);
    answers(two, Some(A), (A, release(K, WE)),
        [(&SPC, (2, 0x26)), (&LIO, conflict), (&SCST, (2, 0x26)), (&TGT, (2, 0x26)), (&SPDK, (2, 0x24))]);
    answers(two, None, (A, order(OutAction::RESERVE, 1, 1, K, NONE)),
        [(&SPC, (2, 0x24)), (&LIO, (2, 0x26)), (&SCST, (2, 0x24)), (&TGT, (2, 0x24)), (&SPDK, (2, 0x24))]);
    answers(two, Some(A), (B, order(OutAction::PREEMPT, 1, 1, KB, K)),
        [(&SPC, (2, 0x24)), (&LIO, (2, 0x26)), (&SCST, (2, 0x24)), (&TGT, good), (&SPDK, (2, 0x24))]);
    answers(two, Some(A), (B, preempt(KB, K, NO_TYPE)),
        [(&SPC, (2, 0x24)), (&LIO, (2, 0x24)), (&SCST, (2, 0x24)), (&TGT, good), (&SPDK, good)]);
    answers(two, Some(A), (B, preempt(KB, KC, WE)),
        [(&SPC, conflict), (&LIO, conflict), (&SCST, conflict), (&TGT, conflict), (&SPDK, good)]);
    answers(two, None, (B, preempt(KB, NONE, WE)),
        [(&SPC, (2, 0x26)), (&LIO, (2, 0x26)), (&SCST, conflict), (&TGT, good), (&SPDK, good)]);
    answers(two, None, (A, raw_out(OutAction::RESERVE, 0, 1, &[0; 20])),
        [(&SPC, (2, 0x1A)), (&LIO, (2, 0x1A)), (&SCST, (2, 0x1A)), (&TGT, (2, 0x24)), (&SPDK, (2, 0x1A))]);
    answers(&[], None, (A, raw_out(OutAction::REGISTER, 0, 0, &[0; 28])),
        [(&SPC, (2, 0x1A)), (&LIO, (2, 0x1A)), (&SCST, (2, 0x1A)), (&TGT, (2, 0x24)), (&SPDK, good)]);
    answers(two, None, (A, read(InAction::READ_KEYS, 7)),
        [(&SPC, good), (&LIO, (2, 0x24)), (&SCST, good), (&TGT, (2, 0x24)), (&SPDK, (2, 0x24))]);
    answers(two, None, (A, read(InAction::READ_RESERVATION, 23)),
        [(&SPC, good), (&LIO, good), (&SCST, good), (&TGT, good), (&SPDK, (2, 0x24))]);
}

#[test]
fn cut_data_by_profile() {
    let registered = &[(A, K), (B, KB)];
    let mut spdk = Lun::with(&SPDK, registered);
    let keys = ReadKeys::parse(&spdk.good(C, &read(InAction::READ_KEYS, 16))).unwrap();
    assert_eq!((keys.keys, keys.truncated), (vec![K], false));
    let descriptor = 24 + port("a").to_bytes().len() as u16;
    let announced = |profile, room| {
        let data = Lun::with(profile, registered).good(C, &read(InAction::READ_FULL_STATUS, room));
        u32::from_be_bytes([data[4], data[5], data[6], data[7]])
    };
    let (one, both) = (u32::from(descriptor), 2 * u32::from(descriptor));
    assert_eq!(announced(&SPC, 8 + descriptor), both);
    assert_eq!(announced(&LIO, 8 + descriptor), one);
    assert_eq!(announced(&SCST, 8 + 2 * descriptor), one, "an exactly fitting last one is left out");
    assert_eq!(announced(&SCST, 9 + 2 * descriptor), both);
    assert_eq!(Lun::with(&SCST, registered).good(C, &read(InAction::READ_KEYS, 7)), []);
}

#[test]
fn all_target_ports_by_profile() {
    let bits = |old, new, all_target_ports| BasicParameters {
        reservation_key: old,
        service_action_key: new,
        all_target_ports,
        ..Default::default()
    };
    let mut lio = Lun::new(&LIO);
    lio.good(A, &register_with(&bits(NONE, K, true)));
    lio.check(A, &register_with(&bits(K, KC, false)), (5, 0x24, 0));
    let list = bits(NONE, NONE, true).to_bytes();
    lio.good(A, &raw_out(OutAction::REGISTER_AND_IGNORE, 0, 0, &list));
    assert_eq!(lio.listed(B), [K], "the other port stays registered");

    let mut scst = Lun::new(&SCST);
    scst.good(A, &register_with(&bits(NONE, K, true)));
    assert!(scst.full_status(B).descriptors.iter().all(|one| !one.all_target_ports));
    scst.good(A, &register_with(&bits(K, KC, true)));
    assert_eq!(scst.listed(B), [KC, K], "a new key is for one nexus");
    let list = bits(KC, NONE, true).to_bytes();
    scst.check(A, &raw_out(OutAction::RESERVE, 0, 1, &list), (5, 0x26, 0));
}

#[test]
fn named_registrants_by_profile() {
    let request = register_with(&BasicParameters {
        service_action_key: K,
        initiator_ports: Some(vec![port("b")]),
        ..Default::default()
    });
    let b_after = |profile: &'static Profile| {
        let mut lun = Lun::with(profile, &[(B, KB)]);
        (lun.send(A, &request).status.0, lun.keys()[1])
    };
    assert_eq!(b_after(&LIO), (0, KB));
    assert_eq!(b_after(&SCST), (0, K));
    assert_eq!(b_after(&COMSTAR), (2, KB));
}

#[test]
fn session_bound_registrations_are_data() {
    for profile in Profile::ALL {
        let session = matches!(profile.name, "tgt" | "spdk");
        assert_eq!(profile.identity == Identity::SessionInstance, session, "{}", profile.name);
    }
    let mut lun = Lun::with(&TGT, &[(A, K)]);
    lun.unit.nexus_lost(A);
    lun.names.nexuses.push(ItNexus { initiator: port("a"), target_port: 1 });
    let again = NexusId(5);
    lun.unit.attach(again);
    lun.conflict(again, &register(K, K, false));
    assert_eq!(lun.listed(again), [K], "the old registration stays listed");
}

#[test]
fn tgt_serves_pr_beside_an_spc2_reservation() {
    let mut lun = Lun::new(&TGT);
    lun.good(A, &command(&[0x16, 0, 0, 0, 0, 0]));
    lun.good(B, &register(NONE, KB, false));
}

#[test]
fn scst_is_busy_when_full_and_shows_the_retyping_holder() {
    let mut lun = Lun::with(&SCST, &[(A, K), (B, KB)]);
    lun.good(A, &reserve(K, WE));
    lun.good(A, &preempt(K, K, WE_AR));
    assert_eq!(lun.shown(D), Some((K, WE_AR)));
    let ports: Vec<TransportId> = (0..4096).map(|at| port(&format!("n{at}"))).collect();
    let request = register_with(&BasicParameters {
        service_action_key: K,
        initiator_ports: Some(ports),
        ..Default::default()
    });
    assert_eq!(lun.send(D, &request).status, Status::BUSY);
}

#[test]
fn an_undefined_type_is_kept_where_nobody_looks() {
    for profile in [&TGT, &SPDK] {
        let mut lun = Lun::with(profile, &[(A, K), (B, KB)]);
        lun.good(A, &reserve(K, EA));
        lun.good(B, &preempt(KB, K, NO_TYPE));
        assert_eq!(lun.shown(C), Some((KB, NO_TYPE)));
    }
}
