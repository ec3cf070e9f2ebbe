//! Logical units that hang: what they may not take from others, and what is said of them.

use super::guest::{EVENT_IDX, Guest, PROTOCOL};
use super::request::{QUEUE, RESPONSE, ask, request, request_to};
use crate::device::{Aio, Phase, Settings};
use crate::fake::{ECHO, FakeUnit, HOLD};
use crate::wire::{Response, ResponseCode};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::VhostUserSingleMemoryRegion;

const HELD: [u8; 10] = [HOLD, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ECHO_512: [u8; 10] = [ECHO, 0, 0, 0, 0, 0, 0, 2, 0, 0];
const LUN_1: [u8; 8] = [1, 0, 0, 1, 0, 0, 0, 0];

fn hold(guest: &mut Guest, count: u64, room: &[u32]) {
    for tag in 0..count {
        guest.offer(QUEUE, &[&request(tag, &HELD)], room);
    }
}

/// With two logical units.
fn two(settings: Settings) -> Guest {
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.device.attach(1, FakeUnit::new()).unwrap();
    guest.run(EVENT_IDX);
    guest
}

/// What is held ends.
fn release(guest: &mut Guest, count: u32) {
    guest.unit.release();
    for _ in 0..count {
        guest.wait(QUEUE);
    }
}

/// The first one hangs, whatever its commands wait for, and the other one serves.
fn the_other_serves(guest: &mut Guest, room: &[u32]) {
    hold(guest, 3, room);
    guest.unit.wait_for_held(1);
    let (response, _, data) = ask(guest, &request_to(LUN_1, 9, &ECHO_512), &[7; 512], 512);
    assert_eq!((response.response, data), (ResponseCode::OK, vec![7; 512]));
    release(guest, 3);
}

#[test]
fn a_logical_unit_that_hangs_leaves_workers_to_the_others() {
    let mut guest = two(Settings { request_queues: 1, workers: 2, ..Settings::default() });
    the_other_serves(&mut guest, &[RESPONSE]);
}

#[test]
fn a_logical_unit_that_hangs_leaves_buffers_to_the_others() {
    let mut guest = two(Settings { request_queues: 1, most_buffered: 2048, ..Settings::default() });
    the_other_serves(&mut guest, &[RESPONSE, 1024]);
}

#[test]
fn room_for_data_in_of_a_worker_counts_as_buffer() {
    let mut guest = two(Settings { request_queues: 1, most_buffered: 2048, ..Settings::default() });
    hold(&mut guest, 2, &[RESPONSE, 1024]);
    guest.unit.wait_for_held(1);
    // It needs no buffer and so passes those that wait: they have been looked at.
    ask(&mut guest, &request(9, &[0; 6]), &[], 0);
    assert_eq!(guest.unit.held(), 1, "the second one would have its half twice");
    release(&mut guest, 2);
}

/// What has begun has its blocks, and commands that have the buffers may be waiting for just those.
#[test]
fn a_transfer_never_waits_for_buffers_that_others_have() {
    let settings = Settings { request_queues: 1, most_buffered: 2048, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::aligned(512));
    guest.unit.put(0, &[9; 1024]);
    guest.run(EVENT_IDX);
    hold(&mut guest, 1, &[RESPONSE, 2048]);
    guest.unit.wait_for_held(1);
    // Behind the response in one descriptor the data is not aligned.
    let read = super::request::blocks(0x28, 0, 2);
    let head = guest.offer(QUEUE, &[&request(7, &read)], &[RESPONSE + 1024]);
    let used = guest.wait(QUEUE);
    assert_eq!((used.head, used.length), (head, RESPONSE + 1024));
    assert_eq!(guest.buffer(QUEUE, head + 1, 108 + 1024)[108..], [9; 1024]);
    release(&mut guest, 1);
}

/// Data that the guest took its memory away from.
#[test]
fn data_that_cannot_be_written_is_a_failure_and_not_an_old_answer() {
    let mut guest = Guest::start(EVENT_IDX);
    let region = VhostUserSingleMemoryRegion::new(0x1000_0000, 0x10000, 0x1000_0000, 0);
    guest.handler.add_mem_region(&region, crate::memory::tests::memfd(0x10000), None).unwrap();
    let mut held = HELD;
    held[8] = 64;
    let head = guest.prepare(QUEUE, &[&request(1, &held)], &[RESPONSE, 64]);
    let descriptor = u64::try_from(QUEUE).unwrap() * 0x4000 + 16 * u64::from(head + 2);
    guest.memory.write_all_at(&0x1000_0000_u64.to_le_bytes(), descriptor).unwrap();
    guest.publish(QUEUE, head);
    guest.kick(QUEUE);
    guest.unit.wait_for_held(1);
    guest.handler.remove_mem_region(&region).unwrap();
    guest.unit.release();
    let used = guest.wait(QUEUE);
    let response = Response::parse(&guest.buffer(QUEUE, head + 1, 12)).unwrap();
    assert_eq!((used.length, response.response), (RESPONSE, ResponseCode::FAILURE));
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
fn a_front_end_that_makes_an_interrupt_wait_for_its_reader_does_not_keep_a_ring_from_stopping() {
    let mut guest = Guest::start(EVENT_IDX | PROTOCOL);
    ask(&mut guest, &request(1, &[0; 6]), &[], 0);
    let call = guest.call_fd(QUEUE);
    let flags = rustix::fs::fcntl_getfl(call).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // The first command may be told of once more: full is only what was empty.
    while rustix::io::write(call, &(u64::MAX - 1).to_ne_bytes()).is_err() {
        let _ = rustix::io::read(call, &mut [0; 8]);
        assert!(Instant::now() < deadline);
    }
    rustix::fs::fcntl_setfl(call, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    guest.offer(QUEUE, &[&request(2, &[0; 6])], &[RESPONSE]);
    while guest.used_index(QUEUE) < 2 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let (sender, stopped) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send(guest.stop(2)).unwrap());
        let base = stopped.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| std::process::abort());
        assert_eq!(base, 2);
    });
    let mut count = [0; 8];
    rustix::io::read(guest.call_fd(QUEUE), &mut count).unwrap();
    assert!((1..=2).contains(&u64::from_ne_bytes(count)), "still interrupted");
}

/// Its ring's base is what the next one who has the ring goes on from.
#[test]
fn a_queue_whose_thread_panicked_has_no_base_and_no_connection() {
    let mut guest = Guest::start(EVENT_IDX | PROTOCOL);
    ask(&mut guest, &request(1, &[0; 6]), &[], 0);
    guest.offer(QUEUE, &[&request(2, &[crate::fake::BURST, 0, 0, 0, 0, 0])], &[RESPONSE]);
    assert!(guest.is_hung_up());
    assert!(guest.handler.get_vring_base(2).is_err());
    assert_eq!(guest.used_index(QUEUE), 1);
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
