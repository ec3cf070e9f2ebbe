//! The way back, before the commit, and what is left to do when the guest turns out to be fenced.
//!
//! The source takes its key back from the nonce only while the destination still has the key, and proves afterwards
//! that it still had it: otherwise a fencing inside the nonce window would be undone.

use super::batch::{Answer, Answers, bit};
use super::course::{At, Course, Held, MAX_ATTEMPTS, Purpose, lost};
use super::order::{Name, Order};
use crate::action::{Path, Side};
use crate::facts::FullStatusDigest;
use crate::journal::Stage;
use crate::method::Method;
use crate::role::Role;
use crate::verdict::{Cause, Doubt, Reason, Verdict};
use scsi::pr::Key;

const DESTINATION: Path = Path::destination(0);
const PROBE: Order = Order::Register(Name::Guest, Name::Guest);

impl Course {
    /// Turns back.
    pub(crate) fn undo(&mut self, cause: Cause) {
        self.terms.cause = cause;
        self.terms.attempts = 0;
        self.look_back();
    }

    /// Another node may have changed APTPL since it was read, and every REGISTER of ours sets it.
    pub(crate) fn look_back(&mut self) {
        self.run(At::UndoLook, [(self.witness(), Order::Capabilities)]);
    }

    /// The nexus that reads on the way back.
    fn witness(&self) -> Path {
        let reachable = self.terms.destination_alive && !self.beliefs.destination_lost;
        let ours = self.terms.method != Method::Identity;
        if (reachable && ours) || !self.settings.source_alive { DESTINATION } else { Path::source(0) }
    }

    fn undo_looked(&mut self, answers: &Answers) {
        self.learn_aptpl(answers);
        self.go_back();
    }

    /// The next command of the way back, from the beliefs.
    fn go_back(&mut self) {
        if self.beliefs.nonce == 0 {
            return self.unregister_destination();
        }
        if self.beliefs.destination_lost {
            return self.call_witness(At::UndoWitness);
        }
        if self.beliefs.destination != Held::Key {
            return self.fence();
        }
        self.take_key_back();
    }

    fn take_key_back(&mut self) {
        let order = Order::Register(Name::Nonce, Name::Guest);
        self.run_journaled(Stage::Undo, At::UndoRekey, Self::on_source(self.beliefs.nonce, order));
    }

    /// With the destination out of reach only READ FULL STATUS can show that its registration is still there.
    fn call_witness(&mut self, at: At) {
        if self.terms.full_status && self.settings.source_alive {
            self.run(at, [(Path::source(0), Order::FullStatus)]);
        } else {
            self.doubt(Doubt::DestinationUnreachable);
        }
    }

    /// `None`: the witness cannot tell.
    fn witnessed(answers: &Answers) -> Option<bool> {
        answers.full_status().map(|(_, status)| status.destination.with_key & 1 != 0)
    }

    /// Judges a batch of the way back.
    pub(crate) fn undone(&mut self, answers: &Answers) {
        match self.at {
            At::UndoLook => self.undo_looked(answers),
            At::UndoWitness => match Self::witnessed(answers) {
                Some(true) => self.take_key_back(),
                Some(false) => self.fence_unreachable(),
                None => self.doubt(Doubt::DestinationUnreachable),
            },
            At::UndoRekey => self.rekeyed(answers),
            At::UndoProve if self.beliefs.destination_lost => match Self::witnessed(answers) {
                Some(true) => self.leave_destination(),
                Some(false) => self.fence_unreachable(),
                None => self.revert_undo(),
            },
            At::UndoProve => self.undo_proved(answers.on(DESTINATION)),
            At::UndoRevert => self.doubt(Doubt::DestinationUnreachable),
            At::UndoUnregister => self.destination_unregistered(answers.on(DESTINATION)),
            At::UndoConfirm => self.confirmed(answers),
            At::UndoCount => self.kept_now(answers),
            _ => {}
        }
    }

    fn rekeyed(&mut self, answers: &Answers) {
        let good = answers.mask(Side::Source, Answer::is_good);
        self.beliefs.nonce &= !good;
        self.beliefs.key |= good;
        if self.beliefs.nonce == 0 {
            self.prove_undo();
        } else {
            self.locate(Purpose::Undo);
        }
    }

    /// The source has its key again. That the destination still has its own proves that nobody preempted it meanwhile.
    pub(crate) fn prove_undo(&mut self) {
        if !self.beliefs.destination_lost {
            return self.run(At::UndoProve, [(DESTINATION, PROBE)]);
        }
        if self.terms.full_status { self.call_witness(At::UndoProve) } else { self.revert_undo() }
    }

    /// The source has its key again, rightly; the destination's registration is for a later recovery.
    pub(crate) fn leave_destination(&mut self) {
        self.terms.leftover = !self.adopted();
        self.confirm();
    }

    /// The destination's registration was seen to be gone, although nobody could ask it.
    fn fence_unreachable(&mut self) {
        self.beliefs.destination = Held::Nothing;
        self.fence();
    }

    fn undo_proved(&mut self, answer: &Answer) {
        match answer {
            Answer::Conflict => {
                self.beliefs.destination = Held::Nothing;
                self.fence();
            }
            answer if answer.is_good() => {
                let order = Order::Register(Name::Guest, Name::Nothing);
                self.run_journaled(Stage::UndoProved, At::UndoUnregister, [(DESTINATION, order)]);
            }
            _ => self.revert_undo(),
        }
    }

    /// It cannot be proved now, and an unproved key must not stay.
    pub(crate) fn revert_undo(&mut self) {
        let order = Order::Register(Name::Guest, Name::Nonce);
        self.run(At::UndoRevert, Self::on_source(self.beliefs.key, order));
    }

    /// The beliefs are fresh.
    pub(crate) fn judge_undo(&mut self) {
        self.terms.attempts += 1;
        if self.beliefs.source_lost || self.terms.attempts > MAX_ATTEMPTS {
            return self.doubt(Doubt::SourceUnreachable);
        }
        if self.beliefs.nonce == 0 && self.beliefs.key != 0 && self.beliefs.destination == Held::Key {
            return self.prove_undo();
        }
        if self.beliefs.destination == Held::Nothing { self.fence() } else { self.go_back() }
    }

    fn unregister_destination(&mut self) {
        let ours = self.beliefs.destination != Held::Nothing && !self.adopted();
        if !ours {
            return self.confirm();
        }
        if self.beliefs.destination_lost && !self.terms.destination_alive {
            self.terms.leftover = true;
            return self.confirm();
        }
        let order = Order::Register(self.held_name(), Name::Nothing);
        self.run(At::UndoUnregister, [(DESTINATION, order)]);
    }

    fn held_name(&self) -> Name {
        if self.beliefs.destination == Held::Nonce { Name::Nonce } else { Name::Guest }
    }

    /// A repeated unregistration conflicts, and is done all the same.
    fn destination_unregistered(&mut self, answer: &Answer) {
        if answer.is_good() || *answer == Answer::Conflict {
            self.beliefs.destination = Held::Nothing;
            return self.confirm();
        }
        self.terms.attempts += 1;
        if self.terms.attempts < MAX_ATTEMPTS {
            return self.unregister_destination();
        }
        self.terms.leftover = true;
        self.confirm();
    }

    /// Whether the source still has what it is left with.
    pub(crate) fn confirm(&mut self) {
        if !self.source_speaks() {
            return self.keep();
        }
        self.run(At::UndoConfirm, Self::on_source(self.terms.source_paths, PROBE));
    }

    fn confirmed(&mut self, answers: &Answers) {
        let conflicts = answers.mask_of(PROBE, |answer| *answer == Answer::Conflict);
        if answers.mask_of(PROBE, Answer::is_good) == 0 && conflicts != 0 {
            self.beliefs.key = 0;
            return self.fence();
        }
        if lost(answers, Side::Source, self.terms.source_paths) && self.terms.leftover {
            return self.doubt(Doubt::SourceUnreachable);
        }
        self.keep();
    }

    /// Ends with the source. What may be left at the destination keeps the journal open.
    pub(crate) fn keep(&mut self) {
        let reader = if self.source_speaks() { Path::source(0) } else { DESTINATION };
        self.run(At::UndoCount, [(reader, Order::Keys)]);
    }

    /// The last look has told whether another node registered since APTPL was read.
    fn kept_now(&mut self, answers: &Answers) {
        if answers.keys().is_none() {
            self.reckon_blindly();
        }
        let verdict = Verdict::KeptAtSource { cause: self.terms.cause, leftover: self.terms.leftover };
        // With a leftover the journal stays open, and says that the guest may run at the source.
        self.finish(if self.terms.leftover { Stage::UndoProved } else { Stage::Kept }, verdict);
    }

    /// The guest is fenced, or the target forgot: removes what is ours.
    pub(crate) fn fence(&mut self) {
        self.terms.attempts = 0;
        // Where no reading ties the reservation to a nexus it may have been another node's, and gone by now.
        if self.beliefs.nonce != 0 && !self.terms.role_sure {
            return self.ask_who_holds(if self.beliefs.source_lost { DESTINATION } else { Path::source(0) });
        }
        self.clean_up();
    }

    fn ask_who_holds(&mut self, reader: Path) {
        self.run(At::FenceWho, [(reader, Order::Reservation)]);
    }

    /// Types 5 and 6: registrants may write, and a fencing agent may expect the reservation to exist, so a holder that
    /// was fenced inside the nonce window keeps it under the nonce. Types 1 and 3: nobody else could write or reserve.
    /// Of several paths only the one that holds, where that is known.
    fn kept_nonce(&self) -> u8 {
        match self.terms.role {
            Role::Holder(kind) if kind.is_registrants_only() => {
                self.terms.holder.map_or(u8::MAX, bit) & self.beliefs.nonce
            }
            _ => 0,
        }
    }

    fn clean_up(&mut self) {
        let mut orders = Vec::new();
        let kept = self.kept_nonce();
        self.terms.nonce_left = kept != 0;
        let dropped = self.beliefs.nonce & !kept;
        orders.extend(Self::on_source(dropped, Order::Register(Name::Nonce, Name::Nothing)));
        if self.terms.method != Method::DestinationNonce {
            orders.extend(Self::on_source(self.beliefs.key, Order::Register(Name::Guest, Name::Nothing)));
        }
        if self.beliefs.destination != Held::Nothing && !self.adopted() {
            orders.push((DESTINATION, Order::Register(self.held_name(), Name::Nothing)));
        }
        if self.terms.others_begun && self.terms.method != Method::Identity {
            orders.extend(self.on_further_destinations(Order::Register(Name::Guest, Name::Nothing)));
        }
        if orders.is_empty() { self.confirm_fencing() } else { self.run(At::FenceClean, orders) }
    }

    /// Judges a batch of the cleaning.
    pub(crate) fn fenced(&mut self, answers: &Answers) {
        match self.at {
            At::FenceWho => self.tell_holder(answers),
            At::FenceClean => self.cleaned(answers),
            At::FenceConfirm => self.fencing_confirmed(answers),
            _ => {}
        }
    }

    /// Only the source has the nonce, so the holder's key tells who holds. Without an answer the nonce may neither be left
    /// nor removed.
    fn tell_holder(&mut self, answers: &Answers) {
        let Some(read) = answers.reservation() else {
            let source_asked = answers.iter().any(|(path, ..)| path.side == Side::Source);
            let further = source_asked && !self.beliefs.destination_lost;
            return if further {
                self.ask_who_holds(DESTINATION)
            } else {
                self.doubt(Doubt::SourceUnreachable)
            };
        };
        self.terms.role = match read.reservation {
            Some(held) if held.key == self.settings.nonce => Role::Holder(held.kind),
            _ => Role::Registrant,
        };
        self.clean_up();
    }

    fn cleaned(&mut self, answers: &Answers) {
        let done = |answer: &Answer| answer.is_good() || *answer == Answer::Conflict;
        let source = answers.mask(Side::Source, done);
        self.beliefs.key &= !source;
        self.beliefs.nonce &= !source;
        if done(answers.on(DESTINATION)) {
            self.beliefs.destination = Held::Nothing;
        }
        if answers.iter().all(|(_, _, answer)| done(answer)) {
            return self.confirm_fencing();
        }
        self.terms.attempts += 1;
        let source_left = answers.mask(Side::Source, |answer| !done(answer)) != 0;
        if self.terms.attempts < MAX_ATTEMPTS {
            self.clean_up();
        } else if source_left {
            self.doubt(Doubt::SourceUnreachable);
        } else {
            self.doubt(Doubt::DestinationUnreachable);
        }
    }

    /// The source is not registered, but nobody removed the guest's registration either: another session of the source's
    /// name has it, or the destination had it before.
    fn not_fenced(&self, answers: &Answers) -> Option<Reason> {
        if self.terms.recovering || !self.settings.source_alive || self.beliefs.nonce != 0 {
            return None;
        }
        let key = self.terms.key.unwrap_or_default();
        let named = |(_, status): (Key, FullStatusDigest)| status.source.with_key != 0;
        if answers.full_status().is_some_and(named) {
            return Some(Reason::OtherSession);
        }
        let listed = answers.keys().is_some_and(|keys| keys.keys.contains(&key));
        (self.adopted() && listed && !self.terms.taking).then_some(Reason::AlreadyThere)
    }

    /// Conflicts for everybody are no fencing, and a target that forgot is none either.
    fn confirm_fencing(&mut self) {
        let source = self.terms.method == Method::Identity
            || !self.terms.destination_alive
            || self.beliefs.destination_lost;
        let reader = if source { Path::source(0) } else { DESTINATION };
        let mut orders = vec![(reader, Order::Keys)];
        if self.terms.full_status {
            orders.push((reader, Order::FullStatus));
        }
        self.run(At::FenceConfirm, orders);
    }

    fn fencing_confirmed(&mut self, answers: &Answers) {
        if answers.find(|_, order| order == Order::Keys) == &Answer::Conflict {
            return self.doubt(Doubt::ConflictForAll);
        }
        let keys = answers.keys();
        if keys.is_none() {
            let unheard = answers.mask(Side::Destination, Answer::is_lost) != 0;
            if unheard && self.settings.source_alive {
                self.beliefs.destination_lost = true;
                return self.confirm_fencing();
            }
            self.reckon_blindly();
        }
        let key = self.terms.key.unwrap_or_default();
        let untouched = self.terms.method == Method::DestinationNonce && !self.terms.preempted;
        if untouched && keys.is_none() {
            // Nobody has asked the source, and nobody can be asked for it: what the nonce met proves nothing.
            return self.doubt(Doubt::DestinationUnreachable);
        }
        if untouched && keys.is_some_and(|keys| keys.keys.contains(&key)) {
            self.terms.cause = Cause::Rejected;
            return self.keep();
        }
        if let Some(reason) = self.not_fenced(answers) {
            return self.finish(Stage::Kept, Verdict::Refused(reason));
        }
        let forgot = self.forgot(keys.map(|keys| keys.generation));
        let nonce_left =
            self.terms.nonce_left && keys.is_none_or(|keys| keys.keys.contains(&self.settings.nonce));
        if forgot {
            // PRGENERATION began anew, so that nothing can be told from it.
            self.reckon_blindly();
            self.finish(Stage::Lost, Verdict::Lost);
        } else if nonce_left {
            self.finish(Stage::FencedWithNonce, Verdict::Fenced { nonce_left: true });
        } else {
            self.finish(Stage::Fenced, Verdict::Fenced { nonce_left: false });
        }
    }
}
