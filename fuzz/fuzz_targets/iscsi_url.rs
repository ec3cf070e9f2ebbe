//! iSCSI URLs: what is displayed names the same nexus again, and no secret is displayed.
#![no_main]

use iscsi::initiator::IscsiUrl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<IscsiUrl>() {
        Ok(url) if url.credentials.is_none() => assert_eq!(url.to_string().parse(), Ok(url)),
        Ok(url) => assert!(url.to_string().contains("%***@")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
