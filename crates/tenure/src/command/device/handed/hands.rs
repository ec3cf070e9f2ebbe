//! This host's nexuses in a handover: those of the guest's own logical units, whose rings are not processed meanwhile.
//!
//! A lost answer counts as over only when the nexus answers again: an iSCSI login of the same initiator port ends the old session and its
//! tasks (RFC 7143 6.3.5), and SG_IO comes back only when the kernel has done with the command. Where that cannot be had in time nothing is
//! reported, and the handover ends in doubt.

use crate::command::device::real::RealUnit;
use agent::conduct::{Hands, Report};
use handover::{Action, CommandId, Outcome, Side, UnitIndex};
use nexus::TransportError;
use scsi::{Completion, DataPhase, Request, Status, opcode};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Threads of one round.
const MOST_THREADS: usize = 16;
/// So many unit attentions are told one after the other: a command absorbs no more (engine, `batch`).
const MOST_AT_ONCE: u8 = 4;
/// Between two attempts to hear from a nexus.
const LOOK: Duration = Duration::from_millis(50);

type Jobs<'a> = Vec<(CommandId, &'a Action)>;

/// The nexuses of one side, by the units of the group.
#[derive(Debug)]
pub(in crate::command::device) struct Nexuses {
    side: Side,
    lines: Vec<Line>,
}

/// One unit's nexus.
#[derive(Debug)]
pub(in crate::command::device) struct Line {
    unit: RealUnit,
    /// Sense data of unit attentions that were taken of it before: told with the next commands, as the device would have.
    waiting: VecDeque<Vec<u8>>,
    /// How many of them were told since the device itself answered.
    told: u8,
}

impl Line {
    pub(in crate::command::device) fn new(unit: RealUnit, waiting: Vec<Vec<u8>>) -> Self {
        Self { unit, waiting: waiting.into(), told: 0 }
    }

    /// The next that waits, unless it is the device's turn.
    fn next_waiting(&mut self) -> Option<Completion> {
        let sense = if self.told < MOST_AT_ONCE { self.waiting.pop_front() } else { None };
        self.told = if sense.is_some() { self.told.saturating_add(1) } else { 0 };
        Some(Completion { status: Status::CHECK_CONDITION, sense: sense?, data: Vec::new() })
    }

    fn carry_out(&mut self, action: &Action, end: Instant) -> Option<Outcome> {
        // By name and ISID no device hands over.
        let Action::Execute { request, .. } = action else { return Some(Outcome::NotSent) };
        if let Some(told) = self.next_waiting() {
            return Some(Outcome::Done(told));
        }
        let Some(mut nexus) = self.unit.nexus_until(end) else { return Some(Outcome::NotSent) };
        match nexus.execute(request) {
            Ok(ended) => Some(Outcome::Done(ended)),
            Err(TransportError::NotSent(_)) => Some(Outcome::NotSent),
            Err(TransportError::OutcomeUnknown(_)) => self.answers(end).then_some(Outcome::Unknown),
        }
    }

    /// INQUIRY neither brings nor clears a unit attention.
    fn answers(&self, end: Instant) -> bool {
        let inquiry = Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 36, 0], data: DataPhase::In(36) };
        loop {
            let nexus = self.unit.nexus_until(end);
            if nexus.is_some_and(|mut nexus| nexus.execute(&inquiry).is_ok()) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(LOOK);
        }
    }
}

impl Nexuses {
    /// Those of `side`.
    pub(in crate::command::device) const fn new(side: Side, lines: Vec<Line>) -> Self {
        Self { side, lines }
    }

    fn jobs<'a>(&self, actions: &'a [(UnitIndex, Action)]) -> BTreeMap<UnitIndex, Jobs<'a>> {
        let mut jobs = BTreeMap::<UnitIndex, Jobs<'a>>::new();
        for (unit, action) in actions {
            let (Action::Execute { id, path, .. }
            | Action::CloseSession { id, path }
            | Action::OpenSession { id, path }) = action
            else {
                continue;
            };
            // A path that there is not is nobody's to send on.
            if path.side == self.side && path.index == 0 {
                jobs.entry(*unit).or_default().push((*id, action));
            }
        }
        jobs
    }
}

impl Hands for Nexuses {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], end: Instant) -> Vec<Report> {
        let mut jobs = self.jobs(actions);
        let lines = (0u16..).map(UnitIndex).zip(&mut self.lines);
        let work: Vec<_> = lines.filter_map(|(unit, line)| Some((unit, line, jobs.remove(&unit)?))).collect();
        let threads = work.len().min(MOST_THREADS).saturating_sub(1);
        let (waiting, told) = (Mutex::new(work.into_iter()), Mutex::new(Vec::new()));
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run = || {
            while let Some((unit, line, jobs)) = next() {
                let one = |(id, action): (CommandId, &Action)| {
                    let outcome = line.carry_out(action, end);
                    Report { unit, id, outcome }
                };
                let reports: Vec<_> = jobs.into_iter().map(one).collect();
                told.lock().unwrap_or_else(PoisonError::into_inner).extend(reports);
            }
        };
        thread::scope(|scope| {
            // Where there is no thread to be had the others do its work. Of what one that died did nothing is told, which says so.
            let begin = || thread::Builder::new().name("handover".to_owned()).spawn_scoped(scope, run).ok();
            let others: Vec<_> = (0..threads).filter_map(|_| begin()).collect();
            run();
            others.into_iter().for_each(|thread| drop(thread.join()));
        });
        told.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
