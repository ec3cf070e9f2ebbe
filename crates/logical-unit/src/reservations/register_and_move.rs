//! REGISTER AND MOVE (SPC-4 5.13.8): the single holder registers another nexus and hands it the
//! reservation in one step. Its own parameter list, its own order of checks.

use super::Holder;
use super::order::{Order, Refusal, rejected};
use super::register::no_room;
use crate::profile::Unregistered;
use crate::{ItNexus, NexusId};
use scsi::pr::{MoveParameters, ReservationType};
use scsi::{FieldError, TransportId};

pub(super) fn run(order: &mut Order<'_>, list: &[u8]) -> Result<u32, Refusal> {
    let parameters = MoveParameters::parse(list)?;
    if parameters.aptpl && !order.profile.support.aptpl {
        return Err(order.unsupported(FieldError::parameter_bit(17, 0)));
    }
    let kind = check_holder(order, &parameters)?;
    if parameters.service_action_key.is_none() {
        return Err(rejected(order.profile.move_zero_key, FieldError::parameter(8)).into());
    }
    let destination = destination(order, &parameters)?;
    let new = order.state.registrations.get(destination).is_none();
    if new && !parameters.unregister && order.state.registrations.len() >= order.profile.registration_limit {
        return Err(no_room(order.profile));
    }
    order.register(destination, parameters.service_action_key, false);
    order.hold(kind, destination);
    if parameters.unregister {
        order.remove(&[order.sender]);
    }
    order.set_aptpl(parameters.aptpl);
    Ok(1)
}

/// The sender must be the single holder; gives the type that moves.
fn check_holder(order: &Order<'_>, parameters: &MoveParameters) -> Result<ReservationType, Refusal> {
    let key = order.state.key_of(order.sender);
    let no_reservation = || Refusal::from(FieldError::cdb_bit(1, 4));
    if key.is_none() {
        let standard = order.profile.unregistered != Unregistered::CommunicationFailure;
        let none = order.state.reservation.is_none();
        return Err(if none && standard { no_reservation() } else { order.unregistered() });
    }
    if parameters.reservation_key != key {
        return Err(Refusal::Conflict);
    }
    match order.state.reservation {
        None if order.profile.move_without_reservation_conflicts => Err(Refusal::Conflict),
        None => Err(no_reservation()),
        Some(held) if held.holder == Holder::One(order.sender) => Ok(held.kind),
        Some(_) => Err(Refusal::Conflict),
    }
}

/// The nexus that the TransportID and port name; never through the sender's own initiator port.
fn destination(order: &mut Order<'_>, parameters: &MoveParameters) -> Result<NexusId, Refusal> {
    let port = parameters.relative_target_port;
    if !order.directory.target_ports().contains(&port) {
        return Err(FieldError::parameter(18).into());
    }
    let named = FieldError::parameter(24);
    let id = &parameters.initiator_port;
    let sender = order.directory.nexus(order.sender).ok_or(named)?;
    let wildcard = matches!(id, TransportId::Iscsi { isid: None, .. });
    if wildcard || *id == sender.initiator || id.protocol() != sender.initiator.protocol() {
        return Err(named.into());
    }
    let nexus = ItNexus { initiator: id.clone(), target_port: port };
    order.directory.resolve(&nexus).ok_or_else(|| no_room(order.profile))
}
