//! A ring's life: states, draining, logging, in-flight recovery, and front ends that lie at their socket.

use super::super::{Stop, serve};
use super::guest::{EVENT_IDX, Guest, LOG_ALL, PROTOCOL, SIZE, VERSION_1, buffer, readable};
use super::request::{QUEUE, RESPONSE, ask, blocks, request};
use crate::device::{Device, Settings};
use crate::fake::{FakeUnit, HOLD};
use crate::inflight::Region;
use crate::wire::{Response, ResponseCode};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserInflight, VhostUserLog, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags,
};

const HELD: [u8; 10] = [HOLD, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn stopping_a_ring_waits_for_what_is_under_way() {
    let mut guest = Guest::start(EVENT_IDX);
    guest.offer(QUEUE, &[&request(1, &HELD)], &[RESPONSE]);
    guest.unit.wait_for_held(1);
    let unit = Arc::clone(&guest.unit);
    let releaser = std::thread::spawn(move || unit.release());
    assert_eq!(guest.stop(2), 1);
    assert_eq!(guest.used_index(QUEUE), 1);
    releaser.join().unwrap();
    // What is offered now waits for the next one who has the ring.
    guest.offer(QUEUE, &[&request(2, &[0; 6])], &[RESPONSE]);
    guest.describe(QUEUE, 1);
    guest.kick_fd(QUEUE);
    guest.wait(QUEUE);
    guest.wait(QUEUE);
    assert_eq!(guest.stop(2), 2);
}

#[test]
fn with_protocol_features_a_ring_runs_only_while_it_is_enabled() {
    let mut guest = Guest::new();
    guest.handler.set_features(VERSION_1 | PROTOCOL).unwrap();
    guest.describe(QUEUE, 0);
    guest.kick_fd(QUEUE);
    guest.offer(QUEUE, &[&request(1, &[0; 6])], &[RESPONSE]);
    // A thread that ran would have taken it before it stopped.
    assert_eq!(guest.stop(2), 0);
    guest.kick_fd(QUEUE);
    guest.handler.set_vring_enable(2, true).unwrap();
    guest.wait(QUEUE);
    guest.handler.set_vring_enable(2, false).unwrap();
    guest.offer(QUEUE, &[&request(2, &[0; 6])], &[RESPONSE]);
    assert_eq!(guest.stop(2), 1);
    guest.kick_fd(QUEUE);
    guest.handler.set_vring_enable(2, true).unwrap();
    guest.wait(QUEUE);
}

#[test]
fn what_a_running_ring_rests_on_does_not_change() {
    let mut guest = Guest::start(0);
    assert!(guest.handler.set_vring_num(2, 32).is_err());
    assert!(guest.handler.set_vring_base(2, 1).is_err());
    assert!(guest.handler.set_features(VERSION_1 | EVENT_IDX).is_err());
    let none = VhostUserVringAddrFlags::empty();
    assert!(guest.handler.set_vring_addr(2, none, 0, 0x40, 0x80, 0).is_err());
    assert!(guest.handler.set_config(20, &[64, 0, 0, 0], VhostUserConfigFlags::WRITABLE).is_err());
}

#[test]
fn lies_about_rings_and_features_are_errors() {
    let mut guest = Guest::new();
    assert!(guest.handler.set_features(1 << 34).is_err(), "packed rings");
    assert!(guest.handler.set_features(1 << 3).is_err(), "T10_PI");
    for size in [0, 3, 2048, 0x1_0000, u32::MAX] {
        assert!(guest.handler.set_vring_num(2, size).is_err(), "{size}");
    }
    assert!(guest.handler.set_vring_num(3, 16).is_err());
    assert!(guest.handler.set_vring_num(u32::MAX, 16).is_err());
    assert!(guest.handler.set_vring_base(2, 0x1_0000).is_err());
    assert!(guest.handler.set_vring_kick(2, None).is_err());
    guest.handler.set_features(VERSION_1).unwrap();
    guest.handler.set_vring_num(2, 16).unwrap();
    let none = VhostUserVringAddrFlags::empty();
    guest.handler.set_vring_addr(2, none, 0x1000, 0x2000, 0x3000, 0).unwrap();
    let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    assert!(guest.handler.set_vring_kick(2, Some(kick.into())).is_err(), "a ring outside memory");
}

#[test]
fn the_configuration_space_sets_the_lengths_of_cdb_and_sense() {
    let mut guest = Guest::new();
    assert_eq!(guest.handler.get_config(0, 4, VhostUserConfigFlags::empty()).unwrap(), [1, 0, 0, 0]);
    guest.handler.set_config(20, &[18, 0, 0, 0, 16, 0, 0, 0], VhostUserConfigFlags::WRITABLE).unwrap();
    assert!(guest.handler.set_config(0, &[9, 0, 0, 0], VhostUserConfigFlags::WRITABLE).is_err());
    guest.run(0);
    let mut header = request(1, &[0xFF; 6]);
    header.truncate(19 + 16);
    guest.offer(QUEUE, &[&header], &[12 + 18]);
    let used = guest.wait(QUEUE);
    assert_eq!(used.length, 30);
    let response = Response::parse(&guest.buffer(QUEUE, used.head + 1, 12)).unwrap();
    assert_eq!((response.status, response.sense_length), (2, 18));
}

#[test]
fn every_page_that_is_written_is_in_the_log_from_the_moment_it_is_on() {
    let mut guest = Guest::start(EVENT_IDX);
    let log = crate::memory::tests::memfd(4096);
    let base = VhostUserLog { mmap_size: 4096, mmap_offset: 0 };
    guest.handler.set_log_base(&base, log.try_clone().unwrap()).unwrap();
    ask(&mut guest, &request(1, &blocks(0x28, 0, 1)), &[], 512);
    let marked = |page: u64| {
        let mut byte = [0];
        log.read_exact_at(&mut byte, page / 8).unwrap();
        byte[0] & 1 << (page % 8) != 0
    };
    let head = 3;
    let pages =
        [buffer(QUEUE, head + 1) / 4096, buffer(QUEUE, head + 2) / 4096, (0x4000 * 2 + 0x2000) / 4096];
    assert!(!pages.into_iter().any(marked));
    guest.handler.set_features(VERSION_1 | EVENT_IDX | LOG_ALL).unwrap();
    ask(&mut guest, &request(2, &blocks(0x28, 0, 1)), &[], 512);
    for page in pages {
        assert!(marked(page), "page {page:#x}");
    }
    assert!(!marked(buffer(QUEUE, head) / 4096), "the request itself was only read");
}

#[test]
fn a_log_that_is_too_short_ends_the_connection_instead_of_losing_a_page() {
    let mut guest = Guest::start(EVENT_IDX);
    let base = VhostUserLog { mmap_size: 1, mmap_offset: 0 };
    guest.handler.set_log_base(&base, crate::memory::tests::memfd(4096)).unwrap();
    guest.handler.set_features(VERSION_1 | EVENT_IDX | LOG_ALL).unwrap();
    guest.offer(QUEUE, &[&request(1, &[0; 6])], &[RESPONSE]);
    assert!(guest.is_hung_up());
}

#[test]
fn what_a_killed_device_had_taken_is_done_again_in_order_before_anything_new() {
    let mut guest = Guest::new();
    let wanted = VhostUserInflight { mmap_size: 0, mmap_offset: 0, num_queues: 3, queue_size: SIZE };
    let (given, file) = guest.handler.get_inflight_fd(&wanted).unwrap();
    // INQUIRY ends at once, and its length says which it was.
    let inquiry = |length: u8| request(1, &[0x12, 0, 0, 0, length, 0]);
    let heads: Vec<u16> =
        (1..=3).map(|length| guest.prepare(QUEUE, &[&inquiry(length)], &[RESPONSE, 8])).collect();
    heads.iter().for_each(|head| guest.publish(QUEUE, *head));
    {
        // The device that was killed: took the second before the first.
        let region = Region::accept(file.try_clone().unwrap(), 0, given.mmap_size, 3, SIZE).unwrap();
        let mut before = region.queue(2).unwrap();
        before.recover(0, SIZE).unwrap();
        before.take(heads[1]).unwrap();
        before.take(heads[0]).unwrap();
    }
    guest.handler.set_inflight_fd(&given, file).unwrap();
    guest.run(0);
    for (head, length) in [(heads[1], 2), (heads[0], 1), (heads[2], 3)] {
        let used = guest.wait(QUEUE);
        assert_eq!((used.head, used.length), (head, RESPONSE + length));
    }
    assert_eq!(guest.stop(2), 3);
}

#[test]
fn what_must_be_done_once_is_not_done_again_after_a_kill_and_nobody_knows_whether_it_was_done() {
    let mut guest = Guest::new();
    let wanted = VhostUserInflight { mmap_size: 0, mmap_offset: 0, num_queues: 3, queue_size: SIZE };
    let (given, file) = guest.handler.get_inflight_fd(&wanted).unwrap();
    // PERSISTENT RESERVE OUT and COMPARE AND WRITE, taken by the device that was killed; and another that was not.
    let heads: Vec<u16> = [0x5F, 0x89, 0x5F]
        .map(|code| guest.prepare(QUEUE, &[&request(1, &[code, 0, 0, 0, 0, 0, 0, 0, 0, 0])], &[RESPONSE]))
        .to_vec();
    heads.iter().for_each(|head| guest.publish(QUEUE, *head));
    {
        let region = Region::accept(file.try_clone().unwrap(), 0, given.mmap_size, 3, SIZE).unwrap();
        let mut before = region.queue(2).unwrap();
        before.recover(0, SIZE).unwrap();
        heads[..2].iter().for_each(|head| before.take(*head).unwrap());
    }
    guest.handler.set_inflight_fd(&given, file).unwrap();
    guest.run(0);
    for (head, code) in heads.iter().zip([6, 6, 0]) {
        assert_eq!(guest.wait(QUEUE).head, *head);
        // VIRTIO_SCSI_S_TRANSPORT_FAILURE is 6; the fake logical unit refuses what it does not know, with a status.
        assert_eq!(guest.buffer(QUEUE, head + 1, 12)[11], code);
    }
}

#[test]
fn an_inflight_region_that_lies_is_an_error() {
    let mut guest = Guest::new();
    let wanted = VhostUserInflight { mmap_size: 0, mmap_offset: 0, num_queues: 3, queue_size: SIZE };
    let (given, file) = guest.handler.get_inflight_fd(&wanted).unwrap();
    file.write_all_at(&[0xFF; 512], 0).unwrap();
    guest.handler.set_inflight_fd(&given, file).unwrap();
    guest.handler.set_features(VERSION_1).unwrap();
    guest.describe(0, 0);
    let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    assert!(guest.handler.set_vring_kick(0, Some(kick.into())).is_err());
    let zero = VhostUserInflight { num_queues: 0, ..wanted };
    assert!(guest.handler.get_inflight_fd(&zero).is_err());
}

#[test]
fn an_inflight_region_that_is_pulled_away_ends_the_connection() {
    let mut guest = Guest::new();
    let wanted = VhostUserInflight { mmap_size: 0, mmap_offset: 0, num_queues: 3, queue_size: SIZE };
    let (given, _) = guest.handler.get_inflight_fd(&wanted).unwrap();
    // A front end may bring a file of its own, that is not sealed.
    let file = crate::memory::tests::memfd(given.mmap_size);
    guest.handler.set_inflight_fd(&given, file.try_clone().unwrap()).unwrap();
    guest.run(0);
    file.set_len(0).unwrap();
    guest.offer(QUEUE, &[&request(1, &[0; 6])], &[RESPONSE]);
    assert!(guest.is_hung_up());
}

#[test]
fn memory_comes_and_goes_while_commands_run() {
    let mut guest = Guest::start(EVENT_IDX);
    guest.offer(QUEUE, &[&request(1, &HELD)], &[RESPONSE]);
    guest.unit.wait_for_held(1);
    guest.share_memory();
    let more = crate::memory::tests::memfd(0x10000);
    let region = VhostUserSingleMemoryRegion::new(0x1000_0000, 0x10000, 0x1000_0000, 0);
    guest.handler.add_mem_region(&region, more, None).unwrap();
    guest.handler.remove_mem_region(&region).unwrap();
    assert!(guest.handler.remove_mem_region(&region).is_err());
    guest.unit.release();
    let used = guest.wait(QUEUE);
    assert_eq!(Response::parse(&guest.buffer(QUEUE, used.head + 1, 12)).unwrap().response, ResponseCode::OK);
}

#[test]
fn a_ring_whose_memory_is_taken_away_goes_on_and_moves_when_it_comes_back() {
    let mut guest = Guest::start(EVENT_IDX);
    guest.handler.remove_mem_region(&guest.region()).unwrap();
    // What was there is still the guest's.
    guest.unit.put(0, &[1; 512]);
    let (_, _, data) = ask(&mut guest, &request(1, &blocks(0x28, 0, 1)), &[], 512);
    assert_eq!(data, [1; 512]);
    // The same memory at the front end's same address, in another file.
    let moved = crate::memory::tests::memfd(guest.memory.metadata().unwrap().len());
    std::io::copy(&mut guest.memory.try_clone().unwrap(), &mut moved.try_clone().unwrap()).unwrap();
    guest.memory = moved;
    guest.handler.add_mem_region(&guest.region(), guest.memory.try_clone().unwrap(), None).unwrap();
    guest.unit.put(0, &[2; 512]);
    let (_, _, data) = ask(&mut guest, &request(2, &blocks(0x28, 0, 1)), &[], 512);
    assert_eq!(data, [2; 512]);
}

#[test]
fn a_front_end_gets_its_share_of_what_the_process_can_map_and_no_more() {
    let settings =
        Settings { request_queues: 1, most_memory: 2 << 20, most_regions: 3, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    assert_eq!(guest.handler.get_max_mem_slots().unwrap(), 3);
    let mut add = |at: u64, length: u64| {
        let region = VhostUserSingleMemoryRegion::new(at << 20, length, at << 20, 0);
        guest.handler.add_mem_region(&region, crate::memory::tests::memfd(1 << 45), None)
    };
    assert!(add(1, (1 << 20) + 1).is_err());
    assert!(add(1, 1 << 45).is_err());
    add(1, 1 << 19).unwrap();
    add(2, 1 << 18).unwrap();
    assert!(add(3, 1 << 12).is_err(), "a fourth region");
}

/// A file of FUSE answers when its server likes; a pipe stands for it here, as no test makes one.
#[test]
fn nothing_that_may_wait_for_ever_is_taken_for_an_eventfd_or_for_memory() {
    let mut guest = Guest::new();
    let pipe = || std::fs::File::from(std::os::fd::OwnedFd::from(std::io::pipe().unwrap().1));
    assert!(guest.handler.set_vring_kick(2, Some(pipe())).is_err());
    assert!(guest.handler.set_vring_call(2, Some(pipe())).is_err());
    assert!(guest.handler.set_vring_err(2, Some(pipe())).is_err());
    assert!(guest.handler.set_vring_call(2, None).is_ok());
    let file = || std::fs::File::open("/proc/self/status").unwrap();
    let log = VhostUserLog { mmap_size: 1, mmap_offset: 0 };
    let error = guest.handler.set_log_base(&log, file()).unwrap_err();
    assert!(format!("{error:?}").contains("NotLocal"), "{error:?}");
    let given = VhostUserInflight { mmap_size: 4096, mmap_offset: 0, num_queues: 1, queue_size: 1 };
    let error = guest.handler.set_inflight_fd(&given, file()).unwrap_err();
    assert!(format!("{error:?}").contains("NotLocal"), "{error:?}");
}

#[test]
fn an_interrupt_that_may_have_been_lost_is_sent_again_by_the_new_eventfd() {
    let mut guest = Guest::start(0);
    let call = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    guest.handler.set_vring_call(2, Some(call.try_clone().unwrap().into())).unwrap();
    assert!(readable(&call, Duration::from_secs(60)));
}

#[test]
fn a_reset_device_is_as_new() {
    let mut guest = Guest::start(0);
    guest.handler.reset_device().unwrap();
    assert_eq!(guest.unit.managed(), [crate::unit::Function::NexusReset]);
    guest.handler.set_features(VERSION_1 | EVENT_IDX).unwrap();
    guest.handler.set_vring_num(2, 32).unwrap();
}

/// A vhost-user message without descriptors.
fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&code.to_le_bytes()[..], &flags.to_le_bytes(), &length.to_le_bytes(), body].concat()
}

fn get_features(socket: &mut UnixStream) -> u64 {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.write_all(&message(1, 1, &[])).unwrap();
    let mut reply = [0; 20];
    socket.read_exact(&mut reply).unwrap();
    u64::from_le_bytes(reply[12..].try_into().unwrap())
}

#[test]
fn a_front_end_that_lies_is_disconnected_and_the_next_one_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let device = Arc::new(Device::new("test", Settings::default(), None));
    let stop = Stop::new().unwrap();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(&listener, &device, &stop));
        let lies = [
            message(0, 0, &[]),
            message(999, 1, &[]),
            message(2, 1, &u64::MAX.to_le_bytes()),
            message(8, 1, &[0xFF; 8]),
            message(1, 1, &[0; 4096]),
            vec![0xFF; 64],
        ];
        for lie in lies {
            let mut socket = UnixStream::connect(&path).unwrap();
            assert_ne!(get_features(&mut socket) & VERSION_1, 0);
            socket.write_all(&lie).unwrap();
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let mut rest = Vec::new();
            // End of file, or a reset where the device left bytes unread.
            let _ = socket.read_to_end(&mut rest);
            assert!(rest.is_empty(), "{lie:x?}");
        }
        // One that says half a message and then nothing does not keep us from stopping.
        let mut socket = UnixStream::connect(&path).unwrap();
        get_features(&mut socket);
        socket.write_all(&[1, 0, 0]).unwrap();
        stop.stop();
        serving.join().unwrap().unwrap();
    });
}
