//! One logical unit's persistent reservations, complete and pure: admission of every command by
//! reservations and unit attentions (SPC-4 5.13, SAM-5 5.3.3 and 5.14), PERSISTENT RESERVE IN and OUT,
//! RESERVE and RELEASE(6/10), resets, loss of nexus and power.
//!
//! The logical unit runs it under its lock and the explorer searches it, so it is `Clone + Eq + Hash`,
//! small, and knows no clock and no I/O: what must happen outside leaves as [`Effect`]s. A caller that
//! must not lose state on an I/O error executes on a clone and keeps it once the effects succeeded.

use crate::NexusId;
use crate::access::{Access, Relation, Route, Standing, pr_out_verdict};
use crate::attention::{Attention, AttentionQueues};
use crate::directory::Directory;
use crate::profile::{Identity, Precedence, Profile};
use crate::reservations::order::{Consequences, Order, Whom};
use crate::reservations::{self, Reservations};
use scsi::pr::{InAction, OutAction, PrInCdb, PrOutCdb};
use scsi::{AdditionalSense, Completion, DataPhase, FieldError, Request, Sense, SenseKey, Status};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is complete.
    Complete(Completion),
    /// No reservation and no unit attention stands in its way: the block device server executes it
    /// (TEST UNIT READY, and REQUEST SENSE without a unit attention, too).
    Execute,
}

/// What must happen outside the pure state, in this order and before the status leaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write the durable image ([`aptpl`](crate::aptpl)) to non-volatile memory.
    Persist,
    /// Abort the commands of these nexuses, except the PREEMPT AND ABORT itself.
    Abort {
        /// Whose commands.
        nexuses: Vec<NexusId>,
    },
    /// Publish the [`Standing`] of this nexus anew.
    Refresh(NexusId),
    /// Publish the [`Standing`] of every nexus anew.
    RefreshAll,
}

/// Reservations, unit attentions and sessions of one logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrUnit {
    profile: &'static Profile,
    reservations: Reservations,
    attentions: AttentionQueues,
    /// Nexuses with a session, in order.
    sessions: Vec<NexusId>,
}

impl PrUnit {
    /// A logical unit that nobody has registered with.
    #[must_use]
    pub fn new(profile: &'static Profile) -> Self {
        Self::restored(profile, Reservations::default())
    }

    /// A logical unit after power on, with the reservations that were saved.
    pub(crate) fn restored(profile: &'static Profile, reservations: Reservations) -> Self {
        Self { profile, reservations, attentions: AttentionQueues::default(), sessions: Vec::new() }
    }

    /// How this target behaves.
    #[must_use]
    pub const fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// The reservations.
    #[must_use]
    pub const fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    /// The unit attentions that wait.
    #[must_use]
    pub const fn attentions(&self) -> &AttentionQueues {
        &self.attentions
    }

    /// Moves PRGENERATION back by `by`: for a search that keeps it relative.
    pub const fn rebase_generation(&mut self, by: u32) {
        self.reservations.rebase_generation(by);
    }

    /// What `nexus` may do now, for its [`AccessGate`](crate::access::AccessGate).
    #[must_use]
    pub fn standing(&self, nexus: NexusId) -> Standing {
        let column = match (self.reservations.spc2_holder(), self.reservations.reservation()) {
            (Some(holder), _) if holder != nexus => Standing::SPC2_STRANGER,
            (_, Some(held)) => Standing::of(held.kind, self.reservations.relation(nexus)),
            _ => Standing::FREE,
        };
        let consult = self.reservations.is_lost() || self.attentions.first(nexus).is_some();
        if consult { column.consulting() } else { column }
    }

    /// Admits a command and, if it is one of those of this module, executes it.
    pub fn execute(
        &mut self,
        directory: &mut dyn Directory,
        nexus: NexusId,
        request: &Request,
    ) -> (Outcome, Vec<Effect>) {
        let route = Route::of(self.profile, &request.cdb);
        let taken = match route {
            Route::Exempt => return (Outcome::Execute, Vec::new()),
            Route::RequestSense => self.request_sense(nexus, &request.cdb),
            _ => self.refuse(nexus, route, &request.cdb),
        };
        if let Some((completion, effects)) = taken {
            return (Outcome::Complete(completion), effects);
        }
        let (completion, effects) = match route {
            Route::PersistentReserveIn => (self.read(directory, &request.cdb), Vec::new()),
            Route::PersistentReserveOut => self.persistent_reserve_out(directory, nexus, request),
            Route::Reserve => self.reserve_spc2(nexus, &request.cdb),
            Route::Release => self.release_spc2(nexus, &request.cdb),
            Route::Exempt | Route::RequestSense | Route::Plain(_) => return (Outcome::Execute, Vec::new()),
        };
        (Outcome::Complete(completion), effects)
    }

    /// REQUEST SENSE takes a unit attention as data (SPC-4 6.39).
    fn request_sense(&mut self, nexus: NexusId, cdb: &[u8]) -> Option<(Completion, Vec<Effect>)> {
        let (sense, effects) = self.take_attention(nexus)?;
        let descriptor = cdb.get(1).is_some_and(|flags| flags & 0x01 != 0);
        let mut data = if descriptor { sense.to_descriptor() } else { sense.to_fixed() };
        data.truncate(usize::from(cdb.get(4).copied().unwrap_or(0)));
        Some((Completion::good(data), effects))
    }

    fn take_attention(&mut self, nexus: NexusId) -> Option<(Sense, Vec<Effect>)> {
        let all = self.profile.attentions.report_clears_all;
        let condition = self.attentions.take(nexus, all)?;
        Some((Sense::unit_attention(condition.code()), vec![Effect::Refresh(nexus)]))
    }

    /// The status that keeps a command from running, if any: conflict, unit attention, lost information.
    fn refuse(&mut self, nexus: NexusId, route: Route, cdb: &[u8]) -> Option<(Completion, Vec<Effect>)> {
        let conflict = Some((Completion::status(Status::RESERVATION_CONFLICT), Vec::new()));
        let conflicts = self.conflicts(nexus, route);
        if let Some(waiting) = self.attentions.first(nexus) {
            let yields = match self.profile.attentions.precedence {
                Precedence::Standard => waiting.yields_to_conflict(),
                Precedence::AttentionFirst => false,
                Precedence::ConflictFirst => true,
            };
            if yields && (conflicts || self.order_conflicts(nexus, route, cdb)) {
                return conflict;
            }
            return self.take_attention(nexus).map(|(sense, effects)| (Completion::check(&sense), effects));
        }
        if conflicts {
            return conflict;
        }
        let lost = self.reservations.is_lost() && !runs_while_lost(route, cdb);
        let code = AdditionalSense::RESERVATION_INFORMATION_LOST;
        lost.then(|| (Completion::check(&Sense::new(SenseKey::DATA_PROTECT, code)), Vec::new()))
    }

    /// Whether a reservation forbids the command.
    fn conflicts(&self, nexus: NexusId, route: Route) -> bool {
        let spc2 = self.reservations.spc2_holder();
        match route {
            Route::Plain(access) => !access.permits(self.standing(nexus)),
            Route::PersistentReserveIn | Route::PersistentReserveOut => {
                spc2.is_some() && self.profile.spc2_excludes_pr
            }
            Route::Reserve => spc2.is_some_and(|holder| holder != nexus) || self.excludes_spc2(nexus),
            Route::Release => self.excludes_spc2(nexus),
            Route::Exempt | Route::RequestSense => false,
        }
    }

    /// Whether RESERVE and RELEASE(6/10) conflict with the registrations there are (SPC-4 5.13.3):
    /// with any, unless the nexus has every right already.
    fn excludes_spc2(&self, nexus: NexusId) -> bool {
        !self.reservations.registrations().is_empty() && !self.ignores_spc2(nexus)
    }

    /// Whether RESERVE and RELEASE(6/10) end GOOD without effect for a holder or a sharing registrant.
    fn ignores_spc2(&self, nexus: NexusId) -> bool {
        let Some(held) = self.reservations.reservation() else { return false };
        let shares = match self.reservations.relation(nexus) {
            Relation::Holder => true,
            Relation::Registrant => held.kind.is_registrants_only(),
            Relation::Unregistered => false,
        };
        shares && self.profile.support.compatible_reservation_handling
    }

    /// Whether the reservation of another nexus forbids a PERSISTENT RESERVE OUT. Without a unit
    /// attention the service action's own checks come to the same end, with the finer errors first.
    fn order_conflicts(&self, nexus: NexusId, route: Route, cdb: &[u8]) -> bool {
        let (Route::PersistentReserveOut, Ok(cdb)) = (route, PrOutCdb::parse(cdb)) else { return false };
        let relation = self.reservations.relation(nexus);
        self.reservations.reservation().is_some_and(|held| !pr_out_verdict(cdb.action, held.kind, relation))
    }

    fn read(&self, directory: &dyn Directory, cdb: &[u8]) -> Completion {
        let data = PrInCdb::parse(cdb)
            .and_then(|cdb| reservations::read(&self.reservations, self.profile, directory, cdb));
        data.map_or_else(|error| Completion::check(&error.sense()), Completion::good)
    }

    fn persistent_reserve_out(
        &mut self,
        directory: &mut dyn Directory,
        sender: NexusId,
        request: &Request,
    ) -> (Completion, Vec<Effect>) {
        let cdb = match PrOutCdb::parse(&request.cdb) {
            Ok(cdb) => cdb,
            Err(error) => return (Completion::check(&error.sense()), Vec::new()),
        };
        let data = match &request.data {
            DataPhase::Out(data) => data.as_slice(),
            DataPhase::None | DataPhase::In(_) => &[],
        };
        let durable = self.is_durable();
        let (profile, state) = (self.profile, &mut self.reservations);
        let mut order = Order { profile, directory, sender, cdb, state, outcome: Consequences::default() };
        let completion = order.run(data).map_or_else(|no| no.completion(), |()| Completion::good(Vec::new()));
        let consequences = order.outcome;
        (completion, self.settle(consequences, durable))
    }

    /// Turns the consequences of a command into unit attentions and effects.
    fn settle(&mut self, consequences: Consequences, was_durable: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        if consequences.touched && (was_durable || self.is_durable()) {
            effects.push(Effect::Persist);
        }
        if let Some(nexuses) = consequences.abort {
            effects.push(Effect::Abort { nexuses });
        }
        if consequences.touched || !consequences.notices.is_empty() {
            effects.push(Effect::RefreshAll);
        }
        for (whom, attention) in consequences.notices {
            self.tell(whom, attention);
        }
        effects
    }

    /// Whether non-volatile memory holds anything.
    const fn is_durable(&self) -> bool {
        self.reservations.aptpl() || self.reservations.is_lost()
    }

    /// RESERVE(6) and RESERVE(10) (SPC-2 7.21, 7.22) of the whole logical unit.
    fn reserve_spc2(&mut self, nexus: NexusId, cdb: &[u8]) -> (Completion, Vec<Effect>) {
        if let Some(refused) = refuse_parts(cdb) {
            return (refused, Vec::new());
        }
        if self.ignores_spc2(nexus) {
            return (Completion::good(Vec::new()), Vec::new());
        }
        self.reservations.set_spc2_holder(Some(nexus));
        (Completion::good(Vec::new()), vec![Effect::RefreshAll])
    }

    /// RELEASE(6) and RELEASE(10): GOOD for everybody, with effect for the holder.
    fn release_spc2(&mut self, nexus: NexusId, cdb: &[u8]) -> (Completion, Vec<Effect>) {
        if let Some(refused) = refuse_parts(cdb) {
            return (refused, Vec::new());
        }
        let held = self.reservations.spc2_holder() == Some(nexus);
        if held {
            self.reservations.set_spc2_holder(None);
        }
        let effects = if held { vec![Effect::RefreshAll] } else { Vec::new() };
        (Completion::good(Vec::new()), effects)
    }
}

/// Extents and third parties of RESERVE and RELEASE are obsolete and not supported.
fn refuse_parts(cdb: &[u8]) -> Option<Completion> {
    let flags = cdb.get(1).copied().unwrap_or(0);
    let bit = if flags & 0x10 != 0 { 4 } else { 0 };
    (flags & 0x11 != 0).then(|| Completion::check(&FieldError::cdb_bit(1, bit).sense()))
}

/// What a nexus may do while the reservation information is lost: nothing that a reservation could
/// have forbidden, but put it right and ask what the target can do.
fn runs_while_lost(route: Route, cdb: &[u8]) -> bool {
    match route {
        Route::Plain(access) => access == Access::ALWAYS || access == Access::EVEN_RESERVED,
        Route::PersistentReserveIn => {
            PrInCdb::parse(cdb).is_ok_and(|cdb| cdb.action == InAction::REPORT_CAPABILITIES)
        }
        Route::PersistentReserveOut => {
            PrOutCdb::parse(cdb).is_ok_and(|cdb| cdb.action == OutAction::REPLACE_LOST)
        }
        _ => false,
    }
}

mod events;
