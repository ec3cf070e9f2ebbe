//! How long the guest stood still, and for what.

use super::document::Downtime;
use crate::conduct::Record;
use handover::Phase;
use std::time::{Duration, Instant};

/// Moments of the pause, as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) stopped: Option<Instant>,
    pub(crate) frozen: Duration,
    pub(crate) switchover: Option<Instant>,
    pub(crate) taken: Option<Instant>,
    pub(crate) completed: Option<Instant>,
    pub(crate) running: Option<Instant>,
    /// Marks that were waited for.
    pub(crate) journal: Duration,
    handover: Parts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    take: Duration,
    verify: Duration,
    journal: Duration,
    round_trips: u32,
}

impl Times {
    /// The handover's own part, once it is verified.
    pub(crate) fn handover(&mut self, record: &Record) {
        let mut parts = Parts::default();
        for span in record.spans() {
            let part = match span.phase {
                Phase::Freeze | Phase::Take => &mut parts.take,
                Phase::Verify => &mut parts.verify,
                _ => continue,
            };
            *part += span.duration.saturating_sub(span.journal);
            parts.journal += span.journal;
            parts.round_trips += span.round_trips;
        }
        self.handover = parts;
    }

    /// None where the guest never stood still.
    pub(crate) fn downtime(&self) -> Option<Downtime> {
        let stopped = self.stopped?;
        let until = |moment: Option<Instant>, since: Option<Instant>| {
            moment
                .zip(since)
                .map(|(moment, since)| moment.saturating_duration_since(since))
                .unwrap_or_default()
        };
        let memory = until(self.switchover, self.stopped).saturating_sub(self.frozen);
        Some(Downtime {
            total: micros(until(self.running, Some(stopped))),
            memory: micros(memory),
            freeze: micros(self.frozen),
            take: micros(self.handover.take),
            verify: micros(self.handover.verify),
            journal: micros(self.handover.journal + self.journal),
            device_state: micros(until(self.completed, self.taken)),
            cont: micros(until(self.running, self.completed)),
            round_trips: self.handover.round_trips,
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
