//! Block Device Characteristics, page B1h (SBC-4 6.6.3).

use crate::bytes::{be16, u8_at};

/// The body of page B1h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockDeviceCharacteristics {
    /// MEDIUM ROTATION RATE: 1 is a medium that does not rotate.
    pub rotation_rate: u16,
    /// PRODUCT TYPE.
    pub product_type: u8,
    /// WABEREQ, 2 bits: what reads find after SANITIZE block erase (1: data without error).
    pub after_block_erase: u8,
    /// WACEREQ, 2 bits: what reads find after SANITIZE cryptographic erase.
    pub after_cryptographic_erase: u8,
    /// NOMINAL FORM FACTOR, 4 bits.
    pub form_factor: u8,
}

impl BlockDeviceCharacteristics {
    const LENGTH: usize = 60;

    /// Reads the body of the page; `None` if it is cut.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let three = u8_at(body, 3)?;
        Some(Self {
            rotation_rate: be16(body, 0)?,
            product_type: u8_at(body, 2)?,
            after_block_erase: three >> 6,
            after_cryptographic_erase: three >> 4 & 0x03,
            form_factor: three & 0x0F,
        })
    }

    /// The body of the page: 60 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let three = self.after_block_erase << 6
            | (self.after_cryptographic_erase & 0x03) << 4
            | self.form_factor & 0x0F;
        let mut out = self.rotation_rate.to_be_bytes().to_vec();
        out.extend([self.product_type, three]);
        out.resize(Self::LENGTH, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_body_survives(body: [u8; 8]) {
            let page = BlockDeviceCharacteristics::parse(&body).unwrap();
            prop_assert_eq!(&page.to_bytes()[..4], &body[..4]);
            prop_assert_eq!(BlockDeviceCharacteristics::parse(&body[..3]), None);
        }
    }
}
