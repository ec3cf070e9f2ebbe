//! A guest with LUNs at iSCSI targets that migrates between two `tenure device` processes: to the target it is one host all the time, and
//! what it registered there is on the record of the process that has it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod hosts;

use hosts::*;
use lab::front_end::keeper::Keeper;
use lab::front_end::scsi::{Function, REQUESTS, VirtioScsi, flat, setting};
use lab::process::{DEADLINE, wait_for};
use lab::served::Device;
use nexus::Nexus;
use scsi::pr::{Key, request};
use scsi::{AdditionalSense, DataPhase, Request, Status, opcode};

#[test]
fn a_guest_moves_there_and_back_with_its_session_its_registration_and_its_record() {
    let mut hosts = Hosts::new();
    let devices = hosts.both();
    assert_eq!(devices[0].initiators, devices[1].initiators, "one host to the target");
    let mut driver = connect(&devices[0]);
    reserve(&mut driver);
    let mut keeper = Keeper::new(64, BLOCK, 3).unwrap();
    for to in [1, 0, 1] {
        let (dialect, end) = (driver.dialect(0).unwrap(), keeper.written + 40);
        let moved = driver.front.migrate(&devices[to].sockets[0], |front, _| {
            keeper.run(front.ring(REQUESTS)?, &dialect, 8, |keeper| keeper.written < end)
        });
        moved.unwrap();
        keeper.settle(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
        holds(&mut driver);
        assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
        hosts.wait_for(1 - to, "away");
        hosts.expect_record(to, ["active", "holder", "0x00000000000000a1"]);
        assert_eq!(hosts.record(1 - to)[0], "moved");
    }
    let dialect = driver.dialect(0).unwrap();
    keeper.check_all(driver.front.ring(REQUESTS).unwrap(), &dialect).unwrap();
    good(&mut driver, &request::release(OWN, KIND));
    good(&mut driver, &request::register(OWN, Key::NONE, false));
    hosts.expect_record(1, ["active", "unregistered", "none"]);
}

#[test]
fn a_unit_attention_that_waits_moves_along_and_that_of_the_login_is_not_added() {
    let hosts = Hosts::new();
    let [alpha, beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    assert_eq!(driver.manage(Function::UNIT_RESET, flat(0), 0).unwrap(), 0);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(code(&send(&mut driver, &ready())), AdditionalSense::TARGET_RESET);
    holds(&mut driver);
}

#[test]
fn a_guest_that_was_fenced_on_its_way_is_fenced_where_it_arrives_and_back_again() {
    let mut hosts = Hosts::new();
    let [alpha, beta] = hosts.both();
    let mut source = connect(&alpha);
    reserve(&mut source);
    source.front.stop().unwrap();
    assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
    assert!(hosts.elsewhere(&request::preempt(OTHER, OWN, KIND)).status.is_good());
    let mut destination = connect(&beta);
    let told = patiently(&mut destination, &write());
    assert_eq!(code(&told), AdditionalSense::REGISTRATIONS_PREEMPTED, "{told:?}");
    assert_eq!(send(&mut destination, &write()).status, Status::RESERVATION_CONFLICT);
    hosts.expect_record(1, ["fenced", "unregistered", "none"]);
    drop(source);
    destination.front.migrate(&alpha.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(send(&mut destination, &write()).status, Status::RESERVATION_CONFLICT);
    hosts.expect_record(0, ["fenced", "unregistered", "none"]);
    good(&mut destination, &request::register(Key::NONE, OWN, false));
    good(&mut destination, &write());
    hosts.expect_record(0, ["active", "member", "0x00000000000000a1"]);
}

/// The source has given, and the destination finds another logical unit than the guest's.
fn stuck(hosts: &Hosts, more: &[&str]) -> (Device, Device, VirtioScsi, VirtioScsi, Vec<u16>) {
    let [own, wrong] = [hosts.target.url(0), hosts.target.url(1)];
    let busy = ["--wait", "0"];
    let alpha = hosts.start(0, &[&[own.as_str()], more].concat(), &busy);
    let beta =
        hosts.start(1, &[&[wrong.as_str()], more].concat(), &[&busy[..], &["--incoming", "alpha"]].concat());
    let mut source = connect(&alpha);
    reserve(&mut source);
    let bases = source.front.stop().unwrap();
    let mut destination = connect(&beta);
    assert_eq!(send(&mut destination, &ready()).status, Status::BUSY);
    hosts.wait_for(0, "giving");
    hosts.wait_for(1, "taking");
    let why = wait_for(DEADLINE, || hosts.guest(1)["waits"].as_str().map(str::to_owned)).unwrap();
    assert!(why.contains("another logical unit"), "{why}");
    (alpha, beta, source, destination, bases)
}

#[test]
fn another_logical_unit_behind_the_address_is_left_alone_and_all_of_the_guest_goes_on_where_it_was() {
    let hosts = Hosts::new();
    let file = format!("file={},size=4M", hosts.text("disk"));
    let (_alpha, _beta, mut source, mut destination, bases) = stuck(&hosts, &[&file]);
    source.front.resume(&bases).unwrap();
    assert_eq!(
        patiently(&mut source, &ready()).status,
        Status::GOOD,
        "and no unit attention of a new session"
    );
    holds(&mut source);
    assert!(source.disk(1).execute(&ready()).unwrap().status.is_good(), "with the file");
    assert_eq!(send(&mut destination, &write()).status, Status::BUSY);
    hosts.wait_for(1, "expected");
    hosts.expect_record(0, ["active", "holder", "0x00000000000000a1"]);
    holds(&mut source);
}

#[test]
fn either_device_may_be_killed_in_the_middle_and_one_of_them_has_the_guest_in_the_end() {
    for (kill, stays) in [(&[0][..], false), (&[1], false), (&[0, 1], false), (&[0], true), (&[0, 1], true)] {
        let hosts = Hosts::new();
        let (mut alpha, mut beta, mut source, mut destination, _) = stuck(&hosts, &[]);
        if kill.contains(&1) || !stays {
            beta.process.kill();
        }
        if kill.contains(&0) {
            alpha.process.kill();
            alpha = hosts.alpha();
            assert_eq!(hosts.guest(0)["place"], "giving");
        }
        let winner = if stays {
            source.front.reconnect(&alpha.sockets[0]).unwrap();
            &mut source
        } else {
            beta = hosts.beta(&hosts.target.url(0));
            assert_eq!(hosts.guest(1)["place"], "taking");
            destination.front.reconnect(&beta.sockets[0]).unwrap();
            &mut destination
        };
        assert_eq!(patiently(winner, &ready()).status, Status::GOOD, "{kill:?} {stays}");
        holds(winner);
        hosts.wait_for(usize::from(!stays), "here");
        hosts.expect_record(usize::from(!stays), ["active", "holder", "0x00000000000000a1"]);
        drop((alpha, beta));
    }
}

#[test]
fn after_the_move_each_device_may_be_killed_and_knows_where_the_guest_is() {
    let hosts = Hosts::new();
    let [mut alpha, mut beta] = hosts.both();
    let mut driver = connect(&alpha);
    reserve(&mut driver);
    driver.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    holds(&mut driver);
    alpha.process.kill();
    alpha = hosts.alpha();
    assert_eq!(hosts.guest(0)["place"], "away");
    // It has not logged in: that would have ended the guest's session.
    holds(&mut driver);
    beta.process.kill();
    beta = hosts.beta(&hosts.target.url(0));
    driver.front.reconnect(&beta.sockets[0]).unwrap();
    let ended = nexus::retry_unit_attention(&mut driver.disk(0), &ready(), 8).unwrap().completion;
    assert!(ended.status.is_good(), "{ended:?}");
    holds(&mut driver);
    driver.front.migrate(&alpha.sockets[0], |_, _| Ok(())).unwrap();
    holds(&mut driver);
}

#[test]
fn what_could_not_come_is_turned_away_before_the_guest_is_stopped() {
    let hosts = Hosts::new();
    let alpha = hosts.alpha();
    let mut source = connect(&alpha);
    reserve(&mut source);
    let (url, other) = (hosts.target.url(0), tenure().target(&["memory=4M"]).unwrap());
    for lun in [
        format!("{url}?initiator=iqn.2026-11.example:b"),
        format!("{url},migrate-pr=off"),
        format!("file={},size=4M", hosts.text("disk")),
        other.url(0).replace(&other.iqn, "iqn.2026-11.example.tenure:another"),
    ] {
        let beta = hosts.beta(&lun);
        assert!(VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err(), "{lun}");
        holds(&mut source);
    }
    good(&mut source, &request::release(OWN, KIND));
    good(&mut source, &request::register(OWN, Key::NONE, false));
    let beta = hosts.beta(&url);
    good(&mut source, &Request { cdb: vec![opcode::RESERVE_6, 0, 0, 0, 0, 0], data: DataPhase::None });
    assert!(
        VirtioScsi::connect(&beta.sockets[0], &setting(2, SHAPE)).is_err(),
        "RESERVE ends with the session"
    );
    good(&mut source, &Request { cdb: vec![opcode::RELEASE_6, 0, 0, 0, 0, 0], data: DataPhase::None });
    source.front.migrate(&beta.sockets[0], |_, _| Ok(())).unwrap();
    good(&mut source, &write());
}

#[test]
fn between_two_sockets_of_one_device_the_session_and_the_record_stay() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let (state, directory) = (hosts.state(0), hosts.at("alpha"));
    let more = ["--name", "db1", "--name", "db1", "--state", &state, "--num-queues", "2"];
    let device = tenure().device(&directory, &["a", "b"], &[&hosts.target.url(0)], &more).unwrap();
    let mut driver = connect(&device);
    reserve(&mut driver);
    for to in [1, 0, 1] {
        driver.front.migrate(&device.sockets[to], |_, _| Ok(())).unwrap();
        good(&mut driver, &request::reserve(OWN, KIND));
        good(&mut driver, &write());
        hosts.expect_record(0, ["active", "holder", "0x00000000000000a1"]);
    }
}
