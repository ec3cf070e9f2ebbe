//! Two hosts in one process, each with its journal and its nexuses, a link between them that can be cut, and logical units
//! whose device servers they share.
#![allow(dead_code, reason = "each test file uses its own part of the harness")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails its test by panicking; it is not itself marked as a test"
)]

#[path = "../../../handover/tests/pair/mod.rs"]
pub(crate) mod pair;

use agent::conduct::{
    Exchange, Follower, Hands, Journal, Leader, Lost, NotDurable, Order, Patience, Pause, Refusal, Reply,
    Report, Stop,
};
use handover::known_targets::{KnownTargets, Traits};
use handover::{
    Action, Ending, Entry, Group, Outcome, Path, Phase, Remains, Settings, Side, UnitIndex, Verdict,
};
use logical_unit::Profile;
use pair::{Foreign, K, World};
use scsi::Completion;
use scsi::pr::Key;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The logical units.
pub(crate) type Worlds = Arc<Vec<Mutex<World>>>;

/// One host's nexuses. Faults are those of the worlds.
pub(crate) struct LabHands {
    worlds: Worlds,
    /// Which worlds the units of the group are.
    units: Vec<usize>,
    /// The group's source is the second host.
    exchanged: bool,
    pub(crate) commands: Arc<Mutex<usize>>,
    /// The report of this action, counted from 1 over all units, cannot be made.
    pub(crate) dangles_at: Option<usize>,
}

impl Hands for LabHands {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
        assert!(deadline > Instant::now());
        let act = |(unit, action): &(UnitIndex, Action)| {
            let mut count = self.commands.lock().unwrap();
            *count += 1;
            let mut report = self.act(*unit, action);
            if self.dangles_at == Some(*count) {
                report.outcome = None;
            }
            report
        };
        actions.iter().map(act).collect()
    }
}

impl LabHands {
    fn act(&self, unit: UnitIndex, action: &Action) -> Report {
        let mut world = self.worlds[self.units[usize::from(unit.0)]].lock().unwrap();
        let now = world.actions;
        world.actions += 1;
        let due = |(at, foreign): (usize, Foreign)| (at == now).then_some(foreign);
        for foreign in world.foreign.clone().into_iter().filter_map(due) {
            world.intervene(foreign);
        }
        let host =
            |path: &Path| if self.exchanged { Path { side: path.side.other(), ..*path } } else { *path };
        let (id, outcome) = match action {
            Action::Execute { id, path, request } => (*id, world.execute(0, host(path), request, &[])),
            Action::CloseSession { id, .. } => (*id, Outcome::Done(Completion::good(Vec::new()))),
            Action::OpenSession { id, path } => {
                world.renamed = host(path).side == Side::Destination;
                (*id, Outcome::Done(Completion::good(Vec::new())))
            }
            Action::Journal(_) => panic!("entries are told apart from actions"),
        };
        Report { unit, id, outcome: Some(outcome) }
    }
}

/// The last entry of each unit, on one host.
#[derive(Clone, Default)]
pub(crate) struct LabJournal {
    pub(crate) entries: Arc<Mutex<Vec<Option<Entry>>>>,
    pub(crate) appends: Arc<Mutex<u32>>,
    /// The append of this number fails, and all after it.
    pub(crate) fails_at: Option<u32>,
}

impl Journal for LabJournal {
    fn append(&mut self, _: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        let mut appends = self.appends.lock().unwrap();
        *appends += 1;
        if self.fails_at.is_some_and(|at| *appends >= at) {
            return Err(NotDurable("no space left".into()));
        }
        let mut last = self.entries.lock().unwrap();
        for (unit, entry) in entries {
            let unit = usize::from(unit.0);
            if last.len() <= unit {
                last.resize(unit + 1, None);
            }
            last[unit] = Some(*entry);
        }
        Ok(())
    }
}

impl LabJournal {
    fn last(&self, unit: usize) -> Option<Entry> {
        self.entries.lock().unwrap().get(unit).copied().flatten()
    }
}

/// Where the link breaks, or who lies on it.
#[derive(Clone, Copy)]
pub(crate) enum Trouble {
    /// This order does not arrive.
    OrderLost(u32),
    /// The reply to this order does not arrive.
    ReplyLost(u32),
    /// This order is changed on its way.
    LeaderLies(u32, fn(&mut Order)),
    /// The reply to this order is changed on its way.
    FollowerLies(u32, fn(&mut Reply)),
}

/// The link, with the follower at its end.
pub(crate) struct Link {
    pub(crate) follower: Arc<Mutex<Follower<LabHands, LabJournal>>>,
    pub(crate) orders: u32,
    trouble: Option<Trouble>,
    cut: bool,
    /// What the follower answers at last.
    pub(crate) told: Arc<Mutex<Vec<Order>>>,
}

impl Exchange for Link {
    fn call(&mut self, order: &Order, _: Duration) -> Result<Result<Reply, Refusal>, Lost> {
        self.orders += 1;
        let lost = || Err(Lost("cut".into()));
        if self.cut || matches!(self.trouble, Some(Trouble::OrderLost(at)) if at == self.orders) {
            self.cut = true;
            return lost();
        }
        let mut order = order.clone();
        if let Some(Trouble::LeaderLies(at, lie)) = self.trouble
            && at == self.orders
        {
            lie(&mut order);
        }
        self.told.lock().unwrap().push(order.clone());
        let mut reply = self.follower.lock().unwrap().handle(&order);
        match (self.trouble, &mut reply) {
            (Some(Trouble::ReplyLost(at)), _) if at == self.orders => {
                self.cut = true;
                return lost();
            }
            (Some(Trouble::FollowerLies(at, lie)), Ok(reply)) if at == self.orders => lie(reply),
            _ => {}
        }
        Ok(reply)
    }
}

/// Two hosts and their logical units.
pub(crate) struct Rig {
    pub(crate) worlds: Worlds,
    pub(crate) settings: Vec<Settings>,
    pub(crate) journals: [LabJournal; 2],
    pub(crate) trouble: Option<Trouble>,
    pub(crate) dangles_at: [Option<usize>; 2],
    pub(crate) abort_at: Option<Phase>,
    pub(crate) wants_out_at: Option<Phase>,
    pub(crate) commands: [Arc<Mutex<usize>>; 2],
    /// Targets as the follower knows them, if otherwise than the leader.
    pub(crate) other_table: Option<KnownTargets>,
}

/// What came of a run.
pub(crate) struct Ran {
    pub(crate) end: Result<Ending, Stop>,
    pub(crate) leader: Leader<Link, LabHands, LabJournal>,
    pub(crate) orders: u32,
}

impl Ran {
    pub(crate) fn verdicts(&self) -> Vec<Option<Verdict>> {
        self.leader.group().verdicts().map(|(_, verdict)| verdict).collect()
    }

    /// Round trips to the target, orders and appends while the guest is paused.
    pub(crate) fn pause(&self) -> (u32, u32, u32) {
        let paused = [Phase::Freeze, Phase::Take, Phase::Verify];
        let spans = self.leader.record().spans().iter().filter(|span| paused.contains(&span.phase));
        spans.fold((0, 0, 0), |(trips, orders, appends), span| {
            (trips + span.round_trips, orders + span.messages, appends + span.appends)
        })
    }
}

impl Rig {
    pub(crate) fn new(worlds: Vec<World>, settings: Vec<Settings>) -> Self {
        Self {
            worlds: Arc::new(worlds.into_iter().map(Mutex::new).collect()),
            settings,
            journals: Default::default(),
            trouble: None,
            dangles_at: [None; 2],
            abort_at: None,
            wants_out_at: None,
            commands: Default::default(),
            other_table: None,
        }
    }

    /// Units of one target and role.
    pub(crate) fn of(count: usize, profile: &'static Profile, role: pair::Role) -> Self {
        let worlds = vec![World::new(profile, role, false, true); count];
        Self::new(worlds, vec![pair::settings(profile, None); count])
    }

    fn hands(&self, host: usize, units: &[usize], exchanged: bool) -> LabHands {
        LabHands {
            worlds: Arc::clone(&self.worlds),
            units: units.to_vec(),
            exchanged,
            commands: Arc::clone(&self.commands[host]),
            dangles_at: self.dangles_at[host],
        }
    }

    /// The leader is the first host, the source of the guest; on the way back too.
    pub(crate) fn conduct(&self, groups: [Group; 2], units: &[usize], exchanged: bool) -> Ran {
        let [first, second] = groups;
        let (side, other) =
            if exchanged { (Side::Destination, Side::Source) } else { (Side::Source, Side::Destination) };
        let hands = self.hands(1, units, exchanged);
        let follower = Follower::new(second, other, hands, self.journals[1].clone(), Patience::default());
        let follower = Arc::new(Mutex::new(follower));
        let (told, trouble) = (Arc::default(), self.trouble);
        let link = Link { follower: Arc::clone(&follower), orders: 0, trouble, cut: false, told };
        let hands = self.hands(0, units, exchanged);
        let mut leader = Leader::new(first, side, link, hands, self.journals[0].clone(), Patience::default());
        let end = self.lead(&mut leader, &follower);
        let orders = leader.record().spans().iter().map(|span| span.messages).sum();
        if end.is_ok() {
            assert_eq!(leader.group().digest(), follower.lock().unwrap().group().digest());
        }
        Ran { end, leader, orders }
    }

    fn lead(
        &self,
        leader: &mut Leader<Link, LabHands, LabJournal>,
        follower: &Mutex<Follower<LabHands, LabJournal>>,
    ) -> Result<Ending, Stop> {
        loop {
            match leader.advance()? {
                Pause::Finished(ending) => return Ok(ending),
                Pause::Phase(phase) => {
                    if self.wants_out_at == Some(phase) {
                        follower.lock().unwrap().want_out();
                    }
                    if self.abort_at == Some(phase) { leader.abort() } else { leader.proceed() }
                }
            }
        }
    }

    /// A handover from the first host to the second.
    pub(crate) fn run(&self) -> Ran {
        let units: Vec<usize> = (0..self.worlds.len()).collect();
        let group = Group::new(self.settings.clone()).unwrap();
        let mut others = self.settings.clone();
        if let Some(table) = &self.other_table {
            others.iter_mut().for_each(|settings| settings.targets = table.clone());
        }
        let follower = Group::new(others).unwrap();
        self.conduct([group, follower], &units, false)
    }

    /// The way back for those that moved.
    pub(crate) fn run_back(&self, verdicts: &[Option<Verdict>]) -> Ran {
        let moved = (0..self.worlds.len()).filter(|unit| verdicts[*unit] == Some(Verdict::Moved));
        let moved: Vec<usize> = moved.collect();
        let settings = moved.iter().map(|unit| self.settings[*unit].exchanged(Some(K), Key(0x4f)));
        let group = Group::new(settings.collect()).unwrap();
        self.conduct([group.clone(), group], &moved, true)
    }

    /// Both hosts come back, and put in order what their journals say.
    pub(crate) fn recover(&mut self, alive: [bool; 2]) -> Ran {
        self.trouble = None;
        self.dangles_at = [None; 2];
        self.journals.iter_mut().for_each(|journal| journal.fails_at = None);
        let units: Vec<usize> = (0..self.worlds.len()).collect();
        let remains = units.iter().map(|unit| self.remains(*unit, alive)).collect();
        let group = Group::recover(remains).unwrap();
        self.conduct([group.clone(), group], &units, false)
    }

    fn remains(&self, unit: usize, alive: [bool; 2]) -> Remains {
        Remains {
            source_entry: self.journals[0].last(unit).filter(|_| alive[0]),
            destination_entry: self.journals[1].last(unit).filter(|_| alive[1]),
            source: self.settings[unit].source.clone(),
            destination: self.settings[unit].destination.clone(),
            source_alive: alive[0],
            destination_alive: alive[1],
            prefer_destination: false,
            kept_at_source: false,
            traits: self.traits(unit),
        }
    }

    fn traits(&self, unit: usize) -> Traits {
        let survey = self.settings[unit].survey.clone().unwrap();
        self.settings[unit].targets.traits(&survey.target)
    }

    /// Whether the first host's nexus has the guest's key, and whether the second's has.
    pub(crate) fn owners(&self, unit: usize) -> (bool, bool) {
        let world = self.worlds[unit].lock().unwrap();
        (world.key_of(Path::source(0)) == K, world.key_of(Path::destination(0)) == K)
    }

    /// What the device shows fits the verdict, and the key and reservation were never gone.
    pub(crate) fn check(&self, verdicts: &[Option<Verdict>], what: &str) {
        for (unit, verdict) in verdicts.iter().enumerate() {
            let world = self.worlds[unit].lock().unwrap();
            let story = format!("{what}: unit {unit} {verdict:?}\n{}", world.log.join("\n"));
            assert_eq!(world.gap, None, "{story}");
            drop(world);
            match verdict {
                Some(Verdict::Moved) => assert_eq!(self.owners(unit), (false, true), "{story}"),
                Some(Verdict::KeptAtSource { leftover, .. }) => {
                    let (source, destination) = self.owners(unit);
                    assert!(source && (!destination || *leftover), "{story}");
                }
                Some(Verdict::Refused(_)) => assert_eq!(self.owners(unit), (true, false), "{story}"),
                Some(Verdict::Fenced { .. }) => assert_eq!(self.owners(unit), (false, false), "{story}"),
                other => panic!("{other:?} {story}"),
            }
        }
    }
}
