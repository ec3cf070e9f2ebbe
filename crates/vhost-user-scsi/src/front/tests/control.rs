//! Task management and events.

use super::guest::{CHANGE, EVENT_IDX, Guest, HOTPLUG};
use super::request::{QUEUE, RESPONSE, ask, request};
use crate::device::Settings;
use crate::event::Event as Happened;
use crate::fake::{FakeUnit, HOLD};
use crate::unit::Function;
use crate::wire::{AsyncReply, Control, Event, EventKind, Reason, Response, ResponseCode, Subtype};
use scsi::AdditionalSense;

const CONTROL: usize = 0;
const EVENT: usize = 1;
const LUN: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

fn manage(guest: &mut Guest, subtype: Subtype, lun: [u8; 8], id: u64) -> ResponseCode {
    let head = guest.offer(CONTROL, &[&Control::TaskManagement { subtype, lun, id }.to_bytes()], &[1]);
    let used = guest.wait(CONTROL);
    assert_eq!((used.head, used.length), (head, 1));
    ResponseCode(guest.buffer(CONTROL, head + 1, 1)[0])
}

fn hold(guest: &mut Guest, tag: u64) -> u16 {
    guest.offer(QUEUE, &[&request(tag, &[HOLD, 0, 0, 0, 0, 0, 0, 0, 0, 0])], &[RESPONSE])
}

/// The response of a held command that is already in the used ring.
fn answered(guest: &mut Guest) -> (u16, ResponseCode) {
    let used = guest.wait(QUEUE);
    (used.head, Response::parse(&guest.buffer(QUEUE, used.head + 1, 12)).unwrap().response)
}

#[test]
fn abort_task_is_answered_after_the_command_has_left() {
    let mut guest = Guest::start(EVENT_IDX);
    let first = hold(&mut guest, 77);
    hold(&mut guest, 78);
    guest.unit.wait_for_held(2);
    assert_eq!(manage(&mut guest, Subtype::QUERY_TASK, LUN, 77), ResponseCode::FUNCTION_SUCCEEDED);
    assert_eq!(manage(&mut guest, Subtype::ABORT_TASK, LUN, 77), ResponseCode::OK);
    assert_eq!(guest.used_index(QUEUE), 1, "the function was answered before the command");
    assert_eq!(answered(&mut guest), (first, ResponseCode::ABORTED));
    assert_eq!(manage(&mut guest, Subtype::QUERY_TASK, LUN, 77), ResponseCode::OK);
    assert_eq!(manage(&mut guest, Subtype::QUERY_TASK_SET, LUN, 0), ResponseCode::FUNCTION_SUCCEEDED);
    assert_eq!(manage(&mut guest, Subtype::ABORT_TASK, LUN, 12345), ResponseCode::OK);
}

#[test]
fn a_reset_ends_all_commands_before_it_is_answered() {
    for (subtype, function, expected) in [
        (Subtype::LOGICAL_UNIT_RESET, Function::LogicalUnitReset, ResponseCode::RESET),
        (Subtype::I_T_NEXUS_RESET, Function::NexusReset, ResponseCode::RESET),
        (Subtype::ABORT_TASK_SET, Function::AbortTaskSet, ResponseCode::ABORTED),
        (Subtype::CLEAR_TASK_SET, Function::ClearTaskSet, ResponseCode::ABORTED),
    ] {
        let mut guest = Guest::start(0);
        hold(&mut guest, 1);
        hold(&mut guest, 2);
        guest.unit.wait_for_held(2);
        assert_eq!(manage(&mut guest, subtype, LUN, 0), ResponseCode::OK);
        assert_eq!(guest.used_index(QUEUE), 2);
        assert_eq!(guest.unit.managed(), [function]);
        assert_eq!(answered(&mut guest).1, expected);
    }
}

#[test]
fn what_was_offered_before_a_function_is_aborted_without_a_kick() {
    let mut guest = Guest::start(0);
    // The queue's thread has begun, and waits for kicks.
    ask(&mut guest, &request(4, &[0; 6]), &[], 0);
    let head = guest.prepare(QUEUE, &[&request(5, &[HOLD, 0, 0, 0, 0, 0, 0, 0, 0, 0])], &[RESPONSE]);
    guest.publish(QUEUE, head);
    assert_eq!(manage(&mut guest, Subtype::ABORT_TASK, LUN, 5), ResponseCode::OK);
    assert_eq!(answered(&mut guest), (head, ResponseCode::ABORTED));
}

/// Two commands at once; the rest stays in the ring.
fn narrow() -> Guest {
    let settings = Settings { request_queues: 1, most_requests: 2, ..Settings::default() };
    let mut guest = Guest::with(settings, FakeUnit::new());
    guest.run(EVENT_IDX);
    hold(&mut guest, 1);
    hold(&mut guest, 2);
    guest.unit.wait_for_held(2);
    guest
}

#[test]
fn what_a_queue_has_no_room_for_yet_is_ended_with_the_rest() {
    for subtype in [Subtype::ABORT_TASK_SET, Subtype::CLEAR_TASK_SET] {
        let mut guest = narrow();
        for tag in 3..6 {
            hold(&mut guest, tag);
        }
        assert_eq!(manage(&mut guest, subtype, LUN, 0), ResponseCode::OK);
        assert_eq!(guest.used_index(QUEUE), 5, "the function was answered before the commands");
        (0..5).for_each(|_| assert_eq!(answered(&mut guest).1, ResponseCode::ABORTED));
    }
}

#[test]
fn a_task_that_is_still_in_the_ring_is_aborted_when_its_turn_comes_and_only_then_is_that_said() {
    let mut guest = narrow();
    let third = hold(&mut guest, 7);
    let ask = |subtype, id| Control::TaskManagement { subtype, lun: LUN, id }.to_bytes();
    let late = guest.offer(CONTROL, &[&ask(Subtype::ABORT_TASK, 7)], &[1]);
    // That makes room.
    guest.offer(CONTROL, &[&ask(Subtype::ABORT_TASK, 1)], &[1]);
    let answers = [guest.wait(CONTROL).head, guest.wait(CONTROL).head];
    assert!(answers.contains(&late));
    assert_eq!(guest.used_index(QUEUE), 2);
    let ended = [answered(&mut guest), answered(&mut guest)];
    assert!(ended.iter().all(|(_, code)| *code == ResponseCode::ABORTED), "{ended:?}");
    assert_eq!(ended[1].0, third);
}

#[test]
fn functions_for_nobody_say_so() {
    let mut guest = Guest::start(0);
    let missing = [1, 0, 0, 9, 0, 0, 0, 0];
    let elsewhere = [1, 3, 0, 0, 0, 0, 0, 0];
    assert_eq!(manage(&mut guest, Subtype::LOGICAL_UNIT_RESET, missing, 0), ResponseCode::INCORRECT_LUN);
    assert_eq!(manage(&mut guest, Subtype::LOGICAL_UNIT_RESET, elsewhere, 0), ResponseCode::BAD_TARGET);
    assert_eq!(manage(&mut guest, Subtype::I_T_NEXUS_RESET, elsewhere, 0), ResponseCode::BAD_TARGET);
    assert_eq!(manage(&mut guest, Subtype::CLEAR_ACA, LUN, 0), ResponseCode::FUNCTION_REJECTED);
    assert_eq!(manage(&mut guest, Subtype(99), LUN, 0), ResponseCode::FUNCTION_REJECTED);
    assert_eq!(guest.unit.managed(), []);
}

#[test]
fn no_asynchronous_notifications_are_supported_and_nonsense_comes_back_empty() {
    let mut guest = Guest::start(0);
    let query = Control::Query { lun: LUN, events: crate::wire::AsyncEvents(0x7E) };
    let head = guest.offer(CONTROL, &[&query.to_bytes()], &[5]);
    assert_eq!(guest.wait(CONTROL).length, 5);
    let reply = AsyncReply::parse(&guest.buffer(CONTROL, head + 1, 5)).unwrap();
    assert_eq!((reply.events.0, reply.response), (0, ResponseCode::OK));
    for (out, room) in [(&[9; 24][..], 5), (&query.to_bytes()[..10], 5), (&query.to_bytes()[..], 4)] {
        guest.offer(CONTROL, &[out], &[room]);
        assert_eq!(guest.wait(CONTROL).length, 0);
    }
}

fn next_event(guest: &mut Guest) -> Event {
    let used = guest.wait(EVENT);
    assert_eq!(used.length, 16);
    Event::parse(&guest.buffer(EVENT, used.head, 16)).unwrap()
}

#[test]
fn logical_units_that_come_and_go_are_told_and_reached() {
    let mut guest = Guest::start(HOTPLUG | CHANGE);
    for _ in 0..4 {
        guest.offer(EVENT, &[], &[16]);
    }
    guest.device.attach(7, FakeUnit::new()).unwrap();
    let event = next_event(&mut guest);
    assert_eq!((event.kind, event.reason), (EventKind::TRANSPORT_RESET, Reason::RESCAN));
    assert_eq!(event.lun, [1, 0, 0, 7, 0, 0, 0, 0]);
    let there = super::request::request_to([1, 0, 0, 7, 0, 0, 0, 0], 1, &[0; 6]);
    assert_eq!(ask(&mut guest, &there, &[], 0).0.status, 0);
    guest.device.detach(7).unwrap();
    assert_eq!(next_event(&mut guest).reason, Reason::REMOVED);
    assert_eq!(ask(&mut guest, &there, &[], 0).0.status, 2);
    guest.device.events().push(Happened::Changed(0, AdditionalSense { asc: 0x2A, ascq: 9 }));
    let event = next_event(&mut guest);
    assert_eq!((event.kind, event.reason), (EventKind::PARAM_CHANGE, Reason::sense(0x2A, 9)));
}

/// Its file is somebody else's to serve then.
#[test]
fn a_logical_unit_that_is_taken_away_is_let_go_by_queues_that_are_idle() {
    let mut guest = Guest::start(HOTPLUG);
    let unit = FakeUnit::new();
    guest.device.attach(7, unit.clone()).unwrap();
    let there = super::request::request_to([1, 0, 0, 7, 0, 0, 0, 0], 1, &[0; 6]);
    assert_eq!(ask(&mut guest, &there, &[], 0).0.status, 0);
    drop(guest.device.detach(7).unwrap());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::sync::Arc::strong_count(&unit) > 1 {
        assert!(std::time::Instant::now() < deadline, "somebody keeps it");
        std::thread::yield_now();
    }
}

#[test]
fn an_event_waits_for_a_buffer_and_one_that_is_too_small_is_no_buffer() {
    let mut guest = Guest::start(HOTPLUG);
    guest.device.attach(7, FakeUnit::new()).unwrap();
    guest.offer(EVENT, &[], &[15]);
    assert_eq!(guest.wait(EVENT).length, 0);
    guest.offer(EVENT, &[], &[16]);
    assert_eq!(next_event(&mut guest).reason, Reason::RESCAN);
}

#[test]
fn events_that_had_no_room_to_wait_are_told_as_missed() {
    let mut guest = Guest::start(HOTPLUG);
    guest.device.events().push(Happened::Removed(3));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while guest.device.events().waiting() > 0 {
        assert!(std::time::Instant::now() < deadline, "the queue does not take it");
        std::thread::yield_now();
    }
    // The queue has an event in its hands, and all that come now are behind it.
    (0..100).for_each(|_| guest.device.events().push(Happened::Removed(3)));
    guest.offer(EVENT, &[], &[16]);
    assert_eq!(next_event(&mut guest).kind.0, EventKind::TRANSPORT_RESET.0 | EventKind::MISSED.0);
    guest.offer(EVENT, &[], &[16]);
    assert_eq!(next_event(&mut guest).kind, EventKind::TRANSPORT_RESET, "it is told once");
}
