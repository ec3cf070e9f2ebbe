//! The tracker against the device server: after any trace of the guest's commands, other nodes' commands, resets and power
//! cycles, the tracker says what the server says of that nexus, or knows that it must ask, and is right once it has.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a harness fails its test by panicking")]

mod pair;

use handover::{Path, Port, Tracker};
use logical_unit::{NexusId, Profile};
use pair::{A, World, id, port};
use proptest::prelude::*;
use scsi::pr::{
    FullStatus, InAction, Key, MoveParameters, OutAction, ReadKeys, ReadReservation, ReservationType, request,
};
use scsi::{DataPhase, Request, Status, opcode};

const GUEST: NexusId = NexusId(0);

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    Guest(Request),
    Foreign(Request),
    Reset,
    PowerCycle,
    NexusLoss,
}

fn key() -> impl Strategy<Value = Key> {
    prop::sample::select(vec![Key::NONE, Key(0x10), Key(0x20), Key(0x30)])
}

fn kind() -> impl Strategy<Value = ReservationType> {
    prop::sample::select(vec![1, 3, 5, 6, 7, 8, 0]).prop_map(ReservationType)
}

fn move_to_destination(key: Key, new: Key, unregister: bool) -> Request {
    let Port { initiator, target_port } = port(Path::destination(0));
    request::register_and_move(&MoveParameters {
        reservation_key: key,
        service_action_key: new,
        unregister,
        aptpl: false,
        relative_target_port: target_port.unwrap(),
        initiator_port: initiator.unwrap(),
    })
}

fn odd_list() -> impl Strategy<Value = Request> {
    (0..32usize, 0..9u8).prop_map(|(length, action)| {
        let mut cdb = vec![opcode::PERSISTENT_RESERVE_OUT, action, 5, 0, 0, 0, 0, 0, 0, 0];
        cdb.splice(8..9, u8::try_from(length));
        Request { cdb, data: DataPhase::Out(vec![0x10; length]) }
    })
}

fn command() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (key(), key(), any::<bool>()).prop_map(|(old, new, aptpl)| request::register(old, new, aptpl)),
        2 => (key(), any::<bool>()).prop_map(|(new, aptpl)| request::register_and_ignore(new, aptpl)),
        4 => (key(), kind()).prop_map(|(key, kind)| request::reserve(key, kind)),
        2 => (key(), kind()).prop_map(|(key, kind)| request::release(key, kind)),
        1 => key().prop_map(request::clear),
        3 => (key(), key(), kind()).prop_map(|(own, victim, kind)| request::preempt(own, victim, kind)),
        1 => (key(), key(), kind())
            .prop_map(|(own, victim, kind)| request::preempt_and_abort(own, victim, kind)),
        1 => (key(), key(), any::<bool>()).prop_map(|(key, new, unreg)| move_to_destination(key, new, unreg)),
        1 => odd_list(),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => command().prop_map(Act::Guest),
        5 => command().prop_map(Act::Foreign),
        1 => Just(Act::Reset),
        1 => Just(Act::PowerCycle),
        1 => Just(Act::NexusLoss),
    ]
}

struct Trial {
    world: World,
    tracker: Tracker,
}

impl Trial {
    fn new(profile: &'static Profile) -> Self {
        let mut world = World::new(profile, pair::Role::Registrant, false, false);
        world.unit = logical_unit::PrUnit::new(profile);
        world.power_cycle();
        let mut trial = Self { world, tracker: Tracker::new() };
        trial.settle();
        trial
    }

    /// A command of the guest, which the tracker sees.
    fn guest(&mut self, request: &Request) -> scsi::Completion {
        let completion = self.world.send(GUEST, request);
        self.tracker.observe(request, &completion);
        completion
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Guest(request) => drop(self.guest(request)),
            Act::Foreign(request) => drop(self.world.send(A, request)),
            Act::Reset => self.world.unit.logical_unit_reset(),
            Act::PowerCycle => self.world.power_cycle(),
            Act::NexusLoss => self.world.unit.nexus_lost(id(Path::destination(0))),
        }
    }

    /// Takes the unit attentions that wait, as the guest's next commands would.
    fn settle(&mut self) {
        let read = request::read(InAction::READ_KEYS, 8);
        for _ in 0..8 {
            if self.guest(&read).status == Status::GOOD {
                return;
            }
        }
        panic!("unit attentions do not end");
    }

    /// Asks what the tracker wants to know.
    fn ask(&mut self) {
        let data = self.guest(&request::read(InAction::READ_FULL_STATUS, u16::MAX)).data;
        if let Some(status) = FullStatus::parse(&data) {
            assert!(self.tracker.learn_full_status(&status, &port(Path::source(0))));
            return;
        }
        if self.tracker.wants().registration {
            let keys = ReadKeys::parse(&self.guest(&request::read(InAction::READ_KEYS, u16::MAX)).data);
            self.tracker.learn_keys(&keys.unwrap());
        }
        if let (Some(key), true) = (self.tracker.last().key, self.tracker.wants().registration) {
            let probe = request::register(key, key, self.world.unit.reservations().aptpl());
            let good = self.world.send(GUEST, &probe).status == Status::GOOD;
            self.tracker.learn_probe(good);
        }
        let read = self.guest(&request::read(InAction::READ_RESERVATION, 24)).data;
        self.tracker.learn_reservation(&ReadReservation::parse(&read).unwrap());
    }

    fn compare(&mut self, alone: bool) -> Result<(), TestCaseError> {
        let asked = !self.tracker.wants().nothing();
        if asked {
            self.ask();
        }
        let state = self.tracker.state();
        prop_assert!(state.is_some(), "still unsure: {:?}", self.tracker);
        let state = state.unwrap();
        let real = self.world.unit.reservations();
        prop_assert_eq!(state.key.unwrap_or_default(), real.key_of(GUEST));
        let kind = real.reservation().map(|held| held.kind);
        // That another registrant made a reservation of all registrants, or released it, is not told to everybody:
        // who must know asks.
        // A target without READ FULL STATUS does not tell which of two nexuses with one key is the holder.
        let indistinct = !self.world.unit.profile().support.read_full_status
            && !state.key.is_none_or(Key::is_none)
            && state.key == Some(real.key_of(A));
        let shared = |kind: Option<ReservationType>| kind.is_some_and(ReservationType::is_all_registrants);
        if indistinct {
            return Ok(());
        }
        if asked || alone || !(shared(kind) || shared(state.held)) {
            prop_assert_eq!(state.held, kind.filter(|_| real.is_holder(GUEST)));
        }
        Ok(())
    }
}

/// Targets without unit attentions never tell a nexus that it was fenced.
fn tells(profile: &Profile, act: &Act) -> bool {
    profile.attentions.reported || !matches!(act, Act::Foreign(_) | Act::PowerCycle)
}

/// Two kinds of command that no observer can judge: a PREEMPT that a target executes with an undefined type or half, and
/// RESERVE with a wrong key.
fn predictable(profile: &Profile, act: &Act) -> bool {
    let (Act::Guest(request) | Act::Foreign(request)) = act else { return true };
    let action = OutAction(request.cdb.get(1).copied().unwrap_or(0) & 0x1F);
    !(profile.name == "spdk" && action.is_preempt())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn alone_it_is_never_wrong(commands in prop::collection::vec(command(), 1..24)) {
        for profile in Profile::ALL {
            let mut trial = Trial::new(profile);
            for act in commands.iter().cloned().map(Act::Guest).filter(|act| predictable(profile, act)) {
                trial.act(&act);
            }
            trial.compare(true).map_err(|error| TestCaseError::fail(format!("{}: {error}", profile.name)))?;
        }
    }

    #[test]
    fn after_any_trace_the_tracker_agrees_or_asks(acts in prop::collection::vec(act(), 1..24)) {
        for profile in Profile::ALL {
            let mut trial = Trial::new(profile);
            let alone = !acts.iter().any(|act| matches!(act, Act::Foreign(_)));
            for act in acts.iter().filter(|act| tells(profile, act) && predictable(profile, act)) {
                trial.act(act);
            }
            trial.settle();
            trial.compare(alone).map_err(|error| TestCaseError::fail(format!("{}: {error}", profile.name)))?;
        }
    }
}
