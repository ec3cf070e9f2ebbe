//! The agent's protocol: hellos, what an agent sends to the helper, what a helper answers, and which commands pass.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pr_helper::agent::frame::{
    DATA_IN_MAX, DATA_OUT_MAX, HELLO_LENGTH, Hello, REPLY_LENGTH, REQUEST_LENGTH, ReplyHeader, RequestHeader,
    Role, SENSE_LENGTH_MAX, VERSION, encode_reply,
};
use pr_helper::agent::{Answer, allowed};
use scsi::pr::{PrInCdb, PrOutCdb};
use scsi::{Completion, DataPhase, Request, Status, opcode};

fuzz_target!(|bytes: &[u8]| {
    if let Some(Ok(hello)) = bytes.first_chunk::<HELLO_LENGTH>().map(Hello::parse) {
        assert_eq!(&hello.to_bytes(), &bytes[..HELLO_LENGTH]);
        assert_eq!(hello.choose().is_ok(), hello.version >= VERSION);
    }
    if let Some((Ok(header), rest)) =
        bytes.split_first_chunk().map(|(head, rest)| (RequestHeader::parse(head), rest))
    {
        assert_eq!(&header.to_bytes(), &bytes[..REQUEST_LENGTH]);
        assert!(header.data_out as usize <= DATA_OUT_MAX && header.allocation as usize <= DATA_IN_MAX);
        let list = &rest[..rest.len().min(header.data_out as usize)];
        command(header.role, header.cdb(), list, header.allocation as usize);
    }
    if let Some((Ok(header), rest)) =
        bytes.split_first_chunk().map(|(head, rest)| (ReplyHeader::parse(head), rest))
    {
        assert!(header.follows() <= SENSE_LENGTH_MAX + DATA_IN_MAX);
        let Some(body) = rest.get(..header.follows()) else { return };
        let answer = header.answer(body);
        if std::str::from_utf8(body).is_ok() || matches!(answer, Answer::Completion(_)) {
            assert_eq!(encode_reply(&answer, DATA_IN_MAX), &bytes[..REPLY_LENGTH + header.follows()]);
        }
    }
    completion(bytes);
    // The CDB first, so that commands are found without a header around them.
    let (cdb, rest) = bytes.split_at(bytes.len().min(10));
    command(Role::Change, cdb, rest, 0);
});

/// What passes is one of four commands, carried out as it came, and moves as much data as it says.
fn command(role: Role, cdb: &[u8], list: &[u8], allocation: usize) {
    let Ok(Request { cdb: sent, data }) = allowed::request(role, cdb, list, allocation) else { return };
    assert_eq!(sent, cdb);
    match (role, data) {
        (Role::Change, DataPhase::Out(data)) => {
            let cdb = PrOutCdb::parse(cdb).expect("only PERSISTENT RESERVE OUT changes");
            assert_eq!(
                (cdb.to_bytes().as_slice(), cdb.parameter_list_length as usize),
                (&sent[..], data.len())
            );
            assert_eq!(data, list);
        }
        (Role::Query, DataPhase::In(length)) => {
            assert_eq!(length, allocation);
            assert!(
                matches!(sent[0], opcode::INQUIRY | opcode::MAINTENANCE_IN) || PrInCdb::parse(cdb).is_ok()
            );
        }
        other => panic!("{other:?}"),
    }
}

/// A completion with arbitrary sense data and data-in arrives as it is, but for what the protocol cuts.
fn completion(bytes: &[u8]) {
    let (sense, data) = bytes.split_at(bytes.len() / 2);
    let status = Status(bytes.last().copied().unwrap_or(0));
    let whole = Completion { status, sense: sense.to_vec(), data: data.to_vec() };
    let allocation = data.len() / 2;
    let reply = encode_reply(&Answer::Completion(whole), allocation);
    let (head, body) = reply.split_first_chunk().expect("a reply has its fixed part");
    let header = ReplyHeader::parse(head).and_then(|header| header.for_allocation(allocation as u32));
    let Answer::Completion(read) = header.expect("own replies are well-formed").answer(body) else {
        panic!("a completion is read as one")
    };
    assert!(sense.starts_with(&read.sense) && data.starts_with(&read.data) && read.status == status);
    assert_eq!((read.sense.len(), read.data.len()), (sense.len().min(SENSE_LENGTH_MAX), allocation));
}
