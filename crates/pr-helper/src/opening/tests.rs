//! Names of logical units, and descriptors that are none of a SCSI device.

use super::*;
use rustix::fs::{Mode, OFlags};
use scsi::AdditionalSense;

/// A device that answers INQUIRY with the pages it has.
struct Named(Vec<(u8, Vec<u8>)>);

impl Nexus for Named {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        if request.cdb[1] == 0 {
            let mut standard = vec![0; 36];
            standard.splice(8..32, *b"TENURE  DISK            ");
            return Ok(Completion::good(standard));
        }
        let found = self.0.iter().find(|(code, _)| *code == request.cdb[2]);
        let page = |(code, body): &(u8, Vec<u8>)| Page { peripheral: 0, code: *code, body: body.clone() };
        Ok(found.map(page).map_or_else(failure::not_allowed, |page| Completion::good(page.to_bytes())))
    }
}

fn name(pages: Vec<(u8, Vec<u8>)>) -> Option<String> {
    let identity = identify(&mut Named(pages), "pci0", "/dev/sdx".to_owned()).unwrap();
    identity.map(|identity| identity.lun.0)
}

#[test]
fn the_best_designator_names_the_logical_unit() {
    let naa = [0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7];
    let vendor = [0x02, 0x01, 0, 4, b'A', b'C', b'M', b'E'];
    let both = [&vendor[..], &naa].concat();
    assert_eq!(name(vec![(0x83, both)]).as_deref(), Some("naa.6001020304050607"));
    assert_eq!(name(vec![(0x83, vendor.to_vec())]).as_deref(), Some("t10.ACME"));
}

#[test]
fn without_a_designator_the_serial_number_names_it_and_without_that_nothing_does() {
    assert_eq!(name(vec![(0x80, b" 42 ".to_vec())]).as_deref(), Some("serial.TENURE.DISK.42"));
    assert_eq!(name(vec![(0x80, b"  ".to_vec())]), None);
    assert_eq!(name(vec![]), None);
}

#[test]
fn what_is_no_device_is_answered_as_the_incumbent_does() {
    let aborted = AdditionalSense::new(0, 6);
    let (pipe, _) = std::io::pipe().unwrap();
    let path = rustix::fs::open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    for fd in [tempfile::tempfile().unwrap().into(), pipe.into(), path, null.into()] {
        let refused = LinuxDevices.open(fd, true).err().unwrap();
        assert_eq!(refused.decoded_sense().unwrap().code, aborted);
    }
}

#[test]
fn a_descriptor_opened_for_reading_may_not_change_reservations() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let refused = LinuxDevices.open(null.into(), true).err().unwrap();
    assert_eq!(refused.decoded_sense().unwrap().code, AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
}
