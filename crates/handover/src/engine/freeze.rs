//! Phase Freeze, the guest paused: the destination registers, then the source proves that nobody removed its
//! registration before that.
//!
//! The proof excludes the un-fencing race: a node may have preempted the guest's key between our last look and the
//! destination's REGISTER, which then made the key anew. Once both have the key at the same time, any later PREEMPT of
//! it removes both, and nothing of ours can survive alone.

use super::batch::{Answer, Answers};
use super::course::{At, Course, Held, MAX_ATTEMPTS, lost};
use super::order::{Name, Order};
use super::prepare::WITNESS;
use crate::action::{Path, Phase, Side};
use crate::facts::{FullStatusDigest, RoleEvidence};
use crate::journal::Stage;
use crate::method::Method;
use crate::plan::Situation;
use crate::role::Role;
use crate::verdict::{Cause, Reason, Verdict};
use scsi::pr::{Key, ReadReservation};

const DESTINATION: Path = Path::destination(0);
const PROBE: Order = Order::Register(Name::Guest, Name::Guest);

impl Course {
    /// Begins the pause.
    pub(crate) fn freeze(&mut self) {
        self.facts = None;
        if self.terms.method == Method::Identity { self.freeze_identity() } else { self.claim() }
    }

    fn claim(&mut self) {
        let order = if self.adopted() { PROBE } else { Order::Register(Name::Nothing, self.claimed()) };
        self.terms.clean = self.terms.attempts == 0;
        self.run_journaled(Stage::Freeze, At::Claim, [(DESTINATION, order)]);
    }

    /// Judges a batch of this phase.
    pub(crate) fn frozen(&mut self, answers: &Answers) {
        match self.at {
            At::Claim => self.claim_answered(answers.on(DESTINATION)),
            At::ClaimProbe { maybe } => self.claim_probed(maybe, answers.on(DESTINATION)),
            At::Inspect => self.inspected(answers),
            At::Prove => self.proved(answers),
            _ => {}
        }
    }

    fn claim_answered(&mut self, answer: &Answer) {
        match answer {
            Answer::Conflict if self.adopted() => {
                // It was removed since it was seen: now it is ours to make and to remove.
                self.terms.destination_had &= !1;
                self.terms.attempts += 1;
                self.claim();
            }
            Answer::Conflict => self.probe_claim(false),
            Answer::Unknown => self.probe_claim(true),
            Answer::NotSent => self.undo(Cause::DestinationUnreachable),
            Answer::Rejected => self.undo(Cause::Rejected),
            _ => self.claimed_now(),
        }
    }

    fn probe_claim(&mut self, maybe: bool) {
        self.terms.clean = false;
        let own = self.claimed();
        self.run(At::ClaimProbe { maybe }, [(DESTINATION, Order::Register(own, own))]);
    }

    /// A conflict alone says little: a repeated REGISTER conflicts with its own success. The probe tells.
    fn claim_probed(&mut self, maybe: bool, answer: &Answer) {
        self.terms.attempts += 1;
        match answer {
            Answer::Conflict if maybe && self.terms.attempts < MAX_ATTEMPTS => self.claim(),
            Answer::Conflict => {
                self.finish(Stage::Kept, Verdict::Refused(Reason::DestinationOccupied));
            }
            Answer::NotSent | Answer::Unknown | Answer::Rejected => {
                self.beliefs.destination = self.held();
                self.beliefs.destination_lost = true;
                self.undo(Cause::DestinationUnreachable);
            }
            _ => {
                self.terms.destination_had |= u8::from(!maybe);
                self.claimed_now();
            }
        }
    }

    /// What the destination has once it has claimed.
    pub(crate) const fn held(&self) -> Held {
        match self.terms.method {
            Method::DestinationNonce => Held::Nonce,
            _ => Held::Key,
        }
    }

    fn claimed_now(&mut self) {
        self.beliefs.destination = self.held();
        self.attentions.destination_counts = true;
        self.inspect();
    }

    /// Reads what the choice needs, and lets the source prove itself in the same round trip unless the generation is
    /// expected to prove it. Where the destination is to preempt the guest's key the proof comes after READ KEYS: in the
    /// same round trip a node that registers the key and fences the guest between the two would be taken for the source.
    pub(crate) fn inspect(&mut self) {
        let mut orders = self.inspection();
        if self.settings.source_alive && !self.may_reckon() && self.claimed() != Name::Nonce {
            orders.extend(Self::on_source(self.terms.source_paths, PROBE));
        }
        self.run(At::Inspect, orders);
    }

    fn inspection(&self) -> Vec<(Path, Order)> {
        let reads = [Order::Capabilities, Order::Reservation, Order::Keys, Order::FullStatus];
        let usable = |order: &Order| *order != Order::FullStatus || self.terms.full_status;
        let reads = reads.into_iter().filter(usable).map(|order| (DESTINATION, order));
        let looks = self.terms.port_vacant && self.terms.method == Method::RegisterAndMove;
        reads.chain(looks.then_some((WITNESS, Order::FullStatus))).collect()
    }

    /// PRGENERATION can prove that nothing foreign happened: the target counts as it should, and everything since the
    /// last reading was clear.
    const fn may_reckon(&self) -> bool {
        self.terms.clean
            && !self.terms.taking
            && self.terms.full_status
            && self.terms.seen_together
            && self.terms.traits.counts_registrations.is_yes()
            // READ FULL STATUS shows a name; where the session is the nexus, it may be another session's.
            && !self.terms.traits.keeps_identity.is_no()
            && !self.attentions.destination_stirred
    }

    fn inspected(&mut self, answers: &Answers) {
        let (Some(keys), Some(held)) = (answers.keys(), answers.reservation()) else {
            self.beliefs.destination_lost = lost(answers, Side::Destination, 1);
            return self.undo(Cause::DestinationUnreachable);
        };
        self.learn_aptpl(answers);
        let status = answers.full_status_on(DESTINATION).map(|(_, status)| status);
        let seen = |(_, status): (Key, FullStatusDigest)| status.destination.with_key & 1 != 0;
        self.terms.port_proved = self.terms.port_vacant && answers.full_status_on(WITNESS).is_some_and(seen);
        if status.is_some_and(|status| self.disagree(&status, held, keys.generation, answers.counted(true)))
            && self.terms.attempts < MAX_ATTEMPTS
        {
            self.terms.attempts += 1;
            // What the source proved stands; another REGISTER beside REPORT CAPABILITIES would blur APTPL.
            let reads = self.inspection();
            return self.run(At::Inspect, reads);
        }
        let probed = answers.iter().any(|(_, order, _)| *order == PROBE);
        if probed && !self.source_proved(answers) {
            return;
        }
        self.terms.looked_at = keys.generation.wrapping_add(u32::from(answers.counted(true)));
        let advance = keys.generation.wrapping_sub(self.terms.generation);
        let seen = status.is_some_and(|status| status.source.with_key & self.terms.source_paths != 0);
        let reckoned = !probed && seen && advance == 1 && self.may_reckon();
        let listed = keys.keys.iter().filter(|key| Some(**key) == self.terms.key).count();
        if listed == 0 {
            return self.fence();
        }
        self.weigh(
            listed,
            RoleEvidence {
                key: self.terms.key.unwrap_or_default(),
                reservation: held.reservation,
                full_status: status,
                shared: false,
            },
        );
        if self.terms.role == Role::Unregistered {
            return self.distrust_full_status();
        }
        if probed || reckoned || !self.settings.source_alive { self.decide() } else { self.prove() }
    }

    /// Another node changed something between READ FULL STATUS and the other readings. Without the source's own proof
    /// the keys must be those of the nexuses that READ FULL STATUS named; `own`: our commands that were counted meanwhile.
    fn disagree(&self, status: &FullStatusDigest, held: ReadReservation, keys: u32, own: u8) -> bool {
        let apart = keys.wrapping_sub(status.generation).min(status.generation.wrapping_sub(keys));
        let strangers = self.claimed() == Name::Nonce && apart > u32::from(own);
        strangers || status.kind != held.reservation.map(|held| held.kind)
    }

    /// Who shares the key, and what the source is.
    fn weigh(&mut self, listed: usize, mut evidence: RoleEvidence) {
        let paths = usize::try_from(self.terms.source_paths.count_ones()).unwrap_or(0);
        let ours = paths + usize::from(self.beliefs.destination == Held::Key);
        let others = u16::try_from(listed.saturating_sub(ours)).unwrap_or(u16::MAX);
        self.terms.sharers = evidence.full_status.map_or(others, |status| status.sharers.max(others));
        self.terms.shared = self.terms.sharers > 0;
        evidence.shared = self.terms.shared;
        let holder = evidence.full_status.and_then(|status| status.source.holder);
        self.terms.holder = holder.or(self.terms.holder);
        self.terms.role_sure = evidence.full_status.is_some();
        self.terms.role = evidence.role();
    }

    /// READ FULL STATUS does not show a source that READ KEYS may show: look again without it, with the probe.
    fn distrust_full_status(&mut self) {
        self.terms.full_status = false;
        self.terms.clean = false;
        self.inspect();
    }

    fn prove(&mut self) {
        self.run(At::Prove, Self::on_source(self.terms.source_paths, PROBE));
    }

    fn proved(&mut self, answers: &Answers) {
        if self.source_proved(answers) {
            self.decide();
        }
    }

    /// Whether the source proved its registration; if not, the course has turned away.
    fn source_proved(&mut self, answers: &Answers) -> bool {
        let good = answers.mask_of(PROBE, Answer::is_good);
        let silent = answers.mask_of(PROBE, Answer::is_lost);
        if good != 0 {
            // A path whose answer was lost may be registered, and must not be forgotten.
            let kept = good | silent;
            self.terms.source_paths = kept;
            self.beliefs.key = kept;
            return true;
        }
        if silent & self.terms.source_paths != 0 {
            self.undo(Cause::SourceUnreachable);
        } else if answers.mask_of(PROBE, |answer| *answer == Answer::Conflict) != 0 {
            self.beliefs.key = 0;
            self.fence();
        } else {
            self.undo(Cause::Rejected);
        }
        false
    }

    /// Chooses from what is true now; the plan was for what was true then.
    fn decide(&mut self) {
        let situation = Situation {
            settings: &self.settings,
            traits: self.terms.traits,
            role: self.terms.role,
            shared: self.terms.shared,
            move_reported: self.terms.move_reported,
            holder_known: self.terms.holder.is_some() || self.terms.source_paths.count_ones() == 1,
            role_sure: self.terms.role_sure,
            port_proved: self.terms.port_proved,
            excluded: self.terms.excluded | Method::Identity.bit(),
        };
        let method = match situation.choose() {
            Ok((method, _)) => method,
            Err(reason) => return self.undo(Cause::NoSafeMethod(reason)),
        };
        let fits = claimed_name(method) == self.claimed() && method != Method::Identity;
        if !fits {
            return self.undo(Cause::NoSafeMethod(Reason::SourceNeeded));
        }
        self.terms.method = method;
        (self.terms.port_vacant, self.terms.port_proved) = (false, false);
        if self.terms.aborted {
            self.undo(Cause::Aborted);
        } else if self.terms.taking {
            self.act_journaled();
        } else {
            self.at = At::Stand(Phase::Freeze);
        }
    }
}

const fn claimed_name(method: Method) -> Name {
    match method {
        Method::DestinationNonce => Name::Nonce,
        _ => Name::Guest,
    }
}
