//! One command on one nexus, with its record: reconciling, intent, execution, observation, commit (the module's flow).

use super::book::Book;
use super::order::{self, Order};
use super::question::{Answer, Questions};
use crate::failure;
use crate::opening::Identity;
use handover::{Tracked, Tracker};
use ledger::{Change, Intended, Record, State};
use nexus::{Nexus, TransportError};
use scsi::pr::OutAction;
use scsi::{Completion, Request, Status};
use std::collections::VecDeque;
use std::sync::Arc;

/// A command that did not reach the device.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) completion: Completion,
    pub(super) why: String,
}

impl Refused {
    pub(super) fn new(completion: Completion, why: impl Into<String>) -> Self {
        Self { completion, why: why.into() }
    }
}

/// What this process knows of one nexus.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) tracker: Tracker,
    /// Unit attentions that own commands took, oldest first.
    pub(super) owed: VecDeque<Vec<u8>>,
    /// `owed` was read from the record.
    pub(super) loaded: bool,
    /// The device was asked, and the record says what it said.
    pub(super) settled: bool,
}

/// One command.
pub(super) struct Run<'a> {
    pub(super) book: &'a dyn Book,
    pub(super) identity: &'a Identity,
    pub(super) record: Arc<Record>,
    pub(super) known: &'a mut Known,
    pub(super) nexus: &'a mut dyn Nexus,
}

impl Run<'_> {
    /// A PERSISTENT RESERVE OUT of the guest, whose logical unit is neither moved nor being handed over.
    pub(super) fn out(&mut self, order: &Order) -> Result<Completion, Refused> {
        self.load();
        self.settle()
            .map_err(|ended| Refused::new(ended, "the device could not be asked what the guest has"))?;
        if let Some(sense) = self.give_attention() {
            return Ok(sense);
        }
        let changes = order.may_change(self.known.tracker.state());
        if changes {
            self.intend(order)?;
        }
        let request = order.request();
        let result = self.nexus.execute(&request);
        let explained = self.observe(order, &request, &result).then_some(&order.intended);
        self.conclude(explained, changes);
        Ok(result.unwrap_or_else(|error| failure::answer(&error)))
    }

    /// What the record holds for the guest, once per process.
    pub(super) fn load(&mut self) {
        if self.known.loaded {
            return;
        }
        self.known.loaded = true;
        if let Some(path) = self.record.path(&self.identity.path) {
            self.known.owed = path.owed.iter().cloned().collect();
        }
    }

    /// Own questions took it; the guest gets it once, and nothing is sent.
    pub(super) fn give_attention(&mut self) -> Option<Completion> {
        let sense = self.known.owed.pop_front()?;
        // If this fails it may be given again after a restart: better than never.
        let _ = self.append(vec![Change::Owed { path: self.identity.path.clone(), sense: None }]);
        Some(Completion { status: Status::CHECK_CONDITION, sense, data: Vec::new() })
    }

    fn recorded(&self) -> Option<Tracked> {
        self.record.path(&self.identity.path).map(|path| path.tracked)
    }

    fn intent(&self) -> Option<Intended> {
        self.record.path(&self.identity.path).and_then(|path| path.intent)
    }

    /// Makes record and device agree before the first command of this process, and after anything went wrong.
    pub(super) fn settle(&mut self) -> Result<(), Completion> {
        let intent = self.intent();
        let doubtful = intent.is_some() || self.record.state == State::Unverified;
        let recorded = self.recorded();
        let agree = |recorded| self.known.settled && self.known.tracker.state() == Some(recorded);
        if !doubtful && recorded.is_none_or(agree) {
            return Ok(());
        }
        let answer = self.ask(intent.as_ref(), None)?;
        let recorded = self.commit(&answer, intent.as_ref(), true).and_then(|()| self.reread());
        self.known.settled = recorded.is_ok();
        recorded.map_err(|_| failure::not_recorded())
    }

    fn reread(&mut self) -> Result<(), ledger::Error> {
        if let Some(record) = self.book.read(&self.identity.lun)? {
            self.record = record;
        }
        Ok(())
    }

    fn ask(
        &mut self,
        under_way: Option<&Intended>,
        registered: Option<Tracker>,
    ) -> Result<Answer, Completion> {
        let recorded = Tracked { ..self.recorded().unwrap_or_default() };
        let mut candidates = order::candidates(recorded, under_way);
        let last = self.known.tracker.last();
        candidates
            .extend(last.key.map(|key| (key, last.aptpl)).filter(|(key, _)| !known_key(&candidates, *key)));
        let port = &self.identity.port;
        let mut questions =
            Questions { nexus: &mut *self.nexus, port, recorded, registered, candidates, taken: Vec::new() };
        let answer = questions.ask();
        let taken = questions.taken;
        self.owe(taken);
        answer.inspect(|answer| self.known.tracker = answer.tracker)
    }

    fn owe(&mut self, taken: Vec<Vec<u8>>) {
        for sense in taken {
            let full = self.known.owed.len() >= ledger::MOST_OWED;
            if full || self.known.owed.contains(&sense) {
                continue;
            }
            self.known.owed.push_back(sense.clone());
            // It is remembered here in any case.
            let _ = self.append(vec![Change::Owed { path: self.identity.path.clone(), sense: Some(sense) }]);
        }
    }

    fn intend(&mut self, order: &Order) -> Result<(), Refused> {
        let Identity { path, node, .. } = self.identity;
        let seen = self.record.path(path).is_none_or(|known| known.node != *node);
        let seen = seen.then(|| Change::Seen { path: path.clone(), node: node.clone() });
        let intent = Change::Intent { path: path.clone(), intended: order.intended };
        let changes = seen.into_iter().chain([intent]).collect();
        self.append(changes).map_err(|error| {
            Refused::new(failure::not_recorded(), format!("the ledger cannot be written: {error}"))
        })
    }

    /// Learns from the result; whether the command was, or may have been, carried out.
    fn observe(
        &mut self,
        order: &Order,
        request: &Request,
        result: &Result<Completion, TransportError>,
    ) -> bool {
        match result {
            Ok(ended) => {
                if ended.status.is_good() {
                    self.prove(order);
                }
                self.known.tracker.observe(request, ended);
                ended.status.is_good()
            }
            Err(TransportError::NotSent(_)) => false,
            Err(TransportError::OutcomeUnknown(_)) => {
                self.known.tracker.doubt();
                true
            }
        }
    }

    /// What GOOD says beyond the tracker's own reading: the key it proves, if an earlier owner registered it, and that
    /// REGISTER AND IGNORE EXISTING KEY succeeds for a nexus that lost everything too.
    fn prove(&mut self, order: &Order) {
        let tracker = &mut self.known.tracker;
        if order.cdb.action == OutAction::REGISTER_AND_IGNORE {
            tracker.doubt();
        }
        if let Some(key) = order.proven_key().filter(|key| tracker.last().key != Some(*key)) {
            *tracker = Tracker::recorded(Tracked { key: Some(key), ..tracker.last() });
            tracker.learn_probe(true);
        }
    }

    /// Asks where the tracker wants, and makes the result durable. Whatever fails here leaves the intent open and the
    /// nexus unsettled: the device has answered, and so is the guest.
    fn conclude(&mut self, explained: Option<&Intended>, changes: bool) {
        let committed = match self.known.tracker.state() {
            Some(_) => {
                let answer = Answer { tracker: self.known.tracker, generation: None, nobody: false };
                self.commit(&answer, explained, changes).is_ok()
            }
            None => self.learn(explained, changes),
        };
        self.known.settled = committed;
    }

    fn learn(&mut self, explained: Option<&Intended>, changes: bool) -> bool {
        let registered = Some(self.known.tracker).filter(|tracker| !tracker.wants().registration);
        match self.ask(explained, registered) {
            Ok(answer) => self.commit(&answer, explained, changes).is_ok(),
            Err(_) => {
                let why = Some("the device could not be asked after a command".to_owned());
                let state = Change::State { state: State::Unverified, handover: self.record.handover, why };
                // The intent, if there was one, stays open and says the same.
                let _ = self.append(vec![state]);
                false
            }
        }
    }

    /// Records what the nexus has now, if that is news or an intent is to be ended (`always`).
    fn commit(
        &mut self,
        answer: &Answer,
        explained: Option<&Intended>,
        always: bool,
    ) -> Result<(), ledger::Error> {
        let tracked = answer.tracker.last();
        let before = self.recorded();
        let (state, why) = self.state_after(tracked, answer, explained);
        let moved = state != self.record.state;
        if !always && !moved && before.unwrap_or_default() == tracked {
            return Ok(());
        }
        let path = self.identity.path.clone();
        let commit = Change::Commit { path, tracked, generation: answer.generation };
        let state = Change::State { state, handover: self.record.handover, why };
        self.append([commit].into_iter().chain(moved.then_some(state)).collect())
    }

    /// Gone without an own command that explains it: somebody removed the registration, or the target lost them all.
    fn state_after(
        &self,
        now: Tracked,
        answer: &Answer,
        explained: Option<&Intended>,
    ) -> (State, Option<String>) {
        let before = self.recorded().unwrap_or_default();
        let gone = before.key.filter(|_| now.key.is_none());
        let unexplained = gone.filter(|key| !explained.is_some_and(|by| order::explains_loss(by, *key)));
        if unexplained.is_some() {
            let fell = answer.generation.zip(self.record.generation).is_some_and(|(now, then)| now < then);
            return if answer.nobody && fell {
                (State::Lost, Some("the target has no registrations left".to_owned()))
            } else {
                (State::Fenced, Some("the registration was removed by another nexus".to_owned()))
            };
        }
        match self.record.state {
            State::Fenced | State::Lost if now.key.is_none() => {
                (self.record.state, self.record.doubt.clone())
            }
            _ => (State::Active, None),
        }
    }

    fn append(&self, changes: Vec<Change>) -> Result<(), ledger::Error> {
        let lun = &self.identity.lun;
        let changes: Vec<_> = changes.into_iter().map(|change| (lun.clone(), change)).collect();
        self.book.append(&changes)
    }
}

fn known_key(candidates: &[(scsi::pr::Key, bool)], key: scsi::pr::Key) -> bool {
    candidates.iter().any(|(known, _)| *known == key)
}
