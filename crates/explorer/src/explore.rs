//! Runs the searches: all scenarios of an order, on several threads, and adds up what they found.

use crate::conductor::{Conductor, Tenure};
use crate::oracle::{Promise, Tolerance, Violation};
use crate::scenario::Scenario;
use crate::search::{Budget, search};
use crate::step::Play;
use crate::trace::tell;
use handover::Verdict;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most visits of one scenario: 36 bytes each, beside two levels of states in full.
pub const VISIT_LIMIT: usize = 60_000_000;

/// A broken promise, with the shortest way there.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The configuration.
    pub scenario: String,
    /// What was broken.
    pub violation: Violation,
    /// The story, line by line.
    pub trace: Vec<String>,
}

/// What a search of scenarios found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Scenarios searched: configurations that this target can have.
    pub scenarios: u64,
    /// Distinct states.
    pub states: u64,
    /// Moves tried.
    pub moves: u64,
    /// Longest shortest path.
    pub depth: u32,
    /// Scenarios that hit [`VISIT_LIMIT`]; the space is not complete then.
    pub cut: u64,
    /// How often each tolerance was used.
    pub tolerated: [u64; Tolerance::ALL.len()],
    /// How often each verdict was given, over all moves that led to one.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Broken promises, at most one for each scenario.
    pub broken: Vec<Broken>,
}

impl Report {
    /// Whether the whole space was searched without a violation.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.cut == 0
    }

    fn add(&mut self, other: Self) {
        self.scenarios += other.scenarios;
        self.states += other.states;
        self.moves += other.moves;
        self.depth = self.depth.max(other.depth);
        self.cut += other.cut;
        self.tolerated.iter_mut().zip(other.tolerated).for_each(|(sum, more)| *sum += more);
        for (verdict, count) in other.verdicts {
            *self.verdicts.entry(verdict).or_insert(0) += count;
        }
        self.broken.extend(other.broken);
    }
}

/// Searches one scenario.
#[cfg(test)]
pub(crate) fn explore_one<C: Conductor>(scenario: &Scenario, conductor: &C, budget: Budget) -> Report {
    explore_for(None, scenario, conductor, budget)
}

/// Searches one scenario for violations of one promise, or of any.
pub(crate) fn explore_for<C: Conductor>(
    only: Option<Promise>,
    scenario: &Scenario,
    conductor: &C,
    budget: Budget,
) -> Report {
    let play = Play { only, ..Play::new(scenario, conductor, budget) };
    let found = search(&play, VISIT_LIMIT);
    let broken = found.violation.map(|(violation, moves)| Broken {
        scenario: scenario.to_string(),
        violation,
        trace: tell(&play, &moves),
    });
    Report {
        scenarios: u64::from(found.states > 0),
        states: found.states,
        moves: found.moves,
        depth: found.depth,
        cut: u64::from(found.cut),
        tolerated: play.tolerated.map(Cell::into_inner),
        verdicts: play.verdicts.into_inner(),
        broken: broken.into_iter().collect(),
    }
}

/// Searches the project's own handover in these scenarios on `jobs` threads.
#[must_use]
pub fn explore(
    orders: &[(Scenario, Budget)],
    only: Option<Promise>,
    jobs: usize,
    progress: &(dyn Fn(&Scenario, &Report) + Sync),
) -> Report {
    explore_all(orders, &Tenure, only, jobs, progress)
}

/// Searches scenarios on `jobs` threads; `progress` hears of each that is done.
pub(crate) fn explore_all<C: Conductor>(
    orders: &[(Scenario, Budget)],
    conductor: &C,
    only: Option<Promise>,
    jobs: usize,
    progress: &(dyn Fn(&Scenario, &Report) + Sync),
) -> Report {
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(Report::default()));
    let work = || {
        while let Some((scenario, budget)) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = explore_for(only, scenario, conductor, *budget);
            progress(scenario, &report);
            if let Ok(mut sum) = sum.lock() {
                sum.add(report);
            }
        }
    };
    std::thread::scope(|scope| {
        (0..jobs.max(1)).for_each(|_| {
            scope.spawn(work);
        });
    });
    sum.into_inner().unwrap_or_default()
}
