//! A group run by one host: the other is gone, and nothing is sent on its nexuses.

use super::message::Report;
use super::owed::Owed;
use super::{Hands, Journal, Patience, part};
use handover::{Ending, Group, GroupStep, Outcome, Round, Side};
use std::time::Instant;

/// Runs `group` to its end with the nexuses of `side` alone, without a pause between phases. What the other side was to do
/// is reported as not sent, which it is not: the caller must know that the other host does nothing for this guest any
/// more, or have the operator's word for it.
///
/// `None` if the procedure waits for reports that it has: a defect, after which nobody may resume.
pub fn alone(
    group: &mut Group,
    side: Side,
    hands: &mut (impl Hands + ?Sized),
    journal: &mut (impl Journal + ?Sized),
    patience: Patience,
) -> Option<Ending> {
    let mut owed = Owed::default();
    loop {
        let step = group.poll();
        owed.record(group, side, journal);
        match step {
            GroupStep::Run(round) => carry_out(group, &round, side, hands, journal, patience),
            GroupStep::PhaseDone(_) => group.proceed(),
            GroupStep::Finished(ending) => return Some(ending),
            GroupStep::Wait => return None,
        }
    }
}

fn carry_out(
    group: &mut Group,
    round: &Round,
    side: Side,
    hands: &mut (impl Hands + ?Sized),
    journal: &mut (impl Journal + ?Sized),
    patience: Patience,
) {
    if !round.journal.is_empty() && journal.append(round.number, &round.journal).is_err() {
        return group.journal_failed();
    }
    let (own, theirs) = (part::of(round, side), part::of(round, side.other()));
    let told =
        if own.is_empty() { Vec::new() } else { hands.carry_out(&own, Instant::now() + patience.commands) };
    part::tell(group, side, &part::completed(told, &own));
    let unsent = |report: Report| Report { outcome: Some(Outcome::NotSent), ..report };
    let theirs: Vec<Report> = part::completed(Vec::new(), &theirs).into_iter().map(unsent).collect();
    part::tell(group, side.other(), &theirs);
}
