//! A guest with a front end at each of two sockets: whose rings are processed.

use super::guest::{EVENT_IDX, Guest};
use super::request::{QUEUE, RESPONSE, ask, blocks, request};
use crate::device::{Device, Settings};
use crate::fake::{FakeUnit, HOLD};
use crate::gate::{OnError, Patience};
use crate::unit::Function;
use crate::wire::{Control, ResponseCode, Subtype};
use std::sync::Arc;
use std::time::Duration;
use vhost::vhost_user::VhostUserBackendReqHandlerMut;

const HOUR: Patience = Patience { wait: Duration::from_secs(3600), on_error: OnError::Busy };

/// The device, and the guest at its first front end.
fn guest(patience: Patience) -> Guest {
    Guest::with(Settings { request_queues: 1, patience, ..Settings::default() }, FakeUnit::new())
}

/// The same guest at another front end, with another memory.
fn beside(guest: &Guest) -> Guest {
    Guest::on(Arc::clone(&guest.device), Arc::clone(&guest.unit), crate::memory::tests::memfd(1 << 20))
}

fn stop_all(guest: &mut Guest) {
    (0..3).for_each(|ring| assert!(guest.stop(ring) < 100));
}

#[test]
fn the_destination_is_served_when_the_source_has_given_back_everything() {
    let mut source = guest(HOUR);
    source.run(EVENT_IDX);
    source.offer(QUEUE, &[&request(1, &[HOLD, 0, 0, 0, 0, 0, 0, 0, 0, 0])], &[RESPONSE]);
    source.unit.wait_for_held(1);
    let mut destination = beside(&source);
    destination.run(EVENT_IDX);
    destination.offer(QUEUE, &[&request(2, &blocks(0x28, 0, 1))], &[RESPONSE, 512]);
    source.stop(0);
    source.stop(1);
    destination.handler.advance().unwrap();
    source.unit.release();
    assert_eq!(source.stop(2), 1);
    destination.handler.advance().unwrap();
    destination.wait(QUEUE);
    // It failed, and the source goes on where it was.
    source.describe(QUEUE, 1);
    source.kick_fd(QUEUE);
    source.offer(QUEUE, &[&request(3, &blocks(0x28, 0, 1))], &[RESPONSE, 512]);
    source.handler.advance().unwrap();
    stop_all(&mut destination);
    source.handler.advance().unwrap();
    // The command that was held, and the new one.
    source.wait(QUEUE);
    source.wait(QUEUE);
}

#[test]
fn a_ring_that_was_never_let_in_stops_where_it_began() {
    let source = {
        let mut source = guest(HOUR);
        source.run(0);
        source
    };
    let mut destination = beside(&source);
    destination.run(0);
    destination.offer(QUEUE, &[&request(1, &blocks(0x2A, 0, 1)), &[7; 512]], &[RESPONSE]);
    destination.handler.advance().unwrap();
    assert_eq!((destination.stop(2), destination.used_index(QUEUE)), (0, 0));
    assert_eq!(source.unit.get(0, 512), [0; 512]);
}

#[test]
fn who_waits_for_too_long_gets_busy_and_touches_nothing_until_it_is_let_in() {
    let mut source = guest(Patience { wait: Duration::ZERO, ..HOUR });
    source.run(0);
    let mut destination = beside(&source);
    destination.run(0);
    let mut write = blocks(0x2A, 0, 1);
    write[1] = 8;
    let (response, _, _) = ask(&mut destination, &request(1, &write), &[7; 512], 0);
    assert_eq!((response.response, response.status), (ResponseCode::OK, 8));
    assert_eq!(destination.unit.get(0, 512), [0; 512]);
    let reset = Control::TaskManagement {
        subtype: Subtype::LOGICAL_UNIT_RESET,
        lun: [1, 0, 0, 0, 0, 0, 0, 0],
        id: 0,
    };
    let head = destination.offer(0, &[&reset.to_bytes()], &[1]);
    destination.wait(0);
    assert_eq!(destination.buffer(0, head + 1, 1), [ResponseCode::FUNCTION_REJECTED.0]);
    beside(&source).handler.reset_device().unwrap();
    assert_eq!(source.unit.managed(), [], "the guest that runs was reset by a front end where it does not");
    stop_all(&mut source);
    destination.handler.advance().unwrap();
    let (response, _, _) = ask(&mut destination, &request(1, &write), &[7; 512], 0);
    assert_eq!((response.response, response.status), (ResponseCode::OK, 0));
}

#[test]
fn a_front_end_that_goes_away_is_the_loss_of_the_nexus_and_a_device_that_ends_is_not() {
    for (has_gone, stops, lost) in [(true, false, 1), (true, true, 1), (false, false, 0), (false, true, 0)] {
        let mut guest = guest(HOUR);
        guest.run(0);
        if stops {
            stop_all(&mut guest);
        }
        guest.handler.end(has_gone);
        assert_eq!(guest.unit.managed(), vec![Function::NexusReset; lost], "{has_gone} {stops}");
    }
}

#[test]
fn who_goes_after_a_guest_has_moved_or_before_it_came_leaves_its_nexus_alone() {
    let mut source = guest(HOUR);
    source.run(0);
    let mut other = beside(&source);
    other.handler.end(true);
    drop(other);
    let mut destination = beside(&source);
    stop_all(&mut source);
    // The guest is paused, at the source as far as anybody knows.
    destination.handler.reset_device().unwrap();
    source.handler.end(true);
    assert_eq!(source.unit.managed(), []);
    destination.run(0);
    destination.handler.end(true);
    assert_eq!(source.unit.managed(), [Function::NexusReset], "there it ended while it ran");
}

#[test]
fn a_guest_that_is_elsewhere_is_not_served() {
    let device = Arc::new(Device::new("test", Settings { patience: HOUR, ..Settings::default() }, None));
    device.gate().shut().unwrap();
    let unit = FakeUnit::new();
    device.attach(0, unit.clone()).unwrap();
    let mut guest = Guest::on(Arc::clone(&device), unit, crate::memory::tests::memfd(1 << 20));
    guest.run(0);
    assert!(guest.handler.until().is_some());
    guest.offer(QUEUE, &[&request(1, &[0; 6])], &[RESPONSE]);
    assert_eq!(guest.used_index(QUEUE), 0);
    device.gate().open();
    guest.handler.advance().unwrap();
    guest.wait(QUEUE);
    assert_eq!((guest.handler.until(), device.gate().shut().is_err()), (None, true));
}
