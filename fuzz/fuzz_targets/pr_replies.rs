//! PERSISTENT RESERVE IN parameter data of all four service actions, whole and cut.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::pr::{Capabilities, FullStatus, ReadKeys, ReadReservation};
use scsi::truncate;

fuzz_target!(|bytes: &[u8]| {
    let whole = |keys| ReadKeys { truncated: false, ..keys };
    settles(bytes, |data| ReadKeys::parse(data).map(whole), ReadKeys::to_bytes);
    settles(bytes, ReadReservation::parse, ReadReservation::to_bytes);
    settles(bytes, Capabilities::parse, Capabilities::to_bytes);
    let whole = |status| FullStatus { truncated: false, ..status };
    let Some(status) = settles(bytes, |data| FullStatus::parse(data).map(whole), FullStatus::to_bytes) else {
        return;
    };
    let full = status.to_bytes();
    for length in 8..full.len() {
        let cut = FullStatus::parse(&truncate(full.clone(), length)).expect("the header is there");
        assert!(cut.truncated && status.descriptors.starts_with(&cut.descriptors));
    }
});
