//! PERSISTENT RESERVE IN and OUT CDBs.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::pr::{PrInCdb, PrOutCdb};

fuzz_target!(|bytes: &[u8]| {
    let read = settles(bytes, |cdb| PrInCdb::parse(cdb).ok(), |cdb| cdb.to_bytes().to_vec());
    let wrote = settles(bytes, |cdb| PrOutCdb::parse(cdb).ok(), |cdb| cdb.to_bytes().to_vec());
    assert!(read.is_none() || wrote.is_none(), "one operation code, one command");
});
