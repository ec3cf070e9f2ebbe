//! Vital product data pages (SPC-4 7.8, SBC-4 6.6): how a logical unit is named and what it can do.
//! Sent by the device server; read by `handover` to see that two paths lead to one logical unit.

mod block_limits;
mod characteristics;
mod identification;
mod provisioning;

pub use block_limits::BlockLimits;
pub use characteristics::BlockDeviceCharacteristics;
pub use identification::{Association, CodeSet, Designator, DesignatorType, DeviceIdentification};
pub use provisioning::LogicalBlockProvisioning;

use crate::bytes::{be16, u8_at};

/// Page codes.
pub mod page {
    #![expect(missing_docs, reason = "the names are the standard's")]
    pub const SUPPORTED_PAGES: u8 = 0x00;
    pub const UNIT_SERIAL_NUMBER: u8 = 0x80;
    pub const DEVICE_IDENTIFICATION: u8 = 0x83;
    pub const BLOCK_LIMITS: u8 = 0xB0;
    pub const BLOCK_DEVICE_CHARACTERISTICS: u8 = 0xB1;
    pub const LOGICAL_BLOCK_PROVISIONING: u8 = 0xB2;
}

/// A page of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    /// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE.
    pub peripheral: u8,
    /// PAGE CODE.
    pub code: u8,
    /// What follows the four-byte header.
    pub body: Vec<u8>,
}

impl Page {
    /// Reads a page; a body that the allocation length cut is kept as far as it goes. `None` below 4 bytes.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let length = usize::from(be16(data, 2)?);
        let body = data.get(4..)?;
        let body = body.get(..length).unwrap_or(body).to_vec();
        Some(Self { peripheral: u8_at(data, 0)?, code: u8_at(data, 1)?, body })
    }

    /// The full page. A body above 65,535 bytes is cut.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u16::try_from(self.body.len()).unwrap_or(u16::MAX);
        let mut out = vec![self.peripheral, self.code];
        out.extend(length.to_be_bytes());
        out.extend(self.body.iter().take(usize::from(length)));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_page_survives_its_bytes(peripheral: u8, code: u8, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let page = Page { peripheral, code, body };
            prop_assert_eq!(Page::parse(&page.to_bytes()), Some(page));
        }

        #[test]
        fn a_cut_page_keeps_what_is_there(keep in 0_usize..12) {
            let page = Page { peripheral: 0, code: 0x80, body: b"12345678".to_vec() };
            let cut = Page::parse(&page.to_bytes()[..keep]);
            prop_assert_eq!(cut.map(|page| page.body.len()), keep.checked_sub(4));
        }
    }
}
