//! Block Limits, page B0h (SBC-4 6.6.4): how much one command may name. All counts are logical blocks.

use crate::bytes::{be16, be32, be64, u8_at};

/// The body of page B0h; zero means unlimited or not reported, as the standard has it for each field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockLimits {
    /// WSNZ: WRITE SAME with a length of zero is refused.
    pub write_same_non_zero: bool,
    /// MAXIMUM COMPARE AND WRITE LENGTH.
    pub compare_and_write: u8,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY.
    pub transfer_granularity: u16,
    /// MAXIMUM TRANSFER LENGTH.
    pub transfer: u32,
    /// OPTIMAL TRANSFER LENGTH.
    pub optimal_transfer: u32,
    /// MAXIMUM PREFETCH LENGTH.
    pub prefetch: u32,
    /// MAXIMUM UNMAP LBA COUNT.
    pub unmap_blocks: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT (descriptors, not blocks).
    pub unmap_descriptors: u32,
    /// OPTIMAL UNMAP GRANULARITY.
    pub unmap_granularity: u32,
    /// UNMAP GRANULARITY ALIGNMENT, if UGAVALID; 31 bits.
    pub unmap_alignment: Option<u32>,
    /// MAXIMUM WRITE SAME LENGTH.
    pub write_same: u64,
    /// MAXIMUM ATOMIC TRANSFER LENGTH.
    pub atomic: u32,
    /// ATOMIC ALIGNMENT.
    pub atomic_alignment: u32,
    /// ATOMIC TRANSFER LENGTH GRANULARITY.
    pub atomic_granularity: u32,
    /// MAXIMUM ATOMIC TRANSFER LENGTH WITH ATOMIC BOUNDARY.
    pub atomic_with_boundary: u32,
    /// MAXIMUM ATOMIC BOUNDARY SIZE.
    pub atomic_boundary: u32,
}

const VALID: u32 = 1 << 31;

impl BlockLimits {
    /// Reads the body of the page; `None` if it is cut.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let alignment = be32(body, 28)?;
        Some(Self {
            write_same_non_zero: u8_at(body, 0)? & 0x01 != 0,
            compare_and_write: u8_at(body, 1)?,
            transfer_granularity: be16(body, 2)?,
            transfer: be32(body, 4)?,
            optimal_transfer: be32(body, 8)?,
            prefetch: be32(body, 12)?,
            unmap_blocks: be32(body, 16)?,
            unmap_descriptors: be32(body, 20)?,
            unmap_granularity: be32(body, 24)?,
            unmap_alignment: (alignment & VALID != 0).then_some(alignment & !VALID),
            write_same: be64(body, 32)?,
            atomic: be32(body, 40)?,
            atomic_alignment: be32(body, 44)?,
            atomic_granularity: be32(body, 48)?,
            atomic_with_boundary: be32(body, 52)?,
            atomic_boundary: be32(body, 56)?,
        })
    }

    /// The body of the page: 60 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let alignment = self.unmap_alignment.map_or(0, |alignment| alignment | VALID);
        let mut out = vec![u8::from(self.write_same_non_zero), self.compare_and_write];
        out.extend(self.transfer_granularity.to_be_bytes());
        let counts = [self.transfer, self.optimal_transfer, self.prefetch, self.unmap_blocks];
        out.extend(counts.into_iter().flat_map(u32::to_be_bytes));
        let unmap = [self.unmap_descriptors, self.unmap_granularity, alignment];
        out.extend(unmap.into_iter().flat_map(u32::to_be_bytes));
        out.extend(self.write_same.to_be_bytes());
        let atomic = [self.atomic, self.atomic_alignment, self.atomic_granularity];
        out.extend(atomic.into_iter().flat_map(u32::to_be_bytes));
        out.extend([self.atomic_with_boundary, self.atomic_boundary].into_iter().flat_map(u32::to_be_bytes));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_body_survives(body in prop::collection::vec(any::<u8>(), 60)) {
            let limits = BlockLimits::parse(&body).unwrap();
            prop_assert_eq!(BlockLimits::parse(&limits.to_bytes()), Some(limits));
            prop_assert_eq!(BlockLimits::parse(&body[..59]), None);
        }
    }

    #[test]
    fn fields_stand_where_the_standard_puts_them() {
        let limits = BlockLimits {
            unmap_granularity: 8,
            write_same: 0x0102,
            atomic_boundary: 5,
            ..Default::default()
        };
        let body = limits.to_bytes();
        assert_eq!((body.len(), body[27], &body[38..40], body[59]), (60, 8, &[1, 2][..], 5));
    }
}
