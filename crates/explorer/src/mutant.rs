//! The project's own engine with one thing broken: whoever breaks it so must be found out. For the tests alone.

use crate::conductor::{Conductor, Tenure, TenureProcedure};
use crate::scenario::Scenario;
use handover::{Action, Event, Outcome, Path, Procedure, Remains, Side, Step};
use scsi::pr::{BasicParameters, Key, OutAction, PrOutCdb};
use scsi::{Completion, DataPhase, Request, Status, opcode};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mutant {
    /// PREEMPT sends type 1 whatever was read.
    WrongType,
    /// REGISTER leaves APTPL out.
    DropsAptpl,
    /// The source's proof that it was not fenced is never sent and taken for given.
    SkipsTheProof,
    /// The source never unregisters.
    LeavesTheSource,
    /// An unknown outcome is taken for GOOD instead of being probed.
    TakesUnknownForGood,
    /// A RESERVATION CONFLICT is taken for GOOD.
    TakesConflictForGood,
    /// PREEMPT names the guest's key where it should name the nonce.
    PreemptsTheKey,
}

/// The engine behind a broken driver.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct MutantProcedure {
    inner: TenureProcedure,
    mutant: Mutant,
}

impl Mutant {
    fn spoil(self, action: &mut Action) {
        let Action::Execute { path, request, .. } = action else { return };
        let (Ok(mut cdb), DataPhase::Out(list)) = (PrOutCdb::parse(&request.cdb), &request.data) else {
            return;
        };
        let Ok(mut parameters) = BasicParameters::parse(list) else { return };
        if cdb.action == OutAction::REGISTER_AND_MOVE {
            return;
        }
        match self {
            Self::WrongType if cdb.action.is_preempt() => cdb.kind.0 = 1,
            Self::DropsAptpl => parameters.aptpl = false,
            Self::PreemptsTheKey if cdb.action.is_preempt() => {
                parameters.service_action_key = parameters.reservation_key;
            }
            Self::SkipsTheProof if is_proof(*path, &cdb, &parameters) => return *request = nothing(),
            Self::LeavesTheSource if unregisters_source(*path, &cdb, &parameters) => {
                return *request = nothing();
            }
            _ => return,
        }
        request.cdb = cdb.to_bytes().to_vec();
        request.data = DataPhase::Out(parameters.to_bytes());
    }

    fn misread(self, outcome: &mut Outcome) {
        let conflict = matches!(outcome, Outcome::Done(done) if done.status == Status::RESERVATION_CONFLICT);
        let good = match self {
            Self::TakesUnknownForGood => *outcome == Outcome::Unknown,
            Self::TakesConflictForGood => conflict,
            _ => false,
        };
        if good {
            *outcome = Outcome::Done(Completion::good(Vec::new()));
        }
    }
}

fn is_proof(path: Path, cdb: &PrOutCdb, parameters: &BasicParameters) -> bool {
    let same = parameters.reservation_key == parameters.service_action_key;
    path.side == Side::Source && cdb.action == OutAction::REGISTER && same
}

fn unregisters_source(path: Path, cdb: &PrOutCdb, parameters: &BasicParameters) -> bool {
    let to_none = parameters.service_action_key == Key::NONE;
    path.side == Side::Source && cdb.action == OutAction::REGISTER && to_none
}

/// A command that succeeds and does nothing.
fn nothing() -> Request {
    Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 36, 0], data: DataPhase::In(36) }
}

impl Procedure for MutantProcedure {
    fn poll(&mut self) -> Step {
        let mut step = self.inner.poll();
        if let Step::Run(actions) = &mut step {
            actions.iter_mut().for_each(|action| self.mutant.spoil(action));
        }
        step
    }

    fn handle(&mut self, mut event: Event) {
        if let Event::Completed { outcome, .. } = &mut event {
            self.mutant.misread(outcome);
        }
        self.inner.handle(event);
    }
}

impl Conductor for Mutant {
    type Procedure = MutantProcedure;

    fn handover(&self, scenario: &Scenario) -> MutantProcedure {
        MutantProcedure { inner: Tenure.handover(scenario), mutant: *self }
    }

    fn recovery(&self, scenario: &Scenario, remains: Remains) -> MutantProcedure {
        MutantProcedure { inner: Tenure.recovery(scenario, remains), mutant: *self }
    }

    fn shift_generation(&self, procedure: &mut MutantProcedure, by: u32) {
        Tenure.shift_generation(&mut procedure.inner, by);
    }

    fn reports_aptpl(&self, procedure: &MutantProcedure) -> bool {
        Tenure.reports_aptpl(&procedure.inner)
    }
}

mod tests;
