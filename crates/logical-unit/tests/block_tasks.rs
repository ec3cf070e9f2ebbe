//! The task set: what PREEMPT AND ABORT and the task management functions do to commands under way, and
//! what resets leave behind (SAM-5 5.3.1, 6.3, 7).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use logical_unit::{Aborted, Task};
use scsi::block::{Command, Form, ModeSelect, Operation};
use scsi::mode::{Control, ModeParameters, Page};
use scsi::pr::{Key, ReservationType, request};
use scsi::{AdditionalSense, Completion, SenseKey, Status};
use support::{BLOCK, Host, good, memory, refused};

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const RESERVE: [u8; 6] = [0x16, 0, 0, 0, 0, 0];

/// Takes every unit attention and gives their codes.
fn attentions(host: &Host) -> Vec<AdditionalSense> {
    let mut codes = Vec::new();
    loop {
        let completion = host.raw(&TEST_UNIT_READY, &[]);
        if completion.status.is_good() {
            return codes;
        }
        let (key, code) = refused(&completion);
        assert_eq!(key, SenseKey::UNIT_ATTENTION);
        codes.push(code);
    }
}

fn set_control(host: &Host, (byte, bits): (usize, u8)) {
    let mut body = vec![0, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0];
    body[byte] |= bits;
    let page = Page { saveable: false, code: 0x0A, subpage: None, body };
    let list = ModeParameters { pages: vec![page], ..Default::default() }.to_bytes(Form::Ten);
    let length = u16::try_from(list.len()).unwrap();
    let command = ModeSelect { form: Form::Ten, page_format: true, save: false, length };
    good(host.run(Command::ModeSelect(command), &list));
}

/// A WRITE of host `b` is under way while host `a`, which holds Write Exclusive, preempts and aborts it.
fn preempted_with_abort(tas: bool) -> (Host, Host, Task, Completion) {
    let unit = memory();
    let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
    if tas {
        set_control(&a, Control::TAS);
        assert_eq!(attentions(&b), [AdditionalSense::MODE_PARAMETERS_CHANGED]);
    }
    good(a.send(&request::register(Key(0), Key(1), false)));
    good(b.send(&request::register(Key(0), Key(2), false)));
    good(a.send(&request::reserve(Key(1), ReservationType(5))));
    let task = b.begin(7);
    let mut abort = request::preempt(Key(1), Key(2), ReservationType(5));
    abort.cdb[1] = 5;
    good(a.send(&abort));
    let cdb = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let completion = unit.execute(&b.handle, &task, &cdb, &[1; BLOCK]);
    (a, b, task, completion)
}

#[test]
fn preempt_and_abort_ends_commands_silently_and_tells_their_nexus() {
    let (a, b, task, completion) = preempted_with_abort(false);
    assert_eq!(task.is_aborted(), Some(Aborted::Silently));
    assert!(!completion.status.is_good());
    assert_eq!(a.read(0, 1), [0; BLOCK], "the aborted WRITE never reached the medium");
    let told = attentions(&b);
    assert!(told.contains(&AdditionalSense::REGISTRATIONS_PREEMPTED), "{told:?}");
    assert!(told.contains(&AdditionalSense::COMMANDS_CLEARED), "{told:?}");
}

#[test]
fn with_tas_preempt_and_abort_ends_commands_with_task_aborted() {
    let (_a, b, task, _) = preempted_with_abort(true);
    assert_eq!(task.is_aborted(), Some(Aborted::TaskAbortedStatus));
    assert_eq!(attentions(&b), [AdditionalSense::REGISTRATIONS_PREEMPTED]);
}

#[test]
fn an_aborted_command_of_an_allowed_nexus_ends_with_task_aborted() {
    let unit = memory();
    let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
    let (aborted, other) = (a.begin(5), a.begin(6));
    assert!(unit.abort_task(&a.handle, 5));
    assert!(!unit.abort_task(&a.handle, 9));
    assert!(!unit.abort_task(&b.handle, 6), "a tag means a command of its own nexus");
    assert_eq!(unit.execute(&a.handle, &aborted, &TEST_UNIT_READY, &[]).status, Status::TASK_ABORTED);
    assert_eq!(unit.execute(&a.handle, &other, &TEST_UNIT_READY, &[]).status, Status::GOOD);
    drop(other);
    assert!(!unit.abort_task(&a.handle, 6), "a finished command is not in the task set");
}

#[test]
fn abort_task_set_spares_other_nexuses_and_clear_task_set_does_not() {
    let unit = memory();
    let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
    let (of_a, of_b) = (a.begin(1), b.begin(1));
    unit.abort_task_set(&a.handle);
    assert_eq!((of_a.is_aborted(), of_b.is_aborted()), (Some(Aborted::Silently), None));
    unit.clear_task_set(&a.handle);
    assert_eq!(of_b.is_aborted(), Some(Aborted::Silently));
    assert_eq!(attentions(&b), [AdditionalSense::COMMANDS_CLEARED]);
    assert_eq!(attentions(&a), []);
}

#[test]
fn a_reset_ends_commands_and_spc_2_reservations_and_mode_changes_but_no_registration() {
    type Reset = fn(&logical_unit::LogicalUnit);
    let resets: [(Reset, AdditionalSense); 2] = [
        (logical_unit::LogicalUnit::reset, AdditionalSense::TARGET_RESET),
        (logical_unit::LogicalUnit::target_reset, AdditionalSense::POWER_ON_OR_RESET),
    ];
    for (reset, code) in resets {
        let unit = memory();
        let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
        set_control(&a, Control::SWP);
        attentions(&b);
        good(a.raw(&RESERVE, &[]));
        assert_eq!(b.raw(&TEST_UNIT_READY, &[]).status, Status::RESERVATION_CONFLICT);
        let task = a.begin(1);
        reset(&unit);
        assert_eq!(task.is_aborted(), Some(Aborted::Reset));
        assert_eq!((attentions(&a), attentions(&b)), (vec![code], vec![code]));
        b.write(0, &[1; BLOCK]);
        good(a.send(&request::register(Key(0), Key(1), false)));
        reset(&unit);
        assert!(unit.inspect(|unit| !unit.reservations().registrations().is_empty()));
    }
}

#[test]
fn losing_the_nexus_ends_its_commands_and_spc_2_reservation_and_keeps_its_registration() {
    let unit = memory();
    let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
    good(a.raw(&RESERVE, &[]));
    let task = a.begin(1);
    unit.nexus_lost(&a.handle);
    assert_eq!(task.is_aborted(), Some(Aborted::Silently));
    assert_eq!(a.begin(2).is_aborted(), Some(Aborted::Silently), "nothing comes through a lost nexus");
    good(b.raw(&TEST_UNIT_READY, &[]));
    let a = Host::new(&unit, 1);
    good(a.send(&request::register(Key(0), Key(1), false)));
    good(a.send(&request::reserve(Key(1), ReservationType(3))));
    unit.nexus_lost(&a.handle);
    assert_eq!(b.access(Operation::Read, Form::Ten, 0, 1, &[]).status, Status::RESERVATION_CONFLICT);
    let again = Host::new(&unit, 1);
    assert_eq!(attentions(&again), [AdditionalSense::NEXUS_LOSS]);
    good(again.access(Operation::Read, Form::Ten, 0, 1, &[]));
}

#[test]
fn descriptor_sense_and_write_protection_follow_the_control_page() {
    let unit = memory();
    let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
    set_control(&a, Control::D_SENSE);
    assert_eq!(b.raw(&TEST_UNIT_READY, &[]).sense[0], 0x72, "a unit attention too");
    assert_eq!(a.raw(&[0xFF; 16], &[]).sense[0], 0x72);
    set_control(&a, Control::SWP);
    assert_eq!(a.raw(&[0xFF; 16], &[]).sense[0], 0x70);
    let refusal = a.access(Operation::Write, Form::Ten, 0, 1, &[0; BLOCK]);
    assert_eq!(refused(&refusal), (SenseKey::DATA_PROTECT, AdditionalSense::SOFTWARE_WRITE_PROTECTED));
    good(a.access(Operation::Read, Form::Ten, 0, 1, &[]));
}

#[test]
fn a_stopped_unit_is_not_ready_until_it_is_started() {
    let unit = memory();
    let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
    let start_stop = |host: &Host, what| host.raw(&[0x1B, 0, 0, 0, what, 0], &[]);
    good(start_stop(&a, 0));
    let not_ready = (SenseKey::NOT_READY, AdditionalSense::INITIALIZING_COMMAND_REQUIRED);
    assert_eq!(refused(&b.raw(&TEST_UNIT_READY, &[])), not_ready);
    assert_eq!(refused(&b.access(Operation::Read, Form::Ten, 0, 1, &[])), not_ready);
    assert_eq!(good(b.raw(&[0x03, 0, 0, 0, 18, 0], &[]))[2], 0x02, "REQUEST SENSE tells it as data");
    good(start_stop(&b, 1));
    good(a.raw(&TEST_UNIT_READY, &[]));
    assert_eq!(refused(&start_stop(&a, 2)).0, SenseKey::ILLEGAL_REQUEST, "there is nothing to eject");
}
