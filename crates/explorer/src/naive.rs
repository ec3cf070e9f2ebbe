//! The naive sequence that handovers in the field use, as a method: the destination registers the guest's key and
//! preempts it with it. It is here for the tests alone, to show that the oracle finds what it must find.

use crate::conductor::Conductor;
use crate::scenario::Scenario;
use handover::{Action, Cause, CommandId, Event, Outcome, Path, Phase, Procedure, Remains, Step, Verdict};
use scsi::pr::{InAction, Key, ReadKeys, ReservationType, request};
use scsi::{Request, Status};

use crate::cast::GUEST_KEY;

/// REGISTER(0 to K); PREEMPT(K, K, T).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Naive {
    /// The type that the source's tracker believes; the RFC sends 0 if there is no reservation of the guest's.
    pub(crate) believed: u8,
    /// Looks whether the key is listed before it registers.
    pub(crate) looks: bool,
    /// Registers again after the PREEMPT if it lost its registration, and sends type 1 for "none".
    pub(crate) again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Pause,
    Look,
    Register,
    Preempt,
    Again,
    Resume,
    End(Verdict),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NaiveProcedure {
    at: At,
    waiting: bool,
    kind: u8,
    again: bool,
    looks: bool,
}

impl NaiveProcedure {
    fn command(&self) -> Option<Request> {
        Some(match self.at {
            At::Look => request::read(InAction::READ_KEYS, 1024),
            At::Register => request::register(Key::NONE, GUEST_KEY, false),
            At::Preempt => request::preempt(GUEST_KEY, GUEST_KEY, ReservationType(self.kind)),
            At::Again => request::register_and_ignore(GUEST_KEY, false),
            At::Pause | At::Resume | At::End(_) => return None,
        })
    }

    fn next(&mut self, outcome: &Outcome) {
        let good = matches!(outcome, Outcome::Done(done) if done.status == Status::GOOD);
        let listed = match outcome {
            Outcome::Done(done) => {
                ReadKeys::parse(&done.data).is_some_and(|read| read.keys.contains(&GUEST_KEY))
            }
            _ => false,
        };
        let kept = At::End(Verdict::KeptAtSource { cause: Cause::Rejected, leftover: false });
        self.at = match self.at {
            At::Look if listed => At::Register,
            At::Look => At::End(Verdict::Fenced { nonce_left: false }),
            At::Register if good => At::Preempt,
            At::Preempt if good && self.again => At::Again,
            At::Preempt if good => At::Resume,
            At::Again if good => At::Resume,
            _ => kept,
        };
    }
}

impl Procedure for NaiveProcedure {
    fn poll(&mut self) -> Step {
        if self.waiting {
            return Step::Wait;
        }
        match (self.at, self.command()) {
            (At::Pause, _) => Step::PhaseDone(Phase::Prepare),
            (At::Resume, _) => Step::PhaseDone(Phase::Verify),
            (At::End(verdict), _) => Step::Finished(verdict),
            (_, Some(request)) => {
                self.waiting = true;
                Step::Run(vec![Action::Execute { id: CommandId(0), path: Path::destination(0), request }])
            }
            (_, None) => Step::Wait,
        }
    }

    fn handle(&mut self, event: Event) {
        match (event, self.at) {
            (Event::Completed { outcome, .. }, _) => {
                self.waiting = false;
                self.next(&outcome);
            }
            (Event::Proceed, At::Pause) => self.at = if self.looks { At::Look } else { At::Register },
            (Event::Proceed, At::Resume) => self.at = At::End(Verdict::Moved),
            (Event::Abort, _) => {
                self.at = At::End(Verdict::KeptAtSource { cause: Cause::Aborted, leftover: false });
            }
            _ => {}
        }
    }
}

impl Conductor for Naive {
    type Procedure = NaiveProcedure;

    fn handover(&self, _: &Scenario) -> NaiveProcedure {
        NaiveProcedure {
            at: At::Pause,
            waiting: false,
            kind: if self.believed == 0 && self.again { 1 } else { self.believed },
            again: self.again,
            looks: self.looks,
        }
    }

    fn recovery(&self, scenario: &Scenario, _: Remains) -> NaiveProcedure {
        self.handover(scenario)
    }

    fn shift_generation(&self, _: &mut NaiveProcedure, _: u32) {}

    fn reports_aptpl(&self, _: &NaiveProcedure) -> bool {
        false
    }
}

mod tests;
