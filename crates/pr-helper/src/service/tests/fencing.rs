//! Registrations that others remove, of which the helper may see nothing but its traces.

use super::*;

fn standing(bench: &Bench) -> (State, (Option<Key>, Option<ReservationType>)) {
    (bench.record().state, bench.recorded())
}

const GONE: (State, (Option<Key>, Option<ReservationType>)) = (State::Fenced, (None, None));

#[test]
fn a_fenced_guest_that_registers_anew_is_no_longer_taken_for_the_holder() {
    for named in [true, false] {
        let mut bench = holder("spc", named);
        bench.fence_unseen();
        assert_eq!(bench.guest(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
        assert_eq!(bench.recorded(), (Some(KEY), None));
        assert_eq!(bench.recorded(), bench.device());
    }
}

#[test]
fn a_conflict_that_others_explain_is_looked_into_and_costs_no_probe() {
    let mut bench = holder("spc", false);
    let other_type = ReservationType(1);
    assert_eq!(bench.guest(&request::reserve(KEY, other_type)).status, Status::RESERVATION_CONFLICT);
    let generation = |bench: &Bench| bench.insist(&request::read(InAction::READ_KEYS, 8)).data[..4].to_vec();
    assert_eq!(generation(&bench), [0, 0, 0, 1], "one registration and no probe");
    assert_eq!(standing(&bench), (State::Active, (Some(KEY), Some(KIND))));
    bench.fence_unseen();
    assert_eq!(bench.guest(&request::reserve(KEY, other_type)).status, Status::RESERVATION_CONFLICT);
    assert_eq!(standing(&bench), GONE);
}

#[test]
fn a_guest_that_reads_keys_or_reservation_shows_that_it_was_fenced() {
    for action in [InAction::READ_KEYS, InAction::READ_RESERVATION] {
        let mut bench = holder("spc", false);
        bench.fence_unseen();
        assert_eq!(standing(&bench), (State::Active, (Some(KEY), Some(KIND))), "nobody told yet");
        assert_eq!(bench.guest(&request::read(action, 8192)).status, Status::GOOD);
        assert_eq!(standing(&bench), GONE, "{action}");
    }
}

#[test]
fn a_reply_that_was_cut_shows_nothing() {
    let bench = holder("spc", false);
    let before = bench.line.cdbs.lock().unwrap().len();
    assert_eq!(bench.guest(&request::read(InAction::READ_KEYS, 8)).status, Status::GOOD);
    assert_eq!(bench.line.cdbs.lock().unwrap().len(), before + 1);
    assert_eq!(standing(&bench), (State::Active, (Some(KEY), Some(KIND))));
}

#[test]
fn a_fenced_guest_stays_so_through_an_unknown_outcome_until_it_registers() {
    let mut bench = holder("spc", true);
    bench.fence_unseen();
    bench.guest(&request::read(InAction::READ_KEYS, 8192));
    assert_eq!(standing(&bench), GONE);
    bench.line.lost.store(true, SeqCst);
    bench.guest(&request::reserve(KEY, KIND));
    assert_eq!(bench.record().state, State::Fenced);
    bench.restart();
    bench.insist(&request::reserve(KEY, KIND));
    assert_eq!(standing(&bench), GONE);
    assert_eq!(bench.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    assert_eq!(bench.record().state, State::Active);
}

fn two_paths() -> Bench {
    let bench = holder("spc", false);
    while unit_attention(&bench.elsewhere(&request::read(InAction::READ_KEYS, 8))).is_some() {}
    assert_eq!(bench.elsewhere(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    bench
}

#[test]
fn a_guest_that_removes_its_own_registration_through_another_nexus_is_not_fenced() {
    for own in [request::clear(KEY), request::preempt(KEY, KEY, KIND)] {
        let bench = two_paths();
        assert_eq!(bench.guest(&own).status, Status::GOOD);
        let keys: Vec<_> =
            bench.record().paths.iter().map(|path| (path.path.0.clone(), path.tracked.key)).collect();
        assert_eq!(keys[1], ("other nexus".to_owned(), None));
        while unit_attention(&bench.elsewhere(&request::reserve(KEY, KIND))).is_some() {}
        assert_eq!(bench.record().state, State::Active);
    }
}

#[test]
fn a_command_under_way_on_another_nexus_is_left_to_itself() {
    let bench = two_paths();
    let other = PathId("other nexus".into());
    let intended = bench.record().history.iter().find_map(|past| match &past.change {
        Change::Intent { intended, .. } => Some(*intended),
        _ => None,
    });
    let intent = Change::Intent { path: other.clone(), intended: intended.unwrap() };
    let book = Arc::clone(&bench.book);
    let append = move || book.guest.append(&[(lun(), intent)]).unwrap();
    *bench.line.meanwhile.lock().unwrap() = Some(Box::new(append));
    assert_eq!(bench.guest(&request::clear(KEY)).status, Status::GOOD);
    assert!(bench.record().path(&other).unwrap().intent.is_some());
}

#[test]
fn a_nexus_that_does_not_know_it_yet_does_not_end_the_fencing_of_another() {
    let mut bench = two_paths();
    bench.fence_unseen();
    bench.guest(&request::read(InAction::READ_KEYS, 8192));
    assert_eq!(bench.record().state, State::Fenced);
    while unit_attention(&bench.elsewhere(&request::reserve(KEY, KIND))).is_some() {}
    assert_eq!(bench.record().state, State::Fenced);
}

#[test]
fn a_release_whose_key_lio_does_not_look_at_proves_no_key() {
    let mut bench = Bench::new("lio", true);
    assert_eq!(bench.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    let before = bench.line.cdbs.lock().unwrap().len();
    assert_eq!(bench.guest(&request::release(Key(0x77), KIND)).status, Status::GOOD);
    assert_eq!(bench.line.cdbs.lock().unwrap().len(), before + 1, "nothing has to be asked");
    assert_eq!((bench.recorded(), bench.device()), ((Some(KEY), None), (Some(KEY), None)));
}

#[test]
fn a_probe_leaves_the_persistence_that_others_set() {
    for (aptpl, guests) in [(true, false), (false, true)] {
        let mut bench = Bench::new("spc", false);
        assert_eq!(bench.insist(&request::register(Key::NONE, KEY, guests)).status, Status::GOOD);
        assert_eq!(bench.foreign(&request::register(Key::NONE, OTHER, aptpl)), Status::GOOD);
        bench.restart();
        bench.insist(&request::reserve(KEY, KIND));
        let read = request::read(InAction::REPORT_CAPABILITIES, 8);
        let told = nexus::retry_unit_attention(&mut bench.foreign, &read, 8).unwrap().completion;
        assert_eq!(told.data[3] & 1 == 1, aptpl);
    }
}

#[test]
fn a_holder_that_shares_its_key_is_not_confused_with_its_sharer() {
    let mut bench = Bench::new("spc", false);
    assert_eq!(bench.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    assert_eq!(bench.foreign(&request::register(Key::NONE, KEY, false)), Status::GOOD);
    assert_eq!(bench.foreign(&request::reserve(KEY, KIND)), Status::GOOD);
    bench.restart();
    bench.insist(&request::register(KEY, KEY, false));
    assert_eq!(bench.recorded(), (Some(KEY), None));
}

#[test]
fn a_member_of_somebody_elses_reservation_is_recorded_as_one() {
    let mut bench = Bench::new("spc", false);
    assert_eq!(bench.foreign(&request::register(Key::NONE, OTHER, false)), Status::GOOD);
    assert_eq!(bench.foreign(&request::reserve(OTHER, KIND)), Status::GOOD);
    assert_eq!(bench.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    let role = |bench: &Bench| {
        let record = bench.record();
        record.role(&record.paths[0].tracked)
    };
    assert_eq!((bench.record().reservation, role(&bench)), (Some(KIND), "member"));
    let mut bench = holder("spc", false);
    assert_eq!((bench.record().reservation, role(&bench)), (Some(KIND), "holder"));
    assert_eq!(bench.guest(&request::release(KEY, KIND)).status, Status::GOOD);
    assert_eq!((bench.record().reservation, role(&bench)), (None, "registrant-only"));
    bench.restart();
}

#[test]
fn a_registrant_of_a_reservation_of_all_is_known_to_hold_it_when_it_has_read_it() {
    let all = ReservationType(7);
    let mut bench = Bench::new("spc", false);
    assert_eq!(bench.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    assert_eq!(bench.foreign(&request::register(Key::NONE, OTHER, false)), Status::GOOD);
    assert_eq!(bench.foreign(&request::reserve(OTHER, all)), Status::GOOD);
    bench.guest(&request::read(InAction::READ_RESERVATION, 8192));
    assert_eq!((bench.recorded(), bench.record().reservation), ((Some(KEY), Some(all)), Some(all)));
}

#[test]
fn a_question_that_the_device_cannot_answer_now_fences_nobody() {
    let check = |key, code| Completion::check(&scsi::Sense::new(key, code));
    let transition = check(scsi::SenseKey::NOT_READY, AdditionalSense::new(0x04, 0x0A));
    let resources = check(scsi::SenseKey::ILLEGAL_REQUEST, AdditionalSense::new(0x55, 0x04));
    for (like, answer) in [([0x5F, 0], transition.clone()), ([0x5F, 0], resources), ([0x5E, 2], transition)] {
        let mut bench = holder("spc", false);
        bench.restart();
        *bench.line.instead.lock().unwrap() = Some((like, answer.clone()));
        assert_eq!(bench.guest(&request::reserve(KEY, KIND)), answer, "the guest is told, and tries again");
        assert_eq!(standing(&bench), (State::Active, (Some(KEY), Some(KIND))));
        *bench.line.instead.lock().unwrap() = None;
        assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::GOOD);
    }
}

#[test]
fn a_device_without_capabilities_or_full_status_can_be_asked_all_the_same() {
    for like in [[0x5E, 2], [0x5E, 3]] {
        let mut bench = holder("spc", true);
        bench.restart();
        *bench.line.instead.lock().unwrap() = Some((like, failure::not_allowed()));
        assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::GOOD);
        assert_eq!(standing(&bench), (State::Active, (Some(KEY), Some(KIND))));
    }
}

#[test]
fn a_clear_whose_answer_was_lost_fences_no_other_nexus_of_the_guest() {
    let mut bench = two_paths();
    bench.line.lost.store(true, SeqCst);
    bench.guest(&request::clear(KEY));
    bench.restart();
    bench.insist(&request::reserve(KEY, KIND));
    while unit_attention(&bench.elsewhere(&request::reserve(KEY, KIND))).is_some() {}
    assert_eq!(bench.record().state, State::Active);
}

#[test]
fn a_register_through_another_nexus_waits_for_the_clear_that_might_remove_it() {
    let bench = two_paths();
    let ((at_device, is_at_device), (done, is_done)) =
        (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let wait = move || {
        at_device.send(()).unwrap();
        // Nobody comes through as long as this command is not concluded; without that, this is the moment.
        let _ = is_done.recv_timeout(Duration::from_millis(200));
    };
    *bench.line.meanwhile.lock().unwrap() = Some(Box::new(wait));
    std::thread::scope(|scope| {
        scope.spawn(|| bench.guest(&request::clear(KEY)));
        is_at_device.recv_timeout(Duration::from_secs(20)).unwrap();
        while unit_attention(&bench.elsewhere(&request::register_and_ignore(OTHER, false))).is_some() {}
        let _ = done.send(());
    });
    let other = PathId("other nexus".into());
    assert_eq!(bench.record().path(&other).unwrap().tracked.key, Some(OTHER));
}

#[test]
fn who_reads_waits_for_no_command_that_is_under_way() {
    let bench = Arc::new(holder("spc", false));
    let ((at_device, is_at_device), (go_on, may_go_on)) =
        (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let wait = move || {
        at_device.send(()).unwrap();
        let _ = may_go_on.recv();
    };
    *bench.line.meanwhile.lock().unwrap() = Some(Box::new(wait));
    let (done, is_done) = std::sync::mpsc::channel();
    let [writer, reader] = [&bench, &bench].map(Arc::clone);
    let under_way = std::thread::spawn(move || writer.guest(&request::release(KEY, KIND)).status);
    is_at_device.recv_timeout(Duration::from_secs(20)).unwrap();
    std::thread::spawn(move || done.send(reader.guest(&request::read(InAction::READ_KEYS, 8192)).status));
    assert_eq!(is_done.recv_timeout(Duration::from_secs(5)), Ok(Status::GOOD));
    drop(go_on);
    assert_eq!(under_way.join().unwrap(), Status::GOOD);
}

#[test]
fn a_reservation_of_all_that_the_guest_ended_is_not_recorded_any_more() {
    let all = ReservationType(7);
    for end in [request::release(KEY, all), request::clear(KEY)] {
        let bench = Bench::new("spc", false);
        assert_eq!(bench.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
        assert_eq!(bench.guest(&request::reserve(KEY, all)).status, Status::GOOD);
        assert_eq!(bench.record().reservation, Some(all));
        assert_eq!(bench.guest(&end).status, Status::GOOD);
        assert_eq!(bench.record().reservation, None);
    }
}
