//! One round trip: commands that may run concurrently, with the journal entry that covers them.
//!
//! Every command absorbs unit attentions and BUSY, at most [`MAX_TRIES`] times, and a repeatable one also a lost
//! reply, so that the steps of the engine see only answers that mean something.

use super::attention::Attentions;
use super::order::{Name, Order, Speech};
use crate::action::{Action, CommandId, Outcome, Path, Step};
use crate::facts::FullStatusDigest;
use crate::journal::Entry;
use crate::settings::Settings;
use scsi::pr::{Capabilities, FullStatus, Key, ReadKeys, ReadReservation};
use scsi::{Completion, SenseKey, Status};

/// Unit attentions, BUSY and TASK SET FULL that one command absorbs.
pub(crate) const MAX_TRIES: u8 = 5;
/// Lost replies of a repeatable command that are absorbed.
const MAX_LOST: u8 = 3;

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// GOOD, without data of interest.
    Good,
    /// GOOD, REPORT CAPABILITIES.
    Capabilities(Capabilities),
    /// GOOD, READ RESERVATION.
    Reservation(ReadReservation),
    /// GOOD, READ KEYS.
    Keys(ReadKeys),
    /// GOOD, READ FULL STATUS: the guest's key and who has it, where the reply is of use.
    FullStatus(Option<(Key, FullStatusDigest)>),
    /// GOOD, other data.
    Data(Vec<u8>),
    /// RESERVATION CONFLICT.
    Conflict,
    /// Not executed, and a repetition would not be either.
    Rejected,
    /// Not executed: the nexus cannot be used, or the device server was never ready for it.
    NotSent,
    /// Executed or not.
    Unknown,
}

impl Answer {
    /// GOOD, whatever the data.
    pub(crate) const fn is_good(&self) -> bool {
        !matches!(self, Self::Conflict | Self::Rejected | Self::NotSent | Self::Unknown)
    }

    /// No device server answered.
    pub(crate) const fn is_lost(&self) -> bool {
        matches!(self, Self::NotSent | Self::Unknown)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Waiting,
    Sent,
    Ended(Answer),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Job {
    path: Path,
    order: Order,
    tries: u8,
    lost: u8,
    /// A lost reply may have been an execution.
    maybe: bool,
    state: State,
}

/// One round trip under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    entry: Option<Entry>,
    jobs: Vec<Job>,
    journal_failed: bool,
}

/// What a finished batch came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    jobs: Vec<(Path, Order, Answer)>,
    /// The journal entry could not be written; nothing was sent.
    pub(crate) journal_failed: bool,
}

impl Batch {
    pub(crate) fn new(orders: impl IntoIterator<Item = (Path, Order)>, entry: Option<Entry>) -> Self {
        let job = |(path, order)| Job { path, order, tries: 0, lost: 0, maybe: false, state: State::Waiting };
        Self { entry, jobs: orders.into_iter().map(job).collect(), journal_failed: false }
    }

    /// What the driver is to do; `None` when everything has ended.
    pub(crate) fn poll(&mut self, speech: &Speech<'_>) -> Option<Step> {
        if self.jobs.iter().any(|job| job.state == State::Sent) {
            return Some(Step::Wait);
        }
        let entry = self.entry.take().map(Action::Journal);
        let sent = self.jobs.iter_mut().enumerate().filter_map(|(index, job)| job.send(index, speech));
        let actions: Vec<Action> = entry.into_iter().chain(sent).collect();
        (!actions.is_empty()).then_some(Step::Run(actions))
    }

    /// Takes a report.
    pub(crate) fn complete(
        &mut self,
        id: CommandId,
        outcome: Outcome,
        settings: &Settings,
        key: Option<Key>,
        attentions: &mut Attentions,
    ) {
        let job = self.jobs.get_mut(usize::from(id.0));
        let Some(job) = job.filter(|job| job.state == State::Sent) else { return };
        match outcome {
            Outcome::Done(completion) => job.answered(&completion, settings, key, attentions),
            Outcome::NotSent => job.lost(false),
            Outcome::Unknown => job.lost(true),
        }
    }

    /// The REPORT CAPABILITIES reply, if it is there already.
    pub(crate) fn capabilities(&self) -> Option<Capabilities> {
        self.jobs.iter().find_map(|job| match &job.state {
            State::Ended(Answer::Capabilities(capabilities)) => Some(*capabilities),
            _ => None,
        })
    }

    /// The entry was not written: nothing of this batch was or will be sent.
    pub(crate) fn fail_journal(&mut self) {
        self.journal_failed = true;
        for job in &mut self.jobs {
            job.state = State::Ended(Answer::NotSent);
        }
    }

    /// Empties a finished batch.
    pub(crate) fn take(&mut self) -> Answers {
        let jobs = std::mem::take(&mut self.jobs).into_iter().map(|job| match job.state {
            State::Ended(answer) => (job.path, job.order, answer),
            State::Waiting | State::Sent => (job.path, job.order, Answer::Unknown),
        });
        Answers { jobs: jobs.collect(), journal_failed: std::mem::take(&mut self.journal_failed) }
    }

    /// Subtracts `by` from every PRGENERATION kept here.
    pub(crate) fn shift_generation(&mut self, by: u32) {
        if let Some(entry) = &mut self.entry {
            entry.shift_generation(by);
        }
        for job in &mut self.jobs {
            let generation = match &mut job.state {
                State::Ended(Answer::Keys(keys)) => &mut keys.generation,
                State::Ended(Answer::Reservation(held)) => &mut held.generation,
                State::Ended(Answer::FullStatus(Some((_, status)))) => &mut status.generation,
                _ => continue,
            };
            *generation = generation.wrapping_sub(by);
        }
    }
}

impl Job {
    fn send(&mut self, index: usize, speech: &Speech<'_>) -> Option<Action> {
        if self.state != State::Waiting {
            return None;
        }
        let id = CommandId(u8::try_from(index).ok()?);
        let path = self.path;
        let action = match self.order {
            Order::Close => Action::CloseSession { id, path },
            Order::Open => Action::OpenSession { id, path },
            order => {
                let Some(request) = order.request(speech) else {
                    self.state = State::Ended(Answer::Rejected);
                    return None;
                };
                Action::Execute { id, path, request }
            }
        };
        self.state = State::Sent;
        Some(action)
    }

    fn answered(
        &mut self,
        completion: &Completion,
        settings: &Settings,
        key: Option<Key>,
        attentions: &mut Attentions,
    ) {
        let told = Verbal::of(completion);
        if !matches!(told, Verbal::Attention(_)) {
            attentions.hear(self.path);
        }
        match told {
            Verbal::Good => self.good(&completion.data, settings, key, attentions),
            Verbal::Conflict => self.state = State::Ended(Answer::Conflict),
            Verbal::Rejected => self.state = State::Ended(Answer::Rejected),
            Verbal::Doubtful => self.lost(true),
            Verbal::Again => self.again(),
            Verbal::Attention(code) => {
                attentions.take(self.path, code);
                self.again();
            }
        }
        if self.order == Order::Capabilities && self.state == State::Ended(Answer::Rejected) {
            attentions.persistence_read(self.path, false);
        }
    }

    fn good(&mut self, data: &[u8], settings: &Settings, key: Option<Key>, attentions: &mut Attentions) {
        let answer = parse(self.order, data, settings, key);
        if let Answer::Capabilities(capabilities) = answer {
            attentions.persistence_read(self.path, capabilities.persist_active);
        }
        self.state = State::Ended(answer);
    }

    fn again(&mut self) {
        self.tries += 1;
        let end = if self.maybe { Answer::Unknown } else { Answer::NotSent };
        self.state = if self.tries > MAX_TRIES { State::Ended(end) } else { State::Waiting };
    }

    /// A command that was never executed may be sent again; one that perhaps was, only if that does no harm.
    fn lost(&mut self, maybe: bool) {
        self.lost += 1;
        self.maybe |= maybe;
        let retry = self.lost < MAX_LOST && (self.order.is_repeatable() || !self.maybe);
        let end = if self.maybe { Answer::Unknown } else { Answer::NotSent };
        self.state = if retry { State::Waiting } else { State::Ended(end) };
    }
}

/// What a completion says about the command.
enum Verbal {
    Good,
    Conflict,
    Attention(scsi::AdditionalSense),
    /// Not executed; it may be later.
    Again,
    /// Not executed.
    Rejected,
    /// Executed or not.
    Doubtful,
}

impl Verbal {
    fn of(completion: &Completion) -> Self {
        match completion.status {
            Status::GOOD => Self::Good,
            Status::RESERVATION_CONFLICT => Self::Conflict,
            Status::BUSY | Status::TASK_SET_FULL => Self::Again,
            Status::CHECK_CONDITION => Self::of_sense(completion),
            _ => Self::Doubtful,
        }
    }

    fn of_sense(completion: &Completion) -> Self {
        let Some(sense) = completion.decoded_sense().filter(|sense| !sense.deferred) else {
            return Self::Doubtful;
        };
        match sense.key {
            SenseKey::RECOVERED_ERROR => Self::Good,
            SenseKey::UNIT_ATTENTION => Self::Attention(sense.code),
            SenseKey::ILLEGAL_REQUEST | SenseKey::NOT_READY | SenseKey::DATA_PROTECT => Self::Rejected,
            _ => Self::Doubtful,
        }
    }
}

/// Data that cannot be read is a rejection: the device server has nothing to say.
fn parse(order: Order, data: &[u8], settings: &Settings, key: Option<Key>) -> Answer {
    let read = match order {
        Order::Keys => ReadKeys::parse(data).map(Answer::Keys),
        Order::Reservation => ReadReservation::parse(data).map(Answer::Reservation),
        Order::Capabilities => Capabilities::parse(data).map(Answer::Capabilities),
        Order::FullStatus => FullStatus::parse(data)
            .map(|status| Answer::FullStatus(FullStatusDigest::of(&status, key, settings))),
        Order::Inquiry | Order::Identification | Order::MoveSupport => Some(Answer::Data(data.to_vec())),
        _ => Some(Answer::Good),
    };
    read.unwrap_or(Answer::Rejected)
}

impl Answers {
    /// The commands that certainly advanced PRGENERATION, if unregistrations do (SPC-4 5.13.6).
    pub(crate) fn counted(&self, unregistrations: bool) -> u8 {
        let counts = |order: &Order| match order {
            Order::Register(_, Name::Nothing) => unregistrations,
            Order::Register(..) | Order::Preempt(..) | Order::PreemptAbort(..) | Order::Move => true,
            _ => false,
        };
        let jobs = self.jobs.iter().filter(|(_, order, answer)| answer.is_good() && counts(order));
        u8::try_from(jobs.count()).unwrap_or(u8::MAX)
    }

    /// Every command with its answer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Path, Order, Answer)> {
        self.jobs.iter()
    }

    /// The answer to the first command on `path` (there is one).
    pub(crate) fn on(&self, path: Path) -> &Answer {
        self.find(|at, _| at == path)
    }

    /// The answer to the first command of which `wanted` holds.
    pub(crate) fn find(&self, wanted: impl Fn(Path, Order) -> bool) -> &Answer {
        let found = self.jobs.iter().find(|(path, order, _)| wanted(*path, *order));
        found.map_or(&Answer::NotSent, |(_, _, answer)| answer)
    }

    /// The READ KEYS reply.
    pub(crate) fn keys(&self) -> Option<&ReadKeys> {
        self.jobs.iter().find_map(|(_, _, answer)| match answer {
            Answer::Keys(keys) => Some(keys),
            _ => None,
        })
    }

    /// The READ RESERVATION reply.
    pub(crate) fn reservation(&self) -> Option<ReadReservation> {
        self.jobs.iter().find_map(|(_, _, answer)| match answer {
            Answer::Reservation(held) => Some(*held),
            _ => None,
        })
    }

    /// The REPORT CAPABILITIES reply.
    pub(crate) fn capabilities(&self) -> Option<Capabilities> {
        self.jobs.iter().find_map(|(_, _, answer)| match answer {
            Answer::Capabilities(capabilities) => Some(*capabilities),
            _ => None,
        })
    }

    /// The READ FULL STATUS reply, where it is of use.
    pub(crate) fn full_status(&self) -> Option<(Key, FullStatusDigest)> {
        self.jobs.iter().find_map(|(_, _, answer)| match answer {
            Answer::FullStatus(status) => *status,
            _ => None,
        })
    }

    /// The READ FULL STATUS reply on `path`, where it is of use.
    pub(crate) fn full_status_on(&self, path: Path) -> Option<(Key, FullStatusDigest)> {
        match self.find(|at, order| at == path && order == Order::FullStatus) {
            Answer::FullStatus(status) => *status,
            _ => None,
        }
    }

    /// The paths whose answer to `order` satisfies `wanted`, as a bit mask.
    pub(crate) fn mask_of(&self, order: Order, wanted: impl Fn(&Answer) -> bool) -> u8 {
        let jobs = self.jobs.iter().filter(|(_, sent, answer)| *sent == order && wanted(answer));
        jobs.fold(0, |mask, (path, _, _)| mask | bit(path.index))
    }

    /// The paths of `side` whose answer satisfies `wanted`, as a bit mask.
    pub(crate) fn mask(&self, side: crate::action::Side, wanted: impl Fn(&Answer) -> bool) -> u8 {
        let jobs = self.jobs.iter().filter(|(path, _, answer)| path.side == side && wanted(answer));
        jobs.fold(0, |mask, (path, _, _)| mask | bit(path.index))
    }
}

/// The bit of path `index`.
pub(crate) const fn bit(index: u8) -> u8 {
    1 << (index & 7)
}

#[cfg(test)]
mod tests;
