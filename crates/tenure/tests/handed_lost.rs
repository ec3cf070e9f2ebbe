//! A handover of registrations between two devices that is never finished by both: a host is gone for good and the operator claims the
//! guest, a way to the target is cut, other hosts come between.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "hosts/between.rs"]
mod between;
mod hosts;
#[path = "hosts/wire.rs"]
mod wire;

use between::*;
use hosts::*;
use lab::process::{DEADLINE, wait_for};
use scsi::Status;
use scsi::pr::Key;
use wire::{Deed, Wire, is_out};

/// The REGISTER of the guest's key, and the PREEMPT.
const PREEMPT: u8 = 4;

/// A node fences the guest, which does not write any more.
fn can_be_fenced(hosts: &mut Hosts, driver: &mut lab::front_end::scsi::VirtioScsi, when: &str) {
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
    for profile in ["tgt", "scst"] {
        (2..=6).for_each(|line| claimed_after(profile, 0, line));
    }
}

/// The source has the nonce, and the destination's PREEMPT of that is on its way.
fn in_the_window(
    profile: &str,
) -> (Hosts, Wire, [lab::served::Device; 2], [lab::front_end::scsi::VirtioScsi; 2], Key) {
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
    if let Err(error) = claim(&hosts, 0, true) {
        let key = format!("{:#018x}", nonce.0);
        assert!(error.contains("under the key") && error.contains(&key), "{error}");
        return;
    }
    drop(source);
    let mut again = connect(&alpha);
    patiently(&mut again, &ready());
    can_be_fenced(&mut hosts, &mut again, "in the nonce's window");
}
