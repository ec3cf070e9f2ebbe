//! The pr-manager protocol: what a client sends to the helper, and what the helper answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pr_helper::wire::{
    CDB_LENGTH, DATA_LENGTH_MAX, Features, Header, REPLY_LENGTH, ReplyHeader, encode_reply,
};
use scsi::{Completion, Status};

fuzz_target!(|bytes: &[u8]| {
    if let Some(&word) = bytes.first_chunk() {
        let features = Features::parse(word);
        assert_eq!(features.to_bytes(), word);
        assert_eq!(features.accept(Features::OFFERED).is_ok(), features.0 & !Features::OFFERED.0 == 0);
    }
    if let Some(Ok(header)) = bytes.first_chunk::<CDB_LENGTH>().map(|cdb| Header::parse(*cdb)) {
        assert!(header.follows() <= DATA_LENGTH_MAX && header.allocation() <= DATA_LENGTH_MAX);
        reply(bytes, header.allocation());
    }
    if let Some(Ok(read)) = bytes.first_chunk::<REPLY_LENGTH>().map(ReplyHeader::parse) {
        assert!(read.payload <= DATA_LENGTH_MAX);
    }
});

/// A completion with arbitrary sense data and data-in: the client reads what was sent, and no more than it allowed.
fn reply(bytes: &[u8], allocation: usize) {
    let (sense, data) = bytes.split_at(bytes.len() / 2);
    let status = Status(bytes.last().copied().unwrap_or(0) & 0x2A);
    let reply = encode_reply(&Completion { status, sense: sense.to_vec(), data: data.to_vec() }, allocation);
    let head = reply.first_chunk().expect("a reply has its fixed part");
    let read = ReplyHeader::parse(head).expect("own replies are well-formed");
    assert_eq!((read.status, read.payload), (status, reply.len() - REPLY_LENGTH));
    assert!(read.payload <= allocation && data.starts_with(&reply[REPLY_LENGTH..]));
}
