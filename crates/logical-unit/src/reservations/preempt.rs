//! PREEMPT and PREEMPT AND ABORT (SPC-4 5.13.11.2.4 to 5.13.11.2.6).
//!
//! A key that is the single holder's takes the reservation, and the sender keeps its registration even
//! if the key is its own. Every other key only removes registrations, the sender's too where it has that
//! key; SCOPE and TYPE do not count then.

use super::order::{Order, Refusal};
use super::{Holder, Reservation, Reservations};
use crate::NexusId;
use crate::attention::Attention;
use crate::profile::{HolderPreempt, OwnKey, PreemptType, Profile, ZeroPreempt};
use scsi::FieldError;
use scsi::pr::{Key, OutAction};

/// Whether a PREEMPT of `victim` would take the reservation.
pub(super) fn takes(state: &Reservations, profile: &Profile, victim: Key) -> bool {
    match state.reservation.map(|held| held.holder) {
        None => false,
        Some(Holder::One(holder)) => state.key_of(holder) == victim,
        Some(Holder::All { .. }) if victim.is_none() => true,
        Some(Holder::All { marked }) => {
            profile.marked_holder && marked.is_some_and(|nexus| state.key_of(nexus) == victim)
        }
    }
}

pub(super) const fn checks_type(profile: &Profile, takes: bool) -> bool {
    match profile.preempt_type {
        PreemptType::WhenTaking => takes,
        PreemptType::Always => true,
        PreemptType::Never => false,
    }
}

pub(super) fn run(order: &mut Order<'_>, victim: Key) -> Result<u32, Refusal> {
    let Some(held) = order.state.reservation.filter(|_| takes(order.state, order.profile, victim)) else {
        return if victim.is_none() { no_key(order) } else { remove(order, victim) };
    };
    let everyone = victim.is_none();
    let named =
        if everyone { registrants(order) } else { order.state.registrations.with_key(victim).collect() };
    let steps = take(order, held, &named)?;
    abort(order, named);
    Ok(steps)
}

/// Removes `named` but for the sender, and gives the sender the reservation.
fn take(order: &mut Order<'_>, held: Reservation, named: &[NexusId]) -> Result<u32, Refusal> {
    let holds = held.holder == Holder::One(order.sender);
    match order.profile.holder_preempt {
        HolderPreempt::RemovesSenderFirst if !holds && named.contains(&order.sender) => {
            order.remove(named);
            order.count(steps(order, named.len()));
            return Err(Refusal::Conflict);
        }
        HolderPreempt::HolderSparesSharers if holds => retype(order, held),
        _ => {
            let gone: Vec<_> = named.iter().copied().filter(|nexus| *nexus != order.sender).collect();
            order.remove(&gone);
            let removed = gone.len();
            tell_preempted(order, gone);
            retype(order, held);
            return Ok(steps(order, removed));
        }
    }
    Ok(steps(order, 0))
}

/// The new reservation, and the news of a changed type.
fn retype(order: &mut Order<'_>, held: Reservation) {
    let (kind, sender) = (order.cdb.kind, order.sender);
    order.hold(kind, sender);
    if order.profile.retype_keeps_key && held.holder == Holder::One(sender) && kind.is_all_registrants() {
        order.set_reservation(Some(Reservation { kind, holder: Holder::All { marked: Some(sender) } }));
    }
    if kind != held.kind && order.profile.attentions.retype.contains(held.kind) {
        let others = order.others();
        order.tell(others, Attention::ReservationsReleased);
    }
}

/// A zero key where no all registrants reservation exists.
fn no_key(order: &Order<'_>) -> Result<u32, Refusal> {
    match (order.profile.zero_preempt, order.state.reservation) {
        (ZeroPreempt::Conflict, None) => Err(Refusal::Conflict),
        (ZeroPreempt::Good, None) => Ok(1),
        _ => Err(FieldError::parameter(8).into()),
    }
}

/// Only removes registrations.
fn remove(order: &mut Order<'_>, victim: Key) -> Result<u32, Refusal> {
    let named: Vec<_> = order.state.registrations.with_key(victim).collect();
    if named.is_empty() {
        return if order.profile.unmatched_preempt_good { Ok(1) } else { Err(Refusal::Conflict) };
    }
    let own = order.profile.own_key_removal;
    let own = match order.state.reservation.map(|held| held.holder) {
        None => own.none,
        Some(Holder::All { .. }) => own.all_registrants,
        Some(Holder::One(_)) => own.other_holder,
    };
    let keeps = named.contains(&order.sender) && own == OwnKey::Kept;
    if named.contains(&order.sender) && own == OwnKey::Refused {
        return Err(FieldError::parameter(8).into());
    }
    let gone: Vec<_> = named.iter().copied().filter(|nexus| !(keeps && *nexus == order.sender)).collect();
    order.remove(&gone);
    let removed = gone.len();
    tell_preempted(order, gone);
    abort(order, named);
    Ok(steps(order, removed))
}

/// The nexuses that lost their registration hear of it, but not the sender.
fn tell_preempted(order: &mut Order<'_>, mut gone: Vec<NexusId>) {
    gone.retain(|nexus| *nexus != order.sender);
    if !gone.is_empty() {
        order.tell(gone, order.profile.attentions.preempted);
    }
}

fn abort(order: &mut Order<'_>, named: Vec<NexusId>) {
    if order.cdb.action == OutAction::PREEMPT_AND_ABORT {
        order.outcome.abort = Some(named);
    }
}

fn registrants(order: &Order<'_>) -> Vec<NexusId> {
    order.state.registrations.iter().map(|one| one.nexus).collect()
}

fn steps(order: &Order<'_>, removed: usize) -> u32 {
    let further = if order.profile.generation.per_removal { u32::try_from(removed).unwrap_or(0) } else { 0 };
    further.saturating_add(1)
}
