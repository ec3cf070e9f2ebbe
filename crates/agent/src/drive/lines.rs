//! The links of one host to many logical units, and a whole round of actions at once.
//!
//! What goes over one shared session is one pipeline, however many logical units it is for; every other link has a thread
//! of its own, up to [`MOST_THREADS`]. So a round costs one round trip to the target. A command is bounded by its link's
//! timeout, and the wait for a lost path by the round's deadline.

use super::Route;
use super::link::{Job, Link};
use super::port::InitiatorPort;
use crate::conduct::{Hands, Report};
use handover::group::UnitIndex;
use handover::{Action, CommandId, Outcome, Path};
use scsi::Completion;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Threads of one round.
const MOST_THREADS: usize = 64;

type At = (UnitIndex, Path);
type Jobs = Vec<(CommandId, Job)>;

/// The links of one host.
#[derive(Debug, Default)]
pub struct Lines {
    links: BTreeMap<At, Link>,
}

/// What is carried out by one thread.
struct Lane<'a> {
    /// Several of them only if they share a session, and all their jobs are commands.
    links: Vec<(At, &'a mut Link, Jobs)>,
}

impl Lines {
    /// The links of these paths.
    #[must_use]
    pub fn new(links: impl IntoIterator<Item = ((UnitIndex, Path), Link)>) -> Self {
        Self { links: links.into_iter().collect() }
    }

    /// One link.
    pub fn link(&mut self, unit: UnitIndex, path: Path) -> Option<&mut Link> {
        self.links.get_mut(&(unit, path))
    }

    /// Every link, in the order of logical units and paths.
    pub fn links(&mut self) -> impl Iterator<Item = (UnitIndex, Path, &mut Link)> {
        self.links.iter_mut().map(|((unit, path), link)| (*unit, *path, link))
    }

    /// Carries out the actions of these links, all at once, and what is for one link in order; no outage is waited for beyond
    /// `deadline`. A journal entry is its caller's and an action of a path that has no link here is the other
    /// host's: nothing is said of them.
    fn round(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
        self.links.values_mut().for_each(|link| link.wait_no_longer_than(deadline));
        let (mut jobs, mut told) = (self.jobs(actions), Vec::new());
        self.log_out(&mut jobs, &mut told);
        let ids = |(at, jobs): (&At, &Jobs)| jobs.iter().map(|(id, _)| (*at, *id)).collect::<Vec<_>>();
        let asked: Vec<_> = jobs.iter().flat_map(ids).collect();
        told.extend(run(self.lanes(jobs)));
        self.abandon(&asked, &mut told);
        let report = |(at, id, outcome): (At, CommandId, Outcome)| {
            let over = !self.links.get(&at).is_some_and(Link::dangles);
            Report { unit: at.0, id, outcome: Some(outcome).filter(|_| over) }
        };
        told.into_iter().map(report).collect()
    }

    /// Why commands had no answer, since this was last asked.
    pub fn troubles(&mut self) -> Vec<(UnitIndex, Path, String)> {
        let trouble = |((unit, path), link): (&At, &mut Link)| Some((*unit, *path, link.take_trouble()?));
        self.links.iter_mut().filter_map(trouble).collect()
    }

    /// Of what nothing is told the thread has died, and nobody knows what it sent.
    fn abandon(&mut self, asked: &[(At, CommandId)], told: &mut Vec<(At, CommandId, Outcome)>) {
        let known: BTreeSet<(At, CommandId)> = told.iter().map(|(at, id, _)| (*at, *id)).collect();
        for (at, id) in asked.iter().filter(|asked| !known.contains(*asked)) {
            self.links.get_mut(at).into_iter().for_each(Link::abandoned);
            told.push((*at, *id, Outcome::Unknown));
        }
    }

    fn jobs(&self, actions: &[(UnitIndex, Action)]) -> BTreeMap<At, Jobs> {
        let mut jobs = BTreeMap::<At, Jobs>::new();
        for (unit, action) in actions {
            let (path, id, job) = match action {
                Action::Execute { id, path, request } => (path, id, Job::Command(request.clone())),
                Action::CloseSession { id, path } => (path, id, Job::Close),
                Action::OpenSession { id, path } => (path, id, Job::Open),
                Action::Journal(_) => continue,
            };
            if self.links.contains_key(&(*unit, *path)) {
                jobs.entry((*unit, *path)).or_default().push((*id, job));
            }
        }
        jobs
    }

    /// Shared sessions are ended where all that use them are to be closed in this round, and nothing else is asked of them;
    /// else a logout of one would take the session away from others, and is not done.
    fn log_out(&mut self, jobs: &mut BTreeMap<At, Jobs>, told: &mut Vec<(At, CommandId, Outcome)>) {
        for (port, users) in self.ports() {
            let leaves = |at: &At| matches!(jobs.get(at).map(Vec::as_slice), Some([(_, Job::Close)]));
            if !users.iter().all(leaves) {
                continue;
            }
            let outcome = match port.log_out() {
                Ok(()) => Outcome::Done(Completion::good(Vec::new())),
                Err(super::Error::NoSession) => Outcome::NotSent,
                Err(_) => Outcome::Unknown,
            };
            for at in users {
                self.links.get_mut(&at).into_iter().for_each(Link::closed_with_others);
                told.extend(jobs.remove(&at).into_iter().flatten().map(|(id, _)| (at, id, outcome.clone())));
            }
        }
    }

    /// The shared ports, and who uses each.
    fn ports(&self) -> Vec<(Arc<InitiatorPort>, Vec<At>)> {
        let mut ports = BTreeMap::<*const InitiatorPort, (Arc<InitiatorPort>, Vec<At>)>::new();
        for (at, link) in &self.links {
            if let Route::Shared { port, .. } = link.route() {
                let entry = ports.entry(Arc::as_ptr(port));
                entry.or_insert_with(|| (Arc::clone(port), Vec::new())).1.push(*at);
            }
        }
        ports.into_values().collect()
    }

    fn lanes(&mut self, mut jobs: BTreeMap<At, Jobs>) -> Vec<Lane<'_>> {
        let (mut shared, mut lanes) = (BTreeMap::<*const InitiatorPort, Lane<'_>>::new(), Vec::new());
        for (at, link) in &mut self.links {
            let Some(jobs) = jobs.remove(at) else { continue };
            let commands = jobs.iter().all(|(_, job)| job.command().is_some());
            let port = match link.route() {
                Route::Shared { port, .. } if commands => Some(Arc::as_ptr(port)),
                _ => None,
            };
            match port {
                Some(port) => {
                    let lane = shared.entry(port).or_insert_with(|| Lane { links: Vec::new() });
                    lane.links.push((*at, link, jobs));
                }
                None => lanes.push(Lane { links: vec![(*at, link, jobs)] }),
            }
        }
        lanes.extend(shared.into_values());
        lanes
    }
}

impl Hands for Lines {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
        self.round(actions, deadline)
    }
}

impl Lane<'_> {
    fn run(&mut self) -> Vec<(At, CommandId, Outcome)> {
        let outcomes = match self.links.as_mut_slice() {
            [(_, link, jobs)] => vec![link.carry_out(jobs)],
            links => pipeline(links),
        };
        let told = self.links.iter().zip(outcomes);
        told.flat_map(|((at, _, jobs), outcomes)| {
            jobs.iter().zip(outcomes).map(|((id, _), outcome)| (*at, *id, outcome))
        })
        .collect()
    }
}

/// Every command of these links in one pipeline over the session that they share.
fn pipeline(links: &mut [(At, &mut Link, Jobs)]) -> Vec<Vec<Outcome>> {
    links.iter_mut().for_each(|(_, link, _)| link.make_ready());
    let requests =
        |jobs: &Jobs| jobs.iter().filter_map(|(_, job)| job.command().cloned()).collect::<Vec<_>>();
    let requests: Vec<_> = links.iter().map(|(_, _, jobs)| requests(jobs)).collect();
    let session = links.iter().find_map(|(_, link, _)| link.shared()).map(|(session, _)| session.clone());
    let mut commands = Vec::new();
    for ((_, link, _), requests) in links.iter().zip(&requests) {
        let lun = link.shared().map(|(_, lun)| lun);
        commands.extend(lun.into_iter().flat_map(|lun| requests.iter().map(move |request| (lun, request))));
    }
    let mut results = session.map(|session| session.execute_all(&commands)).unwrap_or_default().into_iter();
    let mut outcomes = Vec::new();
    for ((_, link, _), requests) in links.iter_mut().zip(&requests) {
        let sent = if link.shared().is_some() { requests.len() } else { 0 };
        let own = results.by_ref().take(sent).collect();
        outcomes.push(link.take_in(&requests.iter().collect::<Vec<_>>(), own));
    }
    outcomes
}

/// Every lane on one of a few threads; where the system has none left, on this one.
fn run(lanes: Vec<Lane<'_>>) -> Vec<(At, CommandId, Outcome)> {
    let threads = lanes.len().min(MOST_THREADS).saturating_sub(1);
    let (waiting, told) = (Mutex::new(lanes.into_iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(mut lane) = next() {
            let outcomes = lane.run();
            told.lock().unwrap_or_else(PoisonError::into_inner).extend(outcomes);
        }
    };
    thread::scope(|scope| {
        let name = || thread::Builder::new().name("handover".to_owned());
        // Where there is no thread the others do its work.
        let others: Vec<_> = (0..threads).filter_map(|_| name().spawn_scoped(scope, work).ok()).collect();
        work();
        // One that died is noticed by what it did not tell.
        others.into_iter().for_each(|thread| drop(thread.join()));
    });
    told.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
