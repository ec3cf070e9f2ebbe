//! When what did not succeed at the cost of others is tried again (registrations that another host's nexus has): at first soon, then at
//! ever longer intervals, and at once where something changes. Without a clock of its own.

use std::time::{Duration, Instant};

/// Between two attempts at first,
const SHORT: Duration = Duration::from_secs(1);
/// at most where the other host says nothing, which costs nobody anything,
const MOST_UNHEARD: Duration = Duration::from_secs(8);
/// and at most where each attempt goes through journals and commands.
const MOST: Duration = Duration::from_secs(60);

/// What was tried in vain, and when it is tried again.
#[derive(Clone, Debug, Default)]
pub(super) struct Again(Option<Tried>);

#[derive(Clone, Debug)]
struct Tried {
    why: String,
    pause: Duration,
    next: Instant,
}

impl Again {
    /// Why nothing is tried now.
    pub(super) fn waits(&self, now: Instant) -> Option<String> {
        self.0.as_ref().filter(|tried| now < tried.next).map(|tried| tried.why.clone())
    }

    /// How long nothing is tried.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let tried = self.0.as_ref()?;
        Some(tried.next.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// It was tried in vain; `heard`: the other host took part. How long nothing is tried now.
    pub(super) fn failed(&mut self, now: Instant, why: &str, heard: bool) -> Duration {
        let most = if heard { MOST } else { MOST_UNHEARD };
        let pause = self.0.as_ref().map_or(SHORT, |tried| tried.pause.saturating_mul(2)).min(most);
        self.0 = Some(Tried { why: why.to_owned(), pause, next: now + pause });
        pause
    }

    /// Something has changed, or it has succeeded.
    pub(super) fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_at_ever_longer_intervals_until_something_changes() {
        let (mut again, mut now) = (Again::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!((again.waits(now), again.left(now)), (None, None));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(again.failed(now, "why", true), second * seconds);
            assert_eq!(again.left(now), Some(second * seconds));
            now += second * seconds;
            assert_eq!(again.waits(now - second / 2).as_deref(), Some("why"));
            assert_eq!((again.waits(now), again.left(now)), (None, None), "now");
        }
        assert_eq!(again.failed(now, "why", false), second * 8, "who is not there is asked more often");
        again.reset();
        assert_eq!(again.waits(now), None);
        assert_eq!(again.failed(now, "why", true), second);
    }
}
