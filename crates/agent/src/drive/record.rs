//! What happened in a handover, with times: the ground of narration, time-lines and the count of round trips.

use super::link::Job;
use super::words;
use handover::{Outcome, Path, Phase};
use std::time::{Duration, Instant};

/// One command that was carried out.
#[derive(Clone, Debug)]
pub struct Happened {
    /// In which phase.
    pub phase: Phase,
    /// On which path.
    pub path: Path,
    /// The command in words.
    pub words: String,
    /// What came of it.
    pub outcome: String,
    /// It changed nothing on the device.
    pub reads: bool,
    /// When its batch was sent, since the start of the handover.
    pub at: Duration,
}

/// One phase, as long as it took.
#[derive(Clone, Copy, Debug)]
pub struct PhaseSpan {
    /// Which.
    pub phase: Phase,
    /// Since the start of the handover.
    pub at: Duration,
    /// How long.
    pub took: Duration,
    /// Batches of commands, each one round trip to the target.
    pub round_trips: u32,
}

/// Everything that happened.
#[derive(Clone, Debug)]
pub struct Record {
    started: Instant,
    phase: Phase,
    phase_started: Instant,
    round_trips: u32,
    /// The commands in order.
    pub commands: Vec<Happened>,
    /// The phases that ended.
    pub phases: Vec<PhaseSpan>,
    /// What went wrong on this side.
    pub troubles: Vec<String>,
    /// What the driver knows about the cause of the verdict, and what to do about it.
    pub advice: Option<String>,
}

impl Default for Record {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            phase: Phase::Plan,
            phase_started: now,
            round_trips: 0,
            commands: Vec::new(),
            phases: Vec::new(),
            troubles: Vec::new(),
            advice: None,
        }
    }
}

impl Record {
    /// Since the start of the handover.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Round trips and time between the pause of the guest and its resume: freeze, take and verify.
    #[must_use]
    pub fn pause(&self) -> (u32, Duration) {
        let inside = |span: &&PhaseSpan| matches!(span.phase, Phase::Freeze | Phase::Take | Phase::Verify);
        let add =
            |(trips, time): (u32, Duration), span: &PhaseSpan| (trips + span.round_trips, time + span.took);
        self.phases.iter().filter(inside).fold((0, Duration::ZERO), add)
    }

    /// The phase's name for the time-line restarts the clock of the next one.
    pub(super) fn phase_done(&mut self, phase: Phase) {
        self.close(phase);
        self.phase = next(phase);
    }

    pub(super) fn finished(&mut self) {
        if self.round_trips > 0 {
            self.close(self.phase);
        }
    }

    fn close(&mut self, phase: Phase) {
        let (at, took) = (self.phase_started - self.started, self.phase_started.elapsed());
        self.phases.push(PhaseSpan { phase, at, took, round_trips: self.round_trips });
        (self.phase_started, self.round_trips) = (Instant::now(), 0);
    }

    /// The caller did something of its own between two phases; the next one begins now.
    pub fn resume_clock(&mut self) {
        self.phase_started = Instant::now();
    }

    pub(super) const fn round_trip(&mut self) {
        self.round_trips += 1;
    }

    pub(super) fn trouble(&mut self, text: String) {
        self.troubles.push(text);
    }

    pub(super) fn command(&mut self, started: Instant, path: Path, job: &Job, outcome: &Outcome) {
        let (words, reads) = match job {
            Job::Command(request) => (words::request(request), words::reads(request)),
            Job::Close => ("log out for good".into(), false),
            Job::Open => ("log in".into(), false),
        };
        let (phase, outcome, at) = (self.phase, words::outcome(outcome), started - self.started);
        self.commands.push(Happened { phase, path, words, outcome, reads, at });
    }
}

const fn next(phase: Phase) -> Phase {
    match phase {
        Phase::Plan => Phase::Prepare,
        Phase::Prepare => Phase::Freeze,
        Phase::Freeze => Phase::Take,
        Phase::Take => Phase::Verify,
        Phase::Verify | Phase::Release => Phase::Release,
    }
}
