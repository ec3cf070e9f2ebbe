//! 128-bit fingerprints of states. Used by the search, which remembers fingerprints instead of whole
//! states: two different states agree by chance with a probability of about n² / 2^129 for n states,
//! below 10^-20 for the largest space searched here.

use std::hash::{Hash, Hasher};

/// Odd multiplier with well spread bits.
const MULTIPLIER: u128 = 0x2d99_787b_5a2b_8f1d_9e37_79b9_7f4a_7c15;

/// Two lanes of a multiply-and-fold hash in one 128-bit word. Not meant against adversaries.
struct Mixer(u128);

impl Mixer {
    fn mix(&mut self, word: u64) {
        let state = (self.0 ^ u128::from(word)).wrapping_mul(MULTIPLIER);
        self.0 = state ^ (state >> 71);
    }

    fn finish_wide(&self) -> u128 {
        let state = (self.0 ^ (self.0 >> 61)).wrapping_mul(MULTIPLIER);
        state ^ (state >> 64)
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let [.., low] = [self.finish_wide() >> 64, self.finish_wide() & u128::from(u64::MAX)];
        u64::try_from(low).unwrap_or(u64::MAX)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let last = rest.iter().fold(0, |last, byte| last << 8 | u64::from(*byte));
            self.mix(last << 8 | u64::try_from(rest.len()).unwrap_or(0));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(u64::try_from(value).unwrap_or(u64::MAX));
    }
}

/// The fingerprint of anything that can be hashed.
pub(crate) fn fingerprint(value: &impl Hash) -> u128 {
    let mut mixer = Mixer(MULTIPLIER >> 1);
    value.hash(&mut mixer);
    mixer.finish_wide()
}

/// A hasher for maps whose keys are fingerprints already.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<8>();
        self.0 = words.iter().fold(self.0, |all, word| all ^ u64::from_le_bytes(*word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbours_have_far_fingerprints() {
        let all: HashSet<u128> = (0u64..100_000).map(|value| fingerprint(&(value, 0u8))).collect();
        assert_eq!(all.len(), 100_000);
        let low: HashSet<u64> = all.iter().map(|value| (value & 0xFFFF_FFFF) as u64).collect();
        assert!(low.len() > 99_990, "the low half alone must spread too: {}", low.len());
        let high: HashSet<u128> = all.iter().map(|value| value >> 96).collect();
        assert!(high.len() > 99_990, "and the high half: {}", high.len());
    }

    #[test]
    fn the_length_of_a_tail_counts() {
        assert_ne!(fingerprint(&[1u8, 0].as_slice()), fingerprint(&[1u8].as_slice()));
        assert_ne!(fingerprint(&"ab"), fingerprint(&"ba"));
    }
}
