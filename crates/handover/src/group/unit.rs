//! One logical unit of a group: its procedure, what it wants in the next round, and the reports that it waits for.

use super::digest::Digest;
use crate::action::{Action, CommandId, Event, Outcome, Phase, Procedure, Side, Step};
use crate::engine::Engine;
use crate::journal::Entry;
use crate::recovery::Recovery;
use crate::verdict::Verdict;
use scsi::AdditionalSense;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Member {
    Engine(Engine),
    Recovery(Recovery),
}

impl Member {
    fn procedure(&mut self) -> &mut dyn Procedure {
        match self {
            Self::Engine(engine) => engine,
            Self::Recovery(recovery) => recovery,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    Moving,
    Stand(Phase),
    End(Verdict),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Unit {
    member: Member,
    at: At,
    entry: Option<Entry>,
    wanted: Vec<Action>,
    /// What was handed out last.
    round: Handed,
    /// Its reports; they reach the procedure together and in the order of the ids, on every host alike.
    reports: BTreeMap<CommandId, Option<Outcome>>,
}

/// The unit's part of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Handed {
    journalled: bool,
    actions: Vec<Action>,
}

impl Unit {
    pub(super) fn new(member: Member) -> Self {
        let round = Handed::default();
        let (entry, wanted, reports) = (None, Vec::new(), BTreeMap::new());
        Self { member, at: At::Moving, entry, wanted, round, reports }
    }

    /// Polls the procedure; one that turns back leaves every phase before the commit by the way back.
    pub(super) fn advance(&mut self, turning: bool) {
        while self.at == At::Moving && !self.wants_anything() {
            match self.member.procedure().poll() {
                Step::Run(actions) => self.want(actions),
                Step::PhaseDone(phase) if turning && phase < Phase::Take => self.tell(Event::Abort),
                Step::PhaseDone(phase) => self.at = At::Stand(phase),
                Step::Finished(verdict) => self.at = At::End(verdict),
                // Every report of its batch was given.
                Step::Wait => return,
            }
        }
    }

    fn want(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Journal(entry) => self.entry = Some(entry),
                other => self.wanted.push(other),
            }
        }
    }

    pub(super) fn hand_out(&mut self) -> (Option<Entry>, Vec<Action>) {
        let entry = self.entry.take();
        let actions = std::mem::take(&mut self.wanted);
        self.reports = actions.iter().filter_map(|action| Some((id(action)?, None))).collect();
        self.round = Handed { journalled: entry.is_some(), actions: actions.clone() };
        (entry, actions)
    }

    pub(super) fn report(&mut self, id: CommandId, outcome: Outcome) {
        if let Some(report @ None) = self.reports.get_mut(&id) {
            *report = Some(outcome);
        }
    }

    /// Hands the reports on; there are all.
    pub(super) fn take_reports(&mut self) {
        self.round = Handed::default();
        for (id, outcome) in std::mem::take(&mut self.reports) {
            if let Some(outcome) = outcome {
                self.tell(Event::Completed { id, outcome });
            }
        }
    }

    pub(super) fn fail_journal(&mut self) {
        let round = std::mem::take(&mut self.round);
        self.reports.clear();
        if round.journalled {
            self.tell(Event::JournalFailed);
        } else {
            self.wanted = round.actions;
        }
    }

    pub(super) fn proceed(&mut self, phase: Phase) {
        if self.at == At::Stand(phase) {
            self.tell(Event::Proceed);
        }
    }

    pub(super) fn refresh(&mut self) {
        if self.at == At::Stand(Phase::Prepare) {
            self.tell(Event::Refresh);
        }
    }

    pub(super) fn abort(&mut self) {
        if !matches!(self.at, At::End(_)) {
            self.tell(Event::Abort);
        }
    }

    fn tell(&mut self, event: Event) {
        self.member.procedure().handle(event);
        if matches!(self.at, At::Stand(_)) {
            self.at = At::Moving;
        }
    }

    pub(super) fn end(&mut self, verdict: Verdict) {
        self.at = At::End(verdict);
        (self.entry, self.wanted, self.round) = (None, Vec::new(), Handed::default());
        self.reports.clear();
    }

    pub(super) fn waits(&self) -> bool {
        self.reports.values().any(Option::is_none)
    }

    pub(super) const fn wants_anything(&self) -> bool {
        self.entry.is_some() || !self.wanted.is_empty()
    }

    pub(super) fn is_moving(&self) -> bool {
        self.at == At::Moving
    }

    pub(super) const fn stands(&self) -> Option<Phase> {
        match self.at {
            At::Stand(phase) => Some(phase),
            _ => None,
        }
    }

    pub(super) const fn verdict(&self) -> Option<Verdict> {
        match self.at {
            At::End(verdict) => Some(verdict),
            _ => None,
        }
    }

    pub(super) const fn engine(&self) -> Option<&Engine> {
        match &self.member {
            Member::Engine(engine) => Some(engine),
            Member::Recovery(_) => None,
        }
    }

    pub(super) fn attentions_at(&self, owner: Side) -> Vec<AdditionalSense> {
        match &self.member {
            Member::Engine(engine) => engine.attentions_at(owner),
            Member::Recovery(recovery) => recovery.attentions_at(owner),
        }
    }

    /// It ended where the others should not go on.
    pub(super) const fn stays_behind(&self) -> bool {
        matches!(
            self.at,
            At::End(Verdict::KeptAtSource { .. } | Verdict::Refused(_) | Verdict::Lost | Verdict::InDoubt(_))
        )
    }

    pub(super) fn add_to(&self, digest: &mut Digest) {
        if let Member::Engine(engine) = &self.member {
            digest.traits(engine.traits());
        }
        match self.at {
            At::Moving => digest.byte(0),
            At::Stand(phase) => digest.phase(phase),
            At::End(verdict) => digest.verdict(&verdict),
        }
    }
}

const fn id(action: &Action) -> Option<CommandId> {
    match action {
        Action::Execute { id, .. } | Action::CloseSession { id, .. } | Action::OpenSession { id, .. } => {
            Some(*id)
        }
        Action::Journal(_) => None,
    }
}
