//! A guest whose registration belongs to a host's nexus migrates between two `tenure device` processes: the registration is handed from one
//! nexus to the other, at targets that end registrations with the session or of which that is not known.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "hosts/between.rs"]
mod between;
mod hosts;

use between::*;
use hosts::*;
use lab::front_end::scsi::{Function, VirtioScsi, flat, setting};
use lab::process::{DEADLINE, wait_for};
use nexus::Nexus;
use scsi::pr::{Key, request};
use scsi::{AdditionalSense, Request, Status};

#[test]
fn a_holder_moves_to_and_fro_between_nexuses() {
    for profile in ["tgt", "scst"] {
        let mut hosts = Hosts::with(&[&format!("memory=4M,profile={profile}")]);
        let devices = hosts.both();
        let mut driver = connect(&devices[0]);
        reserve(&mut driver);
        for to in [1, 0, 1] {
            driver.front.migrate(&devices[to].sockets[0], |_, _| Ok(())).unwrap();
            assert_eq!(patiently(&mut driver, &ready()).status, Status::GOOD, "no unit attention of a login");
            holds_here(&mut hosts, &mut driver, to);
        }
        good(&mut driver, &request::release(OWN, KIND));
        good(&mut driver, &request::register(OWN, Key::NONE, false));
        hosts.expect_record(1, ["active", "unregistered", "none"]);
        driver.front.migrate(&devices[0].sockets[0], |_, _| Ok(())).unwrap();
        good(&mut driver, &write());
    }
}

#[test]
fn a_member_and_one_of_all_registrants_move_and_nobody_else_is_touched() {
    for kind in [KIND, ALL] {
        let mut hosts = Hosts::with(&["memory=4M,profile=tgt"]);
        let [alpha, beta] = hosts.both();
        assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
        assert!(hosts.elsewhere(&request::reserve(OTHER, kind)).status.is_good());
        let mut driver = connect(&alpha);
        assert!(wait_for(DEADLINE, || send(&mut driver, &ready()).status.is_good().then_some(())).is_some());
        good(&mut driver, &request::register(Key::NONE, OWN, false));
        driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
        good(&mut driver, &write());
        let mut all = keys(&mut driver);
        all.sort_unstable();
        assert_eq!((all, reservation(&mut driver).map(|held| held.kind)), (vec![OWN, OTHER], Some(kind)));
        assert!(hosts.elsewhere(&write()).status.is_good());
        hosts.expect_record(0, GONE);
        assert_eq!(hosts.record(1)[2], MEMBER[2]);
    }
}

#[test]
fn a_guest_that_is_fenced_before_its_registration_comes_stays_fenced() {
    let mut hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let (_alpha, _beta, _source, mut destination, _) = parted(&hosts);
    assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
    assert!(hosts.elsewhere(&request::preempt(OTHER, OWN, KIND)).status.is_good());
    unblock(&hosts, 0);
    let told = patiently(&mut destination, &write());
    if told.status == Status::CHECK_CONDITION {
        assert_eq!(code(&told), AdditionalSense::REGISTRATIONS_PREEMPTED, "{told:?}");
    }
    assert_eq!(send(&mut destination, &write()).status, Status::RESERVATION_CONFLICT);
    assert_eq!(keys(&mut destination), [OTHER]);
    hosts.expect_record(1, ["fenced", "unregistered", "none"]);
    good(&mut destination, &request::register(Key::NONE, OWN, false));
    good(&mut destination, &write());
}

#[test]
fn a_guest_that_goes_back_before_its_registration_came_has_it_where_it_was() {
    let mut hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let (_alpha, beta, mut source, destination, bases) = parted(&hosts);
    drop(destination);
    source.front.resume(&bases).unwrap();
    assert_eq!(patiently(&mut source, &ready()).status, Status::GOOD);
    assert_eq!(keys(&mut source), [OWN]);
    good(&mut source, &write());
    hosts.wait_for(0, "here");
    hosts.expect_record(0, HOLDER);
    unblock(&hosts, 0);
    source.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(patiently(&mut source, &ready()).status, Status::GOOD);
    holds_here(&mut hosts, &mut source, 1);
}

#[test]
fn a_registration_that_is_lost_with_its_host_is_not_made_anew() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let (mut alpha, _beta, _source, mut destination, _) = parted(&hosts);
    alpha.process.kill();
    unblock(&hosts, 0);
    let _alpha = hosts.alpha();
    let told = patiently(&mut destination, &ready());
    assert!(told.status.is_good(), "{told:?}");
    let state =
        wait_for(DEADLINE, || Some(hosts.record(1)).filter(|record| record[0] != "handover")).unwrap();
    assert!(["fenced", "lost"].contains(&state[0].as_str()), "{state:?}");
}

#[test]
fn where_the_other_host_is_gone_for_good_the_operator_has_the_registration_taken_over() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let (mut alpha, _beta, _source, mut destination, _) = parted(&hosts);
    alpha.process.kill();
    let arguments = [("guest".to_owned(), "db1".into())].into_iter().collect();
    let told = hosts.control_of(1).execute("guest-claim", arguments, std::time::Instant::now() + DEADLINE);
    assert!(told.is_ok(), "{told:?}");
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    assert_eq!(keys(&mut destination), [OWN]);
    assert_eq!(reservation(&mut destination).map(|held| (held.key, held.kind)), Some((OWN, KIND)));
    assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
    hosts.expect_record(1, HOLDER);
}

#[test]
fn all_luns_of_a_target_go_the_same_way_and_files_along_with_them() {
    let mut hosts = Hosts::with(&["memory=4M,profile=tgt", "memory=4M,profile=tgt"]);
    let file = format!("file={},size=4M", hosts.text("disk"));
    let luns = [hosts.target.url(1), hosts.target.url(0), file];
    let luns: Vec<_> = luns.iter().map(String::as_str).collect();
    let devices = [hosts.start(0, &luns, &[]), hosts.start(1, &luns, &["--incoming", "alpha"])];
    let mut driver = connect(&devices[0]);
    let on = |driver: &mut VirtioScsi, lun: u16, request: &Request| {
        nexus::retry_unit_attention(&mut driver.disk(lun), request, 8).unwrap().completion
    };
    assert!(on(&mut driver, 1, &request::register(Key::NONE, OWN, false)).status.is_good());
    assert!(on(&mut driver, 1, &request::reserve(OWN, KIND)).status.is_good());
    for to in [1, 0] {
        driver.front.migrate(&devices[to].sockets[0], |_, _| Ok(())).unwrap();
        assert_eq!(patiently(&mut driver, &write()).status, Status::GOOD);
        for lun in [1, 2] {
            let ended = driver.disk(lun).execute(&write()).unwrap();
            assert_eq!(ended.status, Status::GOOD, "{lun}: {ended:?}");
        }
        assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
        hosts.wait_for(to, "here");
    }
    // A registration of another LUN of the same target, with one that is on its way already.
    assert!(on(&mut driver, 0, &request::register(Key::NONE, OWN, false)).status.is_good());
    driver.front.migrate(&devices[1].sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(patiently(&mut driver, &write()).status, Status::GOOD);
    assert_eq!(keys(&mut driver), [OWN]);
    assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
}

#[test]
fn a_unit_attention_that_waits_at_the_source_is_told_at_the_destination_once() {
    let hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let [alpha, beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    assert_eq!(driver.manage(Function::UNIT_RESET, flat(0), 0).unwrap(), 0);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    let told = patiently(&mut driver, &ready());
    assert_eq!(code(&told), AdditionalSense::TARGET_RESET, "{told:?}");
    assert_eq!(patiently(&mut driver, &ready()).status, Status::GOOD);
    good(&mut driver, &write());
}

#[test]
fn after_the_move_both_devices_may_be_started_again_and_are_the_ports_that_they_were() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let [mut alpha, mut beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(patiently(&mut driver, &ready()).status, Status::GOOD);
    alpha.process.kill();
    beta.process.kill();
    (alpha, beta) = (hosts.alpha(), hosts.beta(&hosts.target.url(0)));
    driver.front.reconnect(&beta.sockets[0]).unwrap();
    let settled = wait_for(DEADLINE, || send(&mut driver, &ready()).status.is_good().then_some(()));
    assert!(settled.is_some());
    holds_here(&mut hosts, &mut driver, 1);
    driver.front.migrate(&alpha.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(patiently(&mut driver, &ready()).status, Status::GOOD);
    holds_here(&mut hosts, &mut driver, 0);
    drop(beta);
}

/// Kills one host's device as soon as its journal has so many lines.
fn killed_at(host: usize, line: usize) {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst,delay=15ms"]);
    let [mut alpha, mut beta] = hosts.both();
    let mut source = connect(&alpha);
    reserve(&mut source);
    source.front.stop().unwrap();
    let mut destination = connect(&beta);
    let reached = wait_for(DEADLINE, || (lines(&hosts, host) >= line).then_some(()));
    assert!(reached.is_some(), "{} lines only", lines(&hosts, host));
    if host == 0 {
        alpha.process.kill();
        alpha = hosts.alpha();
    } else {
        beta.process.kill();
        beta = hosts.beta(&hosts.target.url(0));
        destination.front.reconnect(&beta.sockets[0]).unwrap();
    }
    let ended = patiently(&mut destination, &ready());
    assert!(
        ended.status.is_good()
            || code(&ended) == AdditionalSense::POWER_ON_OR_RESET
            || code(&ended) == AdditionalSense::NEXUS_LOSS,
        "{ended:?}"
    );
    holds_here(&mut hosts, &mut destination, 1);
    drop((alpha, beta));
}

#[test]
fn the_device_that_leads_may_be_killed_at_every_line_of_its_journal() {
    (2..=6).for_each(|line| killed_at(1, line));
}

#[test]
fn the_device_that_follows_may_be_killed_at_every_line_of_its_journal() {
    (2..=6).for_each(|line| killed_at(0, line));
}

#[test]
fn a_target_by_which_the_guest_would_be_the_same_port_is_said_before_it_stops() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let fixed = format!("{}?isid=800000000042", hosts.target.url(0));
    let alpha = hosts.start(0, &[&fixed], &[]);
    let mut source = connect(&alpha);
    reserve(&mut source);
    for lun in [&fixed, &format!("{},migrate-pr=off", hosts.target.url(0))] {
        let beta = hosts.beta(lun);
        assert!(VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err());
        good(&mut source, &write());
    }
    let beta = hosts.beta(&hosts.target.url(0));
    source.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(patiently(&mut source, &ready()).status, Status::GOOD);
    assert_eq!(keys(&mut source), [OWN]);
}
