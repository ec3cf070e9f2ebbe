//! Parameter lists and parameter data of block commands: UNMAP, GET LBA STATUS, READ CAPACITY, REPORT
//! SUPPORTED OPERATION CODES.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::capacity::{Capacity10, Capacity16};
use scsi::lba_status::LbaStatus;
use scsi::supported::{AllCommands, OneCommand};
use scsi::unmap::UnmapList;

fuzz_target!(|bytes: &[u8]| {
    settles(bytes, |list| UnmapList::parse(list).ok(), UnmapList::to_bytes);
    settles(bytes, LbaStatus::parse, LbaStatus::to_bytes);
    settles(bytes, Capacity10::parse, |capacity| capacity.to_bytes());
    settles(bytes, Capacity16::parse, |capacity| capacity.to_bytes());
    settles(bytes, AllCommands::parse, AllCommands::to_bytes);
    settles(bytes, OneCommand::parse, OneCommand::to_bytes);
});
