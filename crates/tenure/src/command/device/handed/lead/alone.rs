//! What a device does by itself, of registrations whose bearer is gone for good by the operator's word: nothing is sent on the other host's
//! nexuses, and nobody there sends anything. Each logical unit for itself, so that none stays behind on another's account.
//!
//! What passes is the refusal of the claim, which may be made again. Where it could not be done safely, and repeating does not mend that, the
//! guest counts as fenced. Where it is in doubt this host's own nexus is asked: a guest is served by one that has neither key nor nonce.

use super::super::probe::{Found, probe};
use super::{Coming, End, HandError, Run, diary, fresh_id, is_left, settings, told};
use agent::conduct::{self, Patience};
use agent::ground::Fate;
use agent::migrate::Last;
use handover::verdict::{Cause, Reason};
use handover::{Group, Settings, Side, Verdict};
use peer::message::Paths;
use std::mem;

impl Run<'_> {
    /// Whether the bearer is gone, as far as that can be seen: nobody answers there, or knows nothing of the guest. Who answers and refuses
    /// is not; of that the operator cannot have known.
    pub(super) fn is_gone(&self, error: &HandError) -> bool {
        match error {
            HandError::Lost { .. } => self.lead.peering.is_silent(&self.bearer),
            HandError::Forgot { .. } => true,
            _ => false,
        }
    }

    pub(super) fn without_bearer(&mut self) -> Result<(), HandError> {
        self.end_own()?;
        let mut ended = Ok(());
        for one in mem::take(&mut self.coming) {
            self.coming = vec![one];
            let moved = self.move_alone();
            if self.under_way().is_some() {
                // In doubt: that comes first.
                return moved;
            }
            ended = ended.and(moved);
        }
        ended
    }

    /// What is under way is ended by this host alone: what has not come by that is still to come.
    pub(super) fn end_own(&mut self) -> Result<(), HandError> {
        let Some(left) = self.under_way() else { return Ok(()) };
        let others = self.set_aside(&left);
        let done = self.recover_alone();
        self.take_back(others)?;
        if self.under_way().is_some() { done } else { Ok(()) }
    }

    fn recover_alone(&self) -> Result<(), HandError> {
        let left = self.left()?;
        let one = |(last, lun): (Option<Last>, &agent::journal::Lun)| {
            let own = lun.own.iter().map(|path| path.port.clone()).collect();
            agent::recover::alone(Side::Destination, last, [lun.peer.clone(), own], lun.target)
        };
        let remains = diary::last(&left).into_iter().zip(&left.begun.luns).map(one);
        match Group::recover(remains.collect()) {
            Some(mut group) => self.end_alone(&mut group, |_| false),
            None => self.diary.end(diary::KEPT),
        }
    }

    fn move_alone(&self) -> Result<(), HandError> {
        let offers = self.offers()?;
        let source = |one: &Coming| Paths { lun: one.identity.lun.0.clone(), ports: vec![told(&one.from)] };
        let alone = |settings| Settings { source_alive: false, allow_absence: true, ..settings };
        let settings: Vec<_> = settings(&offers, &self.coming.iter().map(source).collect::<Vec<_>>())?
            .into_iter()
            .map(alone)
            .collect();
        self.diary.begin(&self.beginning(fresh_id()?, &settings))?;
        self.enter()?;
        let mut group = Group::new(settings).ok_or_else(|| HandError::Unfit("nothing moves".to_owned()))?;
        self.end_alone(&mut group, is_lasting)
    }

    /// `lost`: of what stays with the bearer, what counts as fenced.
    fn end_alone(&self, group: &mut Group, lost: fn(&Verdict) -> bool) -> Result<(), HandError> {
        let (mut hands, mut pages) = (self.hands(), self.pages());
        conduct::alone(group, Side::Destination, &mut hands, &mut pages, Patience::default());
        drop(pages);
        let mut ends = self.ends(group, &[]);
        for (place, end) in ends.iter_mut().enumerate() {
            match &end.0 {
                None => self.ask(place, end)?,
                // The engine has not proved that: this host's nexus is asked first.
                Some(Fate::AsBefore) if !is_left(&end.2) && lost(&end.2) => {
                    tracing::warn!(verdict = %end.2, "the guest's registration could not be taken over");
                    self.ask(place, end)?;
                }
                Some(_) => {}
            }
        }
        self.finish(&ends, None)
    }

    /// What this host's nexus has, where nothing else tells it: what it has of the guest's already is the guest's, if nobody else can have it.
    fn ask(&self, place: usize, end: &mut End) -> Result<(), HandError> {
        let left = self.left()?;
        let (Some(one), Some(lun)) = (self.coming.get(place), left.begun.luns.get(place)) else {
            return Ok(());
        };
        let last = diary::last(&left).get(place).copied().flatten();
        let aptpl = last.is_some_and(|last| last.entry.aptpl);
        let (found, taken) = probe(&one.unit, [one.key, lun.nonce], aptpl);
        end.1.extend(taken);
        match found {
            Found::Neither => end.0 = Some(Fate::Fenced),
            Found::Has(key) if key == one.key && is_there(&end.2) => {
                let known = one.record.path(&one.path).map(|known| known.tracked);
                end.0 = known.map(Fate::Has);
            }
            Found::Has(key) => return Err(HandError::Registered { lun: lun.lun.clone(), key, doubt: end.2 }),
            Found::Unknown => {}
        }
        Ok(())
    }
}

/// The registration is this nexus's, and not the bearer's.
const fn is_there(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(Reason::AlreadyThere | Reason::SameNexus))
}

/// Repeating does not mend it. A device that is not ready, or reserved for a moment, rejects commands as one does that has none.
const fn is_lasting(verdict: &Verdict) -> bool {
    use Cause::{Aborted, DestinationUnreachable, JournalFailed, NoSafeMethod, Recovered, Rejected};
    use Reason::{DestinationOccupied, NonceTaken, NotSupported, Unreachable};
    !matches!(
        verdict,
        Verdict::Refused(Unreachable | DestinationOccupied | NonceTaken | NotSupported)
            | Verdict::KeptAtSource {
                cause: Aborted
                    | DestinationUnreachable
                    | JournalFailed
                    | Recovered
                    | Rejected
                    | NoSafeMethod(Unreachable | DestinationOccupied | NonceTaken | NotSupported),
                ..
            }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_no_fencing() {
        let kept = |cause| Verdict::KeptAtSource { cause, leftover: false };
        for passing in [
            Verdict::Refused(Reason::Unreachable),
            Verdict::Refused(Reason::DestinationOccupied),
            kept(Cause::JournalFailed),
            kept(Cause::DestinationUnreachable),
            kept(Cause::Recovered),
            kept(Cause::Rejected),
            Verdict::Refused(Reason::NotSupported),
        ] {
            assert!(!is_lasting(&passing), "{passing}");
        }
        for lasting in [
            Verdict::Refused(Reason::KeyShared),
            Verdict::Refused(Reason::ProofMissing),
            kept(Cause::NoSafeMethod(Reason::KeyShared)),
        ] {
            assert!(is_lasting(&lasting), "{lasting}");
        }
    }
}
