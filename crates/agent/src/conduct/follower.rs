//! The follower: answers one order after the other. It begins nothing by itself, and after a refusal nothing at all.

use super::message::{Ask, Done, Order, Reply, Report, Said};
use super::{Hands, Journal, Patience, part};
use handover::{Group, GroupStep, Phase, Round, Side};
use std::time::Instant;

/// Why an order is refused. Nothing was sent because of it, and nothing will be from now on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Replayed, or out of order.
    #[error("order {got} came where {expected} was due")]
    OutOfOrder {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// The two hosts would not do the same.
    #[error(
        "the two hosts would not do the same in order {number}: the programs differ, or one of them was told something else"
    )]
    Disagree {
        /// Which order.
        number: u64,
    },
    /// The order does not belong where the handover stands.
    #[error("order {number} does not belong there: {what}")]
    Misplaced {
        /// Which order.
        number: u64,
        /// What is wrong.
        what: &'static str,
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
    number: u64,
    pending: Option<Pending>,
    stopped: bool,
    wants_out: bool,
}

impl<H: Hands, J: Journal> Follower<H, J> {
    /// The follower of `group`, with the nexuses of `side`.
    pub const fn new(group: Group, side: Side, hands: H, journal: J, patience: Patience) -> Self {
        let (number, pending, stopped, wants_out) = (0, None, false, false);
        Self { group, side, hands, journal, patience, number, pending, stopped, wants_out }
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
        let done = self.obey(order);
        self.stopped |= done.is_err();
        let done = done?;
        self.number = order.number;
        Ok(Reply { number: order.number, done, wants_out: self.wants_out })
    }

    fn obey(&mut self, order: &Order) -> Result<Done, Refusal> {
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        let expected = self.number.saturating_add(1);
        if order.number != expected {
            return Err(Refusal::OutOfOrder { expected, got: order.number });
        }
        let misplaced = |what| Refusal::Misplaced { number: order.number, what };
        order.said.iter().try_for_each(|said| self.hear(said)).map_err(misplaced)?;
        let agreed = |digest: u64| {
            if digest == order.digest { Ok(()) } else { Err(Refusal::Disagree { number: order.number }) }
        };
        if let Some(Pending { round, progress }) = self.pending.take() {
            agreed(round.digest)?;
            if order.ask != Ask::Round || progress != Progress::Journalled {
                return Err(misplaced(UNFINISHED));
            }
            return Ok(self.carry_out(round));
        }
        let step = self.group.poll();
        agreed(self.group.digest())?;
        self.take_step(step, order.ask).map_err(misplaced)
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

    fn hear(&mut self, said: &Said) -> Result<(), &'static str> {
        match said {
            Said::Reports(reports) => return self.hear_reports(reports),
            Said::JournalFailed => return self.hear_journal_failed(),
            _ if self.pending.is_some() => return Err(UNFINISHED),
            Said::Abort => self.group.abort(),
            Said::Proceed | Said::Refresh => match (self.group.poll(), said) {
                (GroupStep::PhaseDone(Phase::Prepare), Said::Refresh) => self.group.refresh(),
                (GroupStep::PhaseDone(_), Said::Proceed) => self.group.proceed(),
                _ => return Err("no such phase is over"),
            },
        }
        Ok(())
    }

    fn hear_journal_failed(&mut self) -> Result<(), &'static str> {
        let pending = self.pending.take().filter(|pending| pending.progress != Progress::Done);
        pending.ok_or("no entry is being written")?;
        self.group.journal_failed();
        Ok(())
    }

    /// They end the round. One of entries alone ends with none, when they are durable on both hosts.
    fn hear_reports(&mut self, reports: &[Report]) -> Result<(), &'static str> {
        let Pending { round, progress } = self.pending.take().ok_or("no round is under way")?;
        let only_entries = round.actions.is_empty() && progress == Progress::Journalled;
        if progress != Progress::Done && !only_entries {
            return Err(UNFINISHED);
        }
        let theirs = self.side.other();
        if !part::are_complete(reports, &part::of(&round, theirs)) {
            return Err("these are not the reports of the leader's part");
        }
        part::tell(&mut self.group, theirs, reports);
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
