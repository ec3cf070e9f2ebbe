//! INQUIRY: the standard data and the vital product data pages (SPC-4 6.6, 7.8, SBC-4 6.6).

use super::copy::third_party_copy_page;
use super::refusal::{Answer, cut};
use super::{Disk, Sender, limits};
use scsi::FieldError;
use scsi::block::Inquiry;
use scsi::inquiry::{StandardInquiry, padded};
use scsi::vpd::{BlockDeviceCharacteristics, LogicalBlockProvisioning, Page, page};

/// Page code of Third-party Copy.
const THIRD_PARTY_COPY: u8 = 0x8F;

/// Every page, in ascending order.
const PAGES: [u8; 7] = [
    page::SUPPORTED_PAGES,
    page::UNIT_SERIAL_NUMBER,
    page::DEVICE_IDENTIFICATION,
    THIRD_PARTY_COPY,
    page::BLOCK_LIMITS,
    page::BLOCK_DEVICE_CHARACTERISTICS,
    page::LOGICAL_BLOCK_PROVISIONING,
];

/// SAM-5, SPC-4, SBC-3, iSCSI (SPC-4 table 133), no version claimed of any but the name.
const VERSION_DESCRIPTORS: [u16; 4] = [0x00A0, 0x0460, 0x04C0, 0x0960];

impl Disk {
    pub(super) fn inquiry(&self, sender: Sender<'_>, command: &Inquiry) -> Answer {
        let data = match (command.evpd, command.page) {
            (false, 0) => self.standard_inquiry(),
            (false, _) => return Err(FieldError::cdb(2).into()),
            (true, code) => {
                let body = self.vital_product_data(sender, code).ok_or(FieldError::cdb(2))?;
                Page { peripheral: 0, code, body }.to_bytes()
            }
        };
        cut(data, command.allocation_length)
    }

    fn standard_inquiry(&self) -> Vec<u8> {
        let product = &self.profile.product;
        let inquiry = StandardInquiry {
            peripheral: 0,
            removable: false,
            version: 0x06,
            normal_aca: false,
            hierarchical: false,
            target_port_groups: 0,
            third_party_copy: true,
            protect: false,
            command_queue: true,
            vendor: padded(product.vendor),
            product: padded(product.product),
            revision: padded(product.revision),
            version_descriptors: VERSION_DESCRIPTORS.to_vec(),
        };
        inquiry.to_bytes()
    }

    fn vital_product_data(&self, sender: Sender<'_>, code: u8) -> Option<Vec<u8>> {
        let vendor = self.profile.product.vendor;
        Some(match code {
            page::SUPPORTED_PAGES => PAGES.to_vec(),
            page::UNIT_SERIAL_NUMBER => self.identity.serial().into_bytes(),
            page::DEVICE_IDENTIFICATION => {
                self.identity.designators(vendor, sender.target, sender.nexus).to_bytes()
            }
            THIRD_PARTY_COPY => third_party_copy_page(),
            page::BLOCK_LIMITS => limits::PAGE.to_bytes(),
            page::BLOCK_DEVICE_CHARACTERISTICS => characteristics().to_bytes(),
            page::LOGICAL_BLOCK_PROVISIONING => provisioning().to_bytes(),
            _ => return None,
        })
    }
}

/// A medium that does not rotate; after a SANITIZE reads succeed.
const fn characteristics() -> BlockDeviceCharacteristics {
    BlockDeviceCharacteristics {
        rotation_rate: 1,
        product_type: 0,
        after_block_erase: 1,
        after_cryptographic_erase: 0,
        form_factor: 0,
    }
}

/// Thin, by UNMAP and both WRITE SAME; unmapped blocks read as zeros.
const fn provisioning() -> LogicalBlockProvisioning {
    LogicalBlockProvisioning {
        threshold_exponent: 0,
        unmap: true,
        write_same_16: true,
        write_same_10: true,
        read_zeros: 1,
        anchor: false,
        provisioning_type: 2,
    }
}
