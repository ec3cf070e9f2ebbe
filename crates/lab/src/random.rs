//! Choices that a seed decides: a trial that failed can be run again with the same ones.

use std::time::Duration;

/// SplitMix64: small, seedable, good enough to choose by.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// True once in so many times, on average.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    #[expect(clippy::indexing_slicing, reason = "the index is below the length, which is not zero")]
    pub(crate) fn one_of<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        const { assert!(N > 0, "nothing to choose from") };
        choices[usize::try_from(self.next() % N as u64).unwrap_or(0)]
    }

    /// A time shorter than `bound`.
    pub(crate) fn moment(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(bound.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_chooses_the_same_and_another_does_not() {
        let choose = |seed| {
            let mut random = Random::new(seed);
            (0..20).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(choose(1), choose(1));
        assert_ne!(choose(1), choose(2));
    }

    #[test]
    fn choices_stay_in_their_bounds() {
        let mut random = Random::new(7);
        for _ in 0..200 {
            assert!(random.below(3) < 3);
            assert!([1, 2, 3].contains(&random.one_of([1, 2, 3])));
            assert!(random.moment(Duration::from_millis(5)) < Duration::from_millis(5));
        }
        assert_eq!(random.below(0), 0);
    }
}
