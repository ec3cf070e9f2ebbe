//! What a handover costs, phase by phase, as the leader sees it: the benchmark and the operator read it.

use handover::Phase;
use std::time::{Duration, Instant};

/// The phases of a handover so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    spans: Vec<Span>,
    /// When the leader went on; it stands otherwise.
    running: Option<Instant>,
}

/// One phase. A recovery is all in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which; the way back and recovery count to the phase in which they begin.
    pub phase: Phase,
    /// From the decision to begin it to its end.
    pub duration: Duration,
    /// Of this, rounds of commands on both hosts: the way to the peer and to the target.
    pub commands: Duration,
    /// Of this, entries on both hosts.
    pub journal: Duration,
    /// Rounds of commands: on each host at most this many round trips to the target.
    pub round_trips: u32,
    /// Entries of all units together, made durable on both hosts.
    pub appends: u32,
    /// Orders to the peer.
    pub messages: u32,
}

impl Default for Record {
    fn default() -> Self {
        Self { spans: vec![Span::new(Phase::Plan)], running: None }
    }
}

impl Span {
    const fn new(phase: Phase) -> Self {
        let (duration, commands, journal) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        Self { phase, duration, commands, journal, round_trips: 0, appends: 0, messages: 0 }
    }
}

impl Record {
    /// The phases begun so far, in order; one that was begun again is there once.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub(super) fn begin_after(&mut self, phase: Phase) {
        self.spans.push(Span::new(next(phase)));
    }

    pub(super) fn run(&mut self) {
        self.running = Some(Instant::now());
    }

    pub(super) fn pause(&mut self) {
        if let (Some(since), Some(span)) = (self.running.take(), self.spans.last_mut()) {
            span.duration += since.elapsed();
        }
    }

    pub(super) fn append(&mut self, since: Instant) {
        if let Some(span) = self.spans.last_mut() {
            span.journal += since.elapsed();
            span.appends += 1;
        }
    }

    pub(super) fn round_trip(&mut self, since: Instant) {
        if let Some(span) = self.spans.last_mut() {
            span.commands += since.elapsed();
            span.round_trips += 1;
        }
    }

    pub(super) fn message(&mut self) {
        if let Some(span) = self.spans.last_mut() {
            span.messages += 1;
        }
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
