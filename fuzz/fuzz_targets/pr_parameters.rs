//! PERSISTENT RESERVE OUT parameter lists, basic and REGISTER AND MOVE.
#![no_main]

use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use scsi::pr::{BasicParameters, MoveParameters};

fuzz_target!(|bytes: &[u8]| {
    let basic = settles(bytes, |list| BasicParameters::parse(list).ok(), BasicParameters::to_bytes);
    if let Some(basic) = basic {
        assert_eq!(basic.initiator_ports.is_some(), BasicParameters::specifies_initiator_ports(bytes));
    }
    settles(bytes, |list| MoveParameters::parse(list).ok(), MoveParameters::to_bytes);
    for error in
        [BasicParameters::parse(bytes).err(), MoveParameters::parse(bytes).err()].into_iter().flatten()
    {
        let pointer = error.pointer.map(|at| usize::from(at.byte));
        assert!(pointer.is_none_or(|byte| byte < bytes.len()), "{error} of {} bytes", bytes.len());
    }
});
