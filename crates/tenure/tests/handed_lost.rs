//! A handover of registrations between two devices that is never finished by both: a host is gone for good and the operator claims the
//! guest, a way to the target is cut, other hosts come between.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "hosts/between.rs"]
mod between;
mod hosts;
#[path = "hosts/wire.rs"]
mod wire;

use agent::drive::Device as Way;
use between::*;
use hosts::*;
use lab::front_end::scsi::{VirtioScsi, setting};
use lab::process::{DEADLINE, wait_for};
use lab::served::Device;
use scsi::Status;
use scsi::pr::{Key, request};
use std::os::unix::net::UnixListener;
use std::{fs, thread};
use wire::{Deed, Wire, is_out};

const REGISTER: u8 = 0;
const PREEMPT: u8 = 4;

/// A node fences the guest, which does not write any more.
fn can_be_fenced(hosts: &mut Hosts, driver: &mut VirtioScsi, when: &str) {
    fence(hosts);
    patiently(driver, &ready());
    assert_eq!(patiently(driver, &write()).status, Status::RESERVATION_CONFLICT, "{when}: it is fenced");
    assert!(!keys_elsewhere(hosts).contains(&OWN), "{when}: its key is nowhere");
}

/// One host's device is gone for good when a journal has so many lines, and the operator claims the guest for the other one: either that is
/// refused, or the guest is registered by its own key and by nothing else, so that it can be fenced.
fn claimed_after(profile: &str, lost: usize, line: usize) {
    let when = format!("{profile}, {} lost, line {line}", NAMES[lost]);
    let mut hosts = Hosts::with(&[&format!("memory=4M,profile={profile},delay=15ms")]);
    let mut devices = hosts.both();
    let mut source = connect(&devices[0]);
    reserve(&mut source);
    source.front.stop().unwrap();
    let destination = connect(&devices[1]);
    let reached = wait_for(DEADLINE, || (lines(&hosts, 1 - lost) >= line).then_some(()));
    assert!(reached.is_some(), "{when}: {} lines only", lines(&hosts, 1 - lost));
    devices[lost].process.kill();
    drop(source);
    let mut driver = if lost == 1 {
        drop(destination);
        if let Err(error) = claim(&hosts, 0, true) {
            assert!(error.contains("under the key"), "{when}: {error}");
            return;
        }
        connect(&devices[0])
    } else {
        // It may have come before its host died.
        if let Err(error) = claim(&hosts, 1, false) {
            assert!(error.contains("in doubt") || error.contains("it is here"), "{when}: {error}");
            if !error.contains("it is here") {
                return;
            }
        }
        destination
    };
    let ended = on(&mut driver, 0, &write());
    // There the registration ends with the host; and after the commit it is that host's.
    let has_gone = profile == "tgt" || lost == 1 && line > 3;
    assert!(has_gone || ended.status.is_good(), "{when}: {ended:?}");
    assert!(keys_elsewhere(&mut hosts).iter().all(|key| *key == OWN), "{when}: no nonce is left");
    can_be_fenced(&mut hosts, &mut driver, &when);
}

#[test]
fn a_guest_that_is_claimed_where_it_was_in_the_middle_of_the_handover_can_be_fenced() {
    for profile in ["tgt", "scst"] {
        (2..=6).for_each(|line| claimed_after(profile, 1, line));
    }
}

#[test]
fn a_guest_that_is_claimed_where_it_goes_in_the_middle_of_the_handover_can_be_fenced() {
    // Who answers nothing for a while only is not gone: each claim waits for that.
    (3..=5).for_each(|line| claimed_after("tgt", 0, line));
    (2..=6).for_each(|line| claimed_after("scst", 0, line));
}

/// The source has the nonce, and the destination's PREEMPT of that is on its way.
fn in_the_window(profile: &str) -> (Hosts, Wire, [lab::served::Device; 2], [VirtioScsi; 2], Key) {
    let mut hosts = Hosts::with(&[&format!("memory=4M,profile={profile}")]);
    let wire = Wire::to(&hosts.target);
    let devices = [hosts.alpha(), hosts.beta(&wire.url(&hosts.target, 0))];
    let mut source = connect(&devices[0]);
    reserve(&mut source);
    wire.meddle(|cdb| if is_out(cdb, PREEMPT) { Deed::Hold } else { Deed::Pass });
    source.front.stop().unwrap();
    let destination = connect(&devices[1]);
    wire.wait_held();
    let nonce: Vec<Key> = keys_elsewhere(&mut hosts).into_iter().filter(|key| *key != OWN).collect();
    assert_eq!(nonce.len(), 1, "the source is registered by the nonce");
    (hosts, wire, devices, [source, destination], nonce[0])
}

#[test]
fn a_guest_is_not_served_by_a_nexus_that_has_the_nonce_whose_preemptor_is_gone() {
    let (mut hosts, _wire, [alpha, mut beta], [source, destination], nonce) = in_the_window("tgt");
    beta.process.kill();
    drop(destination);
    let refused = claim(&hosts, 0, true).unwrap_err();
    let key = format!("{:#018x}", nonce.0);
    assert!(refused.contains("under the key") && refused.contains(&key), "{refused}");
    // What it says is to be done ends it.
    assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
    assert!(hosts.elsewhere(&request::preempt(OTHER, nonce, KIND)).status.is_good());
    claim(&hosts, 0, true).unwrap();
    drop(source);
    let mut again = connect(&alpha);
    patiently(&mut again, &ready());
    assert_eq!(patiently(&mut again, &write()).status, Status::RESERVATION_CONFLICT);
    assert!(!keys_elsewhere(&mut hosts).contains(&nonce));
}

#[test]
fn a_claim_does_not_pass_over_a_bearer_that_answers() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let (_alpha, _beta, _source, mut destination, _) = parted(&hosts);
    let refused = claim(&hosts, 1, false).unwrap_err();
    assert!(refused.contains("alpha") && refused.contains("journal"), "{refused}");
    assert_eq!(hosts.guest(1)["place"], "owned");
    unblock(&hosts, 0);
    claim(&hosts, 1, false).unwrap();
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    holds_here(&mut hosts, &mut destination, 1);
}

#[test]
fn what_fails_is_tried_less_and_less_often_and_at_once_where_something_changes() {
    let hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let (_alpha, _beta, _source, mut destination, _) = parted(&hosts);
    let seconds = |why: &str| why.rsplit_once("tried again in ")?.1.split_once(' ')?.0.parse::<u32>().ok();
    let longer = || seconds(&waits_for(&hosts, 1, "tried again in ")).filter(|seconds| *seconds > 2);
    assert!(wait_for(DEADLINE, longer).is_some(), "{}", hosts.guest(1));
    unblock(&hosts, 0);
    claim(&hosts, 1, false).unwrap();
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    assert!(hosts.guest(1)["waits"].is_null());
}

#[test]
fn a_key_of_a_handover_that_is_left_is_named_and_the_guest_is_not_served_by_that_nexus() {
    let (mut hosts, wire, [alpha, _beta], [source, mut destination], nonce) = in_the_window("tgt");
    fence(&mut hosts);
    wire.release();
    assert_eq!(on(&mut destination, 0, &write()).status, Status::RESERVATION_CONFLICT);
    let key = format!("{:#018x}", nonce.0);
    for (host, state) in [(0, "moved"), (1, "fenced")] {
        let row = records(&hosts, host);
        assert!(row[0][0] == state && row[0][1] == "none" && row[0][2].contains(&key), "{row:?}");
    }
    let mut keys = keys_elsewhere(&mut hosts);
    keys.retain(|key| *key != OTHER);
    assert_eq!(keys, [nonce], "with its session");
    assert_eq!(hosts.guest(0)["keeps"], serde_json::json!([0]));
    drop(source);
    // Back where that nexus is.
    destination.front.stop().unwrap();
    let mut back = connect(&alpha);
    waits_for(&hosts, 0, &key);
    assert!(hosts.elsewhere(&request::preempt(OTHER, nonce, KIND)).status.is_good());
    assert_eq!(on(&mut back, 0, &write()).status, Status::RESERVATION_CONFLICT);
    assert_eq!(keys_elsewhere(&mut hosts), [OTHER]);
}

#[test]
fn a_guest_is_not_claimed_for_a_nexus_that_has_a_key_of_a_handover_that_is_left() {
    let (mut hosts, wire, [alpha, mut beta], [source, mut destination], nonce) = in_the_window("tgt");
    fence(&mut hosts);
    wire.release();
    assert_eq!(on(&mut destination, 0, &write()).status, Status::RESERVATION_CONFLICT);
    beta.process.kill();
    drop((source, destination));
    let refused = claim(&hosts, 0, true).unwrap_err();
    assert!(refused.contains(&format!("{:#018x}", nonce.0)), "{refused}");
    assert!(hosts.elsewhere(&request::preempt(OTHER, nonce, KIND)).status.is_good());
    claim(&hosts, 0, true).unwrap();
    let mut back = connect(&alpha);
    patiently(&mut back, &ready());
    assert_eq!(on(&mut back, 0, &write()).status, Status::RESERVATION_CONFLICT, "it is fenced");
}

#[test]
fn a_key_that_is_left_where_the_guest_goes_is_removed_before_anything_else_is_begun() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let wire = Wire::to(&hosts.target);
    let [alpha, beta] = [hosts.alpha(), hosts.beta(&wire.url(&hosts.target, 0))];
    let mut source = connect(&alpha);
    reserve(&mut source);
    // When the destination has registered, the target understands no PERSISTENT RESERVE of its any more, until it has given up.
    let (mut registered, mut removals) = (false, 0);
    wire.meddle(move |cdb| match cdb[0] {
        0x5E | 0x5F if removals == 4 => Deed::Hold,
        0x5E | 0x5F if registered => {
            removals += u32::from(cdb[0] == 0x5F);
            cdb[1] |= 0x1F;
            Deed::Pass
        }
        _ => {
            registered |= is_out(cdb, REGISTER);
            Deed::Pass
        }
    });
    source.front.stop().unwrap();
    let mut destination = connect(&beta);
    wire.wait_held();
    assert_eq!(keys_elsewhere(&mut hosts), [OWN, OWN]);
    for host in 0..2 {
        assert!(!journal(&hosts, host).contains("\"end\""), "{}", journal(&hosts, host));
    }
    wire.release();
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    holds_here(&mut hosts, &mut destination, 1);
    assert_eq!(journal(&hosts, 1).matches("\"begin\"").count(), 2, "{}", journal(&hosts, 1));
}

#[test]
fn a_guest_comes_back_to_a_host_whose_handover_the_other_one_ended_alone() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst,delay=50ms"]);
    let [mut alpha, beta] = hosts.both();
    let mut source = connect(&alpha);
    reserve(&mut source);
    source.front.stop().unwrap();
    let mut destination = connect(&beta);
    assert!(wait_for(DEADLINE, || (lines(&hosts, 0) >= 4).then_some(())).is_some());
    alpha.process.kill();
    assert!(!journal(&hosts, 0).contains("\"end\""));
    claim(&hosts, 1, false).unwrap();
    assert_eq!(on(&mut destination, 0, &ready()).status, Status::GOOD);
    let alpha = hosts.alpha();
    destination.front.migrate(&alpha.sockets[0], |_, _| Ok(())).unwrap();
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    holds_here(&mut hosts, &mut destination, 0);
}

/// A third host's device, where the guest is expected from the second one.
fn gamma(hosts: &Hosts, more: &[&str]) -> Device {
    let address = |name: &str| format!("unix:{}", hosts.text(&format!("{name}.peer")));
    let _ = fs::create_dir(hosts.at("gamma"));
    let (listen, beta, state) =
        (address("gamma"), format!("beta={}", address("beta")), hosts.text("gamma/state"));
    let words = ["--num-queues", "2", "--host", "gamma", "--incoming", "beta", "--state", &state];
    let peers = ["--peer-listen", &listen, "--peer", &beta];
    let url = hosts.target.url(0);
    tenure().device(&hosts.at("gamma"), &["db1"], &[&url], &[&words[..], &peers, more].concat()).unwrap()
}

#[test]
fn a_registration_that_has_not_come_goes_to_the_third_host_that_has_the_guest_if_that_knows_where_it_is() {
    let mut hosts = Hosts::with(&["memory=4M,profile=tgt"]);
    let address = |name: &str| format!("{name}=unix:{}", hosts.text(&format!("{name}.peer")));
    let (third, first, url) =
        (["--peer", &address("gamma")], ["--peer", &address("alpha")], hosts.target.url(0));
    let alpha = hosts.start(0, &[&url], &third);
    let beta = hosts.start(1, &[&url], &[&third[..], &["--incoming", "alpha"]].concat());
    let mut source = connect(&alpha);
    reserve(&mut source);
    block(&hosts, 0);
    source.front.stop().unwrap();
    let destination = connect(&beta);
    waits_for(&hosts, 1, "alpha");
    let mut unfit = gamma(&hosts, &[]);
    assert!(VirtioScsi::connect(&unfit.sockets[0], &setting(2, SHAPE)).is_err(), "it could not ask alpha");
    unfit.process.kill();
    drop(destination);
    let gamma = gamma(&hosts, &first);
    let mut driver = connect(&gamma);
    hosts.wait_for(1, "away");
    assert_eq!(keys_elsewhere(&mut hosts), [OWN]);
    unblock(&hosts, 0);
    assert_eq!(patiently(&mut driver, &ready()).status, Status::GOOD);
    assert_eq!(keys(&mut driver), [OWN]);
    good(&mut driver, &write());
    assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
    hosts.expect_record(0, GONE);
}

/// A nexus of somebody's has this key from now on.
fn register_by(way: &str, key: Key) {
    let mut line = way.parse::<Way>().unwrap().open(DEADLINE).unwrap();
    let ended = nexus::retry_unit_attention(&mut line, &request::register(Key::NONE, key, false), 8);
    assert!(ended.unwrap().completion.status.is_good());
}

/// The guest, which has registered at two logical units, has been committed to the second host, and its registrations have not come.
fn parted_with_two(hosts: &Hosts, alpha: &Device, beta: &Device) -> (VirtioScsi, VirtioScsi) {
    let mut source = connect(alpha);
    reserve(&mut source);
    assert!(on(&mut source, 1, &request::register(Key::NONE, OWN, false)).status.is_good());
    block(hosts, 0);
    source.front.stop().unwrap();
    let destination = connect(beta);
    waits_for(hosts, 1, "alpha");
    (source, destination)
}

/// Of two logical units of a target the guest is fenced at one, and at the other one the initiator port that it is to be is another's for a
/// while. `forgets`: the destination loses its records meanwhile.
fn two_ends(forgets: bool) {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"; 2]);
    let luns = [hosts.target.url(0), hosts.target.url(1)];
    let luns = [&*luns[0], &*luns[1]];
    let (alpha, start) =
        (hosts.start(0, &luns, &[]), |hosts: &Hosts| hosts.start(1, &luns, &["--incoming", "alpha"]));
    let mut beta = start(&hosts);
    let (name, isid) = alpha.initiators[0].split_once(",i,0x").unwrap();
    let isid = u64::from_str_radix(isid, 16).unwrap() ^ 1;
    let another = Key(0xC3);
    register_by(&format!("{}?initiator={name}&isid={isid:012x}", luns[1]), another);
    let (_source, mut destination) = parted_with_two(&hosts, &alpha, &beta);
    fence(&mut hosts);
    unblock(&hosts, 0);
    waits_for(&hosts, 1, "another key");
    let states = |hosts: &Hosts, host| {
        let mut states: Vec<String> = records(hosts, host).into_iter().map(|[state, ..]| state).collect();
        states.sort();
        states
    };
    beta.process.kill();
    if forgets {
        fs::remove_dir_all(hosts.at("beta/state/guests")).unwrap();
    }
    beta = start(&hosts);
    destination.front.reconnect(&beta.sockets[0]).unwrap();
    waits_for(&hosts, 1, "another key");
    assert_eq!(states(&hosts, 1), ["fenced", "handover"]);
    let way: Way = hosts.target.device(1, "third").parse().unwrap();
    let mut other = way.open(DEADLINE).unwrap();
    for request in [request::register(Key::NONE, OTHER, false), request::preempt(OTHER, another, KIND)] {
        let ended = nexus::retry_unit_attention(&mut other, &request, 8).unwrap().completion;
        assert!(ended.status.is_good(), "{ended:?}");
    }
    claim(&hosts, 1, false).unwrap();
    assert_eq!(on(&mut destination, 0, &write()).status, Status::RESERVATION_CONFLICT);
    assert_eq!(on(&mut destination, 1, &ready()).status, Status::GOOD);
    assert_eq!(
        (states(&hosts, 0), states(&hosts, 1)),
        (vec!["moved".to_owned(); 2], vec!["active".to_owned(), "fenced".to_owned()])
    );
}

#[test]
fn logical_units_that_end_differently_each_have_their_place_also_after_a_restart() {
    two_ends(false);
}

#[test]
fn a_registration_that_is_nowhere_any_more_by_the_bearers_record_is_asked_for_at_the_device() {
    two_ends(true);
}

#[test]
fn a_claim_is_refused_where_this_hosts_nexus_may_be_registered_by_a_nonce_and_nobody_is_served() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let wire = Wire::to(&hosts.target);
    let url = wire.url(&hosts.target, 0);
    let (mut alpha, beta) = (hosts.alpha(), hosts.start(1, &[&url], &["--incoming", "alpha", "--wait", "1"]));
    let mut source = connect(&alpha);
    reserve(&mut source);
    block(&hosts, 0);
    source.front.stop().unwrap();
    let mut destination = connect(&beta);
    waits_for(&hosts, 1, "alpha");
    alpha.process.kill();
    wire.meddle(|cdb| if is_out(cdb, PREEMPT) || is_out(cdb, PREEMPT + 1) { Deed::Hold } else { Deed::Pass });
    let control = hosts.control(1);
    let claimed = thread::spawn(move || claim_by(&control, false));
    wire.wait_held();
    // Somebody changes something between the last look and the PREEMPT: who shares the key now is not known.
    assert!(hosts.elsewhere(&request::register(Key::NONE, OTHER, false)).status.is_good());
    wire.release();
    let refused = claimed.join().unwrap().unwrap_err();
    assert!(refused.contains("in doubt"), "{refused}");
    assert_eq!(hosts.guest(1)["place"], "owned");
    assert_eq!(send(&mut destination, &write()).status, Status::BUSY);
    // The other host comes back, and has not heard of what this one began alone.
    unblock(&hosts, 0);
    let _alpha = hosts.alpha();
    let refused = claim(&hosts, 1, false).unwrap_err();
    let nonce: Vec<Key> = keys_elsewhere(&mut hosts).into_iter().filter(|key| *key != OTHER).collect();
    assert!(nonce.len() == 1 && refused.contains(&format!("{:#018x}", nonce[0].0)), "{refused} {nonce:?}");
    assert!(hosts.elsewhere(&request::preempt(OTHER, nonce[0], KIND)).status.is_good());
    claim(&hosts, 1, false).unwrap();
    assert_eq!(on(&mut destination, 0, &write()).status, Status::RESERVATION_CONFLICT);
    assert_eq!(keys_elsewhere(&mut hosts), [OTHER]);
}

#[test]
fn who_answers_and_refuses_is_not_gone() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let (mut alpha, _beta, _source, mut destination, _) = parted(&hosts);
    alpha.process.kill();
    let address = hosts.at("alpha.peer");
    fs::remove_file(&address).unwrap();
    let listener = UnixListener::bind(&address).unwrap();
    thread::spawn(move || listener.incoming().for_each(drop));
    let refused = claim(&hosts, 1, false).unwrap_err();
    assert!(refused.contains("alpha"), "{refused}");
    assert_eq!(keys_elsewhere(&mut hosts), [OWN]);
    fs::remove_file(&address).unwrap();
    claim(&hosts, 1, false).unwrap();
    holds_here_alone(&mut hosts, &mut destination);
}

fn holds_here_alone(hosts: &mut Hosts, driver: &mut VirtioScsi) {
    assert!(on(driver, 0, &write()).status.is_good());
    assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
    assert_eq!(keys_elsewhere(hosts), [OWN]);
}

/// The guest is claimed where it goes, and of its two logical units one can be taken over. The other one's initiator port is `occupied`, which
/// passes, or its key is another node's as well, which does not.
fn taken_over_one_by_one(occupied: bool) {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"; 2]);
    let luns = [hosts.target.url(0), hosts.target.url(1)];
    let luns = [&*luns[0], &*luns[1]];
    let (mut alpha, beta) = (hosts.start(0, &luns, &[]), hosts.start(1, &luns, &["--incoming", "alpha"]));
    let (name, isid) = alpha.initiators[0].split_once(",i,0x").unwrap();
    let isid = u64::from_str_radix(isid, 16).unwrap() ^ 1;
    let way = if occupied {
        format!("{}?initiator={name}&isid={isid:012x}", luns[1])
    } else {
        hosts.target.device(1, "sharer")
    };
    let another = if occupied { Key(0xC3) } else { OWN };
    register_by(&way, another);
    let (_source, mut destination) = parted_with_two(&hosts, &alpha, &beta);
    alpha.process.kill();
    let claimed = claim(&hosts, 1, false);
    if occupied {
        let refused = claimed.unwrap_err();
        assert!(refused.contains("another key"), "{refused}");
        assert_eq!(hosts.guest(1)["place"], "owned");
        let way: Way = hosts.target.device(1, "third").parse().unwrap();
        let mut other = way.open(DEADLINE).unwrap();
        for request in [request::register(Key::NONE, OTHER, false), request::preempt(OTHER, another, KIND)] {
            let ended = nexus::retry_unit_attention(&mut other, &request, 8).unwrap().completion;
            assert!(ended.status.is_good(), "{ended:?}");
        }
        claim(&hosts, 1, false).unwrap();
    } else {
        claimed.unwrap();
    }
    holds_here_alone(&mut hosts, &mut destination);
    let all = records(&hosts, 1);
    let fenced = all.iter().filter(|[state, ..]| state == "fenced").collect::<Vec<_>>();
    assert_eq!(fenced.len(), usize::from(!occupied), "{all:?}");
    assert!(fenced.iter().all(|[.., why]| why.contains("shares the key")), "{all:?}");
}

#[test]
fn what_can_be_taken_over_is_and_what_cannot_now_is_the_refusal_of_the_claim() {
    taken_over_one_by_one(true);
}

#[test]
fn what_can_be_taken_over_is_and_what_never_can_counts_as_fenced_with_the_reason() {
    taken_over_one_by_one(false);
}

#[test]
fn a_claim_at_a_device_that_takes_no_commands_for_a_moment_is_refused_and_can_be_made_again() {
    let mut hosts = Hosts::with(&["memory=4M,profile=scst"]);
    let wire = Wire::to(&hosts.target);
    let [mut alpha, beta] = [hosts.alpha(), hosts.beta(&wire.url(&hosts.target, 0))];
    let mut source = connect(&alpha);
    reserve(&mut source);
    block(&hosts, 0);
    source.front.stop().unwrap();
    let mut destination = connect(&beta);
    waits_for(&hosts, 1, "alpha");
    alpha.process.kill();
    wire.meddle(|cdb| {
        if matches!(cdb[0], 0x5E | 0x5F) {
            cdb[1] |= 0x1F;
        }
        Deed::Pass
    });
    claim(&hosts, 1, false).unwrap_err();
    assert_eq!(hosts.guest(1)["place"], "owned");
    assert_ne!(records(&hosts, 1)[0][0], "fenced");
    wire.release();
    claim(&hosts, 1, false).unwrap();
    assert_eq!(patiently(&mut destination, &ready()).status, Status::GOOD);
    assert_eq!(keys(&mut destination), [OWN]);
    good(&mut destination, &write());
    assert_eq!(hosts.elsewhere(&write()).status, Status::RESERVATION_CONFLICT);
}

#[test]
fn a_claim_is_refused_where_the_ledger_is_lost_that_knew_of_an_unfinished_handover() {
    let (hosts, _wire, [mut alpha, mut beta], [source, destination], _) = in_the_window("tgt");
    beta.process.kill();
    alpha.process.kill();
    drop((source, destination));
    fs::remove_dir_all(hosts.at("alpha/state/guests")).unwrap();
    let _alpha = hosts.alpha();
    let refused = claim(&hosts, 0, true).unwrap_err();
    assert!(refused.contains("the ledger knows nothing"), "{refused}");
}
