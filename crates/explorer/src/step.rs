//! One move, carried out: what the driver, the hosts, the target and the other nodes do, as honestly as a real
//! driver could. Every step ends with the promises; see [`crate::oracle`].

use crate::cast::{Host, PerHost};
use crate::conductor::Conductor;
use crate::device::{is_attention, tells_of_power};
use crate::moves::Move;
use crate::oracle::{self, Promise, Tolerance, Violation};
use crate::scenario::Scenario;
use crate::search::{Budget, Space};
use crate::shadow::Shadow;
use crate::trace::{Narrator, words};
use crate::world::{Driver, Excuses, Guest, HostState, Running, Session, Spare, World, host_of};
use handover::{Action, Event, Outcome, Path, Procedure, Step, Verdict};
use scsi::{Completion, Request, Status};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Recoveries that may follow a verdict which leaves something open.
const REPAIRS: u8 = 2;

/// One scenario under one conductor: a space to search.
pub(crate) struct Play<'a, C> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) conductor: &'a C,
    pub(crate) budget: Budget,
    /// The one promise to look at, where a test wants a certain defect.
    pub(crate) only: Option<Promise>,
    /// How often each tolerance was used.
    pub(crate) tolerated: [Cell<u64>; Tolerance::ALL.len()],
    /// How often each verdict was given.
    pub(crate) verdicts: RefCell<BTreeMap<Verdict, u64>>,
}

impl<C: Conductor> Space for Play<'_, C> {
    type State = World<C::Procedure>;
    type Move = Move;

    fn initial(&self) -> Option<Self::State> {
        let device = self.scenario.device()?;
        let alive = !self.scenario.source_dead;
        let host = |up| HostState { up, linked: true, session: Session::Own };
        let driver = Driver::Running(Running {
            procedure: self.conductor.handover(self.scenario),
            batch: Vec::new(),
            phase_done: None,
            recovery: false,
        });
        let mut world = World {
            shadow: Shadow::new(self.scenario, device.clone()),
            device,
            hosts: PerHost { source: host(alive), destination: host(true) },
            guest: Guest {
                running: alive.then_some(Host::Source),
                resumable: PerHost { source: alive, destination: !alive },
            },
            driver,
            journal: PerHost::default(),
            excuses: Excuses::default(),
            repairs: REPAIRS,
            disturbed: false,
            spare: Spare(self.budget),
        };
        Stage { play: self, world: &mut world, narrator: &mut Narrator::silent() }.go_on().ok()?;
        Some(world)
    }

    fn moves(&self, state: &Self::State, moves: &mut Vec<Move>) {
        crate::moves::moves(self.scenario, state, moves);
    }

    fn apply(&self, state: &Self::State, step: Move) -> Result<Self::State, Violation> {
        let mut world = state.clone();
        self.step(&mut world, step, &mut Narrator::silent())?;
        Ok(world)
    }

    fn counts(&self, violation: &Violation) -> bool {
        self.only.is_none_or(|promise| promise == violation.promise)
    }

    fn budget(&self, state: &Self::State) -> Budget {
        state.spare.0
    }
}

impl<'a, C> Play<'a, C> {
    pub(crate) fn new(scenario: &'a Scenario, conductor: &'a C, budget: Budget) -> Self {
        let (tolerated, verdicts) =
            ([const { Cell::new(0) }; Tolerance::ALL.len()], RefCell::new(BTreeMap::new()));
        Self { scenario, conductor, budget, only: None, tolerated, verdicts }
    }
}

impl<C: Conductor> Play<'_, C> {
    /// Carries out one move and checks every promise.
    pub(crate) fn step(
        &self,
        world: &mut World<C::Procedure>,
        step: Move,
        narrator: &mut Narrator,
    ) -> Result<(), Violation> {
        let mut stage = Stage { play: self, world, narrator };
        stage.step(step)?;
        stage.settle_generation();
        oracle::check(self, world)
    }

    /// Notes how a procedure ended.
    pub(crate) fn note(&self, verdict: Verdict) {
        *self.verdicts.borrow_mut().entry(verdict).or_insert(0) += 1;
    }

    /// Notes the use of a tolerance.
    pub(crate) fn tolerate(&self, rule: Tolerance) {
        if let Some(count) = self.tolerated.get(rule as usize) {
            count.set(count.get() + 1);
        }
    }
}

/// A move under way.
struct Stage<'a, 'p, C: Conductor> {
    play: &'a Play<'p, C>,
    world: &'a mut World<C::Procedure>,
    narrator: &'a mut Narrator,
}

impl<C: Conductor> Stage<'_, '_, C> {
    fn step(&mut self, step: Move) -> Result<(), Violation> {
        self.pay(step);
        match step {
            Move::Run(place) => self.run(place, Loss::Nothing),
            Move::LoseReply(place) => self.run(place, Loss::Reply),
            Move::LoseCommand(place) => self.run(place, Loss::Command),
            Move::FailJournal => self.fail_journal(),
            Move::Proceed => self.proceed(),
            Move::GiveUp => self.tell_at_phase_end(Event::Abort),
            Move::Crash(host, in_flight) => self.crash(host, in_flight),
            Move::CutLink(host, in_flight) => self.cut(host, in_flight),
            Move::CrashCoordinator => self.crash_coordinator(),
            Move::PowerCycle => self.power_cycle(),
            Move::CrashTarget(in_flight) => self.crash_target(in_flight),
            Move::Heal(host) => self.heal(host),
            Move::Recover => self.recover(),
            Move::Foreign(index, command) => self.foreign(index, command),
        }
    }

    /// Takes the move from the budget.
    fn pay(&mut self, step: Move) {
        let recovery = matches!(&self.world.driver, Driver::Running(running) if running.recovery);
        let budget = &mut self.world.spare.0;
        match step {
            Move::Run(_) | Move::Proceed | Move::Heal(_) | Move::Recover => return,
            Move::Foreign(..) => budget.pay_foreign(),
            Move::CrashCoordinator if recovery => {
                budget.recovery_crashes = budget.recovery_crashes.saturating_sub(1);
            }
            _ => budget.pay_fault(),
        }
        self.world.disturbed |= !matches!(step, Move::Foreign(..));
    }

    /// Lets the procedure run until it waits for somebody.
    fn go_on(&mut self) -> Result<(), Violation> {
        let Driver::Running(running) = &mut self.world.driver else { return Ok(()) };
        if !running.batch.is_empty() || running.phase_done.is_some() {
            return Ok(());
        }
        match running.procedure.poll() {
            Step::Run(batch) if !batch.is_empty() => {
                running.batch = batch;
                self.world.excuses.new_batch();
            }
            Step::Run(_) | Step::Wait => {
                return Err(Violation::new(Promise::CrashSafe, "the procedure stands still for ever"));
            }
            Step::PhaseDone(phase) => running.phase_done = Some(phase),
            Step::Finished(verdict) => return self.finish(verdict),
        }
        Ok(())
    }

    /// Reports an event to the procedure and lets it go on.
    fn tell(&mut self, event: Event) -> Result<(), Violation> {
        if let Driver::Running(running) = &mut self.world.driver {
            running.procedure.handle(event);
        }
        self.go_on()
    }

    fn take(&mut self, place: u8) -> Option<Action> {
        let Driver::Running(running) = &mut self.world.driver else { return None };
        let place = usize::from(place);
        (place < running.batch.len()).then(|| running.batch.remove(place))
    }

    fn run(&mut self, place: u8, loss: Loss) -> Result<(), Violation> {
        match self.take(place) {
            Some(Action::Execute { id, path, request }) => {
                let outcome = self.execute(path, &request, loss)?;
                self.tell(Event::Completed { id, outcome })
            }
            Some(Action::Journal(entry)) => self.write_journal(entry),
            Some(Action::CloseSession { id, path }) => self.close_session(id, path),
            Some(Action::OpenSession { id, path }) => self.open_session(id, path),
            None => Ok(()),
        }
    }

    fn execute(&mut self, path: Path, request: &Request, loss: Loss) -> Result<Outcome, Violation> {
        if !self.world.reaches(host_of(path.side)) {
            self.narrator.say(|| format!("{path} -> {}: cannot be sent", words(request)));
            self.world.excuses.word_lost |= self.world.excuses.power_lost;
            return Ok(Outcome::NotSent);
        }
        if loss == Loss::Command {
            self.narrator.say(|| format!("{path} -> {}: lost on its way", words(request)));
            return Ok(Outcome::Unknown);
        }
        let nexus = self.world.nexus(path);
        let completion = self.world.device.execute(nexus, request);
        if self.world.shadow.remnant && !is_attention(&completion) {
            self.world.shadow.device.execute_patiently(nexus, request);
        }
        let lost = if loss == Loss::Reply { ", and the answer is lost" } else { "" };
        self.narrator.say(|| format!("{path} -> {}: {}{lost}", words(request), answer(&completion)));
        self.world.excuses.word_lost |= loss == Loss::Reply && tells_of_power(&completion);
        let told = loss == Loss::Nothing && completion.status.is_good();
        oracle::after_own_command(self.play, self.world, request, told)?;
        Ok(if loss == Loss::Reply { Outcome::Unknown } else { Outcome::Done(completion) })
    }

    fn write_journal(&mut self, entry: handover::Entry) -> Result<(), Violation> {
        let source_counts = !self.play.scenario.source_dead;
        if !self.world.hosts.destination.up || (source_counts && !self.world.hosts.source.up) {
            return self.fail_journal();
        }
        self.narrator.say(|| format!("journal on both hosts: {:?}", entry.stage));
        self.world.journal = PerHost { source: Some(entry), destination: Some(entry) };
        self.go_on()
    }

    fn fail_journal(&mut self) -> Result<(), Violation> {
        self.narrator.say(|| "the journal cannot be written on both hosts".to_owned());
        if let Driver::Running(running) = &mut self.world.driver {
            running.batch.clear();
        }
        self.tell(Event::JournalFailed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Nothing,
    Reply,
    Command,
}

/// A completion in a word.
fn answer(completion: &Completion) -> String {
    match completion.decoded_sense() {
        Some(sense) if completion.status == Status::CHECK_CONDITION => sense.to_string(),
        _ => completion.status.to_string(),
    }
}

mod events;
