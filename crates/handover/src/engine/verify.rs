//! Phase Verify: further paths, and a look at the result, before the guest may run at the destination.
//!
//! Further destination paths register only now, because a PREEMPT of the guest's own key would have removed them. They
//! open the un-fencing race once more, so the first path proves afterwards that nobody removed it.

use super::batch::{Answer, Answers, bit};
use super::course::{At, Course, Held, MAX_ATTEMPTS, all_paths};
use super::order::{Name, Order};
use crate::action::{Path, Phase, Side};
use crate::journal::Stage;
use crate::method::Method;
use crate::role::Role;
use crate::verdict::Doubt;

const DESTINATION: Path = Path::destination(0);
const PROBE: Order = Order::Register(Name::Guest, Name::Guest);

impl Course {
    /// Begins the phase.
    pub(crate) fn verify(&mut self) {
        self.terms.attempts = 0;
        self.terms.others_begun = true;
        let identity = self.terms.method == Method::Identity;
        let further = if identity { 0 } else { all_paths(self.settings.destination.len()) & !1 };
        self.terms.others_open = further & !self.terms.destination_had;
        self.go_on_with_others();
    }

    /// Registers and unregisters what is left; a path that another guest occupies is left open in the end.
    fn go_on_with_others(&mut self) {
        self.terms.attempts += 1;
        let tired = self.terms.attempts > MAX_ATTEMPTS;
        if self.beliefs.key != 0 && tired {
            return self.doubt(Doubt::SourceUnreachable);
        }
        if self.terms.others_open & self.terms.others_lost != 0 && tired {
            return self.doubt(Doubt::DestinationUnreachable);
        }
        let done = self.beliefs.key == 0 && self.terms.others_open == 0;
        if done || tired {
            self.terms.attempts = 0;
            return self.check();
        }
        let order = Order::Register(Name::Guest, Name::Nothing);
        let mut orders: Vec<_> = Self::on_source(self.beliefs.key, order).collect();
        orders.extend(self.on_open(Order::Register(Name::Nothing, Name::Guest)));
        self.run(At::Others, orders);
    }

    fn on_open(&self, order: Order) -> Vec<(Path, Order)> {
        let open = self.terms.others_open;
        (0..8u8)
            .filter(|index| open & bit(*index) != 0)
            .map(|index| (Path::destination(index), order))
            .collect()
    }

    fn check(&mut self) {
        let mut orders = vec![(DESTINATION, Order::Keys), (DESTINATION, Order::Reservation)];
        if self.terms.full_status && self.terms.method != Method::Identity {
            orders.push((DESTINATION, Order::FullStatus));
        } else if self.settings.destination.len() > 1 {
            // READ FULL STATUS would tell as much as the probe, and set no APTPL.
            orders.push((DESTINATION, PROBE));
        }
        self.run(At::Check, orders);
    }

    /// Judges a batch of this phase.
    pub(crate) fn verified(&mut self, answers: &Answers) {
        match self.at {
            At::Others => self.others_answered(answers),
            At::OthersProbe => self.others_probed(answers),
            At::Check => self.checked(answers),
            At::CheckProbe => self.check_probed(answers.on(DESTINATION)),
            _ => {}
        }
    }

    /// A conflict at the source means that the path is unregistered, which is what is wanted; one at the destination
    /// may be the repetition of our own success, which the probe tells.
    fn others_answered(&mut self, answers: &Answers) {
        let gone = |answer: &Answer| answer.is_good() || *answer == Answer::Conflict;
        self.beliefs.key &= !answers.mask(Side::Source, gone);
        self.terms.others_lost = answers.mask(Side::Destination, Answer::is_lost);
        self.terms.others_open &= !answers.mask(Side::Destination, Answer::is_good);
        if self.terms.others_open == 0 {
            self.go_on_with_others();
        } else {
            self.run(At::OthersProbe, self.on_open(PROBE));
        }
    }

    fn others_probed(&mut self, answers: &Answers) {
        self.terms.others_lost |= answers.mask(Side::Destination, Answer::is_lost);
        self.terms.others_open &= !answers.mask(Side::Destination, Answer::is_good);
        self.go_on_with_others();
    }

    fn checked(&mut self, answers: &Answers) {
        let (Some(keys), Some(held)) = (answers.keys(), answers.reservation()) else {
            return self.doubt(Doubt::DestinationUnreachable);
        };
        let key = self.terms.key.unwrap_or_default();
        let holds = match self.terms.role {
            Role::Holder(kind) if self.terms.role_sure => {
                held.reservation.is_some_and(|held| held.key == key && held.kind == kind)
            }
            _ => true,
        };
        let probed = self.settings.destination.len() == 1
            || answers.mask_of(PROBE, Answer::is_good) != 0
            || answers.full_status().is_some_and(|(_, status)| status.destination.with_key & 1 != 0);
        let status = answers.full_status().map(|(_, status)| status);
        if status.is_some_and(|status| status.source.with_key != 0) {
            // It conflicted when it was to unregister, or its answer deceived us: the guest must not run twice.
            return self.doubt(Doubt::Mismatch);
        }
        if holds && probed && keys.keys.contains(&key) {
            self.count_surplus(keys.keys.iter().filter(|listed| **listed == key).count());
            self.record_moved();
        } else {
            self.run(At::CheckProbe, [(DESTINATION, PROBE)]);
        }
    }

    /// Without READ FULL STATUS a key that is listed too often is a new sharer's or a session's that nobody has any more.
    fn count_surplus(&mut self, listed: usize) {
        let ours = self.settings.destination.len() + usize::from(self.terms.sharers);
        self.terms.surplus = u16::try_from(listed.saturating_sub(ours)).unwrap_or(u16::MAX);
    }

    /// Something is missing: either somebody fenced the guest since the commit, or the device did something else.
    fn check_probed(&mut self, answer: &Answer) {
        match answer {
            Answer::Conflict => {
                self.beliefs.destination = Held::Nothing;
                self.fence();
            }
            answer if answer.is_good() && self.terms.attempts < MAX_ATTEMPTS => {
                self.terms.attempts += 1;
                self.check();
            }
            answer if answer.is_lost() => self.doubt(Doubt::DestinationUnreachable),
            _ => self.doubt(Doubt::Mismatch),
        }
    }

    /// The entry must be durable before the guest may run at the destination.
    pub(crate) fn record_moved(&mut self) {
        self.run_journaled(Stage::Moved, At::Stand(Phase::Verify), []);
    }
}
