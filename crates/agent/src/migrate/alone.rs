//! The source takes its registrations back without the destination: a recovery in which the destination answers nothing, and,
//! where that finds them there, a handover with a dead source, whose key is unlisted for one command.

use super::leg::{Agreed, Entries, SharedHands, Turned};
use super::site::{Leg, Log, Trouble};
use super::source::Fail;
use super::{leg, remains, units};
use crate::conduct::{Hands, Journal};
use handover::journal::Stage;
use handover::{
    Action, CommandId, Doubt, Entry, Group, GroupStep, Outcome, Settings, Side, UnitIndex, Verdict,
};
use peer::message::{BackUnit, Word};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For the commands of one round.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether every registration is this host's afterwards, or nobody's.
pub(crate) fn take_back(agreed: &Agreed, log: &Arc<dyn Log>, hands: &SharedHands) -> Result<bool, Fail> {
    let last = log.last();
    // What had begun to come back was at the destination, unless it came.
    let turned = |place: &u16| {
        let last = last.get(usize::from(*place)).copied().flatten();
        last.filter(|last| last.leg == Leg::Back).map(|last| last.entry.stage)
    };
    let (back, places): (Vec<_>, Vec<_>) =
        leg::all(agreed.luns.len()).into_iter().partition(|place| turned(place).is_some());
    let coming = back.into_iter().filter(|place| turned(place) != Some(Stage::Moved));
    let verdicts = match remains::without_destination(agreed, &**log, &places)? {
        Some(group) => run(group, log, hands, Leg::There, places.clone()),
        None => Vec::new(),
    };
    let of = |place: &u16| {
        let unit = places.iter().position(|other| other == place)?;
        verdicts.get(unit).copied().flatten()
    };
    // In doubt for want of the destination: this host has not the key any more, and the handover below proves whether it is
    // still there before it takes it.
    let gone = |verdict| matches!(verdict, Verdict::Moved | Verdict::InDoubt(Doubt::DestinationUnreachable));
    let gone_there = places.iter().copied().filter(|place| of(place).is_some_and(gone));
    let away: Vec<_> = gone_there.chain(coming).collect();
    let known = |verdict| gone(verdict) || !matches!(verdict, Verdict::InDoubt(_));
    let clear = verdicts.iter().all(|verdict| verdict.is_some_and(known));
    if !clear || away.is_empty() {
        return Ok(clear);
    }
    let one = |unit: &u16| Ok(BackUnit { unit: *unit, nonce: Word(units::nonce()?) });
    let which: Vec<_> = away.iter().map(one).collect::<Result<_, Trouble>>()?;
    let without = |order| Settings { source_alive: false, allow_absence: true, ..order };
    let orders = agreed.back(&**log, &which)?.into_iter().map(without).collect();
    let Some(group) = Group::new(orders) else { return Ok(true) };
    let here = |verdict: &Option<Verdict>| {
        matches!(verdict, Some(Verdict::Moved | Verdict::Fenced { .. } | Verdict::Lost))
    };
    Ok(run(group, log, hands, Leg::Back, away).iter().all(here))
}

fn run(
    group: Group,
    log: &Arc<dyn Log>,
    hands: &SharedHands,
    leg: Leg,
    places: Vec<u16>,
) -> Vec<Option<Verdict>> {
    let hands = Turned::new(Arc::clone(hands), leg, places.clone());
    let entries = Entries::new(Some(Arc::clone(log)), leg, places);
    let own = match leg {
        Leg::There => Side::Source,
        Leg::Back => Side::Destination,
    };
    let mut alone = Alone { group, own, hands, entries };
    alone.run();
    alone.group.verdicts().map(|(_, verdict)| verdict).collect()
}

struct Alone {
    group: Group,
    /// What this host is in the group.
    own: Side,
    hands: Turned,
    entries: Entries,
}

impl Alone {
    fn run(&mut self) {
        loop {
            match self.group.poll() {
                GroupStep::Run(round) => self.round(round.number, &round.journal, &round.actions),
                GroupStep::PhaseDone(_) => self.group.proceed(),
                GroupStep::Finished(_) | GroupStep::Wait => return,
            }
        }
    }

    fn round(&mut self, number: u64, journal: &[(UnitIndex, Entry)], actions: &[(UnitIndex, Action)]) {
        if !journal.is_empty() && self.entries.append(number, journal).is_err() {
            self.group.journal_failed();
            return;
        }
        let (own, theirs): (Vec<_>, Vec<_>) =
            actions.iter().cloned().partition(|(_, action)| side(action) == Some(self.own));
        for report in self.hands.carry_out(&own, Instant::now() + PATIENCE) {
            match report.outcome {
                Some(outcome) => self.group.report(report.unit, report.id, outcome),
                None => self.group.give_up(report.unit, Doubt::SourceUnreachable),
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
