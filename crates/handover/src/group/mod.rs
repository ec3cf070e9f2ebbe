//! All logical units of one guest handed over together: [`Group`] drives one procedure for each, in lockstep of phases,
//! so that one round trip, one message and one journal append serve them all.
//!
//! Two hosts run the same group: both poll, each carries out what its own nexuses are to do and tells the other what came
//! of it. Nothing else passes between them, so neither can make the other send anything. That needs equal orders, equal
//! reports and equal decisions; [`Group::digest`] tells whether they are equal, and [`ENGINE_REVISION`] whether the two
//! programs would act alike at all.
//!
//! **All or nothing.** A unit that cannot go makes the group turn back as long as nothing is committed. A fenced one does
//! not: the guest arrives fenced there. Once the commits are under way a unit may still stay behind, which ends in
//! [`Ending::Split`]: a second group, with the sides exchanged, brings the others back.
//!
//! **The peer is lost.** Nobody can vouch then for the commands that it was to send in the round under way, so the group
//! is dropped as it stands: before [`Group::touched`] there is nothing to put in order, afterwards the entries of both
//! hosts say how far it may have come, and a group of [`Recovery`] goes on from there, with the peer or without it.

mod digest;
mod unit;

use crate::action::{Action, CommandId, Outcome, Phase, Side};
use crate::engine::Engine;
use crate::journal::Entry;
use crate::recovery::{Recovery, Remains};
use crate::settings::Settings;
use crate::verdict::{Doubt, Verdict};
use digest::Digest;
use scsi::AdditionalSense;
use unit::{Member, Unit};

/// The behaviour of the engine and of the group, as a number: two hosts run a handover together only if theirs are equal.
/// To be raised with every change of what they do; a test of recorded courses fails until then.
pub const ENGINE_REVISION: u32 = 4;

/// Most logical units of a group; more are refused.
pub const MOST_UNITS: usize = 1024;

/// Which logical unit of the group, in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitIndex(pub u16);

/// The procedures of all logical units of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    units: Vec<Unit>,
    rounds: u64,
    history: Digest,
    turning: Turning,
    touched: bool,
}

/// Whether the way leads back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Turning {
    No,
    /// At the next poll, when every report has been taken in.
    Asked,
    Yes,
}

/// One round: what all logical units want done before anything else is decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    /// Counted from 1.
    pub number: u64,
    /// To be durable on both hosts, together, before any action is begun; else [`Group::journal_failed`].
    pub journal: Vec<(UnitIndex, Entry)>,
    /// Commands, logins and logouts; they may run concurrently, those of one path in this order. None is a
    /// [`Action::Journal`].
    pub actions: Vec<(UnitIndex, Action)>,
    /// [`Group::digest`] with this round in it.
    pub digest: u64,
}

/// The answer to a poll.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupStep {
    /// Do this.
    Run(Round),
    /// Reports of the round are outstanding.
    Wait,
    /// Every unit that has not ended stands there, until [`Group::proceed`], `refresh` or `abort`.
    PhaseDone(Phase),
    /// The end; every further poll says the same.
    Finished(Ending),
}

/// How a group ends. What became of each unit is told by [`Group::verdicts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ending {
    /// The guest may run at the destination and only there; some of its units may be fenced or lost.
    Moved,
    /// The guest stays with the source; some of its units may be fenced or lost.
    Kept,
    /// No unit is registered any more, all are fenced or lost: wherever the guest runs, it runs so.
    Nobody,
    /// Some units were moved and some were not: the guest may run nowhere until a second group, with the sides exchanged
    /// ([`Settings::exchanged`]), has brought back those that moved.
    Split,
    /// Of some unit it cannot be told: the guest may run nowhere until recovery or the operator decides.
    InDoubt,
}

impl Group {
    /// A handover of these logical units; `None` if there is none or there are more than [`MOST_UNITS`].
    #[must_use]
    pub fn new(settings: Vec<Settings>) -> Option<Self> {
        let mut history = Digest::new();
        settings.iter().for_each(|settings| history.settings(settings));
        Self::of(settings.into_iter().map(|settings| Member::Engine(Engine::new(settings))), history)
    }

    /// A recovery of these logical units; `None` if there is none or there are more than [`MOST_UNITS`].
    #[must_use]
    pub fn recover(remains: Vec<Remains>) -> Option<Self> {
        let mut history = Digest::new();
        remains.iter().for_each(|remains| history.remains(remains));
        Self::of(remains.into_iter().map(|remains| Member::Recovery(Recovery::new(remains))), history)
    }

    fn of(members: impl Iterator<Item = Member>, mut history: Digest) -> Option<Self> {
        let units: Vec<Unit> = members.map(Unit::new).collect();
        history.count(units.len());
        let fits = (1..=MOST_UNITS).contains(&units.len());
        fits.then_some(Self { units, rounds: 0, history, turning: Turning::No, touched: false })
    }

    /// What to do now. A round is handed out once; the other answers repeat until a report or a decision changes them.
    pub fn poll(&mut self) -> GroupStep {
        if self.units.iter().any(Unit::waits) {
            return GroupStep::Wait;
        }
        self.units.iter_mut().for_each(Unit::take_reports);
        self.advance();
        if self.units.iter().any(Unit::wants_anything) {
            return GroupStep::Run(self.round());
        }
        if self.units.iter().any(Unit::is_moving) {
            return GroupStep::Wait;
        }
        match self.stand() {
            Some(phase) => GroupStep::PhaseDone(phase),
            None => GroupStep::Finished(self.ending()),
        }
    }

    /// Polls everything until nothing changes any more: a unit that ends badly turns the others round.
    fn advance(&mut self) {
        self.advance_units();
        let behind = self.units.iter().any(Unit::stays_behind);
        if self.turning == Turning::Asked || self.turning == Turning::No && behind {
            self.turning = Turning::Yes;
            self.units.iter_mut().for_each(Unit::abort);
            self.advance_units();
        }
    }

    fn advance_units(&mut self) {
        let turning = self.turning == Turning::Yes;
        self.units.iter_mut().for_each(|unit| unit.advance(turning));
    }

    fn round(&mut self) -> Round {
        self.rounds += 1;
        let (mut journal, mut actions) = (Vec::new(), Vec::new());
        for (index, unit) in (0u16..).map(UnitIndex).zip(&mut self.units) {
            let (entry, wanted) = unit.hand_out();
            journal.extend(entry.map(|entry| (index, entry)));
            actions.extend(wanted.into_iter().map(|action| (index, action)));
        }
        self.touched |= !journal.is_empty();
        self.record_round(&journal, &actions);
        Round { number: self.rounds, journal, actions, digest: self.digest() }
    }

    fn record_round(&mut self, journal: &[(UnitIndex, Entry)], actions: &[(UnitIndex, Action)]) {
        let history = &mut self.history;
        history.byte(b'R');
        history.number(self.rounds);
        history.count(journal.len());
        for (unit, entry) in journal {
            history.unit(*unit);
            history.entry(entry);
        }
        history.count(actions.len());
        for (unit, action) in actions {
            history.unit(*unit);
            history.action(action);
        }
    }

    /// Where every unit that has not ended stands.
    fn stand(&self) -> Option<Phase> {
        self.units.iter().filter_map(Unit::stands).min()
    }

    /// Reports what came of an action of the round under way; others, and second reports, are ignored. The order of the
    /// reports does not matter.
    pub fn report(&mut self, unit: UnitIndex, id: CommandId, outcome: Outcome) {
        if let Some(unit) = self.unit_mut(unit) {
            unit.report(id, outcome);
        }
    }

    /// A command of this unit may still be executed at any time, so nothing can be reported of it: the unit ends in doubt.
    pub fn give_up(&mut self, unit: UnitIndex, doubt: Doubt) {
        if let Some(unit) = self.unit_mut(unit) {
            unit.end(Verdict::InDoubt(doubt));
        }
    }

    /// The entries of the round just handed out are not durable on both hosts, and none of its actions was begun. Those of
    /// units that had no entry are handed out again.
    pub fn journal_failed(&mut self) {
        self.history.byte(b'J');
        self.units.iter_mut().for_each(Unit::fail_journal);
    }

    /// Goes on after [`GroupStep::PhaseDone`]; elsewhere, and after [`Group::abort`] before the next poll, it is ignored.
    pub fn proceed(&mut self) {
        if let Some(phase) = self.phase() {
            self.history.byte(b'P');
            self.units.iter_mut().for_each(|unit| unit.proceed(phase));
        }
    }

    /// At [`GroupStep::PhaseDone`] of `Prepare`: the guest's state changed meanwhile, reads everything again.
    pub fn refresh(&mut self) {
        if self.phase() == Some(Phase::Prepare) {
            self.history.byte(b'F');
            self.units.iter_mut().for_each(Unit::refresh);
        }
    }

    /// Gives the handover up: everything that is not committed is undone. After phase Take this changes nothing: the
    /// handover is finished then, and a second group brings the guest back. A recovery cannot be given up.
    pub fn abort(&mut self) {
        self.history.byte(b'A');
        if self.turning == Turning::No {
            self.turning = Turning::Asked;
        }
    }

    /// The phase at the end of which the group stands.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        let still = self.turning != Turning::Asked && !self.units.iter().any(Unit::is_moving);
        self.stand().filter(|_| still)
    }

    /// Equal on two hosts as long as both were told the same and concluded the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = self.history;
        for unit in &self.units {
            unit.add_to(&mut digest);
        }
        digest.value()
    }

    /// Rounds handed out so far.
    #[must_use]
    pub const fn rounds(&self) -> u64 {
        self.rounds
    }

    /// How many logical units there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.units.len()
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Something on a device may have been changed: an entry was handed out.
    #[must_use]
    pub const fn touched(&self) -> bool {
        self.touched
    }

    /// Some unit has been committed: there is no way back but a second group.
    #[must_use]
    pub fn committed(&self) -> bool {
        self.engines().any(|(_, engine)| engine.committed())
    }

    /// What became of each unit; `None` as long as it has not ended.
    pub fn verdicts(&self) -> impl Iterator<Item = (UnitIndex, Option<Verdict>)> {
        self.numbered().map(|(index, unit)| (index, unit.verdict()))
    }

    /// The engine of each unit, for its plan and what it learnt; a recovery has none.
    pub fn engines(&self) -> impl Iterator<Item = (UnitIndex, &Engine)> {
        self.numbered().filter_map(|(index, unit)| Some((index, unit.engine()?)))
    }

    /// The unit attentions that own commands took from each unit's nexuses and that the guest is to be told once if it goes
    /// on at `owner`. A group that ends before every report of its round is there must have [`Group::stop`] called first.
    pub fn attentions(&self, owner: Side) -> impl Iterator<Item = (UnitIndex, Vec<AdditionalSense>)> {
        self.numbered().map(move |(index, unit)| (index, unit.attentions_at(owner)))
    }

    /// The group is dropped as it stands: takes in the reports that there are, for what they tell beside the handover.
    pub fn stop(&mut self) {
        self.units.iter_mut().for_each(Unit::take_reports);
    }

    fn numbered(&self) -> impl Iterator<Item = (UnitIndex, &Unit)> {
        (0u16..).map(UnitIndex).zip(&self.units)
    }

    fn unit_mut(&mut self, index: UnitIndex) -> Option<&mut Unit> {
        self.units.get_mut(usize::from(index.0))
    }

    /// The ends together. Nobody has what is fenced or lost, so such units hinder neither host.
    fn ending(&self) -> Ending {
        let any = |wanted: fn(&Verdict) -> bool| {
            self.units.iter().filter_map(Unit::verdict).any(|verdict| wanted(&verdict))
        };
        let kept = |verdict: &Verdict| matches!(verdict, Verdict::KeptAtSource { .. } | Verdict::Refused(_));
        let (moved, kept) = (any(|verdict| *verdict == Verdict::Moved), any(kept));
        if any(|verdict| matches!(verdict, Verdict::InDoubt(_))) {
            return Ending::InDoubt;
        }
        match (moved, kept) {
            (true, true) => Ending::Split,
            (true, false) => Ending::Moved,
            (false, true) => Ending::Kept,
            (false, false) => Ending::Nobody,
        }
    }
}
