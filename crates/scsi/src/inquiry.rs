//! Standard INQUIRY data (SPC-4 6.6.2): what a device is and who made it. Sent by the device server;
//! read by `handover` to recognise targets it knows.

use crate::bytes::{array, u8_at};

/// Bytes up to the end of PRODUCT REVISION LEVEL, which every device sends.
pub const SHORTEST: usize = 36;
/// Bytes with the version descriptors.
const LENGTH: usize = 96;
const VERSION_DESCRIPTORS: usize = 58;

/// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE of a LUN without a logical unit.
pub const NO_LOGICAL_UNIT: u8 = 0x7F;

/// Standard INQUIRY data of a device that claims SPC-4 or later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StandardInquiry {
    /// PERIPHERAL QUALIFIER (bits 7-5) and PERIPHERAL DEVICE TYPE (bits 4-0); zero is a connected disk.
    pub peripheral: u8,
    /// RMB: the medium can be removed.
    pub removable: bool,
    /// VERSION: 06h is SPC-4, 07h SPC-5.
    pub version: u8,
    /// NORMACA: ACA is supported.
    pub normal_aca: bool,
    /// HISUP: LUNs are hierarchical.
    pub hierarchical: bool,
    /// TPGS, 2 bits: asymmetric access.
    pub target_port_groups: u8,
    /// 3PC: third-party copy.
    pub third_party_copy: bool,
    /// PROTECT: protection information.
    pub protect: bool,
    /// CMDQUE: the full task management model.
    pub command_queue: bool,
    /// T10 VENDOR IDENTIFICATION, padded with spaces.
    pub vendor: [u8; 8],
    /// PRODUCT IDENTIFICATION, padded with spaces.
    pub product: [u8; 16],
    /// PRODUCT REVISION LEVEL, padded with spaces.
    pub revision: [u8; 4],
    /// VERSION DESCRIPTORs, at most eight; zeros are left out.
    pub version_descriptors: Vec<u16>,
}

impl StandardInquiry {
    /// Reads the data; `None` below 36 bytes.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let [peripheral, removable, version, three, _, five, _, seven] = array(data, 0)?;
        let descriptors = data.get(VERSION_DESCRIPTORS..LENGTH.min(data.len())).unwrap_or_default();
        let descriptors = descriptors.get(..16).unwrap_or(descriptors).as_chunks().0;
        let descriptors = descriptors.iter().map(|pair| u16::from_be_bytes(*pair));
        Some(Self {
            peripheral,
            removable: removable & 0x80 != 0,
            version,
            normal_aca: three & 0x20 != 0,
            hierarchical: three & 0x10 != 0,
            target_port_groups: five >> 4 & 0x03,
            third_party_copy: five & 0x08 != 0,
            protect: five & 0x01 != 0,
            command_queue: seven & 0x02 != 0,
            vendor: array(data, 8)?,
            product: array(data, 16)?,
            revision: array(data, 32)?,
            version_descriptors: descriptors.filter(|value| *value != 0).collect(),
        })
    }

    /// The full data: 96 bytes, RESPONSE DATA FORMAT 2.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let three = u8::from(self.normal_aca) << 5 | u8::from(self.hierarchical) << 4 | 0x02;
        let five = (self.target_port_groups & 0x03) << 4
            | u8::from(self.third_party_copy) << 3
            | u8::from(self.protect);
        let seven = u8::from(self.command_queue) << 1;
        let additional = u8::try_from(LENGTH - 5).unwrap_or(0);
        let mut out = vec![self.peripheral, u8::from(self.removable) << 7, self.version, three, additional];
        out.extend([five, 0, seven]);
        out.extend(self.vendor.iter().chain(&self.product).chain(&self.revision));
        out.resize(VERSION_DESCRIPTORS, 0);
        out.extend(self.version_descriptors.iter().take(8).flat_map(|value| value.to_be_bytes()));
        out.resize(LENGTH, 0);
        out
    }

    /// T10 VENDOR IDENTIFICATION as text, without the padding.
    #[must_use]
    pub fn vendor_text(&self) -> String {
        text(&self.vendor)
    }

    /// PRODUCT IDENTIFICATION as text, without the padding.
    #[must_use]
    pub fn product_text(&self) -> String {
        text(&self.product)
    }

    /// PRODUCT REVISION LEVEL as text, without the padding.
    #[must_use]
    pub fn revision_text(&self) -> String {
        text(&self.revision)
    }
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_end_matches([' ', '\0']).to_owned()
}

/// `text` in a field of `N` bytes: cut, or padded with spaces. Characters outside printable ASCII become `?`.
#[must_use]
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (byte, character) in field.iter_mut().zip(text.chars()) {
        let printable = u8::try_from(character).ok().filter(|byte| (b' '..=b'~').contains(byte));
        *byte = printable.unwrap_or(b'?');
    }
    field
}

/// PERIPHERAL QUALIFIER and DEVICE TYPE of INQUIRY data of any kind; `None` if it is empty.
#[must_use]
pub fn peripheral(data: &[u8]) -> Option<u8> {
    u8_at(data, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn inquiry()(
            head: (u8, bool, u8, bool, bool), flags: (bool, bool, bool), target_port_groups in 0_u8..4,
            vendor: [u8; 8], product: [u8; 16], revision: [u8; 4],
            version_descriptors in prop::collection::vec(1_u16.., 0..8),
        ) -> StandardInquiry {
            let (peripheral, removable, version, normal_aca, hierarchical) = head;
            let (third_party_copy, protect, command_queue) = flags;
            StandardInquiry {
                peripheral, removable, version, normal_aca, hierarchical, target_port_groups, third_party_copy,
                protect, command_queue, vendor, product, revision, version_descriptors,
            }
        }
    }

    proptest! {
        #[test]
        fn inquiry_data_survives_its_bytes(inquiry in inquiry()) {
            prop_assert_eq!(StandardInquiry::parse(&inquiry.to_bytes()), Some(inquiry));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(StandardInquiry::parse(&data).is_some(), data.len() >= SHORTEST);
        }
    }

    #[test]
    fn text_is_padded_cut_and_made_printable() {
        assert_eq!(&padded::<8>("TENURE"), b"TENURE  ");
        assert_eq!(&padded::<4>("0.1.10"), b"0.1.");
        assert_eq!(&padded::<3>("é\n"), b"?? ");
        assert_eq!(text(b"LIO-ORG "), "LIO-ORG");
    }
}
