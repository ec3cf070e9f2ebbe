//! TransportIDs as bytes: strict, and as careless device servers report them.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::TransportId;
use scsi::transport_id::MAX_LENGTH;

fuzz_target!(|bytes: &[u8]| {
    let strict = settles(bytes, |id| TransportId::parse(id).ok().map(|(id, _)| id), TransportId::to_bytes);
    let reported = settles(bytes, |id| TransportId::parse_reported(id).ok(), TransportId::to_bytes);
    if strict.is_some() {
        assert_eq!(strict, reported);
    }
    if let Some(id) = reported {
        let length = id.to_bytes().len();
        assert!((24..=MAX_LENGTH).contains(&length) && length.is_multiple_of(4));
        assert!(id.names(&id));
    }
});
