//! What was done for a guest, by queue and logical unit: commands, bytes and how long they took. Written by the queues without a
//! lock (relaxed additions to words that no other queue writes), read by `tenure device`'s status. Totals never decrease while the
//! logical unit is attached; a snapshot is not one instant, each number by itself is right.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Latency buckets: bucket `n` counts commands that took less than 2^n microseconds and at least half of that; the last one all
/// that took longer (2^23 µs are 8 s).
pub const BUCKETS: usize = 25;

/// How one command went.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Bytes moved to the guest.
    pub data_in: u64,
    /// Bytes moved from the guest.
    pub data_out: u64,
    /// From the ring and back to it.
    pub took: Duration,
    /// It did not end GOOD.
    pub failed: bool,
}

/// Counters of one queue for one logical unit; on cache lines of their own, as each queue's thread writes its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    commands: AtomicU64,
    failed: AtomicU64,
    data_in: AtomicU64,
    data_out: AtomicU64,
    microseconds: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

/// Totals at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Commands that ended.
    pub commands: u64,
    /// Commands that did not end GOOD, among them.
    pub failed: u64,
    /// Bytes moved to the guest.
    pub data_in: u64,
    /// Bytes moved from the guest.
    pub data_out: u64,
    /// The sum of all latencies, in microseconds.
    pub microseconds: u64,
    /// How many commands took how long, see [`BUCKETS`].
    pub latency: [u64; BUCKETS],
}

impl Counters {
    /// Counts a command that has ended.
    pub fn record(&self, sample: &Sample) {
        let took = u64::try_from(sample.took.as_micros()).unwrap_or(u64::MAX);
        let add = |counter: &AtomicU64, number: u64| {
            counter.fetch_add(number, Ordering::Relaxed);
        };
        add(&self.commands, 1);
        add(&self.failed, sample.failed.into());
        add(&self.data_in, sample.data_in);
        add(&self.data_out, sample.data_out);
        add(&self.microseconds, took);
        if let Some(bucket) = self.latency.get(bucket(took)) {
            add(bucket, 1);
        }
    }

    /// Adds these counters to `totals`.
    pub fn add_to(&self, totals: &mut Totals) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        totals.commands += read(&self.commands);
        totals.failed += read(&self.failed);
        totals.data_in += read(&self.data_in);
        totals.data_out += read(&self.data_out);
        totals.microseconds = totals.microseconds.saturating_add(read(&self.microseconds));
        for (total, counter) in totals.latency.iter_mut().zip(&self.latency) {
            *total += read(counter);
        }
    }
}

/// The bucket of a latency in microseconds.
fn bucket(microseconds: u64) -> usize {
    let bits = (u64::BITS - microseconds.leading_zeros()) as usize;
    bits.min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_counted_in_the_bucket_that_bounds_it() {
        for (microseconds, expected) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11)] {
            assert_eq!(bucket(microseconds), expected, "{microseconds}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn totals_are_the_sum_over_the_queues() {
        let queues = [Counters::default(), Counters::default()];
        let sample =
            |data_in, failed| Sample { data_in, data_out: 7, took: Duration::from_micros(3), failed };
        queues[0].record(&sample(512, false));
        queues[1].record(&sample(1024, true));
        let mut totals = Totals::default();
        queues.iter().for_each(|counters| counters.add_to(&mut totals));
        assert_eq!((totals.commands, totals.failed), (2, 1));
        assert_eq!((totals.data_in, totals.data_out, totals.microseconds), (1536, 14, 6));
        assert_eq!(totals.latency[2], 2);
    }
}
