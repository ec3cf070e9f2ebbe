//! Breadth-first search over a finite space of states, with the shortest trace to the first violation.
//!
//! The budget of disturbances is not part of a state's identity: a state reached with more disturbances
//! left can do everything that the same state with fewer left can do, and at no greater depth, so the
//! poorer visit is cut. This loses neither a violation nor the shortest trace to it.
//!
//! Memory: 24 bytes per state in the table, 12 per visit for traces, and the states of two levels in full.

use crate::fingerprint::{Spread, fingerprint};
use crate::oracle::Violation;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};

/// What can be searched.
pub(crate) trait Space {
    /// A state without its budget. Equal states have equal futures under equal budgets.
    type State: Clone + Hash;
    /// What leads from one state to the next.
    type Move: Copy;

    /// The state to start from; `None` if there is no such configuration.
    fn initial(&self) -> Option<Self::State>;
    /// The moves possible in `state`, in a fixed order.
    fn moves(&self, state: &Self::State, moves: &mut Vec<Self::Move>);
    /// The successor.
    ///
    /// # Errors
    /// The promise that this move or the state it leads to breaks.
    fn apply(&self, state: &Self::State, step: Self::Move) -> Result<Self::State, Violation>;
    /// Whether a violation is looked for; others end their path.
    fn counts(&self, _violation: &Violation) -> bool {
        true
    }
    /// What is left to disturb with.
    fn budget(&self, state: &Self::State) -> Budget;
}

/// Disturbances left: foreign commands, faults, and crashes during recovery. At most 3, 3 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Commands of other nodes.
    pub foreign: u8,
    /// Faults.
    pub faults: u8,
    /// Crashes of a recovery.
    pub recovery_crashes: u8,
    /// Commands and faults draw on one store: each takes one of both. The same throughout a search.
    pub joint: bool,
}

impl Budget {
    /// Pays for a foreign command.
    pub(crate) const fn pay_foreign(&mut self) {
        self.foreign = self.foreign.saturating_sub(1);
        if self.joint {
            self.faults = self.faults.saturating_sub(1);
        }
    }

    /// Pays for a fault.
    pub(crate) const fn pay_fault(&mut self) {
        self.faults = self.faults.saturating_sub(1);
        if self.joint {
            self.foreign = self.foreign.saturating_sub(1);
        }
    }

    /// Bit of this budget in a set of budgets.
    fn bit(self) -> u32 {
        let place = self.foreign.min(3) * 8 + self.faults.min(3) * 2 + self.recovery_crashes.min(1);
        1 << place
    }

    /// The set of all budgets that leave at least as much of everything.
    fn at_least(self) -> u32 {
        let mut set = 0;
        for foreign in self.foreign.min(3)..=3 {
            for faults in self.faults.min(3)..=3 {
                for recovery_crashes in self.recovery_crashes.min(1)..=1 {
                    set |= Self { foreign, faults, recovery_crashes, joint: self.joint }.bit();
                }
            }
        }
        set
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub(crate) struct Found<M> {
    /// Distinct states.
    pub(crate) states: u64,
    /// Moves tried.
    pub(crate) moves: u64,
    /// Length of the longest shortest path.
    pub(crate) depth: u32,
    /// The shortest way to break a promise.
    pub(crate) violation: Option<(Violation, Vec<M>)>,
    /// The limit on states stopped the search before its end.
    pub(crate) cut: bool,
}

/// The states seen, and how each was reached first.
struct Seen<M> {
    budgets: HashMap<u128, u32, BuildHasherDefault<Spread>>,
    visits: Vec<(u32, Option<M>)>,
}

impl<M: Copy> Seen<M> {
    fn new() -> Self {
        Self { budgets: HashMap::default(), visits: Vec::new() }
    }

    /// Enters a visit; `None` if an earlier one covers it.
    fn enter(&mut self, state: &impl Hash, budget: Budget, parent: u32, step: Option<M>) -> Option<u32> {
        let budgets = self.budgets.entry(fingerprint(state)).or_insert(0);
        if *budgets & budget.at_least() != 0 {
            return None;
        }
        *budgets |= budget.bit();
        let visit = u32::try_from(self.visits.len()).ok()?;
        self.visits.push((parent, step));
        Some(visit)
    }

    /// The moves that lead to a visit.
    fn trace(&self, mut visit: u32) -> Vec<M> {
        let mut trace = Vec::new();
        while let Some((parent, Some(step))) = usize::try_from(visit).ok().and_then(|at| self.visits.get(at))
        {
            trace.push(*step);
            visit = *parent;
        }
        trace.reverse();
        trace
    }
}

/// Searches the whole space, at most `limit` visits, and stops at the first broken promise.
pub(crate) fn search<S: Space>(space: &S, limit: usize) -> Found<S::Move> {
    let mut seen = Seen::new();
    let mut found = Found { states: 0, moves: 0, depth: 0, violation: None, cut: false };
    let mut level: Vec<(S::State, u32)> = Vec::new();
    if let Some(first) = space.initial() {
        let visit = seen.enter(&first, space.budget(&first), 0, None);
        level.extend(visit.map(|visit| (first, visit)));
    }
    while !level.is_empty() && found.violation.is_none() && !found.cut {
        level = expand(space, level, &mut seen, &mut found);
        found.depth += 1;
        found.cut = seen.visits.len() > limit;
    }
    found.states = u64::try_from(seen.budgets.len()).unwrap_or(u64::MAX);
    found
}

/// All new states one move further.
fn expand<S: Space>(
    space: &S,
    level: Vec<(S::State, u32)>,
    seen: &mut Seen<S::Move>,
    found: &mut Found<S::Move>,
) -> Vec<(S::State, u32)> {
    let (mut next, mut moves) = (Vec::new(), Vec::new());
    for (state, visit) in level {
        moves.clear();
        space.moves(&state, &mut moves);
        for step in &moves {
            found.moves += 1;
            match space.apply(&state, *step) {
                Ok(successor) => {
                    let entered = seen.enter(&successor, space.budget(&successor), visit, Some(*step));
                    next.extend(entered.map(|visit| (successor, visit)));
                }
                Err(violation) if !space.counts(&violation) => {}
                Err(violation) => {
                    let mut trace = seen.trace(visit);
                    trace.push(*step);
                    found.violation = Some((violation, trace));
                    return Vec::new();
                }
            }
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Promise;

    /// Two counters; "fault" doubles and costs budget. Breaking point: 12 in the first.
    struct Counters {
        forbidden: u32,
    }

    #[derive(Clone, PartialEq)]
    struct Counter {
        value: u32,
        left: u8,
    }

    impl Hash for Counter {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.value.hash(state);
        }
    }

    impl Space for Counters {
        type State = Counter;
        type Move = char;

        fn initial(&self) -> Option<Counter> {
            Some(Counter { value: 1, left: 2 })
        }

        fn moves(&self, state: &Counter, moves: &mut Vec<char>) {
            if state.value < 100 {
                moves.push('+');
            }
            if state.left > 0 {
                moves.push('*');
            }
        }

        fn apply(&self, state: &Counter, step: char) -> Result<Counter, Violation> {
            let next = match step {
                '+' => Counter { value: state.value + 1, left: state.left },
                _ => Counter { value: state.value * 2, left: state.left - 1 },
            };
            if next.value == self.forbidden {
                return Err(Violation::new(Promise::NoGap, "forbidden number"));
            }
            Ok(next)
        }

        fn budget(&self, state: &Counter) -> Budget {
            Budget { faults: state.left, ..Budget::default() }
        }
    }

    #[test]
    fn the_trace_is_the_shortest_even_where_visits_are_cut() {
        let found = search(&Counters { forbidden: 12 }, 10_000);
        let (_, trace) = found.violation.unwrap();
        assert_eq!(trace.len(), 4, "1 +1 +1 *2 *2: {trace:?}");
        let end = trace.iter().fold(1, |value, step| if *step == '+' { value + 1 } else { value * 2 });
        assert_eq!(end, 12);
    }

    #[test]
    fn every_state_is_reached_and_counted_once() {
        let found = search(&Counters { forbidden: 401 }, 10_000);
        assert!(found.violation.is_none() && !found.cut);
        let mut reachable: Vec<u32> = (1..=100).collect();
        reachable.extend((1..=100).map(|n| n * 2).chain((1..=100).map(|n| n * 4)));
        reachable.sort_unstable();
        reachable.dedup();
        assert_eq!(found.states, reachable.len() as u64);
    }

    #[test]
    fn a_joint_budget_allows_so_many_disturbances_of_either_kind_in_all() {
        let mut budget = Budget { foreign: 2, faults: 2, joint: true, ..Budget::default() };
        budget.pay_fault();
        assert_eq!((budget.foreign, budget.faults), (1, 1));
        budget.pay_foreign();
        assert_eq!((budget.foreign, budget.faults), (0, 0));
        let mut apart = Budget { joint: false, foreign: 2, faults: 2, ..Budget::default() };
        apart.pay_fault();
        assert_eq!((apart.foreign, apart.faults), (2, 1));
    }

    #[test]
    fn a_search_over_its_limit_says_so() {
        assert!(search(&Counters { forbidden: 401 }, 10).cut);
    }
}
