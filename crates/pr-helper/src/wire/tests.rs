//! Golden bytes, and properties both ways.

use super::*;
use proptest::prelude::*;
use scsi::{AdditionalSense, Completion, Sense, SenseKey, Status};

fn header(cdb: &[u8]) -> Result<Header, WireError> {
    let mut padded = [0; CDB_LENGTH];
    padded[..cdb.len()].copy_from_slice(cdb);
    Header::parse(padded)
}

#[test]
fn the_features_word_offers_cleanup_in_bit_0() {
    assert_eq!(Features::OFFERED.to_bytes(), [0, 0, 0, 1]);
}

#[test]
fn a_feature_that_was_not_offered_is_an_error() {
    assert!(Features::parse([0; 4]).accept(Features::OFFERED).is_ok());
    assert!(Features::parse([0, 0, 0, 1]).accept(Features::OFFERED).is_ok());
    let refused = Features::parse([0x80, 0, 0, 3]).accept(Features::OFFERED);
    assert_eq!(refused, Err(WireError::Features(0x8000_0002)));
}

#[test]
fn lengths_are_those_of_bytes_7_and_8() {
    let read = header(&[0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0]).unwrap();
    assert_eq!((read.kind, read.follows(), read.allocation()), (Kind::In { allocation: 8192 }, 0, 8192));
    let write = header(&[0x5F, 1, 0, 0, 0, 0, 0, 0, 24]).unwrap();
    assert_eq!((write.kind, write.follows(), write.allocation()), (Kind::Out { follows: 24 }, 24, 0));
}

#[test]
fn more_than_8192_bytes_cannot_be_framed() {
    assert_eq!(header(&[0x5E, 0, 0, 0, 0, 0, 0, 0x20, 1]), Err(WireError::Length(8193)));
    assert_eq!(header(&[0x5F, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), Err(WireError::Length(65535)));
}

#[test]
fn all_four_bytes_of_the_parameter_list_length_are_honoured() {
    assert!(header(&[0x5F, 0, 0, 0, 0, 0, 1, 0, 24]).unwrap().is_cut());
    assert!(header(&[0x5F, 0, 0, 0, 0, 1, 0, 0, 24]).unwrap().is_cut());
    assert!(!header(&[0x5F, 0, 0, 0, 0, 0, 0, 0, 24]).unwrap().is_cut());
    assert!(!header(&[0x5E, 0, 0, 0, 0, 1, 1, 0, 24]).unwrap().is_cut(), "those bytes are reserved in PR IN");
}

#[test]
fn cleanup_carries_no_data_whatever_its_length_says() {
    let cleanup = header(&[0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]).unwrap();
    assert_eq!((cleanup.kind, cleanup.follows(), cleanup.allocation()), (Kind::Cleanup, 0, 0));
}

#[test]
fn a_reply_is_104_bytes_and_the_payload() {
    let reply = encode_reply(&Completion::good(vec![1, 2, 3]), 2);
    assert_eq!(reply.len(), 106);
    assert_eq!(&reply[..9], [0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(&reply[104..], [1, 2]);
}

#[test]
fn sense_data_is_fixed_format_in_96_bytes_and_excludes_a_payload() {
    let sense = Sense::new(SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
    let mut completion = Completion::check(&sense);
    completion.data = vec![9; 8];
    let reply = encode_reply(&completion, 8);
    assert_eq!(reply.len(), REPLY_LENGTH);
    assert_eq!(&reply[..8], [0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(&reply[8..26], [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]);
    assert!(reply[26..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_reply_with_an_impossible_number_is_an_error() {
    let reply = |result: i32, size: i32| {
        let mut bytes = [0; REPLY_LENGTH];
        bytes[..4].copy_from_slice(&result.to_be_bytes());
        bytes[4..8].copy_from_slice(&size.to_be_bytes());
        ReplyHeader::parse(&bytes)
    };
    assert_eq!(reply(-1, 0), Err(WireError::Status(-1)));
    assert_eq!(reply(256, 0), Err(WireError::Status(256)));
    assert_eq!(reply(0, -1), Err(WireError::Reply(-1)));
    assert_eq!(reply(0, 8193), Err(WireError::Reply(8193)));
}

proptest! {
    #[test]
    fn no_header_asks_for_more_than_the_protocol_carries(cdb: [u8; CDB_LENGTH]) {
        if let Ok(header) = Header::parse(cdb) {
            prop_assert!(header.follows() <= DATA_LENGTH_MAX && header.allocation() <= DATA_LENGTH_MAX);
            prop_assert_eq!(header.cdb, cdb);
        }
    }

    #[test]
    fn a_client_reads_what_a_server_wrote(
        status: u8,
        sense in proptest::collection::vec(any::<u8>(), 0..120),
        data in proptest::collection::vec(any::<u8>(), 0..9000),
        allocation in 0..=DATA_LENGTH_MAX,
    ) {
        let completion = Completion { status: Status(status), sense, data };
        let reply = encode_reply(&completion, allocation);
        let read = ReplyHeader::parse(reply.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(read.status, completion.status);
        prop_assert_eq!(reply.len(), REPLY_LENGTH + read.payload);
        prop_assert!(read.payload <= allocation && (status == 0 || read.payload == 0));
        prop_assert!(completion.data.starts_with(&reply[REPLY_LENGTH..]));
        let sent = completion.sense.len().min(SENSE_LENGTH);
        prop_assert_eq!(&read.sense[..sent], &completion.sense[..sent]);
        prop_assert!(read.sense[sent..].iter().all(|&byte| byte == 0));
    }
}
