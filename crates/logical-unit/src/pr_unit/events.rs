//! What happens to a logical unit beside commands: sessions, resets, power (SPC-4 5.13.6, SAM-5 6.3).

use super::*;

impl PrUnit {
    /// A session of `nexus` begins. A nexus that is not attached gets no unit attention that is for every
    /// nexus, and where the profile says so none at all.
    pub fn attach(&mut self, nexus: NexusId) {
        if let Err(at) = self.sessions.binary_search(&nexus) {
            self.sessions.insert(at, nexus);
        }
    }

    /// The I_T nexus is lost, by logout too: its SPC-2 reservation goes, its registration stays. A
    /// registrant hears of the loss with its next session.
    pub fn nexus_lost(&mut self, nexus: NexusId) {
        if let Ok(at) = self.sessions.binary_search(&nexus) {
            self.sessions.remove(at);
        }
        if self.reservations.spc2_holder() == Some(nexus) {
            self.reservations.set_spc2_holder(None);
        }
        if !self.profile.attentions.kept_without_session || self.profile.identity == Identity::SessionInstance
        {
            self.attentions.forget(nexus);
        } else if self.reservations.registrations().get(nexus).is_some() {
            self.tell(Whom::Nexuses(vec![nexus]), Attention::NexusLoss);
        }
    }

    /// LOGICAL UNIT RESET: registrations and reservation stay, an SPC-2 reservation goes.
    pub fn logical_unit_reset(&mut self) {
        self.reset(Attention::TargetReset);
    }

    /// Hard reset of the target device: like a logical unit reset to reservations.
    pub fn target_reset(&mut self) {
        self.reset(Attention::PowerOnOrReset);
    }

    fn reset(&mut self, attention: Attention) {
        self.reservations.set_spc2_holder(None);
        self.tell(Whom::EveryoneBut(None), attention);
    }

    /// Power off and on: without APTPL all registrations and the reservation are lost; PRGENERATION
    /// restarts at zero, and every nexus hears of it alone.
    pub fn power_cycle(&mut self) {
        let before: Vec<_> = self.everyone().collect();
        self.reservations.power_cycle();
        self.attentions.forget_all();
        self.tell(Whom::Nexuses(before), Attention::PowerOn);
    }

    /// Power on, with the reservations that were saved: who is registered hears of it with the next session. Others
    /// were not saved, and learn from their new session that something happened.
    #[must_use]
    pub(crate) fn powered_on(mut self) -> Self {
        let registered = self.everyone().collect();
        self.tell(Whom::Nexuses(registered), Attention::PowerOn);
        self
    }

    /// The device server finds its reservation information lost. A target with REPLACE LOST RESERVATION
    /// reports that until the command comes; another has simply forgotten.
    pub fn lose_reservation_information(&mut self) -> Vec<Effect> {
        let was_durable = self.is_durable();
        self.reservations.lose(self.profile.support.replace_lost);
        self.settle(Consequences { touched: true, ..Consequences::default() }, was_durable)
    }

    /// A unit attention that already waited for `nexus` before there was a session.
    pub(crate) fn waits(&mut self, nexus: NexusId, attention: Attention) {
        self.attentions.establish([nexus], attention);
    }

    /// Establishes a unit attention for one nexus. Publish its standing afterwards.
    pub fn establish(&mut self, nexus: NexusId, attention: Attention) {
        self.tell(Whom::Nexuses(vec![nexus]), attention);
    }

    /// Establishes a unit attention for every nexus but `sender`. Publish all standings afterwards.
    pub fn establish_for_others(&mut self, sender: Option<NexusId>, attention: Attention) {
        self.tell(Whom::EveryoneBut(sender), attention);
    }

    /// Every nexus with a session or a registration, once.
    fn everyone(&self) -> impl Iterator<Item = NexusId> {
        let absent = |nexus: &NexusId| self.sessions.binary_search(nexus).is_err();
        let registrants = self.reservations.registrations().iter().map(|one| one.nexus);
        self.sessions.iter().copied().chain(registrants.filter(absent))
    }

    /// Queues a unit attention. Who has no session is remembered only where the profile says so, and
    /// never more of them than may be registered.
    pub(super) fn tell(&mut self, whom: Whom, attention: Attention) {
        if !self.profile.attentions.reported {
            return;
        }
        let mut nexuses = match whom {
            Whom::Nexuses(nexuses) => nexuses,
            Whom::EveryoneBut(sender) => self.everyone().filter(|nexus| Some(*nexus) != sender).collect(),
        };
        let attached = |nexus: &NexusId| self.sessions.binary_search(nexus).is_ok();
        let waiting = self.attentions.nexuses().filter(|nexus| !attached(nexus)).count();
        let kept = self.profile.attentions.kept_without_session;
        let mut room = if kept { self.profile.registration_limit.saturating_sub(waiting) } else { 0 };
        nexuses.retain(|nexus| {
            if attached(nexus) || kept && self.attentions.first(*nexus).is_some() {
                return true;
            }
            let fits = room > 0;
            room = room.saturating_sub(1);
            fits
        });
        self.attentions.establish(nexuses, attention);
    }
}
