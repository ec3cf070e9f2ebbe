//! The source takes its registrations back without the destination: a recovery in which the destination answers nothing, and,
//! where that finds them there, a handover with a dead source, whose key is unlisted for one command.

use super::leg::{Agreed, Entries, SharedHands, Turned};
use super::site::{Leg, Log, Trouble};
use super::source::Fail;
use super::{leg, units};
use crate::conduct::{Hands, Journal};
use handover::{Action, CommandId, Ending, Group, GroupStep, Outcome, Settings, Side, UnitIndex};
use peer::message::{BackUnit, Word};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For the commands of one round.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether every registration is this host's afterwards, or nobody's.
pub(crate) fn take_back(agreed: &Agreed, log: &Arc<dyn Log>, hands: &SharedHands) -> Result<bool, Fail> {
    let places = leg::all(agreed.luns.len());
    let which: Vec<_> = places
        .iter()
        .map(|unit| Ok(BackUnit { unit: *unit, nonce: Word(units::nonce()?) }))
        .collect::<Result<_, Trouble>>()?;
    let orders = agreed.back(&**log, &which)?;
    let without = |order| Settings { source_alive: false, allow_absence: true, ..order };
    let group = Group::new(orders.into_iter().map(without).collect());
    let Some(group) = group else { return Ok(true) };
    let mut alone = Alone {
        group,
        hands: Turned::new(Arc::clone(hands), Leg::Back, places.clone()),
        entries: Entries::new(Some(Arc::clone(log)), Leg::Back, places),
    };
    let ending = alone.run();
    let here = |verdict: handover::Verdict| {
        use handover::verdict::Reason;
        matches!(
            verdict,
            handover::Verdict::Moved
                | handover::Verdict::Fenced { .. }
                | handover::Verdict::Lost
                | handover::Verdict::Refused(Reason::AlreadyThere)
        )
    };
    let all_here = alone.group.verdicts().all(|(_, verdict)| verdict.is_some_and(here));
    Ok(all_here && ending != Some(Ending::InDoubt))
}

struct Alone {
    group: Group,
    hands: Turned,
    entries: Entries,
}

impl Alone {
    fn run(&mut self) -> Option<Ending> {
        loop {
            match self.group.poll() {
                GroupStep::Run(round) => self.round(round.number, &round.journal, &round.actions),
                GroupStep::PhaseDone(_) => self.group.proceed(),
                GroupStep::Finished(ending) => return Some(ending),
                GroupStep::Wait => return None,
            }
        }
    }

    fn round(
        &mut self,
        number: u64,
        journal: &[(UnitIndex, handover::Entry)],
        actions: &[(UnitIndex, Action)],
    ) {
        if !journal.is_empty() && self.entries.append(number, journal).is_err() {
            self.group.journal_failed();
            return;
        }
        let (own, theirs): (Vec<_>, Vec<_>) =
            actions.iter().cloned().partition(|(_, action)| side(action) == Some(Side::Destination));
        for report in self.hands.carry_out(&own, Instant::now() + PATIENCE) {
            match report.outcome {
                Some(outcome) => self.group.report(report.unit, report.id, outcome),
                None => self.group.give_up(report.unit, handover::Doubt::DestinationUnreachable),
            }
        }
        for (unit, action) in theirs {
            if let Some(id) = id(&action) {
                self.group.report(unit, id, Outcome::NotSent);
            }
        }
    }
}

const fn side(action: &Action) -> Option<Side> {
    match action {
        Action::Execute { path, .. }
        | Action::CloseSession { path, .. }
        | Action::OpenSession { path, .. } => Some(path.side),
        Action::Journal(_) => None,
    }
}

const fn id(action: &Action) -> Option<CommandId> {
    match action {
        Action::Execute { id, .. } | Action::CloseSession { id, .. } | Action::OpenSession { id, .. } => {
            Some(*id)
        }
        Action::Journal(_) => None,
    }
}
