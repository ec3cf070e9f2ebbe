//! GET LBA STATUS parameter data (SBC-4 5.6.2).

use crate::bytes::{be32, be64, u8_at};

/// PROVISIONING STATUS, 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Provisioning(pub u8);

impl Provisioning {
    /// The blocks are mapped, or nobody knows.
    pub const MAPPED: Self = Self(0);
    /// The blocks are deallocated.
    pub const DEALLOCATED: Self = Self(1);
    /// The blocks are anchored.
    pub const ANCHORED: Self = Self(2);
}

/// A run of blocks with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LbaStatusDescriptor {
    /// LBA STATUS LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS.
    pub blocks: u32,
    /// PROVISIONING STATUS.
    pub status: Provisioning,
}

/// The parameter data: runs in ascending order, without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LbaStatus {
    /// The runs.
    pub descriptors: Vec<LbaStatusDescriptor>,
}

impl LbaStatus {
    /// Bytes before the first descriptor.
    pub const HEADER: usize = 8;
    /// Bytes of one descriptor.
    pub const DESCRIPTOR: usize = 16;

    /// Reads the data; a cut descriptor is dropped. `None` below the 8-byte header.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let announced = usize::try_from(be32(data, 0)?).ok()?.saturating_sub(4);
        let body = data.get(Self::HEADER..)?;
        let body = body.get(..announced).unwrap_or(body);
        let descriptors = body.as_chunks::<16>().0.iter().filter_map(|descriptor| {
            let status = Provisioning(u8_at(descriptor, 12)? & 0x0F);
            Some(LbaStatusDescriptor { lba: be64(descriptor, 0)?, blocks: be32(descriptor, 8)?, status })
        });
        Some(Self { descriptors: descriptors.collect() })
    }

    /// The full data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = 4 + Self::DESCRIPTOR * self.descriptors.len();
        let mut out = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        out.extend([0; 4]);
        for descriptor in &self.descriptors {
            out.extend(descriptor.lba.to_be_bytes());
            out.extend(descriptor.blocks.to_be_bytes());
            out.extend([descriptor.status.0 & 0x0F, 0, 0, 0]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_data_survives(runs in prop::collection::vec((any::<u64>(), any::<u32>(), 0_u8..16), 0..10)) {
            let descriptor = |(lba, blocks, status)| LbaStatusDescriptor { lba, blocks, status: Provisioning(status) };
            let status = LbaStatus { descriptors: runs.into_iter().map(descriptor).collect() };
            prop_assert_eq!(LbaStatus::parse(&status.to_bytes()), Some(status));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(LbaStatus::parse(&data).is_some(), data.len() >= LbaStatus::HEADER);
        }
    }
}
