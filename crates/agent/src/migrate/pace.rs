//! When the guest is to be stopped: as soon as the rest of its memory gets through within the downtime limit. Pure.
//!
//! QEMU must not get there first: what it stops itself it also lets run again by itself, and a QEMU that sends memory of zeros is
//! through before a busy host has looked again. So it is held back at first, and let go faster step by step, as far as what went in
//! the last step says that it will be looked at in time; then it is looked at more often the nearer the end is.

use super::machine::Transfer;
use std::time::Duration;

/// Looks that are far from the end.
const FAR: Duration = Duration::from_millis(100);
/// Looks that are near it.
const NEAR: Duration = Duration::from_millis(5);

/// One step of a QEMU that is held back: it sends a tenth of what it may in a second every 100 ms, so that each sees one such burst.
const STEP: Duration = Duration::from_millis(150);
/// How much more it may send in the next step.
const RAISE: u64 = 8;
/// Bytes per second beyond which there is no holding back: no network is so fast.
const OPEN: u64 = 1 << 34;

/// Bytes on the wire that are not worth waiting for, on any network.
const CHEAP: u64 = 1 << 20;
/// Bytes of memory in which QEMU finds zeros within the shortest limit that anybody wants.
const SCANNED: u64 = 256 << 20;
/// Steps in which nothing went before it is let go all the same.
const PATIENT: u8 = 8;

/// What to do after a look at the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again after this time.
    Look(Duration),
    /// Let QEMU send so many bytes per second, or as many as it can, and look again after this time.
    Faster(Option<u64>, Duration),
    /// Stop the guest.
    Stop,
}

/// The looks so far.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    limit: Duration,
    last: Option<(Duration, Transfer)>,
    /// Bytes of `remaining` that went in a second: zero pages cost next to nothing and are not in QEMU's rate.
    falling: u64,
    /// What the rest costs on the wire, if it is like what went last.
    cost: Option<u64>,
    /// Bytes per second that QEMU may send, as long as it is held back.
    held: Option<u64>,
    /// Steps in which nothing went.
    stuck: u8,
}

impl Pacer {
    /// Of a QEMU that is held back to so many bytes per second.
    pub(super) const fn new(limit: Duration, held: u64) -> Self {
        Self { limit, last: None, falling: 0, cost: None, held: Some(held), stuck: 0 }
    }

    /// `now` since the memory began to be sent.
    pub(super) fn look(&mut self, now: Duration, transfer: &Transfer) -> Next {
        let measured = self.observe(now, transfer);
        if self.held.is_some() && self.is_cheap(transfer.remaining) {
            return Next::Stop;
        }
        // Held back, QEMU's own rate says nothing.
        let rate = if self.held.is_some() { self.falling } else { transfer.rate.max(self.falling) };
        match (time_for(transfer.remaining, rate), self.held) {
            (Some(needed), _) if needed <= self.limit => Next::Stop,
            (Some(needed), Some(held)) if measured => self.faster(held, needed),
            (None, Some(_)) if measured => self.wait_on(),
            (_, Some(_)) => Next::Look(STEP),
            (Some(needed), None) => Next::Look(((needed - self.limit) / 4).clamp(NEAR, FAR)),
            (None, None) => Next::Look(NEAR),
        }
    }

    /// Next to nothing is to be sent: there is no time in which a busy host could look again.
    fn is_cheap(&self, remaining: u64) -> bool {
        remaining <= SCANNED && self.cost.is_some_and(|cost| cost <= CHEAP)
    }

    /// Never so fast that it might be through before the next look.
    fn faster(&mut self, held: u64, needed: Duration) -> Next {
        let room = needed.as_micros() / (4 * self.limit.max(STEP)).as_micros();
        let raise = u64::try_from(room).unwrap_or(RAISE).clamp(1, RAISE);
        let faster = held.saturating_mul(raise);
        self.held = (faster < OPEN).then_some(faster);
        Next::Faster(self.held, STEP)
    }

    /// Nothing went in a step: a busy host, or memory that is changed as fast as it is sent.
    const fn wait_on(&mut self) -> Next {
        self.stuck += 1;
        if self.stuck < PATIENT {
            return Next::Look(STEP);
        }
        self.held = None;
        Next::Faster(None, NEAR)
    }

    /// Whether enough time went since the last to tell.
    fn observe(&mut self, now: Duration, transfer: &Transfer) -> bool {
        if let Some((then, before)) = &self.last {
            let time = now.saturating_sub(*then);
            if time < if self.held.is_some() { STEP } else { NEAR / 2 } {
                return false;
            }
            let gone = before.remaining.saturating_sub(transfer.remaining);
            let sent = transfer.transferred.saturating_sub(before.transferred);
            self.falling = per_second(gone, time);
            self.cost = u128::from(transfer.remaining)
                .saturating_mul(u128::from(sent))
                .checked_div(u128::from(gone))
                .map(|cost| u64::try_from(cost).unwrap_or(u64::MAX));
        }
        self.last.replace((now, transfer.clone())).is_some()
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

    /// One that is let go.
    fn free() -> Pacer {
        Pacer { held: None, ..Pacer::new(limit(), 4096) }
    }

    #[test]
    fn the_guest_is_stopped_when_the_rest_fits_and_not_before() {
        let mut pacer = free();
        assert!(matches!(pacer.look(Duration::ZERO, &transfer(400 << 20, 1000 << 20)), Next::Look(_)));
        assert_eq!(pacer.look(Duration::from_millis(1), &transfer(290 << 20, 1000 << 20)), Next::Stop);
        assert_eq!(pacer.look(Duration::from_millis(1), &transfer(0, 0)), Next::Stop);
    }

    #[test]
    fn zero_pages_that_cost_nothing_count_by_how_fast_they_go() {
        let mut pacer = free();
        pacer.look(Duration::ZERO, &transfer(1000 << 20, 1 << 20));
        let next = pacer.look(Duration::from_millis(500), &transfer(100 << 20, 1 << 20));
        assert_eq!(next, Next::Stop, "1.8 GiB went in a second, 0.1 are left");
    }

    #[test]
    fn a_rate_that_nobody_knows_stops_nobody() {
        let mut pacer = free();
        assert_eq!(pacer.look(Duration::ZERO, &transfer(1 << 20, 0)), Next::Look(NEAR));
    }

    #[test]
    fn it_looks_more_often_towards_the_end() {
        let mut pacer = free();
        assert_eq!(pacer.look(Duration::ZERO, &transfer(1 << 40, 1 << 30)), Next::Look(FAR));
        let mut pacer = free();
        let near = pacer.look(Duration::ZERO, &transfer(310 << 20, 1000 << 20));
        assert!(matches!(near, Next::Look(time) if time < Duration::from_millis(10)), "{near:?}");
    }

    /// What QEMU sends in a step: `cost` bytes for each page, and no more than it may.
    fn advance(transfer: &mut Transfer, bandwidth: u64, cost: u64) {
        let pages = bandwidth / 10 / cost + 1;
        transfer.remaining = transfer.remaining.saturating_sub(pages * 4096);
        transfer.transferred += pages * cost;
    }

    /// How much is left, and at which pace, when it stops or lets go.
    fn paced(memory: u64, cost: u64) -> (Transfer, Option<u64>, Next) {
        let (mut pacer, mut held, mut now) = (Pacer::new(limit(), 4096), 4096, Duration::ZERO);
        let mut sent = transfer(memory, 0);
        loop {
            assert!(sent.remaining > 0, "{memory} bytes, {cost} for a page: QEMU switched over by itself");
            assert!(now < Duration::from_secs(5), "{memory} bytes, {cost} for a page: held back for ever");
            match pacer.look(now, &sent) {
                next @ (Next::Stop | Next::Faster(None, _)) => return (sent, pacer.held, next),
                Next::Faster(Some(rate), _) => held = rate,
                Next::Look(_) => {}
            }
            now += STEP;
            advance(&mut sent, held, cost);
        }
    }

    #[test]
    fn memory_of_zeros_and_of_data_small_and_large_is_never_through_before_the_guest_was_stopped() {
        for (memory, cost) in [(17 << 20, 9), (64 << 20, 9), (64 << 20, 4104), (1 << 30, 9), (1 << 40, 9)] {
            paced(memory, cost);
        }
    }

    #[test]
    fn a_small_guest_of_zeros_is_stopped_while_it_could_not_be_through_for_long() {
        let (sent, held, next) = paced(64 << 20, 9);
        assert_eq!((held, next), (Some(4096), Next::Stop));
        assert!(sent.remaining > 63 << 20);
        let (_, held, next) = paced(64 << 20, 4104);
        assert!(held > Some(4096) && next == Next::Stop, "data is sent while the guest runs");
    }

    #[test]
    fn nothing_is_concluded_from_a_look_that_came_early() {
        let mut pacer = Pacer::new(limit(), 4096);
        assert_eq!(pacer.look(Duration::ZERO, &transfer(1 << 30, 0)), Next::Look(STEP));
        assert_eq!(pacer.look(STEP / 2, &transfer(1 << 30, 0)), Next::Look(STEP));
        let next = pacer.look(STEP, &transfer((1 << 30) - 4096, 0));
        assert_eq!(next, Next::Faster(Some(4096 * RAISE), STEP));
    }

    #[test]
    fn memory_of_which_nothing_goes_is_not_held_back_for_ever() {
        let mut pacer = Pacer::new(limit(), 4096);
        let looks = (0..20).map(|number| pacer.look(STEP * number, &transfer(1 << 30, 0)));
        assert!(looks.into_iter().any(|next| next == Next::Faster(None, NEAR)));
    }
}
