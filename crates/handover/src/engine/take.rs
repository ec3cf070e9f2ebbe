//! Phase Take: the commit. What is sent depends on the beliefs alone; a clear answer changes them, an unclear one has
//! them learnt anew, and then the same rule applies again.

use super::batch::{Answer, Answers, bit};
use super::course::{At, Course, Held, MAX_ATTEMPTS, Purpose};
use super::order::{Name, Order};
use crate::action::{Path, Phase, Side};
use crate::journal::Stage;
use crate::method::Method;
use crate::role::Role;
use crate::verdict::{Cause, Doubt};
use scsi::pr::ReservationType;

const DESTINATION: Path = Path::destination(0);
/// TYPE of a PREEMPT that takes no reservation: the standard ignores it, some targets reject zero.
const ANY: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

impl Course {
    /// Begins the commit.
    pub(crate) fn take(&mut self) {
        self.terms.attempts = 0;
        self.terms.taking = true;
        if self.terms.method == Method::Identity { self.take_identity() } else { self.act_journaled() }
    }

    /// The next command behind an entry that says: the source has proved its registration.
    pub(crate) fn act_journaled(&mut self) {
        let (at, orders) = self.next_act();
        self.run_journaled(Stage::Take, at, orders);
    }

    /// The next command, or the end of the phase when the source has nothing left that matters.
    pub(crate) fn act(&mut self) {
        if self.has_committed() {
            return self.commit();
        }
        let (at, orders) = self.next_act();
        self.run(at, orders);
    }

    /// The destination has everything. With REGISTER AND MOVE further paths of the source may be left to unregister.
    fn has_committed(&self) -> bool {
        let beliefs = &self.beliefs;
        let left = match self.terms.method {
            Method::RegisterAndMove => beliefs.key & bit(self.holder().index),
            Method::DestinationNonce => return beliefs.destination == Held::Key,
            _ => beliefs.key,
        };
        beliefs.destination == Held::Key && left == 0 && beliefs.nonce == 0
    }

    /// The point of no return has been passed.
    pub(crate) fn commit(&mut self) {
        self.terms.committed = true;
        if self.terms.method != Method::RegisterAndMove {
            self.beliefs.key = 0;
        }
        self.attentions.source_counts = false;
        self.at = At::Stand(Phase::Take);
    }

    pub(crate) fn kind(&self) -> ReservationType {
        self.terms.role.kind().unwrap_or(ANY)
    }

    fn next_act(&mut self) -> (At, Vec<(Path, Order)>) {
        use Name::{Guest, Nonce, Nothing};
        let (key, nonce, kind) = (self.beliefs.key, self.beliefs.nonce, self.kind());
        let source = |mask, old, new| Self::on_source(mask, Order::Register(old, new)).collect();
        match self.terms.method {
            Method::Identity | Method::MakeBeforeBreak => (At::Break, source(key, Guest, Nothing)),
            Method::RegisterAndMove => (At::Move, vec![(self.holder(), Order::Move)]),
            Method::PreemptOwnKey => (At::Preempt, vec![(DESTINATION, Order::Preempt(Guest, Guest, kind))]),
            Method::SourceNonce if key != 0 => (At::Rekey, source(key, Guest, Nonce)),
            Method::SourceNonce => match self.terms.role {
                Role::HolderOrSharer(_) => (At::Who, vec![(DESTINATION, Order::Reservation)]),
                Role::Holder(_) => self.preempt_nonce(),
                _ if self.beliefs.source_lost => self.preempt_nonce(),
                _ => {
                    self.terms.nonce_spent = true;
                    (At::DropNonce, source(nonce, Nonce, Nothing))
                }
            },
            Method::DestinationNonce => self.next_blind_act(),
        }
    }

    fn preempt_nonce(&mut self) -> (At, Vec<(Path, Order)>) {
        self.terms.nonce_spent = true;
        let order = Order::Preempt(Name::Guest, Name::Nonce, self.kind());
        (At::PreemptNonce, vec![(DESTINATION, order)])
    }

    /// Judges a batch of this phase.
    pub(crate) fn taken(&mut self, answers: &Answers) {
        let good = answers.mask(Side::Source, Answer::is_good);
        match self.at {
            At::Break => self.beliefs.key &= !good,
            At::DropNonce => self.beliefs.nonce &= !good,
            At::Rekey => {
                self.beliefs.key &= !good;
                self.beliefs.nonce |= good;
            }
            At::Move => self.moved(answers),
            At::Preempt if answers.on(DESTINATION).is_good() => self.beliefs.key = 0,
            At::PreemptNonce if answers.on(DESTINATION).is_good() => self.beliefs.nonce = 0,
            At::Who => self.who(answers),
            _ => {}
        }
        if answers.iter().all(|(_, _, answer)| answer.is_good()) {
            self.act()
        } else {
            self.locate(Purpose::Take)
        }
    }

    fn moved(&mut self, answers: &Answers) {
        match answers.on(self.holder()) {
            Answer::Rejected | Answer::Conflict => self.terms.excluded |= Method::RegisterAndMove.bit(),
            answer if answer.is_good() => self.beliefs.key &= !bit(self.holder().index),
            _ => {}
        }
    }

    /// Only the source has the nonce, so the holder's key tells who holds.
    fn who(&mut self, answers: &Answers) {
        let Some(read) = answers.reservation() else { return };
        let Some(held) = read.reservation else {
            self.terms.role = Role::Registrant;
            return;
        };
        self.terms.role_sure = true;
        self.terms.role = if held.kind.is_all_registrants() {
            Role::AllRegistrants(held.kind)
        } else if held.key == self.settings.nonce {
            Role::Holder(held.kind)
        } else {
            Role::Member(held.kind)
        };
    }

    /// The beliefs are fresh: goes on from them, forwards or back.
    pub(crate) fn judge_take(&mut self) {
        self.terms.attempts += 1;
        let beliefs = self.beliefs;
        let intact = self.source_is_intact();
        if beliefs.destination_lost {
            return if intact || !beliefs.source_lost && beliefs.nonce == self.terms.source_paths {
                self.undo(Cause::DestinationUnreachable)
            } else {
                self.doubt(Doubt::DestinationUnreachable)
            };
        }
        if beliefs.source_lost && self.terms.method != Method::PreemptOwnKey {
            return self.locate_by_reading();
        }
        self.go_on_from_beliefs();
    }

    /// The source was heard, and has all that it had.
    fn source_is_intact(&self) -> bool {
        let beliefs = &self.beliefs;
        !beliefs.source_lost && beliefs.nonce == 0 && beliefs.key == self.terms.source_paths
    }

    /// Both sides are known.
    pub(crate) fn go_on_from_beliefs(&mut self) {
        let beliefs = self.beliefs;
        let intact = self.source_is_intact();
        if beliefs.destination == Held::Nothing {
            return if intact { self.undo(Cause::Rejected) } else { self.fence() };
        }
        if self.terms.attempts > MAX_ATTEMPTS {
            return if intact { self.undo(Cause::Rejected) } else { self.doubt(Doubt::Mismatch) };
        }
        if intact && self.terms.aborted {
            return self.undo(Cause::Aborted);
        }
        let rejected = self.terms.excluded & self.terms.method.bit() != 0;
        if rejected && !self.has_committed() { self.inspect() } else { self.act() }
    }
}
