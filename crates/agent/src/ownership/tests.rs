//! Every order of steps of two agents, two QEMUs and one logical unit: messages lost and late, agents killed and started
//! again, QEMU gone on either side. An agent may do *whatever the rules permit*, in any order; the promises must hold
//! whatever it chooses. Then, from each state reached, both agents follow [`Standing::decide`] and must come to one owner.

use super::*;
use std::collections::HashSet;
use std::sync::LazyLock;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Host {
    up: bool,
    view: View,
    /// What the other host told; forgotten when the agent dies.
    knows: Option<View>,
    /// Of the agent's own `cont`, as far as it knows.
    cont: Cont,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Cont {
    /// It cannot say whether there was one: it was started since.
    Unknown,
    /// It wrote `go` itself and sent none yet.
    None,
    /// The only one was answered with an error.
    Refused,
}

impl Host {
    const fn new(guest: Guest) -> Self {
        let view = View { marks: Marks::new(), guest };
        Self { up: true, view, knows: None, cont: Cont::Unknown }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct World {
    source: Host,
    destination: Host,
    /// Who has the registration.
    lun: Side,
    /// The guest has run at the destination: what the source has of it is old.
    ran: bool,
    /// QEMU's migration can still deliver the guest.
    migrating: bool,
    /// The host is dead for good as far as the operator knows, and did not run the guest: a word may be given.
    vouched: Option<Side>,
    /// Where somebody let the guest run by hand (`cont`, `virsh resume`), once; while a guest comes: it runs when it has come.
    by_hand: Option<Side>,
}

impl World {
    const START: Self = Self {
        source: Host::new(Guest::Running),
        destination: Host::new(Guest::Loading),
        lun: Side::Source,
        ran: false,
        migrating: true,
        vouched: None,
        by_hand: None,
    };

    const fn host(&self, side: Side) -> &Host {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.destination,
        }
    }

    const fn host_mut(&mut self, side: Side) -> &mut Host {
        match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        }
    }

    fn standing(&self, side: Side) -> Standing {
        let host = self.host(side);
        Standing {
            side,
            own: host.view,
            peer: host.knows,
            vouched: self.vouched == Some(side),
            cont_refused: host.cont == Cont::Refused,
            stays_paused: false,
            ran_there: false,
        }
    }

    fn with(mut self, side: Side, change: impl FnOnce(&mut Host)) -> Self {
        change(self.host_mut(side));
        self
    }

    fn marked(self, side: Side, mark: Mark) -> Option<Self> {
        self.standing(side).allows(mark).ok()?;
        let proved = match mark {
            Mark::Taken => self.lun == Side::Destination,
            Mark::Back if side == Side::Source && self.standing(side).untouched() => {
                assert_eq!(self.lun, side, "not untouched: {self:#?}");
                true
            }
            Mark::Back => side == Side::Destination || self.lun == Side::Source,
            Mark::Go if self.vouched == Some(side) => self.lun == side,
            _ => true,
        };
        let new = !self.host(side).view.marks.has(mark);
        let promised = new && mark == Mark::Abort && side == Side::Destination;
        let runs = self.host(side).view.guest == Guest::Running;
        assert!(!(promised && runs), "promises that a guest never runs here that does: {self:#?}");
        let first_go = new && mark == Mark::Go;
        proved.then(|| {
            self.with(side, |h| {
                h.view.marks = h.view.marks.with(mark);
                h.cont = if first_go { Cont::None } else { h.cont };
            })
        })
    }

    fn cont(self, side: Side) -> Option<Self> {
        let may = self.standing(side).may_run() && self.host(side).view.guest == Guest::Paused;
        may.then(|| {
            self.adds_no_second(side);
            self.with(side, |h| h.cont = Cont::Unknown).runs(side)
        })
    }

    fn runs(self, side: Side) -> Self {
        let ran = self.ran || side == Side::Destination;
        Self { ran, ..self.with(side, |h| h.view.guest = Guest::Running) }
    }

    /// The guest is about to be let run by the agent of `side`. Where it runs at the other host somebody did that by hand, and this
    /// host was not told.
    fn adds_no_second(&self, side: Side) {
        let at_other = self.host(side.other()).view.guest == Guest::Running;
        let told = self.host(side).knows.is_some_and(|peer| peer.guest == Guest::Running);
        assert!(!at_other || self.by_hand == Some(side.other()) && !told, "a second one: {self:#?}");
    }

    fn both(&self, test: impl Fn(&Host) -> bool) -> bool {
        test(&self.source) && test(&self.destination)
    }

    /// All that may happen next, right or wrong, as far as the rules permit it.
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for side in [Side::Source, Side::Destination] {
            self.acts_of(side, &mut next);
            self.accidents_of(side, &mut next);
        }
        self.acts_of_both(&mut next);
        self.steps_of_qemu(&mut next);
        next
    }

    fn acts_of(&self, side: Side, next: &mut Vec<Self>) {
        let host = self.host(side);
        if !host.up {
            return;
        }
        next.extend(Mark::ALL.into_iter().filter_map(|mark| self.marked(side, mark)));
        next.extend(self.cont(side));
        if host.cont == Cont::None && host.view.guest == Guest::Paused {
            next.push(self.with(side, |h| h.cont = Cont::Refused));
        }
        let stopped = self.source.view.guest == Guest::Paused;
        if (stopped || self.vouched == Some(side))
            && !host.view.marks.has(Mark::Abort)
            && !host.view.marks.has(Mark::Go)
        {
            next.push(self.with(side, |h| h.view.marks = h.view.marks.touched()));
        }
        if side == Side::Source && host.view.guest == Guest::Running && !host.view.marks.touched {
            next.push(self.with(side, |h| h.view.guest = Guest::Paused));
        }
        let alone = side == Side::Source && matches!(host.view.guest, Guest::Paused | Guest::Running);
        if alone && host.view.marks.has(Mark::Abort) {
            next.push(Self { lun: Side::Source, ..*self });
        }
        let by_word = self.vouched == Some(side) && side == Side::Destination;
        if by_word && host.view.marks.touched && !host.view.marks.has(Mark::Abort) {
            next.push(Self { lun: side, ..*self });
        }
    }

    fn accidents_of(&self, side: Side, next: &mut Vec<Self>) {
        let host = self.host(side);
        if host.up {
            next.push(self.with(side, |h| (h.up, h.knows, h.cont) = (false, None, Cont::Unknown)));
        } else {
            next.push(self.with(side, |h| h.up = true));
        }
        next.push(self.with(side, |h| h.view.guest = Guest::Absent));
        next.push(self.with(side, |h| h.knows = None));
        next.extend(self.resumed_by_hand(side));
        if self.both(|h| h.up) {
            // Late messages need no steps of their own: who was told may do nothing with it for as long as it likes.
            next.push(self.with(side.other(), |h| h.knows = Some(host.view)));
        }
        let other = self.host(side.other());
        let true_word =
            other.view.guest != Guest::Running && !other.up && (side == Side::Destination || !self.ran);
        let gone = matches!(other.view.guest, Guest::Absent);
        if true_word && gone && self.vouched.is_none() {
            next.push(Self { vouched: Some(side), ..*self });
        }
    }

    /// At any moment, and whether an agent runs there or not.
    fn resumed_by_hand(&self, side: Side) -> Option<Self> {
        let resumed = Self { by_hand: Some(side), ..*self };
        match self.host(side).view.guest {
            _ if self.by_hand.is_some() => None,
            Guest::Paused => Some(resumed.runs(side)),
            Guest::Loading => Some(resumed),
            _ => None,
        }
    }

    fn acts_of_both(&self, next: &mut Vec<Self>) {
        let together = self.both(|h| h.up && h.view.marks.touched);
        if together && self.both(|h| !h.view.marks.has(Mark::Abort) && !h.view.marks.has(Mark::Go)) {
            next.push(Self { lun: Side::Destination, ..*self });
        }
        if self.both(|h| h.up && h.view.marks.has(Mark::Abort)) {
            next.push(Self { lun: Side::Source, ..*self });
        }
    }

    fn steps_of_qemu(&self, next: &mut Vec<Self>) {
        if self.migrating && self.is_whole() && self.destination.view.guest == Guest::Loading {
            next.push(self.arrived());
        }
    }

    /// QEMU stops a guest that somebody let run by itself for the switchover; its agent has it as one that runs.
    fn is_whole(&self) -> bool {
        let by_hand = self.by_hand == Some(Side::Source) && self.source.view.guest == Guest::Running;
        self.source.view.guest == Guest::Paused || by_hand
    }

    fn arrived(&self) -> Self {
        let here = Self { migrating: false, ..*self };
        match self.by_hand {
            Some(Side::Destination) => here.runs(Side::Destination),
            _ => here.with(Side::Destination, |h| h.view.guest = Guest::Paused),
        }
    }

    /// P4, and what makes it worth anything: a guest that ran at the destination is never resumed from the source's old memory.
    /// What somebody did by hand is his: of that only what the agents add to it is checked, where they do it.
    fn check(&self) {
        let runs = |side| self.host(side).view.guest == Guest::Running;
        let by_rule = |side| runs(side) && self.by_hand != Some(side);
        let nobody = self.by_hand.is_none();
        assert!(!(nobody && runs(Side::Source) && runs(Side::Destination)), "both run: {self:#?}");
        assert!(!(nobody && self.ran && runs(Side::Source)), "old memory runs: {self:#?}");
        assert!(!by_rule(Side::Destination) || self.destination.view.marks.has(Mark::Go), "{self:#?}");
        assert!(
            !by_rule(Side::Destination) || self.source.view.marks.has(Mark::Go) || self.vouched.is_some(),
            "{self:#?}"
        );
        assert!(
            !by_rule(Side::Source) || self.lun == Side::Source,
            "runs without its registration: {self:#?}"
        );
    }
}

fn reachable() -> &'static HashSet<World> {
    static WORLDS: LazyLock<HashSet<World>> = LazyLock::new(explore);
    &WORLDS
}

fn explore() -> HashSet<World> {
    let mut seen = HashSet::from([World::START]);
    let mut open = vec![World::START];
    while let Some(world) = open.pop() {
        for next in world.next() {
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    seen
}

/// QEMU's migration comes to its end; both agents are started, reach each other and do what they decide.
fn settle(mut world: World) -> (World, Decision, Decision) {
    world.vouched = None;
    if world.destination.view.guest == Guest::Loading {
        let whole = world.migrating && world.is_whole();
        world = if whole {
            world.arrived()
        } else {
            world.with(Side::Destination, |h| h.view.guest = Guest::Absent)
        };
    }
    for _ in 0..30 {
        let before = world;
        for side in [Side::Source, Side::Destination] {
            let told = world.host(side.other()).view;
            world = world.with(side, |h| (h.up, h.knows) = (true, Some(told)));
            world = follow(world, side);
        }
        if world == before {
            break;
        }
    }
    let decide = |side| world.standing(side).decide(OnDoubt::Pause);
    (world, decide(Side::Source), decide(Side::Destination))
}

fn follow(world: World, side: Side) -> World {
    let mark = |world: World, mark| {
        world.marked(side, mark).unwrap_or_else(|| panic!("forbidden {mark}: {world:#?}"))
    };
    match world.standing(side).decide(OnDoubt::Pause) {
        Decision::Run if world.host(side).view.guest == Guest::Paused => world.cont(side).expect("may run"),
        Decision::Run if side == Side::Destination => mark(world, Mark::Ran),
        Decision::RollBack => roll_back(mark(world, Mark::Abort), side),
        Decision::Finish => mark(world, Mark::Go),
        Decision::Over(Side::Destination) => mark(world, Mark::Ran),
        Decision::Over(Side::Source) if side == Side::Destination => mark(world, Mark::Back),
        _ => world,
    }
}

/// The registrations go back once both gave up, or where nothing was changed.
fn roll_back(mut world: World, side: Side) -> World {
    if world.both(|h| h.view.marks.has(Mark::Abort)) {
        world.lun = Side::Source;
    }
    let untouched = world.standing(Side::Source).untouched();
    let proved = (untouched || world.both(|h| h.view.marks.has(Mark::Abort))) && side == Side::Source;
    if proved { world.marked(side, Mark::Back).expect("registrations are back") } else { world }
}

#[test]
fn at_most_one_host_runs_the_guest_whatever_dies_and_whatever_is_lost() {
    let worlds = reachable();
    println!("{} states", worlds.len());
    assert!(worlds.len() > 10_000, "{} states are too few to prove anything", worlds.len());
    worlds.iter().for_each(World::check);
}

#[test]
fn two_agents_that_reach_each_other_agree_on_one_owner_from_every_state() {
    let mut settled = HashSet::new();
    for world in reachable() {
        let (end, source, destination) = settle(*world);
        World { vouched: world.vouched, ..end }.check();
        if world.by_hand.is_some() {
            assert!(leaves_to_the_operator(world, &end, source, destination), "from {world:#?}\nto {end:#?}");
            continue;
        }
        assert!(
            agreed(&end, source, destination, world.vouched.is_some()),
            "from {world:#?}\nto {end:#?}: {source:?}, {destination:?}"
        );
        settled.insert((end.source.view.guest, end.destination.view.guest, end.lun));
    }
    assert!(settled.contains(&(Guest::Paused, Guest::Running, Side::Destination)), "{settled:?}");
    assert!(settled.contains(&(Guest::Running, Guest::Paused, Side::Source)), "{settled:?}");
}

/// Where somebody let the guest run by hand the agents agree, or say so to the operator, or the guest is gone where that was done;
/// and it runs at no more hosts than before, or at one.
fn leaves_to_the_operator(from: &World, end: &World, source: Decision, destination: Decision) -> bool {
    let running = |world: &World| {
        let runs = |side| usize::from(world.host(side).view.guest == Guest::Running);
        runs(Side::Source) + runs(Side::Destination)
    };
    // One that was told to run as soon as it has come does.
    let comes = from.by_hand == Some(Side::Destination) && from.destination.view.guest == Guest::Loading;
    let asked = [source, destination].iter().any(|decision| matches!(decision, Decision::Ask(_)));
    let said = asked || agreed(end, source, destination, from.vouched.is_some());
    let gone = from.by_hand.is_some_and(|side| end.host(side).view.guest != Guest::Running);
    running(end) <= 1.max(running(from) + usize::from(comes)) && (said || gone)
}

/// The guest runs at the owner, or is gone there; the registrations are the owner's; the other host knows. Where the
/// operator gave a word and then neither host could run the guest, the registrations may be anywhere.
fn agreed(end: &World, source: Decision, destination: Decision, word: bool) -> bool {
    let over = |owner| {
        let at_owner = end.host(owner).view.guest;
        let at_other = end.host(owner.other()).view.guest;
        let nowhere = at_owner != Guest::Running;
        (end.lun == owner || word && nowhere) && at_owner != Guest::Paused && at_other != Guest::Running
    };
    match (source, destination) {
        (Decision::Over(a), Decision::Over(b)) if a == b => over(a),
        (Decision::Run, Decision::Over(Side::Source)) => over(Side::Source),
        _ => false,
    }
}

#[test]
fn a_host_that_reaches_nobody_resumes_only_what_was_proved_to_be_its_own() {
    for world in reachable() {
        for side in [Side::Source, Side::Destination] {
            let alone = Standing { peer: None, vouched: false, ..world.standing(side) };
            if alone.decide(OnDoubt::Pause) == Decision::Run {
                assert!(alone.may_run(), "{alone:#?}");
                assert_eq!(world.lun, side, "{world:#?}");
            }
        }
    }
}

#[test]
fn after_go_the_source_asks_rather_than_takes_back_even_when_told_to_resume_on_doubt() {
    let marks = [Mark::Taken, Mark::Go].into_iter().collect::<Marks>().touched();
    let standing = Standing::alone(Side::Source, View { marks, guest: Guest::Paused });
    assert_eq!(standing.decide(OnDoubt::Resume), Decision::Ask(Question::MayRunThere));
    assert_eq!(standing.allows(Mark::Abort), Err(Forbidden { side: Side::Source, mark: Mark::Abort }));
    let aborted = View { marks: Marks::new().with(Mark::Abort), guest: Guest::Absent };
    assert_eq!(standing.with_peer(aborted).decide(OnDoubt::Pause), Decision::RollBack);
}

#[test]
fn after_go_the_operators_word_takes_back_what_stands_here_or_is_gone_and_nothing_else() {
    let marks = [Mark::Taken, Mark::Go].into_iter().collect::<Marks>().touched();
    let decides = |guest| {
        let standing = Standing::alone(Side::Source, View { marks, guest });
        Standing { vouched: true, ..standing }.decide(OnDoubt::Pause)
    };
    assert_eq!(decides(Guest::Paused), Decision::TakeAlone);
    assert_eq!(
        decides(Guest::Absent),
        Decision::TakeAlone,
        "its host burnt, and its QEMU here was ended as told"
    );
    assert_eq!(decides(Guest::Unknown), Decision::Ask(Question::MayRunThere));
    assert_eq!(decides(Guest::Running), Decision::Ask(Question::RunsAgainstTheRules));
}

#[test]
fn before_go_a_silent_destination_pauses_the_guest_or_is_done_without_as_the_operator_said() {
    let marks = Marks::new().with(Mark::Taken).touched();
    let standing = Standing::alone(Side::Source, View { marks, guest: Guest::Paused });
    assert_eq!(standing.decide(OnDoubt::Pause), Decision::Ask(Question::RegistrationsAway));
    assert_eq!(standing.decide(OnDoubt::Resume), Decision::TakeAlone);
}

#[test]
fn a_guest_whose_devices_were_never_touched_is_resumed_without_the_other_host() {
    let standing = Standing::alone(Side::Source, View { marks: Marks::new(), guest: Guest::Paused });
    assert_eq!(standing.decide(OnDoubt::Pause), Decision::RollBack);
    let marks = Marks::new().with(Mark::Abort).with(Mark::Back);
    let aborted = View { marks, guest: Guest::Paused };
    assert_eq!(Standing::alone(Side::Source, aborted).decide(OnDoubt::Pause), Decision::Run);
}

#[test]
fn two_hosts_that_both_run_the_guest_by_a_false_word_say_so_when_they_meet() {
    let at_source = View { marks: [Mark::Abort, Mark::Back].into_iter().collect(), guest: Guest::Running };
    let at_destination =
        View { marks: [Mark::Taken, Mark::Go, Mark::Ran].into_iter().collect(), guest: Guest::Running };
    let alarm = Decision::Ask(Question::RunsAgainstTheRules);
    let source = Standing::alone(Side::Source, at_source).with_peer(at_destination);
    assert_eq!(source.decide(OnDoubt::Pause), alarm);
    let arrived = View { marks: [Mark::Taken, Mark::Go].into_iter().collect(), ..at_destination };
    let destination = Standing::alone(Side::Destination, arrived).with_peer(at_source);
    assert_eq!(destination.decide(OnDoubt::Pause), alarm);
}

/// Somebody resumed it by hand where it had come, before `go`: nobody promises that it did not run, and nobody else lets it run.
#[test]
fn a_guest_that_runs_where_nobody_gave_it_is_asked_about_and_not_started_a_second_time() {
    let taken = Marks::new().with(Mark::Taken).touched();
    let there = View { marks: taken, guest: Guest::Running };
    let destination = Standing::alone(Side::Destination, there);
    assert!(destination.allows(Mark::Abort).is_err());
    assert!(Standing { cont_refused: true, ..destination }.allows(Mark::Abort).is_err());
    for mark in [None, Some(Mark::Taken), Some(Mark::Abort), Some(Mark::Back)] {
        let marks = mark.into_iter().chain([Mark::Taken]).collect::<Marks>().touched();
        let marks = if mark == Some(Mark::Back) { marks.with(Mark::Abort) } else { marks };
        for marked in [taken, taken.with(Mark::Abort)] {
            let source = Standing::alone(Side::Source, View { marks, guest: Guest::Paused });
            let source = source.with_peer(View { marks: marked, ..there });
            let decided = source.decide(OnDoubt::Resume);
            let given_up = marks.has(Mark::Abort) || marked.has(Mark::Abort);
            let question = if given_up { Question::RanThere } else { Question::RunsThere };
            assert_eq!(decided, Decision::Ask(question), "{marks:?} {marked:?}");
        }
    }
}

/// It stands still again there, and is whole and the newest: the only way is forward, and where that is shut nobody's.
#[test]
fn a_guest_that_ran_where_nobody_gave_it_goes_on_there_or_nowhere() {
    let taken = Marks::new().with(Mark::Taken).touched();
    let there = View { marks: taken, guest: Guest::Ran };
    let here = View { marks: taken, guest: Guest::Paused };
    let released = View { marks: taken.with(Mark::Go), ..here };
    let destination = Standing::alone(Side::Destination, there);
    assert!(destination.allows(Mark::Abort).is_err());
    assert!(Standing { vouched: true, ..destination }.allows(Mark::Abort).is_err());
    assert_eq!(destination.with_peer(released).allows(Mark::Go), Ok(()));
    assert_eq!(destination.with_peer(released).decide(OnDoubt::Pause), Decision::Finish);
    let source = Standing::alone(Side::Source, here).with_peer(there);
    assert_eq!(source.decide(OnDoubt::Resume), Decision::Finish);
    assert!(source.allows(Mark::Abort).is_err());
    let remembers = Standing { ran_there: true, vouched: true, ..Standing::alone(Side::Source, here) };
    let asked = Decision::Ask(Question::RanThere);
    for peer in [
        None,
        Some(View { guest: Guest::Absent, ..there }),
        Some(View { marks: taken.with(Mark::Abort), ..there }),
    ] {
        let old = Standing { peer, ..remembers };
        assert_eq!(old.decide(OnDoubt::Resume), asked, "{peer:?}");
        let gone = Standing { own: View { guest: Guest::Absent, ..here }, ..old };
        assert_ne!(gone.decide(OnDoubt::Resume), asked, "{peer:?}");
    }
    let back = View { marks: taken.with(Mark::Abort).with(Mark::Back), ..here };
    assert!(!Standing { own: back, ..remembers }.may_run());
}

#[test]
fn marks_travel_as_json_and_unknown_ones_are_noticed() {
    let marks = Marks::new().with(Mark::Go).touched();
    let text = serde_json::to_string(&View { marks, guest: Guest::Paused }).expect("serialises");
    assert_eq!(text, r#"{"marks":{"touched":true,"marks":2},"guest":"paused"}"#);
    let newer: Marks = serde_json::from_str(r#"{"touched":false,"marks":130}"#).expect("parses");
    assert!(newer.unknown() && !marks.unknown());
    assert!(serde_json::from_str::<Marks>(r#"{"touched":false,"marks":2,"other":1}"#).is_err());
}
