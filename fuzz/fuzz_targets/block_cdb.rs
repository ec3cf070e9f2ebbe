//! CDBs of a block device, apart from reservations.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::block::Command;

fuzz_target!(|bytes: &[u8]| {
    settles(bytes, |cdb| Command::parse(cdb).ok(), Command::to_bytes);
});
