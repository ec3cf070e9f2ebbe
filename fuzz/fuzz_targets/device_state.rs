//! What a device gives to the device that its guest migrates to: arbitrary bytes, also with header and checksum made good, because no
//! fuzzer guesses a CRC. Both the device's state and that of a logical unit in it.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use logical_unit::snapshot::Snapshot;
use vhost_user_scsi::saved::Saved;

/// `body` behind the header of format version 1.
fn sealed(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend([0, 1]);
    out.extend(u32::try_from(body.len()).expect("small").to_be_bytes());
    out.extend(crc32c::crc32c(body).to_be_bytes());
    out.extend(body);
    out
}

fuzz_target!(|bytes: &[u8]| {
    let saved = |bytes: &[u8]| Saved::parse(bytes).ok();
    let snapshot = |bytes: &[u8]| Snapshot::parse(bytes).ok();
    let write = |saved: &Saved| saved.to_bytes().expect("what was read is not too long");
    settles(bytes, saved, write);
    settles(&sealed(b"TENUREVS", bytes), saved, write);
    settles(bytes, snapshot, Snapshot::to_bytes);
    settles(&sealed(b"TENURELU", bytes), snapshot, Snapshot::to_bytes);
});
