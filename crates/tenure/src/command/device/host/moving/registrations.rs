//! Registrations of a guest that comes, or has gone, by which another host's nexus is registered, or this one's (`handed`).

use super::{Host, MoveError, Taken, parse};
use crate::command::device::custody::Peering;
use crate::command::device::handed::follow::{Asked, BEGINNING};
use crate::command::device::handed::lead::Lead;
use crate::command::device::handed::state::Handed;
use crate::command::device::lun::Kind as Source;
use logical_unit::snapshot::Stamp;
use peer::{HostName, Refusal, Reply, Request};
use std::time::Instant;
use vhost_user_scsi::saved::Kind;

impl Host {
    /// Whether the guest could come here with `bytes`, which were saved for a look: also what it would have to reach by nexuses of this host.
    pub(in crate::command::device) fn look_at(&self, bytes: &[u8]) -> Result<(), MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let wanted: Vec<_> = {
            let luns = self.lock();
            let taken = self.read(&luns, bytes)?.into_iter().filter(|taken| taken.own.is_none());
            let slot = |taken: Taken| Some((luns.slots.get(&taken.saved.number)?.lun.clone(), taken.saved));
            taken.filter_map(slot).collect()
        };
        wanted.iter().try_for_each(|(lun, saved)| {
            let reached = hosted.real.can_reach(hosted, lun, saved);
            reached.map_err(|why| MoveError::Real(saved.number, why))
        })
    }

    /// Whether every host whose nexus has a registration of a state is this one or a peer of it: no other one could be asked for that.
    pub(in crate::command::device) fn bearers_are_known(
        &self,
        bytes: &[u8],
        peering: &Peering,
    ) -> Result<(), MoveError> {
        let handed = parse(bytes)?.1.luns.into_iter().filter(|lun| lun.kind == Kind::Handed);
        let bearers = handed.filter_map(|lun| Handed::parse(&lun.state));
        let mut others = bearers.filter(|handed| handed.is_to_be_asked_for(peering.own()));
        match others.find(|handed| !peering.knows(&handed.bearer)) {
            Some(Handed { bearer, .. }) => Err(MoveError::NoPeer(bearer)),
            None => Ok(()),
        }
    }

    /// Brings the registrations of a state that are another host's nexus's to this one's; `alone` where that host is gone for good.
    pub(in crate::command::device) fn bring_registrations(
        &self,
        state: &[u8],
        peering: &Peering,
        alone: bool,
    ) -> Result<(), MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let (Stamp(ticket), saved) = parse(state)?;
        Ok(Lead { hosted, peering, ticket, alone }.settle(&saved.luns)?)
    }

    /// Whether a state is still true, so that the guest may go on elsewhere with it: no registration has left its nexus, or is about to.
    pub(in crate::command::device) fn may_give_back(
        &self,
        state: &[u8],
        peering: &Peering,
    ) -> Result<(), MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let (Stamp(ticket), saved) = parse(state)?;
        let begun = Lead { hosted, peering, ticket, alone: false }.was_begun(&saved.luns)?;
        if begun { Err(MoveError::UnderWay) } else { Ok(()) }
    }

    /// What was begun of a handover of registrations to a host that is gone for good is ended by this one alone.
    pub(in crate::command::device) fn end_alone(&self, own: &HostName) -> Result<(), MoveError> {
        let [hosted] = self.guests() else { return Err(MoveError::Shared) };
        let luns: Vec<_> =
            self.lock().slots.iter().map(|(number, slot)| (*number, slot.lun.clone())).collect();
        if luns.iter().all(|(_, lun)| matches!(lun.kind, Source::Emulated(_))) {
            return Ok(());
        }
        // The operator waits for it. Which handover that is the journal says.
        let (ticket, end) = (0, Instant::now() + BEGINNING);
        Ok(Asked { hosted, luns, own, ticket, peer: own, still: &|| Ok(()), end }.end_alone()?)
    }

    /// Answers the device `peer` that leads a handover of registrations which this host's nexuses have; the guest went away by `ticket`.
    /// `still`: whether that is to be answered yet, asked when it is its turn.
    pub(in crate::command::device) fn follow(
        &self,
        ticket: u128,
        [own, peer]: [&HostName; 2],
        (request, still): (&Request, &dyn Fn() -> Result<(), Refusal>),
        turn: &mut Option<u64>,
    ) -> Result<Reply, Refusal> {
        let end = Instant::now() + BEGINNING;
        let [hosted] = self.guests() else {
            return Err(Refusal::new("Refused", MoveError::Shared.to_string()));
        };
        let luns = self.lock().slots.iter().map(|(number, slot)| (*number, slot.lun.clone())).collect();
        Asked { hosted, luns, own, ticket, peer, still, end }.answer(request, turn)
    }
}
