//! Logical units that hang: what they may not take from others, and what is said of them.

use super::guest::{EVENT_IDX, Guest, PROTOCOL};
use super::request::{QUEUE, RESPONSE, ask, request, request_to};
use crate::device::{Aio, Phase, Settings};
use crate::fake::{ECHO, FakeUnit, HOLD};
use crate::wire::ResponseCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HELD: [u8; 10] = [HOLD, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ECHO_512: [u8; 10] = [ECHO, 0, 0, 0, 0, 0, 0, 2, 0, 0];
const LUN_1: [u8; 8] = [1, 0, 0, 1, 0, 0, 0, 0];

fn hold(guest: &mut Guest, count: u64, room: &[u32]) {
    for tag in 0..count {
        guest.offer(QUEUE, &[&request(tag, &HELD)], room);
    }
}

#[test]
fn a_logical_unit_that_hangs_leaves_workers_to_the_others() {
    let settings = Settings { request_queues: 1, workers: 2, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.device.attach(1, FakeUnit::new()).unwrap();
    guest.run(EVENT_IDX);
    hold(&mut guest, 3, &[RESPONSE]);
    guest.unit.wait_for_held(1);
    let (response, _, data) = ask(&mut guest, &request_to(LUN_1, 9, &ECHO_512), &[7; 512], 512);
    assert_eq!((response.response, data), (ResponseCode::OK, vec![7; 512]));
    guest.unit.release();
    (0..3).for_each(|_| drop(guest.wait(QUEUE)));
}

#[test]
fn a_logical_unit_that_hangs_leaves_buffers_to_the_others() {
    let settings = Settings { request_queues: 1, most_buffered: 2048, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.device.attach(1, FakeUnit::new()).unwrap();
    guest.run(EVENT_IDX);
    hold(&mut guest, 3, &[RESPONSE, 1024]);
    guest.unit.wait_for_held(1);
    let (response, _, data) = ask(&mut guest, &request_to(LUN_1, 9, &ECHO_512), &[7; 512], 512);
    assert_eq!((response.response, data), (ResponseCode::OK, vec![7; 512]));
    guest.unit.release();
    (0..3).for_each(|_| drop(guest.wait(QUEUE)));
}

#[test]
fn room_for_data_in_of_a_worker_counts_as_buffer() {
    let settings = Settings { request_queues: 1, most_buffered: 2048, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.run(EVENT_IDX);
    hold(&mut guest, 2, &[RESPONSE, 1024]);
    guest.unit.wait_for_held(1);
    // It needs no buffer and so passes those that wait: they have been looked at.
    ask(&mut guest, &request(9, &[0; 6]), &[], 0);
    assert_eq!(guest.unit.held(), 1, "the second one would have its half twice");
    guest.unit.release();
    (0..2).for_each(|_| drop(guest.wait(QUEUE)));
}

#[test]
fn while_a_ring_cannot_stop_it_is_known_what_it_waits_for() {
    let mut guest = Guest::start(EVENT_IDX | PROTOCOL);
    hold(&mut guest, 2, &[RESPONSE]);
    guest.unit.wait_for_held(2);
    assert_eq!(guest.device.phase(), Phase::Running);
    let (device, unit) = (Arc::clone(&guest.device), Arc::clone(&guest.unit));
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| guest.stop(2));
        let deadline = Instant::now() + Duration::from_secs(30);
        while device.phase() != Phase::Draining {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let told: Vec<_> = device.under_way().iter().map(|one| (one.lun, one.commands, one.opcode)).collect();
        assert_eq!(told, [(0, 2, HOLD)]);
        unit.release();
        assert_eq!(stopping.join().unwrap(), 2);
    });
    assert_eq!((device.phase(), device.under_way()), (Phase::Idle, Vec::new()));
}

#[test]
fn without_io_uring_a_guest_is_served_as_well() {
    let settings = Settings { request_queues: 1, aio: Aio::Threads, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.run(EVENT_IDX | PROTOCOL);
    let pattern: Vec<u8> = (0..1024).map(|byte| (byte % 253) as u8).collect();
    for round in 0..40 {
        let (response, ..) =
            ask(&mut guest, &request(1, &super::request::blocks(0x2A, round, 2)), &pattern, 0);
        assert_eq!((response.response, response.status), (ResponseCode::OK, 0));
        let (.., data) = ask(&mut guest, &request(2, &super::request::blocks(0x28, round, 2)), &[], 1024);
        assert_eq!(data, pattern);
        let (response, ..) = ask(&mut guest, &request(3, &super::request::blocks(0x35, 0, 0)), &[], 0);
        assert_eq!((response.response, response.status), (ResponseCode::OK, 0));
    }
    hold(&mut guest, 1, &[RESPONSE]);
    guest.unit.wait_for_held(1);
    guest.unit.release();
    assert_eq!(guest.stop(2), 121);
}
