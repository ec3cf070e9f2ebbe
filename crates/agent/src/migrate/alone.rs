//! One host without the other. The source takes its registrations back without the destination: a recovery in which the destination
//! answers nothing, and, where that finds them there, a handover with a dead source, whose key is unlisted for one command. The
//! destination proves that they are here ([`incoming`](crate::incoming)).

use super::fail::Fail;
use super::leg::{Agreed, Entries, SharedHands, Turned};
use super::site::{Ground, Leg, Log, Trouble};
use super::{leg, remains, units};
use crate::conduct::{self, Patience};
use handover::journal::Stage;
use handover::{Doubt, Group, Settings, Side, Verdict};
use peer::message::{BackUnit, Word};
use std::sync::Arc;

/// What this host acts with.
pub(crate) struct Host<'a> {
    pub(crate) log: &'a Arc<dyn Log>,
    pub(crate) ground: &'a Arc<dyn Ground>,
    pub(crate) hands: &'a SharedHands,
}

/// Whether every registration is this host's afterwards, or nobody's. `absence`: what is at the destination may be taken from
/// there; without, only what this host's own nexuses still have is put in order.
pub(crate) fn take_back(agreed: &Agreed, host: &Host<'_>, absence: bool) -> Result<bool, Fail> {
    let log = host.log;
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
        Some(group) => run(group, host, (Side::Source, Leg::There), places.clone()),
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
    if !absence {
        return Ok(false);
    }
    let one = |unit: &u16| Ok(BackUnit { unit: *unit, nonce: Word(units::nonce()?) });
    let which: Vec<_> = away.iter().map(one).collect::<Result<_, Trouble>>()?;
    let without = |order| Settings { source_alive: false, allow_absence: true, ..order };
    let orders = agreed.back(&**log, &which)?.into_iter().map(without).collect();
    let Some(group) = Group::new(orders) else { return Ok(true) };
    let here = |verdict: &Option<Verdict>| {
        matches!(verdict, Some(Verdict::Moved | Verdict::Fenced { .. } | Verdict::Lost))
    };
    Ok(run(group, host, (Side::Destination, Leg::Back), away).iter().all(here))
}

/// A group with the nexuses of this host alone, which is that side of that leg; a defect leaves its units without a verdict.
pub(crate) fn run(
    mut group: Group,
    host: &Host<'_>,
    (own, leg): (Side, Leg),
    places: Vec<u16>,
) -> Vec<Option<Verdict>> {
    let mut hands = Turned::new(Arc::clone(host.hands), leg, places.clone());
    let (log, ground) = (Some(Arc::clone(host.log)), Arc::clone(host.ground));
    let mut entries = Entries::new(log, ground, leg, places);
    let _ = conduct::alone(&mut group, own, &mut hands, &mut entries, Patience::default());
    group.verdicts().map(|(_, verdict)| verdict).collect()
}
