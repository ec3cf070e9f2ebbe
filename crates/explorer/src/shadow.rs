//! The shadow: the same logical unit and the same foreign commands without any handover. The guest's
//! nexus in it is always the source's; whoever compares reads it as the destination's after the commit.

use crate::cast::{GUEST_KEY, Host, NONCE, nexuses_of};
use crate::device::Device;
use crate::scenario::{Role, Scenario};
use logical_unit::NexusId;
use scsi::pr::{Key, ReservationType, request};
use scsi::{Completion, Request};

/// What became of the guest's registration, had there been no handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    /// It is there.
    Registered,
    /// Another nexus removed it.
    Fenced,
    /// The target forgot it.
    Lost,
}

/// The logical unit without a handover.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shadow {
    pub(crate) device: Device,
    pub(crate) standing: Standing,
    /// The guest was fenced while its nexus was known by the nonce: what is left of it stays in the
    /// shadow, and our own commands to that nexus are executed here too.
    pub(crate) remnant: bool,
    /// The target forgot the registrations, be it the guest's or, once that was fenced, the others'.
    pub(crate) forgotten: bool,
    paths: u8,
}

impl Shadow {
    pub(crate) fn new(scenario: &Scenario, device: Device) -> Self {
        let fenced = matches!(scenario.role, Role::Fenced(_));
        let standing = if fenced { Standing::Fenced } else { Standing::Registered };
        let mut shadow = Self { device, standing, remnant: false, forgotten: false, paths: scenario.paths };
        shadow.forget_guests_attentions();
        shadow
    }

    /// Executes a foreign command that finds the guest under its nonce (method *destination nonce*).
    pub(crate) fn foreign_under_nonce(&mut self, nexus: NexusId, request: &Request) -> Completion {
        self.rename(GUEST_KEY, NONCE);
        let completion = self.device.execute_patiently(nexus, request);
        self.rename(NONCE, GUEST_KEY);
        self.judge(Standing::Fenced);
        completion
    }

    /// Changes the guest's key wherever it is registered.
    fn rename(&mut self, old: Key, new: Key) {
        let aptpl = self.device.aptpl();
        for nexus in self.guests() {
            if self.device.key(nexus) == Some(old) {
                self.device.execute_patiently(nexus, &request::register(old, new, aptpl));
            }
        }
    }

    /// Executes a foreign command.
    pub(crate) fn foreign(&mut self, nexus: NexusId, request: &Request) -> Completion {
        let completion = self.device.execute_patiently(nexus, request);
        self.judge(Standing::Fenced);
        completion
    }

    /// Power off and on.
    pub(crate) fn power_cycle(&mut self) {
        self.forgotten |= !self.device.aptpl();
        self.device.power_cycle();
        self.judge(Standing::Lost);
    }

    /// From now on the shadow is what the logical unit is: the guest was fenced under its nonce.
    pub(crate) fn fenced_as(&mut self, device: &Device) {
        self.device = device.clone();
        self.standing = Standing::Fenced;
        self.remnant = true;
    }

    /// Takes over an APTPL that a named rule excuses.
    pub(crate) fn accept_aptpl(&mut self, aptpl: bool) {
        let somebody = self.device.registrations().next();
        if let Some((nexus, key)) = somebody {
            self.device.execute_patiently(nexus, &request::register(key, key, aptpl));
        }
    }

    /// Takes over the end of a node's registration that a named rule excuses.
    pub(crate) fn accept_removal(&mut self, nexus: NexusId) {
        let aptpl = self.device.aptpl();
        self.device.execute_patiently(nexus, &request::register(GUEST_KEY, Key::NONE, aptpl));
    }

    /// Takes over that a PREEMPT of the guest's key took the reservation too, which a named rule excuses.
    pub(crate) fn accept_seizure(&mut self, kind: ReservationType) {
        if let Some(nexus) = self.guests().find(|nexus| self.device.key(*nexus) == Some(GUEST_KEY)) {
            self.device.execute_patiently(nexus, &request::preempt(GUEST_KEY, GUEST_KEY, kind));
        }
        self.forget_guests_attentions();
    }

    /// The guest's nexuses in the shadow.
    fn guests(&self) -> impl Iterator<Item = NexusId> + use<> {
        nexuses_of(Host::Source, usize::from(self.paths))
    }

    fn judge(&mut self, cause: Standing) {
        let gone = self.guests().all(|nexus| self.device.key(nexus) != Some(GUEST_KEY));
        if gone && self.standing == Standing::Registered {
            self.standing = cause;
        }
        self.forget_guests_attentions();
    }

    /// What the guest would be told is not compared, so it is not kept.
    fn forget_guests_attentions(&mut self) {
        let guests = nexuses_of(Host::Source, usize::from(self.paths));
        guests.chain(nexuses_of(Host::Destination, usize::from(self.paths))).for_each(|nexus| {
            self.device.forget_attentions(nexus);
        });
    }
}
