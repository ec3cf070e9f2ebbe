//! REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7, 5.13.11.2.3): registering, changing a
//! key, unregistering; SPEC_I_PT and ALL_TG_PT do it for further nexuses, all or none.

use super::order::{Order, Refusal, rejected};
use crate::attention::Attention;
use crate::profile::{AllTargetPorts, NamedRegistrant, NoRoom, Profile};
use crate::{ItNexus, NexusId};
use scsi::pr::{BasicParameters, Key, OutAction};
use scsi::{AdditionalSense, FieldError, Sense, SenseKey, TransportId};
use std::collections::BTreeSet;

/// Where the TransportIDs of SPEC_I_PT begin.
const FIRST_ID: usize = 28;

/// The refusal when no place is left for a registration.
pub(super) fn no_room(profile: &Profile) -> Refusal {
    let code = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
    match profile.no_room {
        NoRoom::Insufficient => Refusal::Check(Sense::new(SenseKey::ILLEGAL_REQUEST, code)),
        NoRoom::Busy => Refusal::Busy,
    }
}

/// `list` is the whole parameter list, for the place of a TransportID.
pub(super) fn run(order: &mut Order<'_>, parameters: &BasicParameters, list: &[u8]) -> Result<u32, Refusal> {
    let (known, new) = (order.state.registrations.get(order.sender).copied(), parameters.service_action_key);
    let Some(known) = known else {
        if new.is_none() {
            return Ok(order.profile.generation.no_op);
        }
        return add(order, parameters, list);
    };
    if parameters.initiator_ports.is_some() {
        return Err(rejected(order.profile.spec_i_pt_registered, FieldError::parameter_bit(20, 3)).into());
    }
    let repeats = order.profile.all_target_ports == AllTargetPorts::MustRepeat;
    if repeats && known.all_target_ports && !parameters.all_target_ports {
        return Err(FieldError::cdb_bit(1, 4).into());
    }
    if new.is_none() { unregister(order, parameters) } else { change_key(order, parameters, known.key) }
}

/// A first registration, of further nexuses too if the list names them.
fn add(order: &mut Order<'_>, parameters: &BasicParameters, list: &[u8]) -> Result<u32, Refusal> {
    let mut nexuses = BTreeSet::from([order.sender]);
    if parameters.all_target_ports {
        nexuses.extend(siblings(order, Key::NONE)?);
    }
    nexuses.extend(named(order, parameters, list)?);
    let news = nexuses.iter().filter(|nexus| order.state.registrations.get(**nexus).is_none()).count();
    if order.state.registrations.len() + news > order.profile.registration_limit {
        return Err(no_room(order.profile));
    }
    for nexus in nexuses {
        order.register(nexus, parameters.service_action_key, parameters.all_target_ports);
    }
    order.set_aptpl(parameters.aptpl);
    let further = u32::try_from(news.saturating_sub(1)).unwrap_or(0);
    let counts = order.profile.generation.per_target_port && parameters.all_target_ports;
    Ok(if counts { further.saturating_add(1) } else { 1 })
}

/// A new key, or the same again: the reservation is not touched.
fn change_key(order: &mut Order<'_>, parameters: &BasicParameters, old: Key) -> Result<u32, Refusal> {
    let every_port = order.profile.all_target_ports != AllTargetPorts::RegisterOnly;
    let mut nexuses = vec![order.sender];
    if parameters.all_target_ports && every_port {
        nexuses.extend(siblings(order, old)?);
    }
    let all = parameters.all_target_ports;
    for nexus in nexuses {
        order.register(nexus, parameters.service_action_key, all);
    }
    order.set_aptpl(parameters.aptpl);
    Ok(1)
}

/// Removes the sender's registration, under ALL_TG_PT those of its initiator port on the other ports too.
fn unregister(order: &mut Order<'_>, parameters: &BasicParameters) -> Result<u32, Refusal> {
    let ignoring = order.cdb.action == OutAction::REGISTER_AND_IGNORE;
    let alone = ignoring && order.profile.all_target_ports == AllTargetPorts::MustRepeat;
    let mut gone = BTreeSet::from([order.sender]);
    if parameters.all_target_ports && !alone {
        let old = order.state.key_of(order.sender);
        gone.extend(siblings(order, old)?);
    }
    let gone: Vec<_> = gone.into_iter().collect();
    let ended = order.remove(&gone);
    if ended.is_some_and(|kind| order.profile.attentions.unregister.contains(kind)) {
        let others = order.others();
        order.tell(others, Attention::ReservationsReleased);
    }
    order.set_aptpl(parameters.aptpl);
    Ok(unregister_steps(order.profile, ended.is_some(), gone.len()))
}

fn unregister_steps(profile: &Profile, holder: bool, removed: usize) -> u32 {
    let counts = &profile.generation;
    let steps = if holder { counts.holder_unregister } else { counts.unregister };
    let further = if counts.per_removal { u32::try_from(removed).unwrap_or(0) } else { 0 };
    steps.saturating_add(further)
}

/// The nexuses of the sender's initiator port through the other target ports that ALL_TG_PT reaches: as
/// if the command had arrived there too. A first registration and REGISTER AND IGNORE EXISTING KEY reach
/// all of them; a later REGISTER those that are registered with the sender's key (`old`), so that it
/// never brings back a registration that somebody removed. Another key is a conflict.
fn siblings(order: &mut Order<'_>, old: Key) -> Result<Vec<NexusId>, Refusal> {
    let sender = order.directory.nexus(order.sender).cloned();
    let sender = sender.ok_or_else(|| no_room(order.profile))?;
    let ignoring = order.cdb.action == OutAction::REGISTER_AND_IGNORE;
    let ports = order.directory.target_ports().to_vec();
    let mut found = Vec::new();
    for target_port in ports.into_iter().filter(|port| *port != sender.target_port) {
        let nexus = ItNexus { initiator: sender.initiator.clone(), target_port };
        let nexus = order.directory.resolve(&nexus).ok_or_else(|| no_room(order.profile))?;
        match order.state.key_of(nexus) {
            _ if ignoring => found.push(nexus),
            key if key == old => found.push(nexus),
            Key::NONE => {}
            _ => return Err(Refusal::Conflict),
        }
    }
    Ok(found)
}

/// The nexuses that SPEC_I_PT names and that the command is to register.
fn named(order: &mut Order<'_>, parameters: &BasicParameters, list: &[u8]) -> Result<Vec<NexusId>, Refusal> {
    if parameters.initiator_ports.is_none() {
        return Ok(Vec::new());
    }
    let here = order.directory.nexus(order.sender).cloned().ok_or_else(|| no_room(order.profile))?;
    let all = parameters.all_target_ports;
    let ports = if all { order.directory.target_ports().to_vec() } else { vec![here.target_port] };
    // A list has room for tens of thousands of TransportIDs; the same one again adds nothing but work.
    let (mut found, mut seen, mut at) = (Vec::new(), BTreeSet::new(), FIRST_ID);
    let list = announced(list);
    while let Some(rest) = list.get(at..).filter(|rest| !rest.is_empty()) {
        let wrong = FieldError::parameter(u16::try_from(at).unwrap_or(u16::MAX));
        let (id, length) = TransportId::parse(rest).map_err(|_| wrong)?;
        if id.protocol() != here.initiator.protocol() {
            return Err(wrong.into());
        }
        at += length;
        if seen.contains(&id) {
            continue;
        }
        for port in &ports {
            let nexuses = resolve(order, &id, *port).ok_or_else(|| no_room(order.profile))?;
            found.extend(admissible(order, nexuses, wrong)?);
        }
        seen.insert(id);
    }
    Ok(found)
}

/// The parameter list up to the end of its TransportIDs; whatever follows is not looked at.
fn announced(list: &[u8]) -> &[u8] {
    let length = list.get(24..FIRST_ID).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(FIRST_ID));
    end.and_then(|end| list.get(..end)).unwrap_or(list)
}

/// What one TransportID names on one target port: one nexus, or every known one of an iSCSI name.
fn resolve(order: &mut Order<'_>, id: &TransportId, target_port: u16) -> Option<Vec<NexusId>> {
    if matches!(id, TransportId::Iscsi { isid: None, .. }) {
        return Some(order.directory.ports_named(id, target_port));
    }
    order.directory.resolve(&ItNexus { initiator: id.clone(), target_port }).map(|nexus| vec![nexus])
}

/// Leaves out who is registered already, by the profile's rule.
fn admissible(order: &Order<'_>, nexuses: Vec<NexusId>, wrong: FieldError) -> Result<Vec<NexusId>, Refusal> {
    let registered = |nexus: &NexusId| order.state.registrations.get(*nexus).is_some();
    match order.profile.named_registrant {
        NamedRegistrant::Rekeyed => Ok(nexuses),
        NamedRegistrant::Rejected if nexuses.iter().any(registered) => Err(wrong.into()),
        _ => Ok(nexuses.into_iter().filter(|nexus| !registered(nexus)).collect()),
    }
}
