//! Reads and writes at depth, and what they cost: for measuring, so no byte of data is looked at.
//!
//! A [`Dialect`] says how a device is told; `scsi` and `block` have one each. What is written and must be found again is [`super::keeper`]'s.

use crate::front_end::ring::{Done, HEADER_ROOM, Part, RESPONSE_ROOM, Ring};
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Every doubling of a latency has so many buckets.
const STEPS: usize = 8;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the disk into the guest.
    Read,
    /// From the guest to the disk.
    Write,
    /// What was written is safe.
    Flush,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// What it does.
    pub kind: Kind,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub length: u32,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was done.
    Good,
    /// It was not done, for no fault of the request's: a driver does it again.
    Again,
}

/// How a kind of device is told what to do.
pub trait Dialect: Sync {
    /// Appends the header of a request.
    fn header(&self, io: Io, tag: u64, bytes: &mut Vec<u8>);
    /// Bytes of a response.
    fn response(&self) -> u32;
    /// Data-in comes after the response.
    fn data_in_is_last(&self) -> bool;
    /// What a response means.
    ///
    /// # Errors
    /// If the request failed.
    fn judge(&self, response: &[u8]) -> Result<Verdict>;
}

/// Puts a request into a slot's memory and into the ring. Its data is what the slot's buffer has.
///
/// # Errors
/// If it does not fit there.
pub fn submit(ring: &mut Ring, dialect: &impl Dialect, slot: u16, io: Io) -> Result<()> {
    let [head, answer, buffer] = ring.layout(slot)?;
    let mut header = Vec::with_capacity(64);
    dialect.header(io, u64::from(slot) + 1, &mut header);
    let is_in = io.kind == Kind::Read;
    let length = if io.kind == Kind::Flush { 0 } else { io.length };
    ensure!(header.len() as u64 <= HEADER_ROOM && u64::from(dialect.response()) <= RESPONSE_ROOM, "no room");
    ensure!(length <= ring.shape().room, "{length} bytes in one request of this ring");
    ring.memory().write(head, &header)?;
    let first = Part { place: head, length: u32::try_from(header.len())?, writable: false };
    let response = Part { place: answer, length: dialect.response(), writable: true };
    let data = Part { place: buffer, length, writable: is_in };
    let parts =
        if is_in && dialect.data_in_is_last() { [first, response, data] } else { [first, data, response] };
    ring.submit(slot, &parts)
}

/// What came of a request.
///
/// # Errors
/// If it failed.
pub fn judge(ring: &Ring, dialect: &impl Dialect, done: Done) -> Result<Verdict> {
    let [_, answer, _] = ring.layout(done.slot)?;
    let mut response = [0; RESPONSE_ROOM as usize];
    let response = response.get_mut(..usize::try_from(dialect.response())?).context("no room")?;
    ring.memory().read(answer, response)?;
    dialect.judge(response)
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    After(Duration),
    /// After so many requests.
    Requests(u64),
}

/// A run of requests that are all alike.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// What they do.
    pub kind: Kind,
    /// Bytes of each.
    pub length: u32,
    /// How many are under way at once.
    pub depth: usize,
    /// Within so many bytes, from the beginning of the disk on.
    pub span: u64,
    /// A seed for random places; without one they come one after another.
    pub random: Option<u64>,
    /// When it ends.
    pub until: Until,
}

/// What a run was like.
#[derive(Clone, Debug)]
pub struct Rate {
    /// Requests that ended.
    pub requests: u64,
    /// From the first to the last.
    pub elapsed: Duration,
    /// How often the device was signalled.
    pub kicks: u64,
    /// How often the driver slept.
    pub waits: u64,
    latencies: Vec<u64>,
}

impl Rate {
    /// Requests in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this part of the requests, of 0 to 1, did not exceed; to an eighth of a doubling.
    #[must_use]
    pub fn latency(&self, part: f64) -> Duration {
        let mut left = (self.requests as f64 * part).ceil() as u64;
        for (bucket, count) in self.latencies.iter().enumerate() {
            if left <= *count {
                return Duration::from_nanos(longest(bucket));
            }
            left -= count;
        }
        Duration::MAX
    }
}

/// Runs a job on one ring. Rings of one device may be run by a thread each.
///
/// # Errors
/// If a request fails, or the device is gone or says what cannot be.
pub fn run(ring: &mut Ring, dialect: &impl Dialect, job: &Job) -> Result<Rate> {
    let places = job.span / u64::from(job.length);
    ensure!(places > 0 && job.depth > 0 && ring.under_way() == 0, "no such job");
    let (before, begin) = ([ring.kicks, ring.waits], Instant::now());
    let mut rate = Rate { requests: 0, elapsed: Duration::ZERO, kicks: 0, waits: 0, latencies: Vec::new() };
    let mut random = job.random.map(Random::new);
    let (mut sent, mut begun) = (0u64, Vec::new());
    loop {
        let now = Instant::now();
        while ring.under_way() < job.depth && job.goes_on(sent, now - begin) {
            let Some(slot) = ring.take() else { break };
            let place = random.as_mut().map_or(sent % places, |random| random.below(places));
            let io = Io { kind: job.kind, offset: place * u64::from(job.length), length: job.length };
            submit(ring, dialect, slot, io)?;
            note(&mut begun, slot, now);
            sent += 1;
        }
        ring.publish()?;
        if ring.under_way() == 0 {
            break;
        }
        ring.wait(now + PATIENCE)?;
        let now = Instant::now();
        while let Some(done) = ring.collect()? {
            ensure!(
                judge(ring, dialect, done)? == Verdict::Good,
                "a request that would have to be done again"
            );
            let begun = begun.get(usize::from(done.slot)).copied().unwrap_or(now);
            rate.count(now - begun);
        }
    }
    rate.elapsed = begin.elapsed();
    (rate.kicks, rate.waits) = (ring.kicks - before[0], ring.waits - before[1]);
    Ok(rate)
}

impl Job {
    fn goes_on(&self, sent: u64, elapsed: Duration) -> bool {
        match self.until {
            Until::After(time) => elapsed < time,
            Until::Requests(count) => sent < count,
        }
    }
}

impl Rate {
    fn count(&mut self, latency: Duration) {
        self.requests += 1;
        let bucket = bucket(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        if self.latencies.len() <= bucket {
            self.latencies.resize(bucket + 1, 0);
        }
        if let Some(count) = self.latencies.get_mut(bucket) {
            *count += 1;
        }
    }
}

fn note(begun: &mut Vec<Instant>, slot: u16, now: Instant) {
    let slot = usize::from(slot);
    if begun.len() <= slot {
        begun.resize(slot + 1, now);
    }
    if let Some(place) = begun.get_mut(slot) {
        *place = now;
    }
}

/// Small numbers have a bucket each; after that every doubling has [`STEPS`].
const fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < STEPS as u64 {
        return nanoseconds as usize;
    }
    let doubling = nanoseconds.ilog2() as usize;
    let within = (nanoseconds >> (doubling - 3)) as usize % STEPS;
    (doubling - 2) * STEPS + within
}

/// The most that a bucket counts.
const fn longest(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let doubling = bucket / STEPS + 2;
    let width = 1 << (doubling - 3);
    ((bucket % STEPS + STEPS) as u64 * width).saturating_add(width - 1)
}

/// The time that a process's threads, those that still run, have used the processors for.
///
/// # Errors
/// If there is no such process.
pub fn processor_time(process: u32) -> Result<Duration> {
    let mut all = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let told = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        all += told.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_a_bucket_that_is_at_most_an_eighth_too_long() {
        let mut last = 0;
        let far = (0..64).map(|bit| (1u64 << bit) + 1).filter(|number| *number >= 5000);
        for number in (0..5000).chain(far).chain([u64::MAX]) {
            let bucket = bucket(number);
            assert!(longest(bucket) >= number && longest(bucket) - number <= number / 8, "{number}");
            assert!(bucket >= last, "{number}");
            last = bucket;
        }
    }

    #[test]
    fn half_of_the_requests_are_not_slower_than_the_median() {
        let mut rate =
            Rate { requests: 0, elapsed: Duration::from_secs(1), kicks: 0, waits: 0, latencies: Vec::new() };
        (1..=100).for_each(|micros| rate.count(Duration::from_micros(micros)));
        let median = rate.latency(0.5).as_micros();
        assert!((50..=57).contains(&median), "{median}");
        assert!(rate.latency(1.0) >= Duration::from_micros(100) && rate.latency(0.0).is_zero());
    }

    #[test]
    fn a_process_that_works_uses_the_processor() {
        let before = processor_time(std::process::id()).unwrap();
        let end = Instant::now() + Duration::from_millis(20);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        assert!(processor_time(std::process::id()).unwrap() > before);
        assert!(processor_time(u32::MAX).is_err());
    }
}
