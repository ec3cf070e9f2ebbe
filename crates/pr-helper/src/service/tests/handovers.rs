//! Handovers that begin, or end, while a command of the guest is with the device.

use super::*;

impl Bench {
    /// What another process appends while the guest's next command is with the device.
    fn meanwhile(&self, state: State) {
        let book = Arc::clone(&self.book);
        let change = Change::State { state, handover: Some(HandoverId(7)), why: None };
        let append = move || book.guest.append(&[(lun(), change)]).unwrap();
        *self.line.meanwhile.lock().unwrap() = Some(Box::new(append));
    }
}

#[test]
fn a_guest_that_moved_while_it_read_stays_moved_whatever_the_reply_tells() {
    let mut bench = holder("spc", false);
    bench.foreign(&request::register(Key::NONE, OTHER, false));
    bench.foreign(&request::preempt(OTHER, KEY, KIND));
    bench.meanwhile(State::Moved);
    let before = bench.line.cdbs.lock().unwrap().len();
    let told = bench.guest(&request::read(InAction::READ_KEYS, 8192));
    assert_eq!(code(&told), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(bench.record().state, State::Moved);
    let registers = bench.guest(&request::register_and_ignore(KEY, false));
    assert_eq!(registers.status, Status::RESERVATION_CONFLICT);
    assert_eq!(bench.line.cdbs.lock().unwrap().len(), before + 1, "nothing but the read reached the device");
}

#[test]
fn a_handover_that_begins_while_a_command_is_under_way_stays_recorded() {
    let mut bench = holder("spc", false);
    bench.fence_unseen();
    bench.guest(&request::read(InAction::READ_KEYS, 8192));
    assert_eq!(bench.record().state, State::Fenced);
    bench.meanwhile(State::Handover);
    assert_eq!(bench.insist(&request::register_and_ignore(KEY, false)).status, Status::GOOD);
    let record = bench.record();
    assert_eq!(
        (record.state, record.handover, record.found),
        (State::Handover, Some(HandoverId(7)), State::Active)
    );
    assert_eq!(bench.recorded(), (Some(KEY), None));
}

#[test]
fn a_guest_that_is_fenced_is_still_so_when_the_handover_that_began_meanwhile_has_ended() {
    let mut bench = holder("spc", false);
    bench.fence_unseen();
    bench.guest(&request::read(InAction::READ_KEYS, 8192));
    // The reply's unit attention makes the helper ask, which takes another one: to note that the record is read again.
    bench.line.unit.power_cycle();
    bench.meanwhile(State::Handover);
    let (unit, append) = (Arc::clone(&bench.line.unit), bench.line.meanwhile.lock().unwrap().take().unwrap());
    let both = move || {
        append();
        unit.power_cycle();
    };
    *bench.line.meanwhile.lock().unwrap() = Some(Box::new(both));
    bench.guest(&request::reserve(KEY, KIND));
    assert_eq!((bench.record().state, bench.record().found), (State::Handover, State::Fenced));
}

#[test]
fn a_command_of_the_agent_that_a_later_one_overtook_is_never_sent() {
    let mut bench = holder("spc", false);
    bench.set(State::Handover);
    let run = |bench: &Bench, changes, request, begun| {
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        let task = guard::Task { handover: HandoverId(7), changes, request, begun };
        bench.service.hand_over(&task, bench.service.devices.open(fd, true).unwrap())
    };
    let change = || request::register(KEY, OTHER, false);
    let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(60));
    assert!(run(&bench, false, request::read(InAction::READ_KEYS, 8192), second).is_ok());
    let late = run(&bench, true, change(), first);
    assert!(late.is_err_and(|why| why.contains("overtook")));
    assert_eq!(bench.device(), (Some(KEY), Some(KIND)));
    assert!(run(&bench, true, change(), second).is_ok());
    assert_eq!(bench.device(), (Some(OTHER), Some(KIND)));
}
