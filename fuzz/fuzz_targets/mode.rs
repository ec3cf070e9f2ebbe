//! Mode parameters in both forms, as MODE SELECT receives them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scsi::block::Form;
use scsi::mode::{Control, ModeParameters};

fuzz_target!(|bytes: &[u8]| {
    for form in [Form::Six, Form::Ten] {
        let Ok(parameters) = ModeParameters::parse(bytes, form) else { continue };
        assert_eq!(ModeParameters::parse(&parameters.to_bytes(form), form), Ok(parameters.clone()));
        for page in &parameters.pages {
            let _ = Control::parse(&page.body);
        }
    }
});
