//! Carries out what a `handover` procedure asks, on real nexuses: one batch at a time, every path of it at once.
//!
//! Used by `handover run` and by the demo. The engine decides, this obeys: it sends nothing of its own, and
//! it never reports a command as lost before the session that carried it is gone. Where that cannot be brought about
//! the procedure learns nothing any more and the run ends in doubt: the journal stays open, and recovery begins by
//! logging in on every path.

mod device;
mod error;
mod helper;
mod lines;
mod link;
mod port;
mod record;
mod route;
pub mod words;

pub use device::{Device, Opened};
pub use error::{Error, told};
pub use helper::HelperRoute;
pub use lines::Lines;
pub use link::Link;
pub use port::{InitiatorPort, Ports};
pub use record::{Happened, PhaseSpan, Record};
pub use route::Route;

use handover::verdict::Doubt;
use handover::{Action, CommandId, Entry, Event, Outcome, Path, Phase, Procedure, Side, Step, Verdict};
use link::Job;
use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

/// Where a procedure stands still or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// A phase is over; hand the procedure an event to go on.
    Phase(Phase),
    /// The end.
    Finished(Verdict),
}

/// Where the entries of a procedure that is driven from one place go.
pub trait Journal {
    /// Makes an entry durable.
    ///
    /// # Errors
    /// [`Error::Journal`] if that cannot be promised.
    fn append(&mut self, entry: &Entry) -> Result<(), Error>;
}

/// Nowhere: a crash of this run cannot be recovered from.
#[derive(Debug)]
pub struct NoJournal;

impl Journal for NoJournal {
    fn append(&mut self, _: &Entry) -> Result<(), Error> {
        Ok(())
    }
}

/// The nexuses of both hosts, the journal, and what has happened so far.
pub struct Driver<'a> {
    links: BTreeMap<Path, Link>,
    journal: &'a mut dyn Journal,
    /// What has happened so far.
    pub record: Record,
}

impl<'a> Driver<'a> {
    /// A driver for these paths.
    pub fn new(links: BTreeMap<Path, Link>, journal: &'a mut dyn Journal) -> Self {
        Self { links, journal, record: Record::default() }
    }

    /// Runs the procedure to the end of its phase.
    ///
    /// # Errors
    /// If it waits for reports that it already has: a defect of the procedure, and no verdict.
    pub fn advance(&mut self, procedure: &mut dyn Procedure) -> Result<Pause, Error> {
        loop {
            match procedure.poll() {
                Step::Run(actions) => {
                    if let Some(doubt) = self.batch(procedure, actions) {
                        return Ok(self.end(Verdict::InDoubt(doubt)));
                    }
                }
                Step::PhaseDone(phase) => {
                    self.record.phase_done(phase);
                    return Ok(Pause::Phase(phase));
                }
                Step::Finished(verdict) => return Ok(self.end(verdict)),
                Step::Wait => return Err(Error::Stuck),
            }
        }
    }

    fn end(&mut self, verdict: Verdict) -> Pause {
        self.record.finished();
        let displaced = self.links.iter().find(|(_, link)| link.is_displaced());
        if let Some((path, _)) = displaced.filter(|_| verdict != Verdict::Moved) {
            self.record.advice = Some(format!(
                "{path}: the session was lost again and again while the target could be logged in to at once; most \
                 likely another session of the same initiator name and ISID took over (another run, or a host that uses \
                 them): end that one, then try again"
            ));
        }
        Pause::Finished(verdict)
    }

    /// Runs the procedure to its end without stopping between phases.
    ///
    /// # Errors
    /// Like [`Driver::advance`].
    pub fn finish(&mut self, procedure: &mut dyn Procedure) -> Result<Verdict, Error> {
        loop {
            match self.advance(procedure)? {
                Pause::Phase(_) => procedure.handle(Event::Proceed),
                Pause::Finished(verdict) => return Ok(verdict),
            }
        }
    }

    /// Ends the driving: the paths, as open as they are now, and what happened.
    #[must_use]
    pub fn into_parts(self) -> (BTreeMap<Path, Link>, Record) {
        (self.links, self.record)
    }

    /// One path, for the guest that uses it before and after the handover.
    ///
    /// # Errors
    /// If there is no such path.
    pub fn link(&mut self, path: Path) -> Result<&mut Link, Error> {
        self.links.get_mut(&path).ok_or(Error::NoPath(path))
    }

    /// One round trip. A doubt means that a command of it may still be executed, so that the procedure was told nothing.
    fn batch(&mut self, procedure: &mut dyn Procedure, actions: Vec<Action>) -> Option<Doubt> {
        let mut jobs = Jobs::new();
        for action in actions {
            let (path, id, job) = match action {
                Action::Execute { id, path, request } => (path, id, Job::Command(request)),
                Action::CloseSession { id, path } => (path, id, Job::Close),
                Action::OpenSession { id, path } => (path, id, Job::Open),
                Action::Journal(entry) => {
                    if let Err(error) = self.journal.append(&entry) {
                        self.record.trouble(told(&error));
                        procedure.handle(Event::JournalFailed);
                        return None;
                    }
                    continue;
                }
            };
            jobs.entry(path).or_default().push((id, job));
        }
        let outcomes = self.carry_out(&jobs);
        let doubt = self.doubt();
        if doubt.is_none() {
            for (id, outcome) in outcomes {
                procedure.handle(Event::Completed { id, outcome });
            }
        }
        doubt
    }

    /// The side whose last command may still be executed.
    fn doubt(&mut self) -> Option<Doubt> {
        let (path, _) = self.links.iter().find(|(_, link)| link.dangles())?;
        self.record.trouble(format!(
            "{path}: the session cannot be ended, so its last command may still be executed"
        ));
        Some(match path.side {
            Side::Source => Doubt::SourceUnreachable,
            Side::Destination => Doubt::DestinationUnreachable,
        })
    }

    /// All paths at once; on one path in order.
    fn carry_out(&mut self, jobs: &Jobs) -> Vec<(CommandId, Outcome)> {
        let started = Instant::now();
        let mut results = run_paths(&mut self.links, jobs, thread::Builder::new);
        if !results.is_empty() {
            self.record.round_trip();
        }
        let mut outcomes = Vec::new();
        for (path, jobs) in jobs {
            // Without a link nothing was sent; a thread that died may have sent anything.
            let missing = if results.contains_key(path) { Outcome::Unknown } else { Outcome::NotSent };
            let mut told = results.remove(path).unwrap_or_default().into_iter();
            for (id, job) in jobs {
                let outcome = told.next().unwrap_or_else(|| missing.clone());
                self.record.command(started, *path, job, &outcome);
                outcomes.push((*id, outcome));
            }
        }
        outcomes
    }
}

type Jobs = BTreeMap<Path, Vec<(CommandId, Job)>>;

/// Every path on a thread of its own; those for which the system has no thread take turns afterwards.
fn run_paths(
    links: &mut BTreeMap<Path, Link>,
    jobs: &Jobs,
    builder: impl Fn() -> thread::Builder,
) -> BTreeMap<Path, Vec<Outcome>> {
    let mut results = BTreeMap::new();
    let (mut waiting, mut dead) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (path, link) in links.iter_mut() {
            let Some(jobs) = jobs.get(path) else { continue };
            match builder().spawn_scoped(scope, || link.carry_out(jobs)) {
                Ok(thread) => running.push((*path, thread)),
                Err(_) => waiting.push(*path),
            }
        }
        for (path, thread) in running {
            match thread.join() {
                Ok(outcomes) => drop(results.insert(path, outcomes)),
                Err(_) => dead.push(path),
            }
        }
    });
    for path in waiting {
        if let (Some(link), Some(jobs)) = (links.get_mut(&path), jobs.get(&path)) {
            results.insert(path, link.carry_out(jobs));
        }
    }
    for path in dead {
        results.insert(path, Vec::new());
        links.get_mut(&path).into_iter().for_each(Link::abandoned);
    }
    results
}

#[cfg(test)]
mod tests;
