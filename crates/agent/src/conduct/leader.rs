//! The leader: decides, orders, and carries out its own part while the follower carries out the other. What changes something
//! it begins only when the follower has come to the same round.

use super::follower::Refusal;
use super::message::{Ask, Decision, Done, Order, Reply, Report};
use super::owed::Owed;
use super::record::Record;
use super::{Exchange, Hands, Journal, Lost, Patience, part};
use handover::{Action, Ending, Group, GroupStep, Phase, Round, Side, UnitIndex};
use scsi::AdditionalSense;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Where the leader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// A phase is over: decide.
    Phase(Phase),
    /// The end, of which the follower knows.
    Finished(Ending),
}

/// Why a handover stopped where it stands. If [`Group::touched`], a recovery must put it in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The link is gone.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The follower refused an order.
    #[error("the peer refused: {0}")]
    Refused(#[from] Refusal),
    /// The follower's reply is not one to what it was asked.
    #[error("the peer's reply does not fit: {0}")]
    Unfit(&'static str),
    /// The procedure waits for reports that it has: a defect.
    #[error("the procedure waits for reports that it already has")]
    Defect,
    /// It was stopped before.
    #[error("this handover has been stopped")]
    Stopped,
}

/// A replica that decides.
#[derive(Debug)]
pub struct Leader<E, H, J> {
    group: Group,
    side: Side,
    exchange: E,
    hands: H,
    journal: J,
    patience: Patience,
    /// What the follower must still be told.
    reports: Vec<Report>,
    decisions: Vec<Decision>,
    aborted: bool,
    /// The follower asked to give up.
    wanted_out: bool,
    stopped: bool,
    owed: Owed,
    record: Record,
}

impl<E: Exchange, H: Hands, J: Journal> Leader<E, H, J> {
    /// The leader of `group`, with the nexuses of `side`: the source's, and the destination's on the way back.
    pub fn new(group: Group, side: Side, exchange: E, hands: H, journal: J, patience: Patience) -> Self {
        let (reports, decisions, record) = (Vec::new(), Vec::new(), Record::default());
        let (aborted, wanted_out, stopped, owed) = (false, false, false, Owed::default());
        Self {
            group,
            side,
            exchange,
            hands,
            journal,
            patience,
            reports,
            decisions,
            aborted,
            wanted_out,
            stopped,
            owed,
            record,
        }
    }

    /// The replica, for its plan and its verdicts.
    pub const fn group(&self) -> &Group {
        &self.group
    }

    /// What took how long.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Everything, for what follows.
    pub fn into_parts(self) -> (Group, E, H, J, Record) {
        (self.group, self.exchange, self.hands, self.journal, self.record)
    }

    /// Goes on after a phase.
    pub fn proceed(&mut self) {
        if let Some(phase) = self.group.phase() {
            self.record.begin_after(phase);
            self.group.proceed();
            self.decisions.push(Decision::Proceed);
        }
    }

    /// After `Prepare`: has everything read again.
    pub fn refresh(&mut self) {
        if self.group.phase() == Some(Phase::Prepare) {
            self.group.refresh();
            self.decisions.push(Decision::Refresh);
        }
    }

    /// Gives up: undoes what can be undone. After the commit it changes nothing.
    pub fn abort(&mut self) {
        if !self.aborted {
            self.aborted = true;
            self.group.abort();
            self.decisions.push(Decision::Abort);
        }
    }

    /// Runs to the end of the phase, or to the end.
    ///
    /// # Errors
    /// [`Stop`]: the handover stands where it stands, on both hosts.
    pub fn advance(&mut self) -> Result<Pause, Stop> {
        if self.stopped {
            return Err(Stop::Stopped);
        }
        self.record.run();
        let pause = self.advance_to_pause();
        if pause.is_err() {
            self.stopped = true;
            self.group.stop();
            self.owe();
        }
        self.record.pause();
        pause
    }

    fn advance_to_pause(&mut self) -> Result<Pause, Stop> {
        loop {
            if self.wanted_out && !self.aborted {
                self.abort();
            }
            let step = self.group.poll();
            self.owe();
            match step {
                GroupStep::Run(round) => self.round(&round)?,
                GroupStep::PhaseDone(phase) => return Ok(Pause::Phase(phase)),
                GroupStep::Finished(ending) => {
                    self.sync()?;
                    return Ok(Pause::Finished(ending));
                }
                GroupStep::Wait => return Err(Stop::Defect),
            }
        }
    }

    fn owe(&mut self) {
        self.owed.record(&self.group, self.side, &mut self.journal);
    }

    /// Unit attentions that the guest is owed if it goes on at `owner`, beside what is durable on this host already.
    pub fn owed(&self, owner: Side) -> Vec<(UnitIndex, Vec<AdditionalSense>)> {
        self.owed.rest(&self.group, owner)
    }

    /// Brings the follower to where this group stands after [`Leader::advance`], so that both hosts know that the phase
    /// is over. The end needs none.
    ///
    /// # Errors
    /// [`Stop`], like [`Leader::advance`].
    pub fn sync(&mut self) -> Result<(), Stop> {
        let digest = self.group.digest();
        let (done, _) = self.order(Ask::Stand, digest, |_, _| ());
        if done? == Done::Standing { Ok(()) } else { Err(Stop::Unfit("it was asked to stand")) }
    }

    fn round(&mut self, round: &Round) -> Result<(), Stop> {
        if !round.journal.is_empty() && !self.write(round)? {
            self.group.journal_failed();
            self.decisions.push(Decision::JournalFailed);
            return Ok(());
        }
        if !round.actions.is_empty() {
            self.reports = self.carry_out(round)?;
        }
        Ok(())
    }

    /// Whether the entries are durable on both hosts.
    fn write(&mut self, round: &Round) -> Result<bool, Stop> {
        let started = Instant::now();
        let append = |_: &mut H, journal: &mut J| journal.append(round.number, &round.journal).is_ok();
        let (done, mine) = self.order(Ask::Journal, round.digest, append);
        self.record.append(started);
        match done? {
            Done::Journalled => Ok(mine == Some(true)),
            Done::JournalFailed => Ok(false),
            _ => Err(Stop::Unfit("it was asked to write entries")),
        }
    }

    /// Both parts, at once where the follower has agreed to the round with its entries, or where nothing of the leader's
    /// part changes anything; gives the reports of its own.
    fn carry_out(&mut self, round: &Round) -> Result<Vec<Report>, Stop> {
        let started = Instant::now();
        let (own, theirs) = (part::of(round, self.side), part::of(round, self.side.other()));
        let patience = self.patience.commands;
        let agreed = !round.journal.is_empty() || part::only_asks(&own);
        let work = |hands: &mut H| act(hands, &own, Instant::now() + patience);
        let (done, mine) = if agreed {
            self.order(Ask::Round, round.digest, |hands, _| work(hands))
        } else {
            let done = self.order(Ask::Round, round.digest, |_, _| ()).0?;
            (Ok(done), at_once(|| (), || work(&mut self.hands)).1)
        };
        // Hands that died may have sent anything.
        let mine = mine.unwrap_or_else(|| part::completed(Vec::new(), &own));
        // Told first: they count for the guest, wherever the handover ends.
        part::tell(&mut self.group, self.side, &mine);
        let done = done?;
        self.record.round_trip(started);
        let Done::Reports(reports) = done else {
            return Err(Stop::Unfit("it was asked to carry out its part"));
        };
        if !part::are_complete(&reports, &theirs) {
            return Err(Stop::Unfit("it reported what it was not asked for, or not all"));
        }
        part::tell(&mut self.group, self.side.other(), &reports);
        Ok(mine)
    }

    /// Sends an order, and does `work` meanwhile.
    fn order<T: Send>(
        &mut self,
        ask: Ask,
        digest: u64,
        work: impl FnOnce(&mut H, &mut J) -> T + Send,
    ) -> (Result<Done, Stop>, Option<T>) {
        let order = Order {
            ask,
            round: self.group.rounds(),
            reports: std::mem::take(&mut self.reports),
            decisions: std::mem::take(&mut self.decisions),
            digest,
        };
        let patience = self.patience.commands + self.patience.peer;
        let (exchange, hands, journal) = (&mut self.exchange, &mut self.hands, &mut self.journal);
        let (called, worked) = at_once(|| exchange.call(&order, patience), move || work(hands, journal));
        self.record.message();
        (self.take_reply(called, order.round), worked)
    }

    fn take_reply(&mut self, called: Result<Result<Reply, Refusal>, Lost>, round: u64) -> Result<Done, Stop> {
        let reply = called??;
        if reply.round != round {
            return Err(Stop::Unfit("it answers another order"));
        }
        self.wanted_out |= reply.wants_out;
        Ok(reply.done)
    }
}

fn act(hands: &mut impl Hands, own: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
    if own.is_empty() { Vec::new() } else { part::completed(hands.carry_out(own, deadline), own) }
}

/// Does one thing here while another thread does the other, which gives nothing if it dies.
fn at_once<A, B: Send>(here: impl FnOnce() -> A, there: impl FnOnce() -> B + Send) -> (A, Option<B>) {
    let there = Mutex::new(Some(there));
    let take = || lock(&there).take().map(|there| there());
    thread::scope(|scope| {
        let running = thread::Builder::new().spawn_scoped(scope, take);
        let done_here = here();
        let done_there = match running {
            Ok(thread) => thread.join().ok().flatten(),
            // There was no thread to be had.
            Err(_) => take(),
        };
        (done_here, done_there)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
