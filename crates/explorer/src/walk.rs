//! Random walks beyond the bounds of the search: more foreign commands and faults than it can exhaust, from a
//! seed that repeats them.

use crate::conductor::{Conductor, Tenure};
use crate::explore::{Broken, Report};
use crate::moves::Move;
use crate::scenario::Scenario;
use crate::search::{Budget, Space};
use crate::step::Play;
use crate::trace::tell;

/// Foreign commands and faults that one walk may use.
const WALK: Budget = Budget { foreign: 6, faults: 5, recovery_crashes: 3, joint: false };
/// Moves after which a walk is given up: no handover takes so many.
const LONGEST: usize = 600;

/// SplitMix64: small, seedable, good enough to choose moves.
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

/// Walks through randomly chosen scenarios until `steps` moves are made.
#[must_use]
pub fn walk(orders: &[(Scenario, Budget)], seed: u64, steps: u64) -> Report {
    walk_with(&Tenure, orders, seed, steps)
}

pub(crate) fn walk_with<C: Conductor>(
    conductor: &C,
    orders: &[(Scenario, Budget)],
    seed: u64,
    steps: u64,
) -> Report {
    let mut random = SplitMix(seed);
    let mut report = Report::default();
    while report.moves < steps {
        let Some((scenario, _)) = orders.get(random.below(orders.len())) else { break };
        one(&Play::new(scenario, conductor, WALK), &mut random, &mut report);
    }
    report
}

fn one<C: Conductor>(play: &Play<'_, C>, random: &mut SplitMix, report: &mut Report) {
    let Some(mut world) = play.initial() else {
        report.moves += 1;
        return;
    };
    report.scenarios += 1;
    let (mut trace, mut moves) = (Vec::new(), Vec::new());
    while trace.len() < LONGEST {
        moves.clear();
        play.moves(&world, &mut moves);
        let Some(step) = choose(&moves, random) else { break };
        trace.push(step);
        report.moves += 1;
        match play.apply(&world, step) {
            Ok(next) => world = next,
            Err(violation) => {
                let scenario = play.scenario.to_string();
                report.broken.push(Broken { scenario, violation, trace: tell(play, &trace) });
                break;
            }
        }
    }
    report.states += u64::try_from(trace.len()).unwrap_or(u64::MAX);
}

/// Mostly goes on, so that disturbances fall into every phase.
fn choose(moves: &[Move], random: &mut SplitMix) -> Option<Move> {
    let calm: Vec<_> = moves.iter().filter(|step| step.is_calm()).copied().collect();
    let from = if !calm.is_empty() && random.below(4) > 0 { &calm } else { moves };
    from.get(random.below(from.len())).copied()
}
