//! Recovery as a course that begins in the middle: a fresh look, probes, and then the same steps forwards or back that
//! an uninterrupted handover would take. What may be concluded depends on how far the journal says it came.

use super::batch::{Answer, Answers};
use super::course::{At, Course, Held, Purpose};
use super::order::Order;
use crate::action::Path;
use crate::journal::{Entry, Stage};
use crate::method::Method;
use crate::settings::Settings;
use crate::verdict::{Cause, Doubt, Verdict};

impl Course {
    /// A recovery from `entry`.
    pub(crate) fn recover(settings: Settings, entry: &Entry) -> Self {
        let mut course = Self::new(settings);
        let terms = &mut course.terms;
        terms.key = Some(entry.key);
        terms.method = entry.method;
        terms.role = entry.role;
        terms.aptpl = entry.aptpl;
        terms.generation = entry.generation;
        terms.looked_at = entry.generation;
        // The source had proved itself by then; before that only a key was listed.
        let proved = entry.stage > Stage::Freeze && !entry.aptpl;
        terms.seen = proved.then_some(entry.generation);
        terms.source_paths = entry.source_paths;
        terms.holder = entry.holder;
        terms.destination_had = entry.destination_had;
        terms.others_begun = entry.stage == Stage::Take;
        terms.sharers = entry.sharers;
        terms.journaled = true;
        terms.recovering = true;
        terms.cause = Cause::Recovered;
        terms.purpose = Purpose::Recover(entry.stage);
        course.attentions.destination_counts = true;
        course.beliefs.destination = course.held();
        course
    }

    /// The first step.
    pub(crate) fn begin_recovery(&mut self, stage: Stage) {
        if let Some(verdict) = stage.verdict() {
            self.at = At::End(verdict);
        } else if !self.settings.source_alive && !self.terms.destination_alive {
            self.doubt(Doubt::SourceUnreachable);
        } else if self.terms.given_back
            && (!self.terms.destination_alive || self.terms.method == Method::Identity)
        {
            self.leave_to_running_guest();
        } else if self.terms.method == Method::Identity {
            self.recover_identity(stage);
        } else {
            self.recover_look();
        }
    }

    const fn recovery_reader(&self) -> Path {
        if self.terms.destination_alive { Path::destination(0) } else { Path::source(0) }
    }

    /// APTPL must be known before the first probe, which sends it; and PRGENERATION before APTPL, so that whoever
    /// changes it later is counted.
    fn recover_look(&mut self) {
        let reader = self.recovery_reader();
        self.run(At::RecoverLook, [(reader, Order::Keys)]);
    }

    /// Judges the look.
    pub(crate) fn recovered(&mut self, answers: &Answers) {
        if answers.iter().any(|(_, _, answer)| answer.is_lost()) {
            let destination = self.terms.destination_alive;
            let both = destination && self.settings.source_alive;
            if !both {
                let doubt =
                    if destination { Doubt::DestinationUnreachable } else { Doubt::SourceUnreachable };
                return self.doubt(doubt);
            }
            self.terms.destination_alive = false;
            if self.terms.given_back {
                return self.leave_to_running_guest();
            }
            return self.recover_look();
        }
        if answers.find(|_, order| order == Order::Keys) == &Answer::Conflict {
            return self.doubt(Doubt::ConflictForAll);
        }
        if let Some(keys) = answers.keys() {
            self.terms.mark = keys.generation;
            self.terms.own = 0;
            self.attentions.reset_lately = false;
            let reader = self.recovery_reader();
            return self.run(At::RecoverAptpl, [(reader, Order::Capabilities)]);
        }
        if let Some(capabilities) = answers.capabilities() {
            self.terms.aptpl = capabilities.persist_active;
            self.adopt_aptpl(capabilities);
            self.terms.persist_capable = capabilities.persist_capable;
        }
        let purpose = self.terms.purpose;
        self.locate(purpose);
    }

    /// The beliefs are fresh.
    pub(crate) fn judge_recovery(&mut self, stage: Stage) {
        match stage {
            Stage::Freeze => self.recover_freeze(),
            Stage::Take if self.terms.method == Method::DestinationNonce => self.recover_blind(),
            Stage::Take => self.recover_take(),
            Stage::Undo => self.recover_undo(),
            Stage::UndoProved => self.recover_proved_undo(),
            _ => self.doubt(Doubt::Mismatch),
        }
    }

    /// The source was never touched: the destination forgets.
    fn recover_freeze(&mut self) {
        let beliefs = self.beliefs;
        if beliefs.destination_lost {
            self.terms.leftover = !self.adopted();
            let fenced = !beliefs.source_lost && beliefs.key == 0;
            return if fenced || beliefs.source_lost {
                self.doubt(Doubt::DestinationUnreachable)
            } else {
                self.keep()
            };
        }
        if beliefs.key == 0 && !beliefs.source_lost { self.fence() } else { self.undo(Cause::Recovered) }
    }

    /// The source had proved itself, so a destination that has the key alone is the committed state.
    fn recover_take(&mut self) {
        self.terms.taking = true;
        let beliefs = self.beliefs;
        let intact = beliefs.nonce == 0 && beliefs.key == self.terms.source_paths;
        if beliefs.destination_lost {
            return self.recover_take_without_destination(intact);
        }
        if beliefs.source_lost {
            self.terms.full_status = !self.terms.traits.full_status.is_no();
            return self.locate_by_reading();
        }
        let undoable = intact || (beliefs.nonce == self.terms.source_paths);
        if undoable && beliefs.destination == Held::Key && !self.terms.prefer_destination {
            self.undo(Cause::Recovered);
        } else {
            self.terms.attempts = 0;
            self.go_on_from_beliefs();
        }
    }

    /// A source that has nothing but the nonce takes its key back if the device itself shows that the destination still has it.
    fn recover_take_without_destination(&mut self, intact: bool) {
        let beliefs = self.beliefs;
        if intact {
            self.terms.leftover = !self.adopted();
            self.keep();
        } else if !beliefs.source_lost && beliefs.nonce != 0 && beliefs.nonce == self.terms.source_paths {
            self.terms.full_status = !self.terms.traits.full_status.is_no();
            self.undo(Cause::Recovered);
        } else {
            self.doubt(Doubt::DestinationUnreachable);
        }
    }

    /// The source may have taken its key back: only the destination's key shows that it was allowed to.
    fn recover_undo(&mut self) {
        let beliefs = self.beliefs;
        self.terms.attempts = 0;
        if beliefs.source_lost {
            self.doubt(Doubt::SourceUnreachable);
        } else if beliefs.destination_lost {
            self.terms.full_status = !self.terms.traits.full_status.is_no();
            if beliefs.key == 0 { self.undo(Cause::Recovered) } else { self.prove_undo() }
        } else {
            self.terms.cause = Cause::Recovered;
            self.judge_undo();
        }
    }

    fn recover_proved_undo(&mut self) {
        let beliefs = self.beliefs;
        if beliefs.destination_lost && self.terms.given_back {
            return self.leave_to_running_guest();
        }
        if beliefs.destination_lost && beliefs.key != 0 {
            self.terms.leftover = !self.adopted();
            return self.keep();
        }
        if beliefs.source_lost || beliefs.key != 0 { self.undo(Cause::Recovered) } else { self.fence() }
    }

    /// The guest runs at the source, and what the destination has of it cannot be removed now. Nothing is asked of the
    /// guest's own nexus, which may have another key by now, or none.
    fn leave_to_running_guest(&mut self) {
        // Under *identity* there is one registration, and the guest proved it when it was given back.
        self.terms.leftover = !self.adopted() && self.terms.method != Method::Identity;
        let verdict = Verdict::KeptAtSource { cause: self.terms.cause, leftover: self.terms.leftover };
        self.finish(Stage::UndoProved, verdict);
    }

    /// The destination has the nonce, the key or nothing. If the source lives after all, it goes on there.
    fn recover_blind(&mut self) {
        self.terms.taking = true;
        self.terms.attempts = 0;
        self.terms.full_status = !self.terms.traits.full_status.is_no();
        match self.beliefs.destination {
            _ if self.beliefs.destination_lost => self.doubt(Doubt::DestinationUnreachable),
            _ if self.beliefs.key != 0 => self.undo(Cause::Recovered),
            Held::Key => self.commit(),
            Held::Nonce => self.look_at_result(None),
            Held::Nothing => self.fence(),
        }
    }

    /// Before the source logged out it may log in again; afterwards only once the destination is out.
    fn recover_identity(&mut self, stage: Stage) {
        self.terms.cause = Cause::Recovered;
        if matches!(stage, Stage::Freeze | Stage::UndoProved) {
            if self.settings.source_alive {
                self.reopen_source()
            } else {
                self.doubt(Doubt::SourceUnreachable)
            }
        } else if self.terms.destination_alive {
            self.terms.taking = true;
            self.open_destination();
        } else {
            self.doubt(Doubt::DestinationUnreachable);
        }
    }
}
