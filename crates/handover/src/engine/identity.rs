//! Method *identity*: the initiator port's name moves. Nothing on the device changes, and the device cannot tell the two
//! hosts apart, so everything rests on the source being out for good before the destination logs in.

use super::batch::{Answer, Answers};
use super::course::{At, Course, kept};
use super::order::{Name, Order};
use crate::action::{Path, Phase};
use crate::journal::Stage;
use crate::verdict::{Cause, Doubt};

const SOURCE: Path = Path::source(0);
const DESTINATION: Path = Path::destination(0);
const PROBE: Order = Order::Register(Name::Guest, Name::Guest);

impl Course {
    /// The source proves its registration before it gives up its session.
    pub(crate) fn freeze_identity(&mut self) {
        self.run_journaled(Stage::Freeze, At::IdentityProve, [(SOURCE, PROBE)]);
    }

    /// Closes the source's sessions.
    pub(crate) fn take_identity(&mut self) {
        let all = super::course::all_paths(self.settings.source.len());
        self.run(At::IdentityClose, Self::on_source(all, Order::Close));
    }

    /// Judges a batch of this method.
    pub(crate) fn identified(&mut self, answers: &Answers) {
        let all_good = answers.iter().all(|(_, _, answer)| answer.is_good());
        match self.at {
            At::IdentityProve => self.identity_proved(answers.on(SOURCE)),
            At::IdentityClose if all_good => self.open_destination(),
            At::IdentityClose => self.reopen_source(),
            At::IdentityOpen if all_good => self.run(At::IdentityCheck, [(DESTINATION, PROBE)]),
            At::IdentityOpen => self.close_destination(),
            At::IdentityCheck => self.identity_checked(answers.on(DESTINATION)),
            At::IdentityBackClose if all_good => self.reopen_source(),
            At::IdentityBackClose => self.doubt(Doubt::DestinationUnreachable),
            At::IdentityBackOpen if all_good => self.back_at_source(),
            At::IdentityBackOpen => self.doubt(Doubt::SourceUnreachable),
            _ => {}
        }
    }

    fn identity_proved(&mut self, answer: &Answer) {
        if !matches!(answer, Answer::Conflict) && (self.terms.aborted || !answer.is_good()) {
            // The handover ends here, and nothing is read after a REGISTER that sent APTPL.
            self.reckon_blindly();
        }
        match answer {
            Answer::Conflict => {
                self.beliefs.key = 0;
                self.fence();
            }
            answer if answer.is_good() && !self.terms.aborted => self.at = At::Stand(Phase::Freeze),
            answer if answer.is_good() => self.finish(Stage::Kept, kept(Cause::Aborted)),
            Answer::Rejected => self.finish(Stage::Kept, kept(Cause::Rejected)),
            _ => self.finish(Stage::Kept, kept(Cause::SourceUnreachable)),
        }
    }

    pub(crate) fn open_destination(&mut self) {
        self.beliefs.key = 0;
        let mut orders = vec![(DESTINATION, Order::Open)];
        orders.extend(self.on_further_destinations(Order::Open));
        self.run_journaled(Stage::SourceClosed, At::IdentityOpen, orders);
    }

    fn close_destination(&mut self) {
        self.terms.cause = Cause::DestinationUnreachable;
        let mut orders = vec![(DESTINATION, Order::Close)];
        orders.extend(self.on_further_destinations(Order::Close));
        self.run(At::IdentityBackClose, orders);
    }

    /// Logs the source in again: the destination is out, or never was in.
    pub(crate) fn reopen_source(&mut self) {
        if self.terms.cause == Cause::Aborted {
            self.terms.cause = Cause::SourceUnreachable;
        }
        let all = super::course::all_paths(self.settings.source.len());
        self.run(At::IdentityBackOpen, Self::on_source(all, Order::Open));
    }

    /// The source has the one name again, and nothing is left of the destination's.
    fn back_at_source(&mut self) {
        self.settings.edit().source_alive = true;
        self.beliefs.destination = super::course::Held::Nothing;
        self.look_back();
    }

    fn identity_checked(&mut self, answer: &Answer) {
        if answer.is_good() {
            self.beliefs.destination = super::course::Held::Key;
            return self.commit();
        }
        self.close_destination();
        if !answer.is_lost() {
            self.terms.cause = Cause::Rejected;
        }
    }
}
