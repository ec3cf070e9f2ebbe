//! Looking at a ring for a moment before sleeping: a guest that offers its next request within microseconds then need not kick, which
//! costs it an exit, and nobody has to be woken. Used by the request queues while they have nothing under way.
//!
//! The moment grows while sleeps are shorter than the limit, and is none after one that was longer: a guest that does little costs nothing.

use std::time::{Duration, Instant};

/// What it begins with where it is worth it.
const FIRST: Duration = Duration::from_micros(4);
/// Looks between two looks at the clock.
const LOOKS: u32 = 16;

/// How long to look.
#[derive(Debug)]
pub(super) struct Poll {
    most: Duration,
    now: Duration,
}

impl Poll {
    /// Never longer than `most`; zero for never.
    pub(super) const fn new(most: Duration) -> Self {
        Self { most, now: Duration::ZERO }
    }

    /// Looks; whether there was something.
    ///
    /// # Errors
    /// That of `look`.
    pub(super) fn look<E>(&self, look: impl Fn() -> Result<bool, E>) -> Result<bool, E> {
        if self.now.is_zero() {
            return Ok(false);
        }
        let begun = Instant::now();
        while begun.elapsed() < self.now {
            for _ in 0..LOOKS {
                if look()? {
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
        }
        Ok(false)
    }

    /// Nothing was seen, and it was slept for so long.
    pub(super) fn slept(&mut self, time: Duration) {
        self.now = match time {
            time if time > self.most => Duration::ZERO,
            _ => self.now.saturating_mul(2).max(FIRST).min(self.most),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const MOST: Duration = Duration::from_micros(32);

    #[test]
    fn it_looks_longer_while_sleeps_are_short_and_not_at_all_after_a_long_one() {
        let mut poll = Poll::new(MOST);
        let mut moments = Vec::new();
        for sleep in [10, 30, 5, 5, 5, 33, 1] {
            poll.slept(Duration::from_micros(sleep));
            moments.push(poll.now.as_micros());
        }
        assert_eq!(moments, [4, 8, 16, 32, 32, 0, 4]);
        let mut never = Poll::new(Duration::ZERO);
        never.slept(Duration::ZERO);
        assert!(never.now.is_zero());
    }

    #[test]
    fn it_sees_what_comes_and_gives_up_in_time() {
        let mut poll = Poll::new(Duration::from_secs(30));
        let count = Cell::new(0);
        let third = || {
            count.set(count.get() + 1);
            Ok::<_, ()>(count.get() == 3)
        };
        assert_eq!(poll.look(third), Ok(false), "it does not look yet");
        assert_eq!(count.get(), 0);
        poll.now = Duration::from_secs(30);
        assert_eq!((poll.look(third), count.get()), (Ok(true), 3));
        poll.now = FIRST;
        assert_eq!(poll.look(|| Ok::<_, ()>(false)), Ok(false));
        assert_eq!(poll.look(|| Err(7)), Err(7));
    }
}
