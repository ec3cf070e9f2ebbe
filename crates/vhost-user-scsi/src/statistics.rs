//! What was done for a guest, by queue and logical unit: reads, writes and other commands, with bytes, failures and how long they took;
//! and what is under way. Written by the queues without a lock (each word has one writer), read by `tenure device`'s status. Totals
//! never decrease while the logical unit is attached; a snapshot is not one instant, each number by itself is right.

use scsi::opcode as op;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Latency buckets: bucket `n` counts commands that took less than 2^n microseconds and at least half of that; the last one all
/// that took longer (2^23 µs are 8 s).
pub const BUCKETS: usize = 25;

/// What kind of command it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// READ(6) to READ(16).
    Read,
    /// WRITE(6) to WRITE(16), also where it verifies or is atomic.
    Write,
    /// Any other.
    Other,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Other];

    /// The kind of an operation code.
    #[must_use]
    pub const fn of(opcode: u8) -> Self {
        match opcode {
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => Self::Read,
            op::WRITE_6 | op::WRITE_10 | op::WRITE_12 | op::WRITE_16 | op::WRITE_ATOMIC_16 => Self::Write,
            op::WRITE_AND_VERIFY_10 | op::WRITE_AND_VERIFY_12 | op::WRITE_AND_VERIFY_16 => Self::Write,
            _ => Self::Other,
        }
    }
}

/// How one command went.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Its operation code.
    pub opcode: u8,
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
    kinds: [Counter; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct Counter {
    commands: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    microseconds: AtomicU64,
    longest: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

/// Commands of one kind, at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Commands that ended.
    pub commands: u64,
    /// Commands that did not end GOOD, among them.
    pub failed: u64,
    /// Bytes moved, to the guest and from it.
    pub bytes: u64,
    /// The sum of all latencies, in microseconds.
    pub microseconds: u64,
    /// The longest latency, in microseconds.
    pub longest: u64,
    /// How many commands took how long, see [`BUCKETS`].
    pub latency: [u64; BUCKETS],
}

/// All commands, at some time, by [`Kind`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    kinds: [Total; Kind::ALL.len()],
}

impl Totals {
    /// Those of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &Total {
        let [read, write, other] = &self.kinds;
        match kind {
            Kind::Read => read,
            Kind::Write => write,
            Kind::Other => other,
        }
    }

    /// How many commands ended.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.kinds.iter().map(|total| total.commands).sum()
    }
}

impl Counters {
    /// Counts a command that has ended. One thread at a time.
    pub fn record(&self, sample: &Sample) {
        let [read, write, other] = &self.kinds;
        let counter = match Kind::of(sample.opcode) {
            Kind::Read => read,
            Kind::Write => write,
            Kind::Other => other,
        };
        counter.record(sample);
    }

    /// Adds these counters to `totals`.
    pub fn add_to(&self, totals: &mut Totals) {
        self.kinds.iter().zip(&mut totals.kinds).for_each(|(counter, total)| counter.add_to(total));
    }
}

impl Counter {
    fn record(&self, sample: &Sample) {
        let took = u64::try_from(sample.took.as_micros()).unwrap_or(u64::MAX);
        add(&self.commands, 1);
        add(&self.failed, sample.failed.into());
        add(&self.bytes, sample.data_in.saturating_add(sample.data_out));
        add(&self.microseconds, took);
        if took > self.longest.load(Ordering::Relaxed) {
            self.longest.store(took, Ordering::Relaxed);
        }
        if let Some(bucket) = self.latency.get(bucket(took)) {
            add(bucket, 1);
        }
    }

    fn add_to(&self, total: &mut Total) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        total.commands += read(&self.commands);
        total.failed += read(&self.failed);
        total.bytes = total.bytes.saturating_add(read(&self.bytes));
        total.microseconds = total.microseconds.saturating_add(read(&self.microseconds));
        total.longest = total.longest.max(read(&self.longest));
        for (total, counter) in total.latency.iter_mut().zip(&self.latency) {
            *total += read(counter);
        }
    }
}

/// No other thread writes: a load and a store are enough, and cost less than an addition in memory.
fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
}

/// The bucket of a latency in microseconds.
fn bucket(microseconds: u64) -> usize {
    let bits = (u64::BITS - microseconds.leading_zeros()) as usize;
    bits.min(BUCKETS - 1)
}

/// Commands of one logical unit that have not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Its number.
    pub lun: u8,
    /// How many.
    pub commands: usize,
    /// The operation code of the oldest.
    pub opcode: u8,
    /// How long that has been under way.
    pub oldest: Duration,
}

/// What a log line says of commands that are waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits(pub Vec<UnderWay>);

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing that a LUN has");
        }
        for (number, one) in self.0.iter().enumerate() {
            let UnderWay { lun, commands, opcode, oldest } = one;
            let comma = if number == 0 { "" } else { "; " };
            write!(
                f,
                "{comma}LUN {lun}: {commands} command(s), the oldest ({opcode:02X}h) for {} s",
                oldest.as_secs()
            )?;
        }
        Ok(())
    }
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

    fn sample(opcode: u8, bytes: u64, microseconds: u64, failed: bool) -> Sample {
        let took = Duration::from_micros(microseconds);
        let data_in = if opcode == op::READ_10 { bytes } else { 0 };
        Sample { opcode, data_in, data_out: bytes - data_in, took, failed }
    }

    #[test]
    fn totals_are_the_sum_over_the_queues_by_kind() {
        let queues = [Counters::default(), Counters::default()];
        queues[0].record(&sample(op::READ_10, 512, 3, false));
        queues[0].record(&sample(op::WRITE_16, 4096, 100, false));
        queues[1].record(&sample(op::READ_10, 1024, 9, true));
        queues[1].record(&sample(op::UNMAP, 24, 1, false));
        let mut totals = Totals::default();
        queues.iter().for_each(|counters| counters.add_to(&mut totals));
        let read = totals.of(Kind::Read);
        assert_eq!((read.commands, read.failed, read.bytes), (2, 1, 1536));
        assert_eq!((read.microseconds, read.longest, read.latency[2], read.latency[4]), (12, 9, 1, 1));
        let write = totals.of(Kind::Write);
        assert_eq!((write.commands, write.bytes, write.longest), (1, 4096, 100));
        assert_eq!((totals.of(Kind::Other).commands, totals.commands()), (1, 4));
    }

    #[test]
    fn who_waits_says_for_what() {
        let one = |lun, commands, seconds| UnderWay {
            lun,
            commands,
            opcode: 0x2A,
            oldest: Duration::from_secs(seconds),
        };
        let text = Waits(vec![one(0, 2, 7), one(9, 1, 6)]).to_string();
        assert_eq!(
            text,
            "LUN 0: 2 command(s), the oldest (2Ah) for 7 s; LUN 9: 1 command(s), the oldest (2Ah) for 6 s"
        );
    }
}
