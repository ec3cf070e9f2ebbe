//! The eight-byte LUN field and its addressing methods (SAM-5 4.7): peripheral device, flat space and
//! extended flat space. The target accepts any of them; the initiator uses the shortest that fits.

use super::Bhs;
use super::wire::{Field, bytes_at, put};
use std::fmt;

/// A logical unit number as it stands on the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Lun(pub [u8; 8]);

impl Lun {
    /// The well-known REPORT LUNS logical unit (SAM-5 4.7.5.1).
    pub const WELL_KNOWN_REPORT_LUNS: Self = Self([0xC1, 1, 0, 0, 0, 0, 0, 0]);

    /// The single-level address of logical unit `number`; `None` from 2^24 on.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let number = u32::try_from(number).ok().filter(|number| *number < 1 << 24)?;
        let [_, high, middle, low] = number.to_be_bytes();
        Some(Self(match number {
            0..0x100 => [0, low, 0, 0, 0, 0, 0, 0],
            0x100..0x4000 => [0x40 | middle, low, 0, 0, 0, 0, 0, 0],
            _ => [0xD2, high, middle, low, 0, 0, 0, 0],
        }))
    }

    /// The logical unit number, if this is a single-level address on bus 0.
    #[must_use]
    pub const fn number(self) -> Option<u64> {
        match self.0 {
            [0, low, 0, 0, 0, 0, 0, 0] => Some(low as u64),
            [head @ 0x40..0x80, low, 0, 0, 0, 0, 0, 0] => Some(((head as u64 & 0x3F) << 8) | low as u64),
            [0xD2, high, middle, low, 0, 0, 0, 0] => {
                Some(((high as u64) << 16) | ((middle as u64) << 8) | low as u64)
            }
            _ => None,
        }
    }
}

impl Field for Lun {
    fn read(bhs: &Bhs, at: usize) -> Self {
        Self(bytes_at(bhs, at))
    }

    fn write(&self, bhs: &mut Bhs, at: usize) {
        put(bhs, at, self.0);
    }
}

impl fmt::Debug for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_addressing_method_names_the_same_unit() {
        assert_eq!(Lun([0, 5, 0, 0, 0, 0, 0, 0]).number(), Some(5));
        assert_eq!(Lun([0x40, 5, 0, 0, 0, 0, 0, 0]).number(), Some(5));
        assert_eq!(Lun([0xD2, 0, 0, 5, 0, 0, 0, 0]).number(), Some(5));
    }

    #[test]
    fn other_buses_levels_and_well_known_units_have_no_number() {
        for bytes in [[1, 5, 0, 0, 0, 0, 0, 0], [0, 5, 0, 1, 0, 0, 0, 0], [0x80, 5, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Lun(bytes).number(), None);
        }
        assert_eq!(Lun::WELL_KNOWN_REPORT_LUNS.number(), None);
    }

    proptest! {
        #[test]
        fn number_round_trips(number in 0u64..1 << 24) {
            prop_assert_eq!(Lun::from_number(number).and_then(Lun::number), Some(number));
        }

        #[test]
        fn numbers_beyond_extended_flat_space_have_no_address(number in 1u64 << 24..) {
            prop_assert_eq!(Lun::from_number(number), None);
        }
    }
}
