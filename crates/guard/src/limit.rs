//! A bounded rate with a burst, for what a guest can cause to be written: audits and logs. Pure, the time comes from outside.

use std::time::{Duration, Instant};

/// A token bucket that counts what it holds back.
#[derive(Debug)]
pub struct Limit {
    burst: u32,
    interval: Duration,
    tokens: u32,
    /// Until when tokens were given.
    since: Instant,
    suppressed: u64,
}

impl Limit {
    /// `burst` events at once, and then so many in a second.
    #[must_use]
    pub fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { burst, interval, tokens: burst, since: now, suppressed: 0 }
    }

    /// Whether an event passes now, and then how many before it did not.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        self.refill(now);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed = self.suppressed.saturating_add(1);
                None
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(u32::MAX);
        if earned >= self.burst - self.tokens {
            (self.tokens, self.since) = (self.burst, now);
        } else {
            self.tokens += earned;
            self.since += self.interval * earned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_a_rate_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut limit = Limit::new(3, 10, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!([0, 0, 0, 0, 50].map(|ms| limit.admit(at(ms))), [Some(0), Some(0), Some(0), None, None]);
        assert_eq!([100, 150, 199, 200].map(|ms| limit.admit(at(ms))), [Some(2), None, None, Some(2)]);
    }

    #[test]
    fn a_long_rest_gives_one_burst_and_no_more() {
        let start = Instant::now();
        let mut limit = Limit::new(2, 10, start);
        let later = start + Duration::from_secs(100_000);
        assert_eq!([later; 3].map(|now| limit.admit(now)), [Some(0), Some(0), None]);
    }
}
