//! Logical Block Provisioning, page B2h (SBC-4 6.6.6): how blocks are given back.

use crate::bytes::array;

/// The body of page B2h, without provisioning group descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogicalBlockProvisioning {
    /// THRESHOLD EXPONENT.
    pub threshold_exponent: u8,
    /// LBPU: UNMAP is supported.
    pub unmap: bool,
    /// LBPWS: WRITE SAME(16) with the UNMAP bit is supported.
    pub write_same_16: bool,
    /// LBPWS10: WRITE SAME(10) with the UNMAP bit is supported.
    pub write_same_10: bool,
    /// LBPRZ, 3 bits: 1 means that unmapped blocks read as zeros.
    pub read_zeros: u8,
    /// ANC_SUP: blocks can be anchored.
    pub anchor: bool,
    /// PROVISIONING TYPE, 3 bits: 2 is thin.
    pub provisioning_type: u8,
}

impl LogicalBlockProvisioning {
    /// Reads the body of the page; `None` if it is cut.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let [threshold_exponent, flags, kind, _] = array(body, 0)?;
        Some(Self {
            threshold_exponent,
            unmap: flags & 0x80 != 0,
            write_same_16: flags & 0x40 != 0,
            write_same_10: flags & 0x20 != 0,
            read_zeros: flags >> 2 & 0x07,
            anchor: flags & 0x02 != 0,
            provisioning_type: kind & 0x07,
        })
    }

    /// The body of the page: 4 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let flags = u8::from(self.unmap) << 7
            | u8::from(self.write_same_16) << 6
            | u8::from(self.write_same_10) << 5
            | (self.read_zeros & 0x07) << 2
            | u8::from(self.anchor) << 1;
        vec![self.threshold_exponent, flags, self.provisioning_type & 0x07, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_body_survives(body: [u8; 4]) {
            let page = LogicalBlockProvisioning::parse(&body).unwrap();
            prop_assert_eq!(page.to_bytes(), [body[0], body[1] & 0xFE, body[2] & 0x07, 0]);
        }
    }
}
