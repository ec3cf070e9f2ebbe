//! What is remembered of a device, and descriptors that are none of a SCSI device.

use super::*;
use crate::opening::cache::tests::key;
use nexus::TransportError;
use rustix::fs::Mode;
use scsi::vpd::Page;
use scsi::{AdditionalSense, Request, Status};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// A device that answers INQUIRY with the pages it has.
#[derive(Clone, Default)]
struct Named {
    pages: Vec<(u8, Vec<u8>)>,
    asked: Arc<AtomicUsize>,
}

impl Nexus for Named {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        if request.cdb[0] == 0 {
            return Ok(Completion::check(&scsi::Sense::unit_attention(AdditionalSense::new(0x3F, 0x0E))));
        }
        self.asked.fetch_add(1, SeqCst);
        if request.cdb[1] == 0 {
            let mut standard = vec![0; 36];
            standard.splice(8..32, *b"TENURE  DISK            ");
            return Ok(Completion::good(standard));
        }
        let found = self.pages.iter().find(|(code, _)| *code == request.cdb[2]);
        let page = |(code, body): &(u8, Vec<u8>)| Page { peripheral: 0, code: *code, body: body.clone() };
        Ok(found.map(page).map_or_else(failure::not_allowed, |page| Completion::good(page.to_bytes())))
    }
}

fn host() -> Host<'static> {
    Host { sys: Path::new("/nowhere"), number: 0x800, block: true }
}

fn naa(last: u8) -> Named {
    let designator = vec![0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, last];
    Named { pages: vec![(0x83, designator)], ..Named::default() }
}

/// What the helper takes the device for.
fn taken_for(devices: &LinuxDevices, device: &Named, disk: u64) -> String {
    let opened = devices.look(device.clone(), Some(key(disk)), &host()).unwrap();
    opened.identity.unwrap().lun.0.clone()
}

#[test]
fn a_device_is_asked_once_and_one_that_replaced_it_again() {
    let (devices, first, second) = (LinuxDevices::default(), naa(1), naa(2));
    for _ in 0..5 {
        assert_eq!(taken_for(&devices, &first, 1), "naa.6001020304050601");
    }
    assert_eq!(first.asked.load(SeqCst), 1);
    assert_eq!(taken_for(&devices, &second, 2), "naa.6001020304050602");
}

/// A device whose first answers are these.
struct Disturbed(Vec<Completion>, Named);

impl Nexus for Disturbed {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.0.pop().map_or_else(|| self.1.execute(request), Ok)
    }
}

#[test]
fn a_device_that_is_disturbed_does_not_pass_for_another_one() {
    let mut device = naa(1);
    device.pages.push((0x80, b"42".to_vec()));
    for answer in [
        Completion::status(Status::BUSY),
        Completion::status(Status::TASK_ABORTED),
        Completion::check(&scsi::Sense::unit_attention(AdditionalSense::REGISTRATIONS_PREEMPTED)),
    ] {
        let devices = LinuxDevices::default();
        let disturbed = Disturbed(vec![answer.clone()], device.clone());
        let told = devices.look(disturbed, Some(key(1)), &host()).err().unwrap();
        assert_eq!(told, answer, "the guest is told, and asks again");
        assert_eq!(taken_for(&devices, &device, 1), "naa.6001020304050601");
    }
}

#[test]
fn a_device_that_stays_with_another_logical_unit_behind_it_is_told_before_anything_changes() {
    let (devices, mut before, mut after) = (LinuxDevices::default(), naa(1), naa(2));
    let identity = devices.look(before.clone(), Some(key(1)), &host()).unwrap().identity.unwrap();
    assert_eq!(devices.confirm(&identity, &mut before), Ok(true));
    assert_eq!(devices.confirm(&identity, &mut after), Ok(false));
    let busy = Completion::status(Status::BUSY);
    assert_eq!(devices.confirm(&identity, &mut Disturbed(vec![busy.clone()], after)), Err(busy));
}

#[test]
fn a_unit_attention_makes_the_helper_ask_again() {
    let (devices, before, after) = (LinuxDevices::default(), naa(1), naa(2));
    let mut opened = devices.look(before, Some(key(1)), &host()).unwrap();
    opened.nexus.execute(&Request { cdb: vec![0; 6], data: scsi::DataPhase::None }).unwrap();
    assert_eq!(taken_for(&devices, &after, 1), "naa.6001020304050602");
}

#[test]
fn a_device_that_cannot_be_told_from_a_later_one_is_asked_each_time() {
    let (devices, device) = (LinuxDevices::default(), naa(1));
    for _ in 0..3 {
        assert!(devices.look(device.clone(), None, &host()).is_ok());
    }
    assert_eq!(device.asked.load(SeqCst), 3);
}

#[test]
fn every_way_to_one_device_has_the_same_key_as_long_as_it_is_there() {
    let key = || {
        let null = std::fs::File::open("/dev/null").unwrap();
        Key::of(&SgDevice::from_fd(null.into()).unwrap(), Path::new(SYS)).unwrap()
    };
    assert_eq!(key(), key());
}

#[test]
fn what_is_no_device_is_answered_as_the_incumbent_does() {
    let aborted = AdditionalSense::new(0, 6);
    let (pipe, _) = std::io::pipe().unwrap();
    let path = rustix::fs::open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let read_only = AdditionalSense::INVALID_COMMAND_OPERATION_CODE;
    let answer = |fd: OwnedFd, changes| {
        LinuxDevices::default().open(fd, changes).err().unwrap().decoded_sense().unwrap().code
    };
    assert_eq!(answer(pipe.try_clone().unwrap().into(), false), aborted);
    assert_eq!(answer(pipe.into(), true), read_only);
    assert_eq!(answer(path.try_clone().unwrap(), false), aborted);
    assert_eq!(answer(path, true), read_only);
    assert_eq!(answer(tempfile::tempfile().unwrap().into(), true), aborted);
    assert_eq!(answer(null.into(), true), aborted);
}

#[test]
fn a_descriptor_opened_for_reading_may_not_change_reservations() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let refused = LinuxDevices::default().open(null.into(), true).err().unwrap();
    assert_eq!(refused.decoded_sense().unwrap().code, AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
}
