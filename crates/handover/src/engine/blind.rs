//! Method *destination nonce*: without the source. The destination registers a nonce, preempts the guest's key with it,
//! and changes to that key. The PREEMPT is the proof: it removes the source's registration only if it was still there.

use super::batch::{Answer, Answers};
use super::course::{At, Course, Held, MAX_ATTEMPTS, Purpose};
use super::order::{Name, Order};
use crate::action::Path;
use crate::role::Role;
use crate::verdict::{Cause, Doubt, Reason};

const DESTINATION: Path = Path::destination(0);

impl Course {
    /// The next command. The source may have commands under way, hence PREEMPT AND ABORT where the target has it.
    pub(crate) fn next_blind_act(&self) -> (At, Vec<(Path, Order)>) {
        let kind = self.kind();
        if self.terms.preempted {
            return (At::BlindRename, vec![(DESTINATION, Order::Register(Name::Nonce, Name::Guest))]);
        }
        let order = if self.terms.no_abort {
            Order::Preempt(Name::Nonce, Name::Guest, kind)
        } else {
            Order::PreemptAbort(Name::Nonce, Name::Guest, kind)
        };
        (At::BlindPreempt, vec![(DESTINATION, order)])
    }

    /// Judges a batch of this method.
    pub(crate) fn blindly_taken(&mut self, answers: &Answers) {
        let answer = answers.on(DESTINATION);
        match self.at {
            At::BlindPreempt => match answer {
                Answer::Rejected if !self.terms.no_abort => {
                    self.terms.no_abort = true;
                    self.act();
                }
                Answer::Rejected => self.undo(Cause::Rejected),
                answer => self.look_at_result(executed(answer)),
            },
            At::BlindCheck { executed } => self.result_seen(executed, answers),
            At::BlindRename if answer.is_good() => {
                self.beliefs.destination = Held::Key;
                self.commit();
            }
            At::BlindRename => self.locate(Purpose::Take),
            _ => {}
        }
    }

    /// Reads what the PREEMPT came to.
    pub(crate) fn look_at_result(&mut self, executed: Option<bool>) {
        let mut reads = vec![(DESTINATION, Order::Keys), (DESTINATION, Order::Reservation)];
        if self.terms.full_status {
            reads.push((DESTINATION, Order::FullStatus));
        }
        self.run(At::BlindCheck { executed }, reads);
    }

    /// A holder shows its success by the reservation. For anybody else GOOD is the proof, on a target that refuses to
    /// preempt an unknown key; after a lost reply nothing tells our PREEMPT from a fencer's.
    fn result_seen(&mut self, executed: Option<bool>, answers: &Answers) {
        let (Some(keys), Some(read)) = (answers.keys(), answers.reservation()) else {
            return self.doubt(Doubt::DestinationUnreachable);
        };
        let nonce = self.settings.nonce;
        // A listed key may be that of a node that registered it just now; only READ FULL STATUS knows.
        let status = answers.full_status().map(|(_, status)| status);
        let back = self.terms.recovering && !self.terms.prefer_destination;
        let victim = status.is_some_and(|status| status.source.with_key != 0);
        let sources = status.map_or(self.terms.source_paths, |status| status.source.with_key);
        let listed = keys.keys.iter().filter(|key| Some(**key) == self.terms.key).count();
        self.terms.shared |= u32::try_from(listed).is_ok_and(|listed| listed > sources.count_ones());
        self.terms.shared |= status.is_some_and(|status| status.sharers > 0);
        self.terms.attempts += 1;
        if !keys.keys.contains(&nonce) {
            self.beliefs.destination = Held::Nothing;
            return self.fence();
        }
        let holds = read.reservation.is_some_and(|held| held.key == nonce);
        let taken = match self.terms.role {
            Role::Holder(_) => holds,
            _ => executed == Some(true),
        };
        let foreign = self.foreign_beside_preempt(executed, keys.generation);
        self.terms.looked_at = keys.generation;
        if taken && foreign {
            // A node may have begun to share the key, and fenced the guest, before our PREEMPT found that node's.
            self.doubt(Doubt::SourceUnreachable);
        } else if taken {
            self.terms.preempted = true;
            self.act();
        } else if victim && self.terms.shared {
            self.undo(Cause::NoSafeMethod(Reason::KeyShared));
        } else if victim && back || status.is_none() && self.still_holds(executed, listed) {
            self.undo(Cause::Recovered);
        } else if let Some(status) = status.filter(|_| victim && self.terms.attempts < MAX_ATTEMPTS) {
            if status.kind != read.reservation.map(|held| held.kind) {
                return self.look_at_result(executed);
            }
            // The type to send is the one just read.
            self.terms.role = status.role();
            self.act();
        } else if executed.is_none() && answers.full_status().is_none() {
            self.locate(Purpose::Take);
        } else {
            self.not_taken(executed);
        }
    }

    /// The nonce is registered and holds nothing, while a key like the guest's is listed: of a single holder that shows, after
    /// a crash and without READ FULL STATUS too, that the PREEMPT was not executed.
    fn still_holds(&self, executed: Option<bool>, listed: usize) -> bool {
        let unknown = self.terms.recovering && executed.is_none();
        unknown && listed != 0 && matches!(self.terms.role, Role::Holder(_))
    }

    /// Whether more was counted since the last look than our PREEMPT; without its answer it may be among that.
    fn foreign_beside_preempt(&self, executed: Option<bool>, generation: u32) -> bool {
        let unanswered = u32::from(executed.is_none());
        let counted = self.terms.traits.counts_removals.is_yes();
        let removed = if counted { self.terms.source_paths.count_ones() } else { 0 };
        let own = self.terms.looked_at.wrapping_add(unanswered).wrapping_add(removed);
        (1..=u32::MAX / 2).contains(&generation.wrapping_sub(own))
    }

    /// The source's registration is gone, and it was not our PREEMPT that took it, as far as can be told.
    fn not_taken(&mut self, executed: Option<bool>) {
        if executed.is_some() || matches!(self.terms.role, Role::Holder(_)) {
            self.fence();
        } else {
            self.doubt(Doubt::SourceUnreachable);
        }
    }

    /// The destination's key is known again.
    pub(crate) fn judge_blind(&mut self) {
        self.terms.attempts += 1;
        match self.beliefs.destination {
            _ if self.beliefs.destination_lost => self.doubt(Doubt::DestinationUnreachable),
            Held::Key => self.commit(),
            Held::Nonce if self.terms.attempts > MAX_ATTEMPTS => self.doubt(Doubt::Mismatch),
            Held::Nonce if self.terms.preempted => self.act(),
            Held::Nonce if self.beliefs.key != 0 && self.terms.shared => {
                self.undo(Cause::NoSafeMethod(Reason::KeyShared));
            }
            // The reservation may have changed since the type to send was read.
            Held::Nonce if self.beliefs.key != 0 && self.terms.full_status => {
                self.look_at_result(Some(false))
            }
            Held::Nonce if self.beliefs.key != 0 => self.act(),
            Held::Nonce if self.beliefs.source_lost => self.doubt(Doubt::SourceUnreachable),
            Held::Nonce => self.not_taken(None),
            Held::Nothing => self.fence(),
        }
    }
}

/// Whether a PREEMPT was executed, where its answer tells.
fn executed(answer: &Answer) -> Option<bool> {
    (!answer.is_lost()).then_some(answer.is_good())
}
