//! Headers that Linux 6.1.0-56-amd64 returned for commands to its own target (LIO) over tcm_loop, in the lab's VM. They were the
//! same through /dev/sdX and /dev/sgN but for the duration, which is zero here. DRIVER_SENSE is still set there, although the
//! kernel has given it up inside.

use super::*;

const CHECK: Output = [2, 1, 0, 18, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
const CONFLICT: Output = [0x18, 0x0C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

/// Everything was transferred but `missing` bytes.
const fn good(missing: u16) -> Output {
    let [low, high] = missing.to_le_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, low, high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Sense data in fixed format, as LIO makes it.
const fn sense(key: u8, asc: u8, ascq: u8) -> [u8; 18] {
    [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]
}

fn data(output: Output, room: usize) -> Vec<u8> {
    let ended = outcome::completion(&returned(output), &[0; sys::SENSE_LENGTH], vec![0xAA; room]).unwrap();
    assert_eq!(ended.status, Status::GOOD);
    ended.data
}

#[test]
fn data_in_is_as_long_as_lio_made_it() {
    assert_eq!(data(good(0x0FA0), 4096).len(), 96, "standard INQUIRY");
    assert_eq!(data(good(0x0F58), 4096).len(), 168, "VPD page 83h");
    assert_eq!(data(good(0x1FE8), 8192).len(), 24, "READ KEYS with two keys");
    assert_eq!(data(good(0), 8).len(), 8, "READ KEYS, header only");
    assert_eq!(data(good(0), 512).len(), 512, "READ(10) under another's Write Exclusive");
}

#[test]
fn a_conflict_of_lio_is_a_status_and_no_failure() {
    // RESERVE of what another holds; WRITE(10) under it; RELEASE without registration.
    let ended = outcome::completion(&returned(CONFLICT), &[0; sys::SENSE_LENGTH], Vec::new()).unwrap();
    assert_eq!(ended, Completion::status(Status::RESERVATION_CONFLICT));
}

#[test]
fn a_check_condition_of_lio_keeps_its_sense_data_and_nothing_behind_it() {
    for (what, key, asc, ascq) in [
        ("READ KEYS with an allocation length of 0", SenseKey::ILLEGAL_REQUEST, 0x24, 0),
        ("REGISTER AND IGNORE with 8 bytes of parameters, and with none", SenseKey::ILLEGAL_REQUEST, 0x1A, 0),
        ("RESERVE of type 9", SenseKey::ILLEGAL_REQUEST, 0x24, 0),
        ("operation code C1h", SenseKey::ILLEGAL_REQUEST, 0x20, 0),
        ("READ(10) past the end", SenseKey::ILLEGAL_REQUEST, 0x21, 0),
        ("TEST UNIT READY after a PREEMPT", SenseKey::UNIT_ATTENTION, 0x2A, 5),
    ] {
        let bytes = sense(key.0, asc, ascq);
        let ended = outcome::completion(&returned(CHECK), &sense_buffer(&bytes), Vec::new()).unwrap();
        assert_eq!((ended.status, ended.sense.as_slice()), (Status::CHECK_CONDITION, &bytes[..]), "{what}");
        let decoded = ended.decoded_sense().unwrap();
        assert_eq!((decoded.key, decoded.code), (key, AdditionalSense::new(asc, ascq)), "{what}");
    }
}
