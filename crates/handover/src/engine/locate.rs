//! Learns who has which key. REGISTER of a key to itself is GOOD only on a nexus that has it, and changes nothing, so
//! it tells what a lost reply did not; a conflict alone would not tell a fencing from a repetition of ours.

use super::batch::{Answer, Answers};
use super::course::{At, Course, Held, Purpose, lost};
use super::order::{Name, Order};
use crate::action::{Path, Side};
use crate::method::Method;
use crate::verdict::{Cause, Doubt};

const DESTINATION: Path = Path::destination(0);
const KEY: Order = Order::Register(Name::Guest, Name::Guest);
const NONCE: Order = Order::Register(Name::Nonce, Name::Nonce);

impl Course {
    /// Asks both sides.
    pub(crate) fn locate(&mut self, purpose: Purpose) {
        self.terms.purpose = purpose;
        let mut orders = Vec::new();
        if self.source_speaks() {
            orders.extend(Self::on_source(self.terms.source_paths, KEY));
        }
        if self.terms.destination_alive {
            orders.push((DESTINATION, KEY));
        }
        self.beliefs.source_lost = !self.source_speaks();
        self.beliefs.destination_lost = !self.terms.destination_alive;
        self.run(At::Locate, orders);
    }

    /// Judges a batch of probes.
    pub(crate) fn located(&mut self, answers: &Answers) {
        match self.at {
            At::Locate => self.keys_located(answers),
            At::LocateNonce => {
                self.nonces_located(answers);
                self.act_on_beliefs();
            }
            At::LocateByReading => self.read_located(answers),
            _ => {}
        }
    }

    /// Whoever does not have the key may have the nonce.
    fn keys_located(&mut self, answers: &Answers) {
        let beliefs = &mut self.beliefs;
        beliefs.source_lost |= lost(answers, Side::Source, self.terms.source_paths);
        let good = answers.mask(Side::Source, Answer::is_good);
        // A holder that does not answer may still have what only our PREEMPT takes from it.
        let preempts = self.terms.method == Method::PreemptOwnKey;
        let silent = if preempts { answers.mask(Side::Source, Answer::is_lost) } else { 0 };
        beliefs.key = good | beliefs.key & silent;
        beliefs.nonce = 0;
        if self.terms.destination_alive {
            let answer = answers.on(DESTINATION);
            beliefs.destination_lost = answer.is_lost();
            // Out of reach it may still have what it had.
            if !answer.is_lost() {
                beliefs.destination = if answer.is_good() { Held::Key } else { Held::Nothing };
            }
        }
        let conflicts = answers.mask(Side::Source, |answer| *answer == Answer::Conflict);
        let destination = self.terms.method == Method::DestinationNonce
            && self.terms.destination_alive
            && *answers.on(DESTINATION) == Answer::Conflict;
        if self.terms.method == Method::SourceNonce && conflicts != 0 {
            self.run(At::LocateNonce, Self::on_source(conflicts, NONCE));
        } else if destination {
            self.run(At::LocateNonce, [(DESTINATION, NONCE)]);
        } else {
            self.act_on_beliefs();
        }
    }

    fn nonces_located(&mut self, answers: &Answers) {
        let beliefs = &mut self.beliefs;
        beliefs.source_lost |= lost(answers, Side::Source, self.terms.source_paths);
        beliefs.nonce = answers.mask(Side::Source, Answer::is_good);
        // Out of reach it may have it.
        let may_have = |answer: &Answer| answer.is_good() || answer.is_lost();
        if answers.mask(Side::Destination, may_have) != 0 {
            beliefs.destination = Held::Nonce;
        }
        beliefs.destination_lost |= lost(answers, Side::Destination, 1);
    }

    fn act_on_beliefs(&mut self) {
        match self.terms.purpose {
            Purpose::Take if self.terms.method == Method::DestinationNonce => self.judge_blind(),
            Purpose::Take => self.judge_take(),
            Purpose::Undo => self.judge_undo(),
            Purpose::Recover(stage) => self.judge_recovery(stage),
        }
    }

    /// The source is out of reach: the destination reads what it can about it.
    pub(crate) fn locate_by_reading(&mut self) {
        let mut orders = vec![(DESTINATION, Order::Keys)];
        if self.terms.full_status {
            orders.push((DESTINATION, Order::FullStatus));
        }
        self.run(At::LocateByReading, orders);
    }

    fn read_located(&mut self, answers: &Answers) {
        let Some(keys) = answers.keys() else { return self.doubt(Doubt::SourceUnreachable) };
        let status = answers.full_status().map(|(_, status)| status.source.with_key);
        let nonces = keys.keys.iter().filter(|key| **key == self.settings.nonce).count();
        let all = self.terms.source_paths;
        let every = usize::try_from(all.count_ones()).is_ok_and(|paths| nonces == paths);
        if nonces > 0 {
            if status.is_none() && !every {
                // Some paths may still have the key, and nothing tells which.
                return self.doubt(Doubt::SourceUnreachable);
            }
            self.beliefs.nonce = all & !status.unwrap_or(0);
            self.beliefs.key = status.unwrap_or(0) & all;
            return if self.beliefs.key == 0 {
                self.go_on_from_beliefs()
            } else {
                self.doubt(Doubt::SourceUnreachable)
            };
        }
        let nonce_unused =
            self.terms.method == Method::SourceNonce && self.terms.taking && !self.terms.recovering;
        let key = match status {
            Some(mask) => mask & all,
            None if nonce_unused && self.terms.nonce_spent => 0,
            None if nonce_unused => all,
            None => return self.doubt(Doubt::SourceUnreachable),
        };
        self.beliefs.key = key;
        self.beliefs.nonce = 0;
        if key == 0 {
            self.go_on_from_beliefs();
        } else if key == all {
            self.undo(Cause::SourceUnreachable);
        } else {
            self.doubt(Doubt::SourceUnreachable);
        }
    }
}
