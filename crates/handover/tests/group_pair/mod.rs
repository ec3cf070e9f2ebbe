//! Two replicas of a group, as two hosts run them, over the device servers of several logical units: every step of the one
//! must be the other's, whatever happens in between.
#![allow(dead_code, reason = "each test file uses its own part of the harness")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails its test by panicking; it is not itself marked as a test"
)]

use crate::pair::{Fault, Foreign, World};
use handover::{
    Action, CommandId, Ending, Entry, Group, GroupStep, Outcome, Path, Phase, Round, Settings, UnitIndex,
    Verdict,
};
use logical_unit::Profile;
use scsi::Completion;
use scsi::pr::Key;

/// A target that does everything as the standard says.
pub(crate) fn spc() -> &'static Profile {
    Profile::by_name("spc").unwrap()
}

/// What happens to a group on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accident {
    /// The entries of this round cannot be written.
    JournalFails,
    /// The caller gives up after this round.
    Abort,
    /// A command of this round, on this unit, may still be executed at any time.
    GiveUp(u16),
    /// Another node acts on this unit before this round.
    Foreign(u16, Foreign),
    /// The first command of this unit in this round suffers this.
    Fault(u16, Fault),
    /// Both hosts die before this round is carried out.
    Crash,
    /// Both hosts die when the entries of this round are durable on this one alone.
    HalfJournalled(usize),
    /// Both hosts die after so many actions of this round.
    CrashAfter(usize),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Ending(Ending),
    Crashed,
}

/// Two hosts.
pub(crate) struct Duo {
    pub(crate) worlds: Vec<World>,
    groups: [Group; 2],
    /// The last entry of each unit on each host.
    pub(crate) entries: Vec<[Option<Entry>; 2]>,
    pub(crate) accidents: Vec<(u64, Accident)>,
    /// Phases in which a decision other than to proceed is taken.
    pub(crate) abort_at: Option<Phase>,
    pub(crate) refresh_at_prepare: u8,
    /// Round trips to the target in each phase, counted by its end.
    pub(crate) trips: Vec<(Phase, u32)>,
    trips_now: u32,
    /// Appends so far.
    pub(crate) appends: u32,
    pub(crate) log: Vec<String>,
    /// Actions in each round, by its number.
    pub(crate) sizes: Vec<usize>,
    /// The group's source is the second host.
    pub(crate) exchanged: bool,
}

impl Duo {
    pub(crate) fn new(worlds: Vec<World>, group: Group) -> Self {
        let entries = vec![[None; 2]; worlds.len()];
        Self {
            worlds,
            groups: [group.clone(), group],
            entries,
            accidents: Vec::new(),
            abort_at: None,
            refresh_at_prepare: 0,
            trips: Vec::new(),
            trips_now: 0,
            appends: 0,
            log: Vec::new(),
            sizes: Vec::new(),
            exchanged: false,
        }
    }

    /// A handover of every world.
    pub(crate) fn of(worlds: Vec<World>, settings: Settings) -> Self {
        let group = Group::new(vec![settings; worlds.len()]).unwrap();
        Self::new(worlds, group)
    }

    /// Another group on the same worlds, whose source is the second host if `exchanged`; what was to happen has happened.
    pub(crate) fn again(self, group: Group, exchanged: bool) -> Self {
        Self { entries: self.entries, log: self.log, exchanged, ..Self::new(self.worlds, group) }
    }

    /// A second group for the units that moved, with the sides exchanged; what was to happen has happened.
    pub(crate) fn way_back(mut self, settings: &Settings, key: Option<Key>) -> Self {
        let moved = self.verdicts().into_iter().map(|verdict| verdict == Verdict::Moved);
        let moved: Vec<bool> = moved.collect();
        let mut kept = moved.iter();
        self.worlds.retain(|_| *kept.next().unwrap());
        let settings = settings.exchanged(key, Key(0x4f));
        let group = Group::new(vec![settings; self.worlds.len()]).unwrap();
        Self { log: self.log, exchanged: true, ..Self::new(self.worlds, group) }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.groups[0]
    }

    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        self.group().verdicts().filter_map(|(_, verdict)| verdict).collect()
    }

    pub(crate) fn run(&mut self) -> End {
        for _ in 0..500 {
            match self.poll() {
                GroupStep::Run(round) => {
                    if !self.carry_out(&round) {
                        self.log.push("crash".into());
                        return End::Crashed;
                    }
                }
                GroupStep::Wait => panic!("waits for nothing\n{}", self.story()),
                GroupStep::PhaseDone(phase) => self.decide(phase),
                GroupStep::Finished(ending) => {
                    self.log.push(format!("{ending:?} {:?}", self.verdicts()));
                    return End::Ending(ending);
                }
            }
        }
        panic!("does not end\n{}", self.story());
    }

    fn poll(&mut self) -> GroupStep {
        let steps = self.groups.each_mut().map(Group::poll);
        assert_eq!(steps[0], steps[1], "{}", self.story());
        assert_eq!(self.groups[0].digest(), self.groups[1].digest(), "{}", self.story());
        let [step, _] = steps;
        step
    }

    fn decide(&mut self, phase: Phase) {
        self.log.push(format!("{phase} done"));
        self.trips.push((phase, std::mem::take(&mut self.trips_now)));
        let refresh = phase == Phase::Prepare && self.refresh_at_prepare > 0;
        self.refresh_at_prepare -= u8::from(refresh);
        let abort = self.abort_at == Some(phase);
        for group in &mut self.groups {
            match (abort, refresh) {
                (true, _) => group.abort(),
                (_, true) => group.refresh(),
                _ => group.proceed(),
            }
        }
        self.abort_at = self.abort_at.filter(|_| !abort);
    }

    /// Whether the hosts live on.
    fn carry_out(&mut self, round: &Round) -> bool {
        self.sizes.push(round.actions.len());
        let accidents: Vec<Accident> = self
            .accidents
            .iter()
            .filter(|(at, _)| *at == round.number)
            .map(|(_, accident)| *accident)
            .collect();
        accidents.iter().for_each(|accident| self.log.push(format!("  {}: {accident:?}", round.number)));
        if accidents.contains(&Accident::Crash) {
            return false;
        }
        if accidents.contains(&Accident::JournalFails) && !round.journal.is_empty() {
            self.groups.iter_mut().for_each(Group::journal_failed);
            return true;
        }
        let half = [0, 1].into_iter().find(|host| accidents.contains(&Accident::HalfJournalled(*host)));
        self.append(round, half);
        if half.is_some() || !self.send(round, &accidents) {
            return false;
        }
        if accidents.contains(&Accident::Abort) {
            self.groups.iter_mut().for_each(Group::abort);
        }
        true
    }

    fn append(&mut self, round: &Round, half: Option<usize>) {
        self.appends += u32::from(!round.journal.is_empty());
        for (unit, entry) in &round.journal {
            for host in [0, 1].into_iter().filter(|host| half.is_none_or(|half| half == *host)) {
                self.entries[usize::from(unit.0)][host] = Some(*entry);
            }
            self.log.push(format!(
                "  {}: unit {} journal {:?} {}",
                round.number, unit.0, entry.stage, entry.method
            ));
        }
    }

    /// Whether the hosts live on.
    fn send(&mut self, round: &Round, accidents: &[Accident]) -> bool {
        let mut reports: Vec<(UnitIndex, CommandId, Outcome)> = Vec::new();
        self.trips_now += u32::from(!round.actions.is_empty());
        let mut struck = Vec::new();
        for (done, (unit, action)) in round.actions.iter().enumerate() {
            if accidents.contains(&Accident::CrashAfter(done)) {
                return false;
            }
            let first = !struck.contains(unit);
            struck.push(*unit);
            let faults = if first { self.strike(*unit, accidents) } else { Vec::new() };
            let (id, outcome) = self.act(round.number, *unit, action, &faults);
            reports.push((*unit, id, outcome));
        }
        let abandoned = |unit: UnitIndex| accidents.contains(&Accident::GiveUp(unit.0));
        for (unit, id, outcome) in reports.iter().filter(|(unit, ..)| !abandoned(*unit)) {
            self.groups[0].report(*unit, *id, outcome.clone());
        }
        // The other host hears in another order.
        for (unit, id, outcome) in reports.iter().rev().filter(|(unit, ..)| !abandoned(*unit)) {
            self.groups[1].report(*unit, *id, outcome.clone());
        }
        for unit in (0u16..).map(UnitIndex).take(self.worlds.len()).filter(|unit| abandoned(*unit)) {
            let doubt = handover::verdict::Doubt::DestinationUnreachable;
            self.groups.iter_mut().for_each(|group| group.give_up(unit, doubt));
        }
        !accidents.contains(&Accident::CrashAfter(round.actions.len()))
    }

    fn strike(&mut self, unit: UnitIndex, accidents: &[Accident]) -> Vec<Fault> {
        let world = &mut self.worlds[usize::from(unit.0)];
        let mut faults = Vec::new();
        for accident in accidents {
            match accident {
                Accident::Foreign(at, foreign) if *at == unit.0 => world.intervene(*foreign),
                Accident::Fault(at, fault) if *at == unit.0 => faults.push(*fault),
                _ => {}
            }
        }
        faults
    }

    fn act(
        &mut self,
        round: u64,
        unit: UnitIndex,
        action: &Action,
        faults: &[Fault],
    ) -> (CommandId, Outcome) {
        let exchanged = self.exchanged;
        let host = |path: &Path| if exchanged { Path { side: path.side.other(), ..*path } } else { *path };
        let world = &mut self.worlds[usize::from(unit.0)];
        world.strike(faults, action);
        let (id, path, outcome) = match action {
            Action::Execute { id, path, request } => {
                (*id, *path, world.execute(0, host(path), request, faults))
            }
            Action::CloseSession { id, path } => (*id, *path, Outcome::Done(Completion::good(Vec::new()))),
            Action::OpenSession { id, path } => {
                world.renamed = *path == Path::destination(path.index);
                (*id, *path, Outcome::Done(Completion::good(Vec::new())))
            }
            Action::Journal(_) => panic!("entries are told apart from actions"),
        };
        self.log.push(format!(
            "  {round}: unit {} {path}: {}",
            unit.0,
            world.log.last().cloned().unwrap_or_default()
        ));
        (id, outcome)
    }

    pub(crate) fn story(&self) -> String {
        self.log.join("\n")
    }
}
