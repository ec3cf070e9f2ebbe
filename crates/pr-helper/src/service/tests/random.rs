//! Any commands of a guest and of another node, crashes and lost answers: the record is what the device has.

use super::*;
use proptest::prelude::*;

fn command() -> impl Strategy<Value = Request> {
    let key = || prop::sample::select(vec![Key::NONE, KEY, OTHER, Key(0x30)]);
    let kind = || prop::sample::select(vec![1, 3, 5, 6, 7, 8]).prop_map(ReservationType);
    prop_oneof![
        4 => (key(), key(), any::<bool>()).prop_map(|(old, new, aptpl)| request::register(old, new, aptpl)),
        2 => (key(), any::<bool>()).prop_map(|(new, aptpl)| request::register_and_ignore(new, aptpl)),
        4 => (key(), kind()).prop_map(|(key, kind)| request::reserve(key, kind)),
        2 => (key(), kind()).prop_map(|(key, kind)| request::release(key, kind)),
        1 => key().prop_map(request::clear),
        3 => (key(), key(), kind()).prop_map(|(own, victim, kind)| request::preempt(own, victim, kind)),
    ]
}

/// One thing that happens: a command of the guest or of another node, a ledger that stops after so many changes or an
/// answer that is lost, either followed by a new helper.
#[derive(Clone, Debug)]
enum Act {
    Guest(Request),
    Foreign(Request),
    LedgerStops(Request, usize),
    AnswerLost(Request),
    /// The guest's reads and writes take the unit attentions.
    Io,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => command().prop_map(Act::Guest),
        4 => command().prop_map(Act::Foreign),
        2 => (command(), 0..3_usize).prop_map(|(request, room)| Act::LedgerStops(request, room)),
        2 => command().prop_map(Act::AnswerLost),
        2 => Just(Act::Io),
        1 => Just(Act::Restart),
    ]
}

impl Bench {
    fn act(&mut self, act: &Act) {
        match act {
            Act::Guest(request) => drop(self.insist(request)),
            Act::Foreign(request) => drop(self.foreign(request)),
            Act::LedgerStops(request, room) => {
                self.book.room.store(*room, SeqCst);
                self.guest(request);
                self.restart();
            }
            Act::AnswerLost(request) => {
                self.line.lost.store(true, SeqCst);
                self.guest(request);
                self.restart();
            }
            Act::Io => self.io(),
            Act::Restart => self.restart(),
        }
    }
}

impl Bench {
    /// The guest looks at keys and reservation, as cluster software does all the time.
    fn look(&self) {
        self.insist(&request::read(InAction::READ_KEYS, 8192));
        self.insist(&request::read(InAction::READ_RESERVATION, 8192));
    }

    /// Another node has this key too: what then is whose only READ FULL STATUS tells, and only who asks for it.
    fn is_shared(&mut self, key: Key) -> bool {
        let read = request::read(InAction::READ_FULL_STATUS, 8192);
        let ended = nexus::retry_unit_attention(&mut self.foreign, &read, 8).unwrap().completion;
        let guest = it_nexus(1).initiator;
        let others = FullStatus::parse(&ended.data).unwrap().descriptors;
        others.iter().any(|one| one.key == key && one.initiator_port.as_ref() != Ok(&guest))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_record_is_what_the_device_has_after_any_commands_and_crashes(
        acts in prop::collection::vec(act(), 1..16),
        profile in prop::sample::select(vec!["spc", "lio", "keep-self", "spdk"]),
        named: bool,
    ) {
        let mut bench = Bench::new(profile, named);
        acts.iter().for_each(|act| bench.act(act));
        // The last words are commands that change nothing: after the first everything that was left open is settled.
        bench.insist(&request::reserve(Key(0x99), KIND));
        bench.look();
        let (recorded, device) = (bench.recorded(), bench.device());
        prop_assert_ne!(bench.record().standing(), State::Unverified);
        if !recorded.0.is_some_and(|key| bench.is_shared(key)) {
            prop_assert_eq!(recorded, device);
        }
    }
}
