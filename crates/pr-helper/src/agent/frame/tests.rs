//! Golden bytes, and properties both ways.

use super::*;
use proptest::prelude::*;

const ID: HandoverId = HandoverId(0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF);

fn register() -> RequestHeader {
    let cdb = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    RequestHeader::new(ID, Role::Change, &cdb, 24, 0).unwrap()
}

#[test]
fn a_hello_is_the_name_and_the_version() {
    assert_eq!(Hello::OWN.to_bytes(), *b"tenure\x00\x01");
    assert_eq!(Hello::parse(b"tenurf\x00\x01"), Err(FrameError::Magic));
}

#[test]
fn a_newer_helper_is_spoken_to_in_the_own_version_and_an_unknown_choice_is_refused() {
    assert_eq!(Hello { version: 7 }.choose(), Ok(Hello::OWN));
    assert_eq!(Hello { version: 0 }.choose(), Err(FrameError::Version(0)));
    assert_eq!(Hello { version: 7 }.chosen(), Err(FrameError::Version(7)));
}

#[test]
fn a_register_is_these_bytes() {
    let golden = [
        0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 1,
        10, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(register().to_bytes(), golden);
    assert_eq!(RequestHeader::parse(&golden), Ok(register()));
}

#[test]
fn replies_are_these_bytes() {
    let sense = vec![0x70, 0, 6];
    let check = Completion { status: Status::CHECK_CONDITION, sense, data: vec![] };
    assert_eq!(encode_reply(&Answer::Completion(check), 8), [0, 2, 0, 3, 0, 0, 0, 0, 0x70, 0, 6]);
    let good = Completion::good(vec![1, 2, 3]);
    assert_eq!(encode_reply(&Answer::Completion(good), 2), [0, 0, 0, 0, 0, 0, 0, 2, 1, 2]);
    assert_eq!(encode_reply(&Answer::Refused("no".into()), 2), [1, 0, 0, 0, 0, 0, 0, 2, b'n', b'o']);
    assert_eq!(encode_reply(&Answer::NotSent(String::new()), 2), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encode_reply(&Answer::OutcomeUnknown(String::new()), 2), [3, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn every_impossible_field_of_a_request_is_an_error() {
    let with = |at: usize, value: u8| {
        let mut bytes = register().to_bytes();
        bytes[at] = value;
        RequestHeader::parse(&bytes)
    };
    assert_eq!(with(16, 2), Err(FrameError::Role(2)));
    assert_eq!(with(18, 1), Err(FrameError::Reserved));
    assert_eq!(with(43, 1), Err(FrameError::Reserved), "behind the CDB");
    for (at, value) in [(17, 0), (17, 17), (20, 1), (22, 0x20), (24, 1), (25, 2)] {
        assert!(matches!(with(at, value), Err(FrameError::Length { .. })), "{at}");
    }
}

#[test]
fn what_the_protocol_cannot_carry_is_not_begun() {
    let new = |cdb: &[u8], out, allocation| RequestHeader::new(ID, Role::Query, cdb, out, allocation);
    assert!(new(&[0; 16], DATA_OUT_MAX, DATA_IN_MAX).is_ok());
    assert!(new(&[], 0, 0).is_err() && new(&[0; 17], 0, 0).is_err() && new(&[0; 300], 0, 0).is_err());
    assert!(new(&[0], DATA_OUT_MAX + 1, 0).is_err() && new(&[0], 0, DATA_IN_MAX + 1).is_err());
    assert!(new(&[0], usize::MAX, 0).is_err());
}

#[test]
fn a_refusal_never_carries_a_status_or_sense_data() {
    assert_eq!(ReplyHeader::parse(&[1, 2, 0, 0, 0, 0, 0, 0]), Err(FrameError::Reserved));
    assert_eq!(ReplyHeader::parse(&[1, 0, 0, 1, 0, 0, 0, 0]), Err(FrameError::Reserved));
    assert_eq!(ReplyHeader::parse(&[4, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::Kind(4)));
    for header in [[0, 2, 0, 253, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0, 4, 1]] {
        assert!(matches!(ReplyHeader::parse(&header), Err(FrameError::Length { .. })), "{header:?}");
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        (any::<u8>(), bytes(300_usize), bytes(70_000)).prop_map(|(status, sense, data)| {
            Answer::Completion(Completion { status: Status(status), sense, data })
        }),
        "\\PC{0,1100}".prop_map(Answer::Refused),
        "\\PC{0,20}".prop_map(Answer::NotSent),
        "\\PC{0,20}".prop_map(Answer::OutcomeUnknown),
    ]
}

/// What of an answer arrives.
fn carried(answer: &Answer, allocation: usize) -> Answer {
    match answer {
        Answer::Completion(Completion { status, sense, data }) => Answer::Completion(Completion {
            status: *status,
            sense: cut(sense, SENSE_LENGTH_MAX).to_vec(),
            data: cut(data, allocation).to_vec(),
        }),
        Answer::Refused(why) => Answer::Refused(String::from_utf8(reason(why).to_vec()).unwrap()),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn any_request_that_is_understood_is_written_as_it_came(
        mut bytes in proptest::collection::vec(any::<u8>(), REQUEST_LENGTH),
        plausible: bool,
    ) {
        if plausible {
            let length = usize::from(bytes[17] % 17);
            (bytes[16], bytes[17]) = (bytes[16] & 1, u8::try_from(length).unwrap());
            for at in [18, 19, 20, 21, 24, 25].into_iter().chain(28 + length..REQUEST_LENGTH) {
                bytes[at] = 0;
            }
        }
        if let Ok(header) = RequestHeader::parse(bytes[..].try_into().unwrap()) {
            prop_assert_eq!(&header.to_bytes()[..], &bytes[..]);
            prop_assert!(header.data_out as usize <= DATA_OUT_MAX && header.allocation as usize <= DATA_IN_MAX);
            prop_assert!((1..=16).contains(&header.cdb().len()));
        }
    }

    #[test]
    fn any_request_is_read_as_it_was_written(
        id: u128,
        change: bool,
        cdb in proptest::collection::vec(any::<u8>(), 1..=16),
        out in 0..=DATA_OUT_MAX,
        allocation in 0..=DATA_IN_MAX,
    ) {
        let role = if change { Role::Change } else { Role::Query };
        let header = RequestHeader::new(HandoverId(id), role, &cdb, out, allocation).unwrap();
        let read = RequestHeader::parse(&header.to_bytes()).unwrap();
        prop_assert_eq!(read, header);
        prop_assert_eq!(read.cdb(), &cdb[..]);
    }

    #[test]
    fn an_agent_reads_what_a_helper_wrote(answer in answer(), allocation in 0..=DATA_IN_MAX) {
        let bytes = encode_reply(&answer, allocation);
        let header = ReplyHeader::parse(bytes.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(bytes.len(), REPLY_LENGTH + header.follows());
        prop_assert_eq!(header.answer(&bytes[REPLY_LENGTH..]), carried(&answer, allocation));
    }

    #[test]
    fn any_reply_that_is_understood_is_written_as_it_came(bytes: [u8; REPLY_LENGTH], kind in 0..4_u8, small: bool) {
        let mut bytes = bytes;
        bytes[0] = kind;
        if small {
            (bytes[2], bytes[4], bytes[5]) = (0, 0, 0);
        }
        if let Ok(header) = ReplyHeader::parse(&bytes) {
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert!(header.follows() <= SENSE_LENGTH_MAX + DATA_IN_MAX);
        }
    }
}
