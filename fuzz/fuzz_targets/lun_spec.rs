//! The LUN specification of the command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logical_unit::LunSpec;

fuzz_target!(|text: &str| {
    if let Err(error) = text.parse::<LunSpec>() {
        assert!(!error.to_string().is_empty());
    }
});
