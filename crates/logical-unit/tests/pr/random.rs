//! Random interleavings of four nexuses and three keys: the invariants of the state, and a tracker that
//! believes only what ended GOOD.

use super::harness::*;
use logical_unit::profile::{Profile, SPC};
use logical_unit::reservations::Holder;
use logical_unit::{NexusId, PrUnit};
use proptest::prelude::*;
use scsi::pr::request::*;
use scsi::pr::{BasicParameters, Key, MoveParameters, OutAction, PrOutCdb, ReservationType};
use scsi::{DataPhase, Request};

const KEYS: [Key; 4] = [NONE, K, KB, KC];

fn any_key() -> impl Strategy<Value = Key> {
    proptest::sample::select(&KEYS[..])
}

fn any_type() -> impl Strategy<Value = ReservationType> {
    proptest::sample::select(&ReservationType::ALL[..])
}

/// A command with the right key as often as not: `None` stands for the sender's own key.
fn any_order() -> impl Strategy<Value = (OutAction, ReservationType, Option<Key>, Key, bool)> {
    let own = prop_oneof![3 => Just(None), 1 => any_key().prop_map(Some)];
    ((0_u8..9).prop_map(OutAction), any_type(), own, any_key(), any::<bool>())
}

fn request_of(
    lun: &Lun,
    nexus: NexusId,
    order: (OutAction, ReservationType, Option<Key>, Key, bool),
) -> Request {
    let (action, kind, key, service_action_key, flag) = order;
    let reservation_key = key.unwrap_or(lun.unit.reservations().key_of(nexus));
    if action == OutAction::REGISTER_AND_MOVE {
        let initiator_port = port(if flag { "b" } else { "c" });
        let (unregister, aptpl, relative_target_port) = (flag, false, 1);
        return register_and_move(&MoveParameters {
            reservation_key,
            service_action_key,
            unregister,
            aptpl,
            relative_target_port,
            initiator_port,
        });
    }
    let parameters =
        BasicParameters { reservation_key, service_action_key, aptpl: flag, ..Default::default() };
    out(action, kind, &parameters)
}

fn check_invariants(unit: &PrUnit) {
    let state = unit.reservations();
    let registered = state.registrations().len();
    assert!(state.registrations().iter().all(|one| !one.key.is_none()), "no key is zero");
    for one in state.registrations().iter() {
        assert!(state.registrations().with_key(one.key).any(|nexus| nexus == one.nexus), "found by key");
        assert_eq!(state.registrations().get(one.nexus), Some(one), "found by nexus");
    }
    let listed: usize = KEYS.iter().map(|key| state.registrations().with_key(*key).count()).sum();
    assert_eq!(listed, registered, "no key of nobody");
    match state.reservation().map(|held| (held.holder, held.kind)) {
        None => {}
        Some((Holder::One(holder), kind)) => {
            assert!(state.registrations().get(holder).is_some() && !kind.is_all_registrants());
        }
        Some((Holder::All { .. }, kind)) => assert!(registered > 0 && kind.is_all_registrants()),
    }
}

fn removal_has_a_cause(before: &Lun, after: &Lun, sender: NexusId, request: &Request) {
    let DataPhase::Out(list) = &request.data else { return };
    let action = PrOutCdb::parse(&request.cdb).unwrap().action;
    let victim = BasicParameters::parse(list).map_or(NONE, |list| list.service_action_key);
    for nexus in [A, B, C, D].into_iter().filter(|nexus| *nexus != sender) {
        let (old, new) = (before.unit.reservations().key_of(nexus), after.unit.reservations().key_of(nexus));
        if old.is_none() || !new.is_none() {
            continue;
        }
        let cleared = action == OutAction::CLEAR;
        let preempted = action.is_preempt() && (old == victim || victim.is_none());
        assert!(cleared || preempted, "{nexus:?} lost its registration to {request:02x?} of {sender:?}");
    }
}

/// Runs one step on any profile; the state must stay sound and every answer defined.
fn step(lun: &mut Lun, nexus: NexusId, request: &Request) {
    let before = lun.clone();
    let good = lun.send(nexus, request).status.is_good();
    check_invariants(&lun.unit);
    removal_has_a_cause(&before, lun, nexus, request);
    let moved = lun.generation().wrapping_sub(before.generation());
    let strict = lun.unit.profile() == &SPC;
    if strict {
        let counts = PrOutCdb::parse(&request.cdb).is_ok_and(|cdb| !matches!(cdb.action.0, 1 | 2));
        assert_eq!(moved, u32::from(good && counts), "PRGENERATION counts what ended GOOD");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_interleavings_keep_the_invariants(
        orders in prop::collection::vec((0_u32..4, any_order(), any::<bool>()), 1..60)
    ) {
        let mut lun = Lun::new(&SPC);
        for (nexus, order, drain) in orders {
            if drain {
                lun.drain_all();
            }
            let request = request_of(&lun, NexusId(nexus), order);
            step(&mut lun, NexusId(nexus), &request);
        }
    }

    #[test]
    fn every_profile_answers_everything(
        at in 0..Profile::ALL.len(),
        orders in prop::collection::vec((0_u32..4, any_order()), 1..40)
    ) {
        let mut lun = Lun::new(Profile::ALL[at]);
        for (nexus, order) in orders {
            let request = request_of(&lun, NexusId(nexus), order);
            step(&mut lun, NexusId(nexus), &request);
            lun.drain_all();
        }
    }

    #[test]
    fn any_bytes_are_answered(
        at in 0..Profile::ALL.len(),
        commands in prop::collection::vec(
            (0_u32..4, 0x5E_u8..=0x5F, prop::collection::vec(any::<u8>(), 0..12), prop::collection::vec(any::<u8>(), 0..80)),
            1..20,
        )
    ) {
        let mut lun = Lun::new(Profile::ALL[at]);
        for (nexus, opcode, rest, data) in commands {
            let mut cdb = vec![opcode];
            cdb.extend(rest);
            let length = data.len() as u8;
            cdb.iter_mut().skip(5).take(4).for_each(|byte| *byte = 0);
            cdb.iter_mut().skip(8).take(1).for_each(|byte| *byte = length);
            lun.send(NexusId(nexus), &Request { cdb, data: DataPhase::Out(data) });
            check_keys(&lun.unit);
        }
    }

    #[test]
    fn tracker_follows_what_was_good(
        orders in prop::collection::vec((0_u32..3, any_order()), 1..60)
    ) {
        let mut lun = Lun::new(&SPC);
        let mut tracker = Tracker::default();
        for (nexus, order) in orders {
            let nexus = NexusId(nexus);
            let request = request_of(&lun, nexus, order);
            if order.0 == OutAction::REGISTER_AND_MOVE && nexus != A {
                continue;
            }
            let completion = lun.send(nexus, &request);
            if nexus == A {
                tracker.observe(&lun, &request, completion.status.is_good());
                if lun.unit.attentions().first(A).is_none() && !completion.sense.is_empty() {
                    tracker.invalidate(&completion);
                }
            }
            tracker.agrees(&lun);
        }
    }
}

fn check_keys(unit: &PrUnit) {
    assert!(unit.reservations().registrations().iter().all(|one| !one.key.is_none()));
}

/// What A believes of itself, from its own commands that ended GOOD.
#[derive(Default, Debug)]
struct Tracker {
    key: Key,
    held: Option<ReservationType>,
    unknown: bool,
}

impl Tracker {
    fn observe(&mut self, lun: &Lun, request: &Request, good: bool) {
        let (Ok(cdb), DataPhase::Out(list), true) = (PrOutCdb::parse(&request.cdb), &request.data, good)
        else {
            return;
        };
        let new = BasicParameters::parse(list).map_or(NONE, |list| list.service_action_key);
        match cdb.action {
            OutAction::REGISTER | OutAction::REGISTER_AND_IGNORE if new.is_none() => self.forget(),
            OutAction::REGISTER | OutAction::REGISTER_AND_IGNORE => self.key = new,
            OutAction::RESERVE => self.held = Some(cdb.kind),
            OutAction::RELEASE => self.held = None,
            OutAction::CLEAR => self.forget(),
            OutAction::REGISTER_AND_MOVE => {
                self.held = None;
                self.key = if list[17] & 2 != 0 { NONE } else { self.key };
            }
            _ => self.ask(lun),
        }
    }

    fn forget(&mut self) {
        (self.key, self.held, self.unknown) = (NONE, None, false);
    }

    /// PR IN, which a real tracker sends after a PREEMPT.
    fn ask(&mut self, lun: &Lun) {
        let state = lun.unit.reservations();
        self.key = state.key_of(A);
        self.held = state.reservation().filter(|_| state.is_holder(A)).map(|held| held.kind);
        self.unknown = false;
    }

    fn invalidate(&mut self, completion: &scsi::Completion) {
        self.unknown |= completion.decoded_sense().is_some_and(|sense| sense.code.asc == 0x2A);
    }

    /// Equal to the device, unless another nexus changed it; then a unit attention waits or was seen. An
    /// all registrants reservation of others is held by whoever is registered.
    fn agrees(&self, lun: &Lun) {
        let state = lun.unit.reservations();
        if self.unknown || lun.unit.attentions().first(A).is_some() {
            return;
        }
        assert_eq!(state.key_of(A), self.key, "{self:?}");
        let held = state.reservation().filter(|_| state.is_holder(A));
        match held.map(|held| held.kind) {
            Some(kind) if kind.is_all_registrants() => {}
            kind => assert_eq!(kind, self.held.filter(|kind| !kind.is_all_registrants()), "{self:?}"),
        }
    }
}
