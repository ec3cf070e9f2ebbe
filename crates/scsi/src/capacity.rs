//! READ CAPACITY parameter data (SBC-4 5.20, 5.21).

use crate::bytes::{array, be32, be64};

/// READ CAPACITY(10): 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capacity10 {
    /// RETURNED LOGICAL BLOCK ADDRESS: the last block, or FFFF_FFFFh if that does not fit.
    pub last_lba: u32,
    /// Bytes of a logical block.
    pub block_length: u32,
}

impl Capacity10 {
    /// Reads the data; `None` if it is cut.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        Some(Self { last_lba: be32(data, 0)?, block_length: be32(data, 4)? })
    }

    /// The data.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        [self.last_lba.to_be_bytes(), self.block_length.to_be_bytes()].concat()
    }
}

/// READ CAPACITY(16): 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capacity16 {
    /// RETURNED LOGICAL BLOCK ADDRESS: the last block.
    pub last_lba: u64,
    /// Bytes of a logical block.
    pub block_length: u32,
    /// P_TYPE, PROT_EN as on the wire, 4 bits; zero without protection information.
    pub protection: u8,
    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT, 4 bits.
    pub physical_exponent: u8,
    /// LBPME: blocks can be given back.
    pub provisioning: bool,
    /// LBPRZ: unmapped blocks read as zeros.
    pub read_zeros: bool,
    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
    pub lowest_aligned: u16,
}

impl Capacity16 {
    /// Reads the data; `None` below 16 bytes.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let [protection, exponent, high, low] = array(data, 12)?;
        Some(Self {
            last_lba: be64(data, 0)?,
            block_length: be32(data, 8)?,
            protection: protection & 0x0F,
            physical_exponent: exponent & 0x0F,
            provisioning: high & 0x80 != 0,
            read_zeros: high & 0x40 != 0,
            lowest_aligned: u16::from_be_bytes([high & 0x3F, low]),
        })
    }

    /// The data.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let [high, low] = self.lowest_aligned.to_be_bytes();
        let high = u8::from(self.provisioning) << 7 | u8::from(self.read_zeros) << 6 | high & 0x3F;
        let mut out = self.last_lba.to_be_bytes().to_vec();
        out.extend(self.block_length.to_be_bytes());
        out.extend([self.protection & 0x0F, self.physical_exponent & 0x0F, high, low]);
        out.resize(32, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_short_form_survives(data: [u8; 8]) {
            prop_assert_eq!(Capacity10::parse(&data).unwrap().to_bytes(), data);
        }

        #[test]
        fn the_long_form_survives(data: [u8; 16]) {
            let capacity = Capacity16::parse(&data).unwrap();
            prop_assert_eq!(Capacity16::parse(&capacity.to_bytes()), Some(capacity));
            prop_assert_eq!(Capacity16::parse(&data[..15]), None);
        }
    }

    #[test]
    fn thin_provisioning_is_reported_in_byte_14() {
        let capacity = Capacity16 {
            last_lba: 7,
            block_length: 512,
            provisioning: true,
            read_zeros: true,
            ..Default::default()
        };
        assert_eq!(capacity.to_bytes()[7..16], [7, 0, 0, 2, 0, 0, 0, 0xC0, 0]);
    }
}
