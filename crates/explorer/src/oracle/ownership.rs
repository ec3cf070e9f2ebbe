//! P1, the keys of P2, and what P4 says at every instant.

use super::{Promise, Violation};
use crate::cast::{GUEST_KEY, Host, NONCE, STRANGER};
use crate::scenario::Scenario;
use crate::shadow::Standing;
use crate::world::{Driver, World};
use handover::Verdict;

/// P2: while the guest would be registered, its key is listed for a nexus of its own. Under method
/// *destination nonce* the nonce stands for it.
pub(super) fn no_gap<P>(scenario: &Scenario, world: &World<P>) -> Result<(), Violation> {
    if world.shadow.standing != Standing::Registered {
        return Ok(());
    }
    let has = |key| world.guests(scenario).any(|nexus| world.device.key(nexus) == Some(key));
    let stands_in = |nexus| world.device.key(nexus) == Some(NONCE);
    let destination_nonce = world.nexuses_at(scenario, Host::Destination).into_iter().any(stands_in);
    if has(GUEST_KEY) || destination_nonce {
        return Ok(());
    }
    Err(Violation::new(Promise::NoGap, "no nexus of the guest has its key"))
}

/// P1: a guest that was removed does not run registered.
pub(super) fn no_unfencing<P>(scenario: &Scenario, world: &World<P>) -> Result<(), Violation> {
    let Some(host) = world.guest.running else { return Ok(()) };
    if world.shadow.standing == Standing::Registered {
        return Ok(());
    }
    let registered =
        world.nexuses_at(scenario, host).into_iter().any(|nexus| world.device.key(nexus).is_some());
    if !registered {
        return Ok(());
    }
    let what = format!("the guest runs at the {}, registered, after it was removed", host.name());
    Err(Violation::new(Promise::NoUnfencing, what))
}

/// P4 and P6 for the running guest: it may read and write what it could without a handover, and the host
/// that it left may do no more than a nexus that never registered.
pub(super) fn excluded<P>(scenario: &Scenario, world: &World<P>) -> Result<(), Violation> {
    let Some(host) = world.guest.running else { return Ok(()) };
    let best = |device: &crate::device::Device, nexuses: Vec<_>| {
        let rights = nexuses.into_iter().map(|nexus| device.access(nexus));
        rights.fold((false, false), |(read, write), (r, w)| (read || r, write || w))
    };
    let is = best(&world.device, world.nexuses_at(scenario, host));
    let should = best(&world.shadow.device, scenario.guest_nexuses().collect());
    if is != should && world.hosts.at(host).is_healthy() && !world.shadow.remnant {
        let what = format!("the guest may read, write: {is:?} instead of {should:?}");
        return Err(Violation::new(Promise::Fidelity, what));
    }
    let moved = matches!(world.driver, Driver::Ended(Verdict::Moved)) && host == Host::Destination;
    let left = world.nexuses_at(scenario, Host::Source);
    if moved && !left.is_empty() && best(&world.device, left) != world.device.access(STRANGER) {
        return Err(Violation::new(Promise::OneOwner, "the source still has access of its own"));
    }
    Ok(())
}
