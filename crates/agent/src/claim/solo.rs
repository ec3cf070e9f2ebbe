//! Runs a group whose other host is not there: only this host's nexuses act, and only this host has a journal.

use super::Error;
use crate::conduct::{Hands, Journal};
use crate::drive::Lines;
use handover::group::Ending;
use handover::verdict::Doubt;
use handover::{Action, Entry, Group, GroupStep, Outcome, Path, Round, Side, UnitIndex};
use std::time::{Duration, Instant};

/// Runs the group to its end; with that, the last entry of each of its units. `units`: which logical units of `lines` and of
/// the journal they are. Actions of the other host are certain not to be sent.
///
/// # Errors
/// [`Error::Stuck`].
pub fn run(
    group: &mut Group,
    lines: &mut Lines,
    journal: &mut dyn Journal,
    units: &[UnitIndex],
    patience: Duration,
) -> Result<(Ending, Vec<Option<Entry>>), Error> {
    let mut entries = vec![None; group.len()];
    loop {
        match group.poll() {
            GroupStep::Run(round) => carry_out(group, lines, journal, units, &round, patience, &mut entries),
            GroupStep::PhaseDone(_) => group.proceed(),
            GroupStep::Finished(ending) => return Ok((ending, entries)),
            GroupStep::Wait => return Err(Error::Stuck),
        }
    }
}

fn carry_out(
    group: &mut Group,
    lines: &mut Lines,
    journal: &mut dyn Journal,
    units: &[UnitIndex],
    round: &Round,
    patience: Duration,
    entries: &mut [Option<Entry>],
) {
    let outside = |unit: &UnitIndex| units.get(usize::from(unit.0)).copied();
    let told: Vec<_> =
        round.journal.iter().filter_map(|(unit, entry)| Some((outside(unit)?, *entry))).collect();
    if !told.is_empty() && journal.append(round.number, &told).is_err() {
        return group.journal_failed();
    }
    for (unit, entry) in &round.journal {
        if let Some(last) = entries.get_mut(usize::from(unit.0)) {
            *last = Some(*entry);
        }
    }
    let own: Vec<_> =
        round.actions.iter().filter(|(_, action)| side(action) == Some(Side::Destination)).collect();
    let own: Vec<_> =
        own.into_iter().filter_map(|(unit, action)| Some((outside(unit)?, action.clone()))).collect();
    for report in lines.carry_out(&own, Instant::now() + patience) {
        let Some(inside) = units.iter().position(|unit| *unit == report.unit) else { continue };
        let inside = UnitIndex(u16::try_from(inside).unwrap_or(u16::MAX));
        match report.outcome {
            Some(outcome) => group.report(inside, report.id, outcome),
            None => group.give_up(inside, Doubt::DestinationUnreachable),
        }
    }
    for (unit, action) in round.actions.iter().filter(|(_, action)| side(action) == Some(Side::Source)) {
        if let Action::Execute { id, .. } | Action::CloseSession { id, .. } | Action::OpenSession { id, .. } =
            action
        {
            group.report(*unit, *id, Outcome::NotSent);
        }
    }
}

const fn side(action: &Action) -> Option<Side> {
    match action {
        Action::Execute { path: Path { side, .. }, .. }
        | Action::CloseSession { path: Path { side, .. }, .. }
        | Action::OpenSession { path: Path { side, .. }, .. } => Some(*side),
        Action::Journal(_) => None,
    }
}
