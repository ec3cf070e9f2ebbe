//! Devices that are not what they should be, and commands as they reach them.

use super::*;

#[test]
fn a_command_reaches_the_device_as_it_came() {
    let bench = Bench::new("spc", false);
    let mut cdb = [0xAA; 16];
    for (code, length) in [(0x5E, 8), (0x5F, 24)] {
        (cdb[0], cdb[1]) = (code, 0xE0);
        cdb[5..9].copy_from_slice(&[0, 0, 0, length]);
        bench.insist(&request::read(InAction::READ_KEYS, 8));
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        let command = Command { cdb, data_out: vec![0; 24], fd };
        bench.service.serve(&Caller::default(), command);
        assert_eq!(bench.line.cdbs.lock().unwrap().last().unwrap(), &cdb);
    }
}

#[test]
fn a_device_without_a_name_is_subject_to_policy_and_changes_nothing() {
    let mut bench = Bench::new("spc", false);
    bench.serve_with(|devices| devices.nameless = true);
    assert_eq!(bench.insist(&request::read(InAction::READ_KEYS, 8)).status, Status::GOOD);
    let refused = bench.guest(&request::register(Key::NONE, KEY, false));
    assert_eq!(code(&refused), Some(AdditionalSense::INTERNAL_TARGET_FAILURE));
    let sent = bench.line.cdbs.lock().unwrap().len();
    let rules = Rules::parse("version = 1\ndefault = \"refuse\"", std::path::Path::new("policy")).unwrap();
    let mut devices = devices(&bench.line, &bench.other, false);
    devices.nameless = true;
    bench.service = Service { rules, ..service(devices, &bench.book) };
    assert_ne!(bench.guest(&request::read(InAction::READ_KEYS, 8)).status, Status::GOOD);
    assert_eq!(bench.line.cdbs.lock().unwrap().len(), sent);
}

#[test]
fn nothing_is_asked_of_a_multipath_map() {
    let mut bench = holder("spc", false);
    bench.serve_with(|devices| devices.multipath = true);
    bench.fence_unseen();
    let before = bench.line.cdbs.lock().unwrap().len();
    bench.guest(&request::read(InAction::READ_KEYS, 8192));
    let nothing = Request { cdb: vec![0x5F, 0, 5, 0, 0, 0, 0, 0, 0, 0], data: DataPhase::Out(vec![]) };
    bench.guest(&nothing);
    assert_eq!(bench.line.cdbs.lock().unwrap().len(), before + 2);
}

#[test]
fn all_target_ports_is_masked_where_a_target_looks_at_it() {
    let bench = holder("spc", false);
    let list = |new| scsi::pr::BasicParameters {
        reservation_key: KEY,
        service_action_key: new,
        all_target_ports: true,
        ..Default::default()
    };
    let reserve = request::out(scsi::pr::OutAction::RESERVE, KIND, &list(Key::NONE));
    assert_eq!(bench.guest(&reserve).status, Status::GOOD);
    for action in [scsi::pr::OutAction::REGISTER, scsi::pr::OutAction::REGISTER_AND_IGNORE] {
        let masked = bench.guest(&request::out(action, ReservationType(0), &list(KEY)));
        assert_eq!(code(&masked), Some(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST));
    }
}

#[test]
fn nothing_changes_on_a_device_that_has_another_logical_unit_behind_it_by_now() {
    let mut bench = holder("spc", false);
    let (sent, appends) = (bench.line.cdbs.lock().unwrap().len(), bench.book.appends.load(SeqCst));
    bench.serve_with(|devices| devices.exchanged = true);
    for request in [request::reserve(KEY, KIND), request::release(KEY, KIND)] {
        assert_eq!(bench.guest(&request).status, Status::BUSY);
    }
    assert_eq!(bench.line.cdbs.lock().unwrap().len(), sent);
    assert_eq!(bench.book.appends.load(SeqCst), appends);
    bench.set(State::Handover);
    let order = request::register(KEY, OTHER, false);
    let DataPhase::Out(data_out) = order.data else { unreachable!() };
    let fd = std::fs::File::open("/dev/null").unwrap().into();
    let (handover, role) = (HandoverId(7), crate::agent::frame::Role::Change);
    let command = crate::agent::Command { handover, role, cdb: order.cdb, data_out, allocation: 0, fd };
    let answer = crate::agent::Attend::attend(&bench.service, &Caller::default(), command);
    assert!(matches!(answer, crate::agent::Answer::Refused(_)), "{answer:?}");
    assert_eq!(bench.line.cdbs.lock().unwrap().len(), sent);
}

#[test]
fn the_first_registration_is_not_recorded_for_a_logical_unit_that_is_no_longer_there() {
    let mut bench = Bench::new("spc", false);
    bench.serve_with(|devices| devices.exchanged = true);
    assert_eq!(bench.guest(&request::register(Key::NONE, KEY, false)).status, Status::BUSY);
    assert_eq!((bench.line.cdbs.lock().unwrap().len(), bench.record().paths.len()), (0, 0));
}
