//! Keys, reservation types and TransportIDs as people type them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scsi::TransportId;
use scsi::pr::{Key, ReservationType};

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<Key>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Ok(kind) = text.parse::<ReservationType>() {
        assert!(kind.is_valid());
    }
    match text.parse::<TransportId>() {
        Ok(id) => {
            assert_eq!(id.to_string().parse(), Ok(id.clone()));
            assert_eq!(TransportId::parse(&id.to_bytes()).map(|(id, _)| id), Ok(id));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
