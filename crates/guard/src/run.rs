//! One command on one nexus, with its record: reconciling, intent, execution, observation, commit (the module's flow).

use crate::Identity;
use crate::book::Book;
use crate::complaint::Complaints;
use crate::evidence::Contradiction;
use crate::failure;
use crate::guard::Confirm;
use crate::order::{self, Order};
use crate::question::{Answer, Questions};
use handover::{Tracked, Tracker};
use ledger::{Change, Intended, PathRecord, Record, State};
use nexus::{Nexus, TransportError};
use scsi::pr::{Key, OutAction, ReservationType};
use scsi::{Completion, Request, Status};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EXCHANGED: &str = "the device could not be confirmed to be the same logical unit as before";

/// A command that did not reach the device.
#[derive(Debug)]
pub struct Refused {
    /// What the guest is answered.
    pub completion: Completion,
    /// Why, in words.
    pub why: String,
}

impl Refused {
    /// With an answer for the guest, and a reason for everybody else.
    #[must_use]
    pub fn new(completion: Completion, why: impl Into<String>) -> Self {
        Self { completion, why: why.into() }
    }
}

/// What this process knows of one nexus.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) tracker: Tracker,
    /// The device was asked, and the record says what it said.
    settled: bool,
    /// Unit attentions that are owed and could not be recorded, oldest first.
    unrecorded: VecDeque<Vec<u8>>,
    /// Of those that are recorded as owed, so many were given without that being recorded.
    given: usize,
    /// When the latest command of the agent came that had its turn.
    latest: Option<Instant>,
    /// When a conflict was last a reason to ask.
    suspected: Option<Instant>,
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The device rejected it, or never got it.
    None,
    /// Nobody knows.
    Maybe,
    /// GOOD.
    Done,
}

impl Known {
    /// Whether a command of the agent that came at `begun` has its turn only after one that came later.
    pub(crate) fn is_overtaken(&mut self, begun: Instant) -> bool {
        let latest = self.latest.max(Some(begun));
        std::mem::replace(&mut self.latest, latest) > Some(begun)
    }

    /// Whether a conflict is a reason to ask, which it is once in a while.
    pub(crate) fn suspects_again(&mut self, pause: Duration) -> bool {
        let now = Instant::now();
        let due = self.suspected.is_none_or(|before| now.saturating_duration_since(before) >= pause);
        if due {
            self.suspected = Some(now);
        }
        due
    }

    /// Somebody else changes what this nexus has: the device must be asked.
    pub(crate) const fn unsettle(&mut self) {
        self.tracker.doubt();
        self.settled = false;
    }
}

/// One command.
pub(crate) struct Run<'a> {
    pub(crate) confirm: Confirm<'a>,
    pub(crate) book: &'a dyn Book,
    pub(crate) complaints: &'a Complaints,
    pub(crate) identity: &'a Identity,
    pub(crate) record: Arc<Record>,
    pub(crate) known: &'a mut Known,
    pub(crate) nexus: &'a mut dyn Nexus,
    /// The device is the one it was taken for.
    pub(crate) confirmed: bool,
}

impl Run<'_> {
    /// A PERSISTENT RESERVE OUT of the guest, whose logical unit is neither moved nor being handed over.
    pub(crate) fn out(&mut self, order: &Order) -> Result<Completion, Refused> {
        self.settle()
            .map_err(|ended| Refused::new(ended, "the device could not be asked what the guest has"))?;
        if let Some(sense) = self.give_attention() {
            return Ok(sense);
        }
        let changes = order.may_change(self.known.tracker.state());
        if changes {
            self.confirm().map_err(|ended| Refused::new(ended, EXCHANGED))?;
            self.intend(order)?;
        }
        let request = order.request();
        let result = self.nexus.execute(&request);
        let effect = self.observe(order, &request, &result);
        if result.as_ref().is_ok_and(|ended| self.is_suspicious(order, ended)) {
            self.suspect();
        }
        self.conclude(&order.intended, effect, changes);
        Ok(result.unwrap_or_else(|error| failure::answer(&error)))
    }

    /// Own questions took it; the guest gets it once, and nothing is sent.
    pub(crate) fn give_attention(&mut self) -> Option<Completion> {
        let recorded = self.path().and_then(|path| path.owed.get(self.known.given)).cloned();
        let sense = match recorded {
            Some(sense) => {
                self.known.given += 1;
                self.note_given();
                sense
            }
            None => self.known.unrecorded.pop_front()?,
        };
        Some(Completion { status: Status::CHECK_CONDITION, sense, data: Vec::new() })
    }

    /// If this fails an attention may be given again after a restart: better than never.
    fn note_given(&mut self) {
        let given = Change::Owed { path: self.identity.path.clone(), sense: None };
        if self.append(vec![given; self.known.given]).is_ok() {
            self.known.given = 0;
        }
    }

    fn path(&self) -> Option<&PathRecord> {
        self.record.path(&self.identity.path)
    }

    /// What the nexus had when that was last recorded.
    fn recorded(&self) -> Option<Tracked> {
        self.path().map(|path| path.tracked)
    }

    /// Makes record and device agree before the first command of this process, and after anything went wrong.
    pub(crate) fn settle(&mut self) -> Result<(), Completion> {
        let intent = self.path().and_then(|path| path.intent);
        let doubtful = intent.is_some() || self.record.found == State::Unverified;
        let agree = |recorded| self.known.settled && self.known.tracker.state() == Some(recorded);
        if !doubtful && self.recorded().is_none_or(agree) {
            return Ok(());
        }
        let effect = if intent.is_some() { Effect::Maybe } else { Effect::None };
        self.confirm()?;
        let sure = !doubtful && self.known.settled;
        let answer = self.ask(intent.as_ref(), sure)?;
        let record = |always| self.commit(&answer, intent.as_ref(), effect, always);
        // PRGENERATION is worth recording, but not worth refusing commands where nothing can be recorded.
        let recorded = record(true).or_else(|error| if doubtful { Err(error) } else { record(false) });
        let recorded = recorded.and_then(|()| self.reread());
        self.known.settled = recorded.is_ok();
        recorded.map_err(|error| {
            self.complain(format_args!("what the device says cannot be recorded: {error}"));
            failure::not_recorded()
        })
    }

    /// Another logical unit behind the same device has a record, a policy and perhaps a handover of its own: the guest tries
    /// again, and by then the device is known for what it is.
    fn confirm(&mut self) -> Result<(), Completion> {
        if !self.confirmed {
            self.confirmed = (self.confirm)(self.identity, &mut *self.nexus)?;
        }
        if self.confirmed { Ok(()) } else { Err(Completion::status(Status::BUSY)) }
    }

    fn reread(&mut self) -> Result<(), ledger::Error> {
        if let Some(record) = self.book.read(&self.identity.lun)? {
            self.record = record;
        }
        Ok(())
    }

    /// `sure`: what the tracker does not doubt need not be asked.
    fn ask(&mut self, under_way: Option<&Intended>, sure: bool) -> Result<Answer, Completion> {
        let recorded = self.recorded().unwrap_or_default();
        let last = self.known.tracker.last();
        let mut candidates = order::candidates(recorded, under_way);
        let others = last.key.filter(|key| candidates.iter().all(|(known, _)| known != key));
        candidates.extend(others.map(|key| (key, last.aptpl)));
        let ordered = under_way.filter(|order| !order.action.is_register()).map(|order| order.kind);
        let claims = [recorded.held, last.held, ordered].into_iter().flatten().collect();
        let registered = Some(self.known.tracker).filter(|tracker| sure && !tracker.wants().registration);
        let answer = self.question(|questions| {
            (questions.registered, questions.candidates, questions.claims) = (registered, candidates, claims);
            questions.ask()
        });
        answer.inspect(|answer| self.known.tracker = answer.tracker)
    }

    /// Asks, and keeps the unit attentions that it took.
    fn question<T>(&mut self, ask: impl FnOnce(&mut Questions<'_>) -> T) -> T {
        let recorded = self.recorded().unwrap_or_default();
        let mut questions = Questions::new(&mut *self.nexus, &self.identity.port, recorded);
        let answer = ask(&mut questions);
        let taken = questions.taken;
        // What is not recorded is not forgotten.
        let _ = self.owe(taken);
        answer
    }

    /// What the guest was told does not fit the record.
    pub(crate) fn doubt(&mut self, contradiction: Option<Contradiction>) {
        match contradiction {
            None => {}
            Some(Contradiction::Registration) => self.known.tracker.doubt(),
            Some(Contradiction::Reservation) => {
                self.known.tracker.doubt_reservation();
                self.suspect();
            }
        }
    }

    /// A conflict, or a reply, that can be explained, and that a nexus which was fenced would get too: the key tells,
    /// if it is gone. An attention that the question took tells as well.
    fn suspect(&mut self) {
        let Some(key) = self.known.tracker.last().key else { return };
        let asked = self.question(|questions| {
            let listed = questions.may_be_registered(key);
            (listed, questions.taken.is_empty())
        });
        if !matches!(asked, (Ok(true), true)) {
            self.known.tracker.doubt();
        }
    }

    /// Each is owed once, however often the device told it. What cannot be recorded is kept in memory.
    pub(crate) fn owe(&mut self, taken: Vec<Vec<u8>>) -> Result<(), ledger::Error> {
        let pending = self.path().into_iter().flat_map(|path| path.owed.iter().skip(self.known.given));
        let mut pending: Vec<Vec<u8>> = pending.chain(&self.known.unrecorded).cloned().collect();
        let mut news = Vec::new();
        for sense in taken {
            if pending.len() < ledger::MOST_OWED && !pending.contains(&sense) {
                pending.push(sense.clone());
                news.push(sense);
            }
        }
        let path = &self.identity.path;
        let owed = |sense: &Vec<u8>| Change::Owed { path: path.clone(), sense: Some(sense.clone()) };
        let changes: Vec<_> = news.iter().map(owed).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let recorded = self.append(changes).and_then(|()| self.reread());
        if recorded.is_err() {
            self.known.unrecorded.extend(news);
        }
        recorded
    }

    fn intend(&self, order: &Order) -> Result<(), Refused> {
        let Identity { path, node, .. } = self.identity;
        let seen = self.path().is_none_or(|known| known.node != *node);
        let seen = seen.then(|| Change::Seen { path: path.clone(), node: node.clone() });
        let intent = Change::Intent { path: path.clone(), intended: order.intended };
        let changes = seen.into_iter().chain([intent]).collect();
        self.append(changes).map_err(|error| {
            let why = format!("the ledger cannot be written: {error}");
            self.complain(format_args!("{} was refused: {why}", order.cdb.action));
            Refused::new(failure::not_recorded(), why)
        })
    }

    /// Learns from the result.
    fn observe(
        &mut self,
        order: &Order,
        request: &Request,
        result: &Result<Completion, TransportError>,
    ) -> Effect {
        match result {
            Ok(ended) => {
                if ended.status.is_good() {
                    self.prove(order);
                }
                self.known.tracker.observe(request, ended);
                if ended.status.is_good() { Effect::Done } else { Effect::None }
            }
            Err(TransportError::NotSent(_)) => Effect::None,
            Err(TransportError::OutcomeUnknown(_)) => {
                self.known.tracker.doubt();
                Effect::Maybe
            }
        }
    }

    /// A conflict with the right key that others explain as well: somebody else's reservation, a key that nobody has.
    fn is_suspicious(&self, order: &Order, ended: &Completion) -> bool {
        let known = self.known.tracker.state().and_then(|tracked| tracked.key);
        ended.status == Status::RESERVATION_CONFLICT && known == Some(order.intended.reservation_key)
    }

    /// What GOOD says beyond the tracker's own reading: the key it proves, if the guest registered it before anything was
    /// recorded, and that REGISTER AND IGNORE EXISTING KEY succeeds for a nexus that lost everything too.
    fn prove(&mut self, order: &Order) {
        let tracker = &mut self.known.tracker;
        if order.cdb.action == OutAction::REGISTER_AND_IGNORE {
            tracker.doubt();
        }
        match (order.proven_key(), tracker.last().key) {
            (Some(proven), None) => {
                *tracker = Tracker::recorded(Tracked { key: Some(proven), ..tracker.last() });
                tracker.learn_probe(true);
            }
            (Some(proven), Some(known)) if proven != known => tracker.doubt(),
            _ => {}
        }
    }

    /// Asks where the tracker wants, and makes the result durable. Whatever fails here leaves the intent open and the
    /// nexus unsettled: the device has answered, and so is the guest.
    fn conclude(&mut self, order: &Intended, effect: Effect, changes: bool) {
        if effect == Effect::Done && order::removes_others(order) {
            // What was under way on the guest's other nexuses when this began is not what is under way now.
            let _ = self.reread();
        }
        let answer = match self.known.tracker.state() {
            Some(_) => Ok(Answer::known(self.known.tracker)),
            None => self.ask((effect != Effect::None).then_some(order), true),
        };
        let committed = match answer {
            Ok(answer) => self.commit(&answer, Some(order), effect, changes),
            Err(_) => return self.leave_unverified(),
        };
        self.known.settled = committed.is_ok();
        if let Err(error) = committed {
            let what = "a command was carried out and its result cannot be recorded";
            self.complain(format_args!(
                "{what}; until it is, nothing that changes reservations passes: {error}"
            ));
        }
    }

    /// A record that says fenced or lost goes on saying so; the intent, if there was one, stays open in any case.
    fn leave_unverified(&mut self) {
        self.known.settled = false;
        let why = "the device could not be asked after a command";
        self.complain(why);
        if self.record.found == State::Active {
            let why = Some(why.to_owned());
            let _ = self.append(vec![Change::State { state: State::Unverified, handover: None, why }]);
        }
    }

    /// Records what the nexus has now, if that is news or an intent is to be ended (`always`).
    fn commit(
        &self,
        answer: &Answer,
        order: Option<&Intended>,
        effect: Effect,
        always: bool,
    ) -> Result<(), ledger::Error> {
        let tracked = answer.tracker.last();
        let before = self.recorded().unwrap_or_default();
        let explained = order.filter(|_| effect != Effect::None);
        // GOOD, or the own key gone: then the command was carried out, and others of the guest's keys went with it.
        let went = before
            .key
            .is_some_and(|key| tracked.key.is_none() && order.is_some_and(|by| order::removes(by, key)));
        let done = effect == Effect::Done || effect == Effect::Maybe && went;
        let others = order.filter(|_| done).map(|by| self.others_removed(by));
        let state = self.state_after(tracked, answer, explained);
        let kind = self.reservation_after(before, tracked, answer, order.filter(|_| done));
        if !always && before == tracked && state.is_none() && kind.is_none() {
            return Ok(());
        }
        let path = self.identity.path.clone();
        let commit = Change::Commit { path, tracked, generation: answer.generation };
        self.append(
            [commit].into_iter().chain(others.into_iter().flatten()).chain(state).chain(kind).collect(),
        )
    }

    /// The guest's registrations through other nexuses that its own command removed: nobody fenced them. One with a
    /// command of its own under way is left to that.
    fn others_removed(&self, by: &Intended) -> Vec<Change> {
        let is_other = |path: &&PathRecord| path.path != self.identity.path && path.intent.is_none();
        let goes = |path: &&PathRecord| path.tracked.key.is_some_and(|key| order::removes(by, key));
        let gone = |path: &PathRecord| Change::Commit {
            path: path.path.clone(),
            tracked: Tracked { aptpl: path.tracked.aptpl, ..Tracked::default() },
            generation: None,
        };
        self.record.paths.iter().filter(is_other).filter(goes).map(gone).collect()
    }

    /// The type of the reservation, if it is news: as it was read, or as far as the nexus's own part tells.
    fn reservation_after(
        &self,
        before: Tracked,
        now: Tracked,
        answer: &Answer,
        done: Option<&Intended>,
    ) -> Option<Change> {
        let single = before.held.is_some_and(|kind: ReservationType| !kind.is_all_registrants());
        let released = done.is_some_and(|by| match by.action {
            OutAction::CLEAR => true,
            OutAction::RELEASE => before.held == Some(by.kind),
            _ => false,
        });
        let ended = now.held.is_none() && (single || released);
        let own = now.held.map(Some).or(ended.then_some(None));
        let kind = answer.reservation.or(own)?;
        (kind != self.record.reservation).then_some(Change::Reservation { kind })
    }

    /// The new state, if it is one. Gone without an own command that explains it: somebody removed the registration, or the
    /// target lost them all. From there only a REGISTER of the guest leads back.
    fn state_after(&self, now: Tracked, answer: &Answer, explained: Option<&Intended>) -> Option<Change> {
        let gone = self.recorded().and_then(|before| before.key).filter(|_| now.key.is_none());
        let explains = |key: &Key| explained.is_some_and(|by| order::explains_loss(by, *key));
        let fell = answer.generation.zip(self.record.generation).is_some_and(|(now, then)| now < then);
        let registers = now.key.is_some() && explained.is_some_and(order::registers);
        let state = match self.record.found {
            _ if gone.is_some_and(|key| !explains(&key)) && answer.nobody && fell => State::Lost,
            _ if gone.is_some_and(|key| !explains(&key)) => State::Fenced,
            kept @ (State::Fenced | State::Lost) if !registers => kept,
            _ => State::Active,
        };
        let why = match state {
            State::Lost => Some("the target has no registrations left".to_owned()),
            State::Fenced => Some("the registration was removed by another nexus".to_owned()),
            _ => None,
        };
        (state != self.record.found).then_some(Change::State { state, handover: None, why })
    }

    fn append(&self, changes: Vec<Change>) -> Result<(), ledger::Error> {
        let lun = &self.identity.lun;
        let changes: Vec<_> = changes.into_iter().map(|change| (lun.clone(), change)).collect();
        self.book.append(&changes)
    }

    fn complain(&self, what: impl std::fmt::Display) {
        self.complaints.say(Some(&self.identity.lun), what);
    }
}
