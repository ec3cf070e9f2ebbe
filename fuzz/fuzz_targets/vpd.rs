//! Vital product data pages: the header and the body of every page that is read.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::vpd::{
    BlockDeviceCharacteristics, BlockLimits, DeviceIdentification, LogicalBlockProvisioning, Page,
};

fuzz_target!(|bytes: &[u8]| {
    let Some(page) = settles(bytes, Page::parse, Page::to_bytes) else { return };
    let body = &page.body;
    settles(body, BlockLimits::parse, BlockLimits::to_bytes);
    settles(body, BlockDeviceCharacteristics::parse, BlockDeviceCharacteristics::to_bytes);
    settles(body, LogicalBlockProvisioning::parse, LogicalBlockProvisioning::to_bytes);
    let identification = |body: &[u8]| Some(DeviceIdentification::parse(body));
    if let Some(read) = settles(body, identification, DeviceIdentification::to_bytes) {
        let _ = (read.logical_unit_names(), read.relative_target_port());
    }
});
