//! The follower: answers one order after the other. It begins nothing by itself, and after a refusal nothing at all.

use super::message::{Ask, Decision, Done, Order, Reply, Report};
use super::{Hands, Journal, Patience, part};
use handover::{Group, GroupStep, Phase, Round, Side};
use std::time::Instant;

/// Why an order is refused. Nothing was sent because of it, and nothing will be from now on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Replayed, or out of order.
    #[error("round {got} came where {expected} was due")]
    OutOfOrder {
        /// The round that was due.
        expected: u64,
        /// The round that came.
        got: u64,
    },
    /// The two hosts would not do the same.
    #[error(
        "the two hosts would not do the same in round {0}: the programs differ, or one of them was told something else"
    )]
    Disagree(u64),
    /// The order does not belong where the handover stands.
    #[error("it does not belong there: {0}")]
    Misplaced(&'static str),
    /// The peer said so.
    #[error("{desc}")]
    Told {
        /// What kind of refusal, one word.
        class: String,
        /// Why.
        desc: String,
    },
    /// An earlier order was refused.
    #[error("this handover has been stopped")]
    Stopped,
}

const UNFINISHED: &str = "the round under way has not been brought to its end";

/// The round under way.
#[derive(Debug)]
struct Pending {
    round: Round,
    progress: Progress,
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Journalled,
    JournalFailed,
    /// Its own part is done; the leader's reports are due.
    Done,
}

/// A replica that does as it is told.
#[derive(Debug)]
pub struct Follower<H, J> {
    group: Group,
    side: Side,
    hands: H,
    journal: J,
    patience: Patience,
    pending: Option<Pending>,
    stopped: bool,
    wants_out: bool,
}

impl<H: Hands, J: Journal> Follower<H, J> {
    /// The follower of `group`, with the nexuses of `side`.
    pub const fn new(group: Group, side: Side, hands: H, journal: J, patience: Patience) -> Self {
        let (pending, stopped, wants_out) = (None, false, false);
        Self { group, side, hands, journal, patience, pending, stopped, wants_out }
    }

    /// The replica, for its plan and its verdicts.
    pub const fn group(&self) -> &Group {
        &self.group
    }

    /// The phase at the end of which it stands.
    pub fn phase(&self) -> Option<Phase> {
        self.group.phase()
    }

    /// This host cannot take the guest any more; the next reply says so.
    pub const fn want_out(&mut self) {
        self.wants_out = true;
    }

    /// Hands and journal, for what follows.
    pub fn into_parts(self) -> (Group, H, J) {
        (self.group, self.hands, self.journal)
    }

    /// Does what the leader orders.
    ///
    /// # Errors
    /// [`Refusal`]: the handover is stopped on this host, for recovery.
    pub fn handle(&mut self, order: &Order) -> Result<Reply, Refusal> {
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        let done = self.obey(order);
        if done.is_err() {
            self.stopped = true;
            self.group.stop();
        }
        Ok(Reply { round: order.round, done: done?, wants_out: self.wants_out })
    }

    fn obey(&mut self, order: &Order) -> Result<Done, Refusal> {
        self.check_round(order)?;
        self.hear(order).map_err(Refusal::Misplaced)?;
        let agreed = |digest: u64| {
            if digest == order.digest { Ok(()) } else { Err(Refusal::Disagree(order.round)) }
        };
        if let Some(Pending { round, progress }) = self.pending.take() {
            agreed(round.digest)?;
            if order.ask != Ask::Round || progress != Progress::Journalled {
                return Err(Refusal::Misplaced(UNFINISHED));
            }
            return Ok(self.carry_out(round));
        }
        let step = self.group.poll();
        agreed(self.group.digest())?;
        self.take_step(step, order.ask).map_err(Refusal::Misplaced)
    }

    fn check_round(&self, order: &Order) -> Result<(), Refusal> {
        let failed = order.decisions.contains(&Decision::JournalFailed);
        let same = match order.ask {
            Ask::Stand => true,
            Ask::Round => !failed && self.is_journalled(),
            Ask::Journal => false,
        };
        let expected = self.group.rounds() + u64::from(!same);
        if order.round == expected {
            return Ok(());
        }
        Err(Refusal::OutOfOrder { expected, got: order.round })
    }

    /// The entries of the round under way are durable here, and its commands have not been asked for.
    fn is_journalled(&self) -> bool {
        let waits =
            |pending: &Pending| pending.progress == Progress::Journalled && !pending.round.actions.is_empty();
        self.pending.as_ref().is_some_and(waits)
    }

    fn take_step(&mut self, step: GroupStep, ask: Ask) -> Result<Done, &'static str> {
        match (step, ask) {
            (GroupStep::Run(round), Ask::Journal) if !round.journal.is_empty() => Ok(self.write(round)),
            (GroupStep::Run(round), Ask::Round) if round.journal.is_empty() => Ok(self.carry_out(round)),
            (GroupStep::Run(_), Ask::Round) => Err("its entries are not durable yet"),
            (GroupStep::PhaseDone(_) | GroupStep::Finished(_), Ask::Stand) => Ok(Done::Standing),
            _ => Err("the handover stands elsewhere"),
        }
    }

    fn hear(&mut self, order: &Order) -> Result<(), &'static str> {
        let failed = order.decisions.first() == Some(&Decision::JournalFailed);
        let ended = |pending: &mut Pending| match failed {
            true => pending.progress != Progress::Done,
            false => pending.is_over(),
        };
        match self.pending.take_if(ended) {
            Some(_) if failed && order.reports.is_empty() => self.group.journal_failed(),
            Some(Pending { round, .. }) if !failed => self.hear_reports(&round, &order.reports)?,
            None if !failed && order.reports.is_empty() => {}
            _ => return Err("there is nothing of which it could tell"),
        }
        order.decisions.iter().skip(usize::from(failed)).try_for_each(|decision| self.decide(*decision))
    }

    fn hear_reports(&mut self, round: &Round, reports: &[Report]) -> Result<(), &'static str> {
        let theirs = self.side.other();
        if !part::are_complete(reports, &part::of(round, theirs)) {
            return Err("these are not the reports of the leader's part");
        }
        part::tell(&mut self.group, theirs, reports);
        Ok(())
    }

    fn decide(&mut self, decision: Decision) -> Result<(), &'static str> {
        if self.pending.is_some() {
            return Err(UNFINISHED);
        }
        if decision == Decision::Abort {
            self.group.abort();
            return Ok(());
        }
        match (self.group.poll(), decision) {
            (GroupStep::PhaseDone(Phase::Prepare), Decision::Refresh) => self.group.refresh(),
            (GroupStep::PhaseDone(_), Decision::Proceed) => self.group.proceed(),
            _ => return Err("no such phase is over"),
        }
        Ok(())
    }

    fn write(&mut self, round: Round) -> Done {
        let written = self.journal.append(round.number, &round.journal);
        let (progress, done) = match written {
            Ok(()) => (Progress::Journalled, Done::Journalled),
            Err(_) => (Progress::JournalFailed, Done::JournalFailed),
        };
        self.pending = Some(Pending { round, progress });
        done
    }

    fn carry_out(&mut self, round: Round) -> Done {
        let own = part::of(&round, self.side);
        let reports = if own.is_empty() {
            Vec::new()
        } else {
            let told = self.hands.carry_out(&own, Instant::now() + self.patience.commands);
            part::completed(told, &own)
        };
        part::tell(&mut self.group, self.side, &reports);
        self.pending = Some(Pending { round, progress: Progress::Done });
        Done::Reports(reports)
    }
}

impl Pending {
    /// Nothing but the leader's reports is due: this host's part is done, or the round was of entries alone.
    fn is_over(&self) -> bool {
        let only_entries = self.round.actions.is_empty() && self.progress == Progress::Journalled;
        self.progress == Progress::Done || only_entries
    }
}
