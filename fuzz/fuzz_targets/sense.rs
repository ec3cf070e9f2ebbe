//! Sense data in fixed and descriptor format.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::{FieldError, Sense};

fuzz_target!(|bytes: &[u8]| {
    let Some(sense) = settles(bytes, Sense::parse, Sense::to_descriptor) else { return };
    let fixed = Sense::parse(&sense.to_fixed()).expect("sense data of our own");
    assert_eq!((fixed.key, fixed.code, fixed.field_pointer), (sense.key, sense.code, sense.field_pointer));
    let error = FieldError { code: sense.code, pointer: sense.field_pointer };
    assert_eq!(error.sense().field_pointer, sense.field_pointer);
    assert!(!sense.to_string().is_empty() && !error.to_string().is_empty());
});
