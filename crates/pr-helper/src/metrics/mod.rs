//! Counters and latency histograms for Prometheus, off unless `--metrics` asks for them.
//!
//! No label's value comes from a guest: commands, results and refusals are small closed sets, so that no guest can grow the
//! memory of the helper or of who collects the figures.

mod endpoint;
mod labels;

pub use endpoint::{Address, AddressError, Endpoint, EndpointError};

use crate::audit::Counts;
use crate::observer::{Observer, RequestEvent};
use labels::{Command, Labels, Outcome};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    latency: Family<Command, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tenure_pr_helper");
        let requests = Family::default();
        let latency = Family::new_with_constructor(latency as fn() -> Histogram);
        registry.register("requests", "Requests answered, by command and outcome", requests.clone());
        registry.register("request_seconds", "From the complete request to the answer", latency.clone());
        Self { registry, requests, latency }
    }
}

/// 50 µs to 26 s: a null device is below, the kernel's shortest timeout within.
fn latency() -> Histogram {
    Histogram::new((0..20).map(|power| 50e-6 * f64::from(1_u32 << power)))
}

impl Metrics {
    /// With them, what is missing in the audit.
    #[must_use]
    pub fn of_audit(counts: &Counts) -> Self {
        let mut metrics = Self::default();
        let mut register =
            |name, help, counter: &Counter| metrics.registry.register(name, help, counter.clone());
        register("audit_suppressed", "Audit events left out because too many came", &counts.suppressed);
        register("audit_failed", "Audit events that could not be written to the file", &counts.failed);
        metrics
    }

    /// The figures in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // A String takes everything that is written to it.
            Err(_) => String::new(),
        }
    }
}

impl Observer for Metrics {
    fn request(&self, event: &RequestEvent<'_>) {
        let command = Command::of(event.cdb);
        let outcome = Outcome::of(event);
        self.requests.get_or_create(&Labels { command: command.command, outcome: outcome.0 }).inc();
        self.latency.get_or_create(&command).observe(event.took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::{Completion, Status};
    use std::time::Duration;

    fn count(metrics: &Metrics, cdb: [u8; 2], status: u8, refused: bool) {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&cdb);
        let completion = Completion::status(Status(status));
        let took = Duration::from_millis(3);
        metrics.request(&RequestEvent { cdb: &bytes, completion: &completion, refused, took });
    }

    #[test]
    fn requests_are_counted_by_command_and_outcome_and_timed() {
        let metrics = Metrics::default();
        count(&metrics, [0x5F, 1], 0x00, false);
        count(&metrics, [0x5F, 1], 0x18, false);
        count(&metrics, [0x5E, 0], 0x02, true);
        let text = metrics.text();
        let line = |command: &str, outcome: &str| {
            format!("tenure_pr_helper_requests_total{{command=\"{command}\",outcome=\"{outcome}\"}} 1\n")
        };
        assert!(text.contains(&line("RESERVE", "GOOD")), "{text}");
        assert!(text.contains(&line("RESERVE", "RESERVATION CONFLICT")), "{text}");
        assert!(text.contains(&line("READ KEYS", "refused")), "{text}");
        assert!(text.contains("tenure_pr_helper_request_seconds_count{command=\"RESERVE\"} 2\n"), "{text}");
        assert!(text.contains("{le=\"0.0032\",command=\"RESERVE\"} 2\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_the_audit_left_out_is_shown() {
        let counts = Counts::default();
        let metrics = Metrics::of_audit(&counts);
        counts.suppressed.inc_by(3);
        counts.failed.inc();
        let text = metrics.text();
        assert!(text.contains("tenure_pr_helper_audit_suppressed_total 3\n"), "{text}");
        assert!(text.contains("tenure_pr_helper_audit_failed_total 1\n"), "{text}");
    }

    #[test]
    fn no_guest_can_make_more_than_a_few_series() {
        let metrics = Metrics::default();
        for opcode in 0..=255 {
            (0..=255).for_each(|action| count(&metrics, [opcode, action], action, action % 2 == 0));
        }
        let text = metrics.text();
        assert!(text.lines().count() < 1000, "{} lines", text.lines().count());
    }
}
