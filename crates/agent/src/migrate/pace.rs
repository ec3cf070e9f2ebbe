//! When the guest is to be stopped: as soon as the rest of its memory gets through within the downtime limit. Pure.
//!
//! QEMU must not get there first: what it stops itself it also lets run again by itself. So it is held back until its memory was
//! looked at once, and then looked at more often the nearer the end is.

use super::machine::Transfer;
use std::time::Duration;

/// Looks that are far from the end.
const FAR: Duration = Duration::from_millis(100);
/// Looks that are near it.
const NEAR: Duration = Duration::from_millis(5);

/// What to do after a look at the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again after this time.
    Look(Duration),
    /// Stop the guest.
    Stop,
}

/// The looks so far.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    limit: Duration,
    last: Option<(Duration, u64)>,
    /// Bytes of `remaining` that went in a second: zero pages cost next to nothing and are not in QEMU's rate.
    falling: u64,
}

impl Pacer {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, last: None, falling: 0 }
    }

    /// `now` since the memory began to be sent at full speed.
    pub(super) fn look(&mut self, now: Duration, transfer: &Transfer) -> Next {
        self.observe(now, transfer.remaining);
        let rate = transfer.rate.max(self.falling);
        let needed = time_for(transfer.remaining, rate);
        match needed {
            Some(needed) if needed <= self.limit => Next::Stop,
            Some(needed) => Next::Look(((needed - self.limit) / 4).clamp(NEAR, FAR)),
            None => Next::Look(NEAR),
        }
    }

    fn observe(&mut self, now: Duration, remaining: u64) {
        if let Some((then, before)) = self.last {
            let (time, gone) = (now.saturating_sub(then), before.saturating_sub(remaining));
            if time < NEAR / 2 {
                return;
            }
            self.falling = per_second(gone, time);
        }
        self.last = Some((now, remaining));
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = time.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// `None` where nothing is known of the rate and something is left.
fn time_for(bytes: u64, rate: u64) -> Option<Duration> {
    match (bytes, rate) {
        (0, _) => Some(Duration::ZERO),
        (_, 0) => None,
        _ => {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(rate);
            Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(remaining: u64, rate: u64) -> Transfer {
        Transfer { total: 1 << 30, remaining, rate, ..Transfer::default() }
    }

    fn limit() -> Duration {
        Duration::from_millis(300)
    }

    #[test]
    fn the_guest_is_stopped_when_the_rest_fits_and_not_before() {
        let mut pacer = Pacer::new(limit());
        assert!(matches!(pacer.look(Duration::ZERO, &transfer(400 << 20, 1000 << 20)), Next::Look(_)));
        assert_eq!(pacer.look(Duration::from_millis(1), &transfer(290 << 20, 1000 << 20)), Next::Stop);
        assert_eq!(pacer.look(Duration::from_millis(1), &transfer(0, 0)), Next::Stop);
    }

    #[test]
    fn zero_pages_that_cost_nothing_count_by_how_fast_they_go() {
        let mut pacer = Pacer::new(limit());
        pacer.look(Duration::ZERO, &transfer(1000 << 20, 1 << 20));
        let next = pacer.look(Duration::from_millis(500), &transfer(100 << 20, 1 << 20));
        assert_eq!(next, Next::Stop, "1.8 GiB went in a second, 0.1 are left");
    }

    #[test]
    fn a_rate_that_nobody_knows_stops_nobody() {
        let mut pacer = Pacer::new(limit());
        assert_eq!(pacer.look(Duration::ZERO, &transfer(1 << 20, 0)), Next::Look(NEAR));
    }

    #[test]
    fn it_looks_more_often_towards_the_end() {
        let mut pacer = Pacer::new(limit());
        assert_eq!(pacer.look(Duration::ZERO, &transfer(1 << 40, 1 << 30)), Next::Look(FAR));
        let mut pacer = Pacer::new(limit());
        let near = pacer.look(Duration::ZERO, &transfer(310 << 20, 1000 << 20));
        assert!(matches!(near, Next::Look(time) if time < Duration::from_millis(10)), "{near:?}");
    }
}
