//! Request queues: data, status, sense, residuals, and guests that lie.

use super::guest::{EVENT_IDX, Guest, PROTOCOL, buffer, readable};
use crate::device::{Aio, Settings};
use crate::fake::{ECHO, FakeUnit, GATE, PANIC, SLOW};
use crate::wire::{Response, ResponseCode};
use std::time::Duration;

/// A request's header and CDB for LUN 0.
pub(super) fn request(tag: u64, cdb: &[u8]) -> Vec<u8> {
    request_to([1, 0, 0, 0, 0, 0, 0, 0], tag, cdb)
}

pub(super) fn request_to(lun: [u8; 8], tag: u64, cdb: &[u8]) -> Vec<u8> {
    let mut bytes = lun.to_vec();
    bytes.extend(tag.to_le_bytes());
    bytes.extend([0; 3]);
    bytes.extend(cdb);
    bytes.resize(19 + 32, 0);
    bytes
}

pub(super) const QUEUE: usize = 2;
/// Room for a response's header and sense data.
pub(super) const RESPONSE: u32 = 12 + 96;

pub(super) fn blocks(code: u8, lba: u8, count: u8) -> [u8; 10] {
    [code, 0, 0, 0, 0, lba, 0, 0, count, 0]
}

/// Sends a request and waits: its response, its sense data, and its data-in.
pub(super) fn ask(guest: &mut Guest, header: &[u8], out: &[u8], room: u32) -> (Response, Vec<u8>, Vec<u8>) {
    let outs: Vec<&[u8]> = if out.is_empty() { vec![header] } else { vec![header, out] };
    let rooms: Vec<u32> = if room == 0 { vec![RESPONSE] } else { vec![RESPONSE, room] };
    let head = guest.offer(QUEUE, &outs, &rooms);
    let used = guest.wait(QUEUE);
    assert_eq!(used.head, head);
    assert!(used.length >= RESPONSE && used.length <= RESPONSE + room, "{used:?}");
    let at = head + u16::try_from(outs.len()).unwrap();
    let bytes = guest.buffer(QUEUE, at, RESPONSE as usize);
    let response = Response::parse(&bytes).unwrap();
    let sense = bytes[12..][..response.sense_length as usize].to_vec();
    let data = guest.buffer(QUEUE, at + 1, (used.length - RESPONSE) as usize);
    (response, sense, data)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte % 253) as u8).collect()
}

#[test]
fn what_a_guest_writes_it_reads_again() {
    for features in [0, EVENT_IDX, EVENT_IDX | PROTOCOL] {
        let mut guest = Guest::start(features);
        let mut write = blocks(0x2A, 3, 2);
        write[1] = 8;
        let (response, _, _) = ask(&mut guest, &request(1, &write), &pattern(1024), 0);
        assert_eq!((response.response, response.status, response.residual), (ResponseCode::OK, 0, 0));
        assert_eq!(guest.unit.get(3 * 512, 1024), pattern(1024));
        let (response, _, data) = ask(&mut guest, &request(2, &blocks(0x28, 3, 2)), &[], 1500);
        assert_eq!((response.status, response.residual), (0, 1500 - 1024));
        assert_eq!(data, pattern(1024));
        let (response, _, _) = ask(&mut guest, &request(3, &blocks(0x35, 0, 0)), &[], 0);
        assert_eq!((response.response, response.status), (ResponseCode::OK, 0));
    }
}

#[test]
fn a_ring_goes_round_many_times() {
    let mut guest = Guest::start(EVENT_IDX);
    for number in 0..200_u8 {
        guest.unit.put(0, &[number; 512]);
        let (_, _, data) = ask(&mut guest, &request(number.into(), &blocks(0x28, 0, 1)), &[], 512);
        assert_eq!(data, [number; 512]);
    }
    let table = guest.device.target().table();
    let totals = table.get(0).unwrap().totals();
    let read = totals.of(crate::statistics::Kind::Read);
    assert_eq!((totals.commands(), read.commands, read.failed, read.bytes), (200, 200, 0, 200 * 512));
    assert_eq!(guest.stop(2), 200);
}

#[test]
fn an_admitted_end_has_data_and_residual() {
    let mut guest = Guest::start(0);
    let (response, _, data) = ask(&mut guest, &request(1, &[0x12, 0, 0, 0, 36, 0]), &[], 255);
    assert_eq!((response.status, response.residual), (0, 255 - 36));
    assert_eq!(data, [0x5A; 36]);
    // The CDB wants more than there is room for.
    let (response, _, data) = ask(&mut guest, &request(1, &[0x12, 0, 0, 0, 36, 0]), &[], 20);
    assert_eq!((response.response, response.residual, data.len()), (ResponseCode::OVERRUN, 0, 20));
}

#[test]
fn sense_data_reaches_the_guest_with_check_condition() {
    let mut guest = Guest::start(0);
    let (response, sense, _) = ask(&mut guest, &request(1, &[0xFF; 6]), &[], 100);
    assert_eq!((response.response, response.status, response.residual), (ResponseCode::OK, 2, 100));
    assert_eq!((sense[2] & 15, sense[12]), (5, 0x20));
}

#[test]
fn a_worker_gets_the_data_and_its_answer_comes_back() {
    let mut guest = Guest::start(EVENT_IDX);
    let cdb = [ECHO, 0, 0, 0, 0, 0, 0, 1, 0x2C, 0];
    let (response, _, data) = ask(&mut guest, &request(1, &cdb), &pattern(400), 1000);
    assert_eq!(data, pattern(300));
    assert_eq!((response.status, response.residual), (0, 100 + 700));
}

#[test]
fn a_worker_that_panics_costs_one_command() {
    let mut guest = Guest::start(EVENT_IDX);
    let (response, ..) = ask(&mut guest, &request(1, &[PANIC, 0, 0, 0, 0, 0, 0, 0, 0, 0]), &[], 0);
    assert_eq!(response.response, ResponseCode::TRANSPORT_FAILURE);
    let (response, ..) = ask(&mut guest, &request(2, &[0; 6]), &[], 0);
    assert_eq!(response.response, ResponseCode::OK);
}

#[test]
fn data_out_that_the_cdb_wants_and_the_guest_has_not_is_an_overrun() {
    let mut guest = Guest::start(0);
    let (response, ..) = ask(&mut guest, &request(1, &blocks(0x2A, 0, 2)), &pattern(1023), 0);
    assert_eq!((response.response, response.residual), (ResponseCode::OVERRUN, 1023));
    assert_eq!(guest.unit.get(0, 1024), [0; 1024]);
}

#[test]
fn luns_are_found_by_peripheral_and_flat_addressing_and_others_are_not_there() {
    let mut guest = Guest::start(0);
    for lun in [[1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0x40, 0, 0, 0, 0, 0]] {
        let (response, ..) = ask(&mut guest, &request_to(lun, 1, &[0; 6]), &[], 0);
        assert_eq!((response.response, response.status), (ResponseCode::OK, 0));
    }
    let (response, sense, _) = ask(&mut guest, &request_to([1, 0, 0x41, 7, 0, 0, 0, 0], 1, &[0; 6]), &[], 0);
    assert_eq!((response.status, sense[12]), (2, 0x25));
    for lun in [[1, 1, 0, 0, 0, 0, 0, 0], [0; 8], [1, 0, 0xFF, 0, 0, 0, 0, 0]] {
        let (response, ..) = ask(&mut guest, &request_to(lun, 1, &[0; 6]), &[], 0);
        assert_eq!(response.response, ResponseCode::BAD_TARGET, "{lun:x?}");
    }
    let report = [0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    for lun in [[1, 0, 0xC1, 1, 0, 0, 0, 0], [0xC1, 1, 0, 0, 0, 0, 0, 0]] {
        let (_, _, data) = ask(&mut guest, &request_to(lun, 1, &report), &[], 64);
        assert_eq!(data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn a_guest_hears_of_what_has_ended_before_a_long_run_is_over() {
    for features in [0, EVENT_IDX] {
        let mut guest = Guest::start(features);
        for (tag, code) in [(1, 0), (2, SLOW), (3, GATE)] {
            let head = guest.prepare(QUEUE, &[&request(tag, &[code; 6])], &[RESPONSE]);
            guest.publish(QUEUE, head);
        }
        let before = readable(guest.call_fd(QUEUE), Duration::ZERO);
        assert!(!before, "nothing has been offered yet");
        guest.kick(QUEUE);
        assert!(readable(guest.call_fd(QUEUE), Duration::from_secs(60)), "no interrupt");
        assert_eq!(guest.used_index(QUEUE), 2, "the last one is still being admitted");
        guest.wait(QUEUE);
        guest.wait(QUEUE);
        guest.unit.release();
        guest.wait(QUEUE);
    }
}

#[test]
fn a_long_read_from_memory_is_whole_whatever_comes_with_it() {
    const PART: u32 = 0x2000;
    for aio in [Aio::IoUring, Aio::Threads] {
        let settings = Settings { request_queues: 1, aio, ..Settings::default() };
        let mut guest = Guest::with(settings, FakeUnit::in_memory());
        guest.run(EVENT_IDX);
        for number in 0..50 {
            let all: Vec<u8> = (0..8 * PART).map(|byte| (byte % 253) as u8 ^ number).collect();
            guest.unit.put(0, &all);
            let rooms: Vec<u32> = std::iter::once(RESPONSE).chain([PART; 8]).collect();
            let long = guest.prepare(QUEUE, &[&request(1, &blocks(0x28, 0, 128))], &rooms);
            let next = guest.prepare(QUEUE, &[&request(2, &[0; 6])], &[RESPONSE]);
            [long, next].into_iter().for_each(|head| guest.publish(QUEUE, head));
            guest.kick(QUEUE);
            let mut lengths = [guest.wait(QUEUE), guest.wait(QUEUE)].map(|used| (used.head, used.length));
            lengths.sort_by_key(|(_, length)| *length);
            assert_eq!(lengths, [(next, RESPONSE), (long, RESPONSE + 8 * PART)]);
            let data: Vec<u8> =
                (0..8).flat_map(|part| guest.buffer(QUEUE, long + 2 + part, PART as usize)).collect();
            assert!(data == all, "{number}");
        }
        assert_eq!(guest.stop(2), 100);
    }
}

#[test]
fn a_request_without_room_for_a_response_comes_back_empty() {
    let mut guest = Guest::start(0);
    guest.offer(QUEUE, &[&request(1, &[0; 6])], &[RESPONSE - 1]);
    assert_eq!(guest.wait(QUEUE).length, 0);
    guest.offer(QUEUE, &[&request(1, &[0; 6])[..50]], &[RESPONSE]);
    let used = guest.wait(QUEUE);
    assert_eq!(used.length, RESPONSE);
    assert_eq!(
        Response::parse(&guest.buffer(QUEUE, used.head + 1, 12)).unwrap().response,
        ResponseCode::FAILURE
    );
}

#[test]
fn header_and_data_may_be_cut_anywhere() {
    let mut guest = Guest::start(0);
    let header = request(1, &blocks(0x2A, 1, 1));
    let data = pattern(512);
    let joined = [&header[..], &data[..]].concat();
    guest.offer(QUEUE, &[&joined[..7], &joined[7..60], &joined[60..]], &[5, RESPONSE - 5]);
    assert_eq!(guest.wait(QUEUE).length, RESPONSE);
    assert_eq!(guest.unit.get(512, 512), data);
}

#[test]
fn little_room_for_buffers_delays_commands_and_loses_none() {
    let settings = Settings { request_queues: 1, most_buffered: 1000, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.run(EVENT_IDX);
    let cdb = [ECHO, 0, 0, 0, 0, 0, 0, 2, 0x58, 0];
    let heads: Vec<u16> = (0..4)
        .map(|tag| guest.prepare(QUEUE, &[&request(tag, &cdb), &pattern(600)], &[RESPONSE, 600]))
        .collect();
    heads.iter().for_each(|head| guest.publish(QUEUE, *head));
    guest.kick(QUEUE);
    for _ in 0..4 {
        let used = guest.wait(QUEUE);
        assert_eq!(used.length, RESPONSE + 600);
        assert_eq!(guest.buffer(QUEUE, used.head + 3, 600), pattern(600));
    }
}

#[test]
fn more_data_out_than_a_command_may_have_is_refused() {
    let settings = Settings { request_queues: 1, most_data_out: 100, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.run(0);
    let cdb = [ECHO, 0, 0, 0, 0, 0, 0, 0, 101, 0];
    let (response, ..) = ask(&mut guest, &request(1, &cdb), &pattern(101), 0);
    assert_eq!(response.response, ResponseCode::FAILURE);
}

#[test]
fn a_ring_that_makes_no_sense_ends_the_connection_and_tells_by_its_eventfd() {
    let mut guest = Guest::start(0);
    guest.lie_about_available(QUEUE, 1000);
    assert!(guest.is_hung_up());
    assert!(readable(guest.error_fd(QUEUE), Duration::from_secs(60)));
}

#[test]
fn memory_that_is_pulled_away_ends_the_connection() {
    let mut guest = Guest::start(0);
    let head = guest.prepare(QUEUE, &[&request(1, &[0; 6])], &[RESPONSE]);
    guest.publish(QUEUE, head);
    guest.memory.set_len(buffer(QUEUE, 0)).unwrap();
    guest.kick(QUEUE);
    assert!(guest.is_hung_up());
}
