//! Standard INQUIRY data.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::inquiry::{StandardInquiry, peripheral};

fuzz_target!(|bytes: &[u8]| {
    if let Some(inquiry) = settles(bytes, StandardInquiry::parse, StandardInquiry::to_bytes) {
        let _ = (inquiry.vendor_text(), inquiry.product_text(), inquiry.revision_text());
        assert_eq!(peripheral(bytes), Some(inquiry.peripheral));
    }
});
