//! The UNMAP parameter list (SBC-4 5.32.2).

use crate::bytes::{be16, be32, be64};
use crate::field::FieldError;

const HEADER: usize = 8;

/// A run of blocks to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnmapDescriptor {
    /// UNMAP LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS.
    pub blocks: u32,
}

/// The descriptors of an UNMAP parameter list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnmapList {
    /// In the order of the list.
    pub descriptors: Vec<UnmapDescriptor>,
}

impl UnmapList {
    /// Reads a list. A last descriptor that UNMAP BLOCK DESCRIPTOR DATA LENGTH cuts is ignored, as the
    /// standard wants; so is whatever follows that length.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if the list is shorter than its header or than it announces.
    pub fn parse(list: &[u8]) -> Result<Self, FieldError> {
        let announced = be16(list, 2).ok_or(FieldError::list_length())?;
        let end = HEADER + usize::from(announced);
        let body = list.get(HEADER..end).ok_or(FieldError::list_length())?;
        let descriptors = body.as_chunks::<16>().0.iter().filter_map(|descriptor| {
            Some(UnmapDescriptor { lba: be64(descriptor, 0)?, blocks: be32(descriptor, 8)? })
        });
        Ok(Self { descriptors: descriptors.collect() })
    }

    /// The bytes of this list; at most 4,095 descriptors fit.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let descriptors = self.descriptors.iter().take(4095);
        let length = u16::try_from(16 * descriptors.len()).unwrap_or(u16::MAX);
        let mut out = (length + 6).to_be_bytes().to_vec();
        out.extend(length.to_be_bytes());
        out.extend([0; 4]);
        for descriptor in descriptors {
            out.extend(descriptor.lba.to_be_bytes());
            out.extend(descriptor.blocks.to_be_bytes());
            out.extend([0; 4]);
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
        fn a_list_survives_its_bytes(runs in prop::collection::vec(any::<(u64, u32)>(), 0..20)) {
            let descriptors = runs.into_iter().map(|(lba, blocks)| UnmapDescriptor { lba, blocks }).collect();
            let list = UnmapList { descriptors };
            prop_assert_eq!(UnmapList::parse(&list.to_bytes()), Ok(list));
        }

        #[test]
        fn a_cut_list_is_refused(count in 1_usize..5, cut in 1_usize..24) {
            let list = UnmapList { descriptors: vec![UnmapDescriptor { lba: 1, blocks: 2 }; count] };
            let bytes = list.to_bytes();
            prop_assert_eq!(UnmapList::parse(&bytes[..bytes.len() - cut]), Err(FieldError::list_length()));
        }
    }

    #[test]
    fn a_partial_last_descriptor_is_ignored() {
        let mut bytes = UnmapList { descriptors: vec![UnmapDescriptor { lba: 1, blocks: 2 }; 2] }.to_bytes();
        bytes.splice(2..4, 24_u16.to_be_bytes());
        assert_eq!(UnmapList::parse(&bytes).map(|list| list.descriptors.len()), Ok(1));
    }
}
