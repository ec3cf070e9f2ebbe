//! Keeps account of what a guest registers with a real logical unit: PERSISTENT RESERVE commands go through the guest's [`Guard`], by
//! the same rules as those of the privileged helper (policy where it applies, intent before, commit after, freeze lock, unit attentions
//! given once). Everything else stays on its way; what it brings back is looked at only where it is no GOOD.
//!
//! Used by `passthrough` and `iscsi`, whose [`Line`] is the nexus; made by `tenure device`.

use guard::{Guard, Identity, Order, Refused, Way, failure, is_same, masked};
use nexus::{Nexus, unit_attention};
use scsi::pr::{PrInCdb, PrOutCdb};
use scsi::{Completion, DataPhase, Request, Status};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Keeps account of one logical unit for one guest.
#[derive(Debug)]
pub struct Keeper {
    guard: Arc<Guard>,
    identity: Identity,
    migrate: bool,
    /// The guest is owed a unit attention that own questions took.
    owing: AtomicBool,
    /// The way was lost for a while since this was last told to the guard.
    doubtful: AtomicBool,
}

impl Keeper {
    /// `identity`: the logical unit and the guest's nexus to it. `migrate`: what the guest registers is carried along when it
    /// migrates, so it may register nothing for others.
    #[must_use]
    pub const fn new(guard: Arc<Guard>, identity: Identity, migrate: bool) -> Self {
        // Whether something is owed since an earlier run shows with the first command that may wait.
        Self { guard, identity, migrate, owing: AtomicBool::new(true), doubtful: AtomicBool::new(false) }
    }

    /// Which logical unit, and which nexus.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What is registered is carried along when the guest migrates.
    #[must_use]
    pub const fn migrates(&self) -> bool {
        self.migrate
    }

    /// The guest's guard.
    #[must_use]
    pub const fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Acts on `nexus` as the guest's guard takes it.
    pub fn on<T>(&self, nexus: &mut dyn Nexus, act: impl FnOnce(&Guard, &mut Way<'_>) -> T) -> T {
        if self.doubtful.swap(false, Ordering::AcqRel) && !self.guard.doubt(&self.identity) {
            self.doubtful.store(true, Ordering::Release);
        }
        act(&self.guard, &mut Way { identity: &self.identity, nexus, confirm: &is_same })
    }

    /// Makes record and device agree.
    ///
    /// # Errors
    /// The device could not be asked, a handover is under way, or the record cannot be used.
    pub fn agree(&self, nexus: &mut dyn Nexus) -> Result<(), Refused> {
        self.on(nexus, |guard, way| guard.settle(way))
    }

    /// Sense data that own commands on `nexus` took from the guest, which gets it with its next command that may bring any.
    ///
    /// # Errors
    /// It could not be recorded; as long as this process lives the guest gets it all the same.
    pub fn take(&self, nexus: &mut dyn Nexus, taken: Vec<Vec<u8>>) -> Result<(), Refused> {
        if taken.is_empty() {
            return Ok(());
        }
        let kept = self.on(nexus, |guard, way| guard.take(way, taken));
        self.owing.store(true, Ordering::Release);
        kept
    }

    /// Makes record and device agree, as after a restart. What fails is made up for before the guest's next PERSISTENT RESERVE OUT.
    pub fn settle(&self, nexus: &mut dyn Nexus) {
        if let Err(refused) = self.agree(nexus) {
            let (lun, why) = (&self.identity.lun.0, &refused.why);
            tracing::info!(%lun, why, "the record is compared with the device later");
        }
    }

    /// The way to the logical unit was lost for a while. Called also while the guard is at work.
    pub(super) fn doubt(&self) {
        self.doubtful.store(true, Ordering::Release);
    }

    /// Whether a command other than PERSISTENT RESERVE has to come by [`Keeper::owed`] first.
    pub(super) fn owes(&self) -> bool {
        self.owing.load(Ordering::Acquire)
    }

    /// The unit attention that the guest is owed, if it is.
    pub(super) fn owed(&self, nexus: &mut dyn Nexus) -> Option<Completion> {
        if !self.owing.swap(false, Ordering::AcqRel) {
            return None;
        }
        let owed = self.on(nexus, |guard, way| guard.owed(way));
        // There may be more.
        self.owing.store(owed.is_some(), Ordering::Release);
        owed
    }

    /// Carries a PERSISTENT RESERVE command out; none is another command's.
    pub(super) fn execute(&self, nexus: &mut dyn Nexus, request: &Request) -> Option<Completion> {
        let ended = match (PrInCdb::parse(&request.cdb), PrOutCdb::parse(&request.cdb)) {
            (Ok(cdb), _) => {
                let ended = self.on(nexus, |guard, way| guard.read(way, request));
                if self.migrate { masked(cdb.action, ended) } else { ended }
            }
            (_, Ok(cdb)) => self.out(nexus, cdb, request),
            _ => return None,
        };
        self.owing.store(true, Ordering::Release);
        Some(ended)
    }

    fn out(&self, nexus: &mut dyn Nexus, cdb: PrOutCdb, request: &Request) -> Completion {
        let sent: &[u8] = if let DataPhase::Out(list) = &request.data { list } else { &[] };
        let length = usize::try_from(cdb.parameter_list_length).unwrap_or(usize::MAX);
        // A part of a list is another command than the guest's.
        let Some(list) = sent.get(..length) else { return failure::cut_list() };
        let order = Order::new(cdb, request.cdb.clone(), list.to_vec());
        if let Some(field) = order.beyond_own_nexus().filter(|_| self.migrate) {
            return failure::bad_field(field);
        }
        match self.on(nexus, |guard, way| guard.out(way, &order)) {
            Ok(ended) => ended,
            Err(refused) => {
                let (lun, why) = (&self.identity.lun.0, &refused.why);
                tracing::debug!(%lun, action = %order.cdb.action, why, "refused");
                refused.completion
            }
        }
    }

    /// Another command ended: it may tell of a change.
    pub(super) fn told(&self, nexus: &mut dyn Nexus, request: &Request, ended: &Completion) {
        if ended.status != Status::RESERVATION_CONFLICT && unit_attention(ended).is_none() {
            return;
        }
        self.on(nexus, |guard, way| guard.told(way, request, ended));
        self.owing.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
