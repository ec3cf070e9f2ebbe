//! The crash matrix: a guest moves between two hosts that are processes of this machine, and at each step of that, on either host, before
//! it and after it, one party dies: an agent, a QEMU, a whole host, or the link. What died is started again as an operator would, the agents recover, and
//! then there is one owner with all that the guest had, nothing is left at the other host, and both journals are closed.
//!
//! The steps are not drawn by lot: a run in which nothing dies tells which there are, and each of them is a case.

mod alone;
mod case;
mod ending;
mod judge;
mod scene;
mod sight;
mod situation;

pub use case::{Case, Moments, Victim, Word};
pub use scene::Programs;
pub use situation::Situation;

use anyhow::{Context, Result};
use scene::Scene;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What became of the cases.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many there were.
    pub cases: usize,
    /// In how many of them the operator was asked before what had died was back.
    pub asked: usize,
    /// How often each died.
    pub deaths: BTreeMap<&'static str, usize>,
    /// Those that ended otherwise than they must, with what was wrong.
    pub exceptions: Vec<(Case, String)>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cases, exceptions, asked) = (self.cases, self.exceptions.len(), self.asked);
        write!(f, "{cases} cases, {exceptions} exceptions; the operator was asked in {asked}")?;
        self.deaths.iter().try_for_each(|(victim, count)| write!(f, "; {victim} {count}"))
    }
}

/// Every case of these situations at these moments.
///
/// # Errors
/// If a situation does not even end right when nothing dies.
pub fn enumerate(programs: &Programs, situations: &[Situation], moments: Moments) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for situation in situations {
        let scene = Scene::set(programs, situation, None).with_context(|| situation.name)?;
        let told = scene.play(None).with_context(|| format!("{}, in which nobody dies", situation.name))?;
        cases.extend(case::all(situation, &told.steps, moments));
    }
    Ok(cases)
}

/// Hears of a case: what the operator was asked if anything was, or what was wrong, and how long it took.
pub type Tell<'a> = dyn Fn(&Case, &Result<Option<String>>, Duration) + Sync + 'a;

/// Plays cases, some at a time; `tell` hears of each that ended.
pub fn play(programs: &Programs, cases: Vec<Case>, tell: &Tell<'_>) -> Summary {
    let mut deaths = BTreeMap::new();
    cases.iter().for_each(|case| *deaths.entry(case.victim.name()).or_default() += 1);
    let summary = Mutex::new(Summary { cases: cases.len(), deaths, ..Summary::default() });
    let waiting = Mutex::new(VecDeque::from(cases));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        while let Some(case) = next() {
            let begun = Instant::now();
            let ended = one(programs, &case);
            tell(&case, &ended, begun.elapsed());
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            match ended {
                Ok(asked) => summary.asked += usize::from(asked.is_some()),
                Err(error) => summary.exceptions.push((case, format!("{error:#}"))),
            }
        }
    };
    // They wait for processes most of the time.
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Cases at a time.
const AT_ONCE: usize = 8;

/// What the operator was asked, if anything.
fn one(programs: &Programs, case: &Case) -> Result<Option<String>> {
    let scene = Scene::set(programs, &case.situation, Some(case.victim))?;
    Ok(scene.play(Some(case))?.asked)
}
