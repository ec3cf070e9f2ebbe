//! A byte stream cut into iSCSI PDUs, with each combination of digests, and every typed header.
#![no_main]

use fuzz::settles;
use iscsi::pdu::frame::{Digests, Framing, Parsed, encode_with_ahs};
use iscsi::pdu::{
    AsyncMessage, BHS_LENGTH, Bhs, DataIn, DataOut, Header, LoginRequest, LoginResponse, LogoutRequest,
    LogoutResponse, NopIn, NopOut, Opcode, R2t, Reject, ScsiCommand, ScsiResponse, SnackRequest,
    TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse,
};
use libfuzzer_sys::fuzz_target;
use std::fmt::Debug;

/// What a header says survives being written again.
fn header<H: Header + PartialEq + Debug>(bhs: &Bhs) {
    let parse = |bytes: &[u8]| bytes.first_chunk().map(H::parse);
    settles(bhs, parse, |header| header.emit().to_vec());
    assert_eq!(Opcode::of(&H::parse(bhs).emit()), H::OPCODE);
}

fn headers(bhs: &Bhs) {
    header::<NopOut>(bhs);
    header::<ScsiCommand>(bhs);
    header::<TaskManagementRequest>(bhs);
    header::<LoginRequest>(bhs);
    header::<TextRequest>(bhs);
    header::<DataOut>(bhs);
    header::<LogoutRequest>(bhs);
    header::<SnackRequest>(bhs);
    header::<NopIn>(bhs);
    header::<ScsiResponse>(bhs);
    header::<TaskManagementResponse>(bhs);
    header::<LoginResponse>(bhs);
    header::<TextResponse>(bhs);
    header::<DataIn>(bhs);
    header::<LogoutResponse>(bhs);
    header::<R2t>(bhs);
    header::<AsyncMessage>(bhs);
    header::<Reject>(bhs);
}

/// Every PDU of the stream: it takes what it says, and written again it reads the same.
fn stream(framing: Framing, mut bytes: &[u8]) {
    while let Ok(parsed) = framing.next(bytes) {
        let frame = match parsed {
            Parsed::Incomplete(needed) => {
                assert!(needed > bytes.len() && needed <= framing.max_pdu(), "{needed} of {}", bytes.len());
                return;
            }
            Parsed::Frame(frame) => frame,
        };
        assert!(frame.length >= BHS_LENGTH && frame.data.len() <= framing.max_data);
        headers(frame.bhs);
        let mut again = Vec::new();
        encode_with_ahs(&mut again, frame.bhs, frame.ahs, frame.data, framing.digests);
        let Ok(Parsed::Frame(same)) = framing.next(&again) else { panic!("our own PDU: {again:02x?}") };
        assert_eq!((same.bhs, same.ahs, same.data), (frame.bhs, frame.ahs, frame.data));
        assert!(same.data_intact && same.length == frame.length);
        bytes = &bytes[frame.length..];
    }
}

fuzz_target!(|bytes: &[u8]| {
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        stream(Framing { digests: Digests { header, data }, max_data: 8192 }, bytes);
    }
});
