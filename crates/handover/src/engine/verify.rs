//! Phase Verify: further paths, and a look at the result, before the guest may run at the destination.
//!
//! Further destination paths register only now, because a PREEMPT of the guest's own key would have removed them. They
//! open the un-fencing race once more, so the first path proves afterwards that nobody removed it.

use super::batch::{Answer, Answers, bit};
use super::course::{At, Course};
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
        let left = self.beliefs.key;
        let mut orders: Vec<_> = Self::on_source(left, Order::Register(Name::Guest, Name::Nothing)).collect();
        if self.terms.method != Method::Identity {
            orders.extend(self.on_further_destinations(Order::Register(Name::Nothing, Name::Guest)));
        }
        if orders.is_empty() { self.check() } else { self.run(At::Others, orders) }
    }

    fn check(&mut self) {
        let mut orders = vec![(DESTINATION, Order::Keys), (DESTINATION, Order::Reservation)];
        if self.settings.destination.len() > 1 {
            orders.push((DESTINATION, PROBE));
        }
        self.run(At::Check, orders);
    }

    /// Judges a batch of this phase.
    pub(crate) fn verified(&mut self, answers: &Answers) {
        match self.at {
            At::Others => self.others_answered(answers),
            At::OthersProbe => self.check(),
            At::Check => self.checked(answers),
            At::CheckProbe => self.check_probed(answers.on(DESTINATION)),
            _ => {}
        }
    }

    /// A conflict at the source means that the path is unregistered, which is what is wanted.
    fn others_answered(&mut self, answers: &Answers) {
        let gone = |answer: &Answer| answer.is_good() || *answer == Answer::Conflict;
        self.beliefs.key &= !answers.mask(Side::Source, gone);
        self.terms.attempts += 1;
        if self.beliefs.key != 0 {
            let again = self.terms.attempts < super::course::MAX_ATTEMPTS;
            return if again { self.retry_source() } else { self.doubt(Doubt::SourceUnreachable) };
        }
        let open = answers.mask(Side::Destination, |answer| !answer.is_good());
        if open == 0 {
            return self.check();
        }
        let paths = (0..8u8).filter(|index| open & bit(*index) != 0);
        self.run(At::OthersProbe, paths.map(|index| (Path::destination(index), PROBE)).collect::<Vec<_>>());
    }

    fn retry_source(&mut self) {
        let order = Order::Register(Name::Guest, Name::Nothing);
        let orders = Self::on_source(self.beliefs.key, order)
            .chain(self.on_further_destinations(Order::Register(Name::Nothing, Name::Guest)));
        self.run(At::Others, orders.collect::<Vec<_>>());
    }

    fn checked(&mut self, answers: &Answers) {
        let (Some(keys), Some(held)) = (answers.keys(), answers.reservation()) else {
            return self.doubt(Doubt::DestinationUnreachable);
        };
        let key = self.terms.key.unwrap_or_default();
        let holds = match self.terms.role {
            Role::Holder(kind) => held.reservation.is_some_and(|held| held.key == key && held.kind == kind),
            _ => true,
        };
        let probe = answers.find(|_, order| order == PROBE);
        let probed = self.settings.destination.len() == 1 || probe.is_good();
        if holds && probed && keys.keys.contains(&key) {
            self.record_moved();
        } else {
            self.run(At::CheckProbe, [(DESTINATION, PROBE)]);
        }
    }

    /// Something is missing: either somebody fenced the guest since the commit, or the device did something else.
    fn check_probed(&mut self, answer: &Answer) {
        match answer {
            Answer::Conflict => {
                self.beliefs.destination = super::course::Held::Nothing;
                self.fence();
            }
            answer if answer.is_good() && self.terms.attempts < super::course::MAX_ATTEMPTS => {
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
