//! EXTENDED COPY(LID1) within one logical unit, and what is told of it (SPC-4 6.4, 6.17, 6.19).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use scsi::block::{Command, ExtendedCopy, Inquiry, ReceiveCopyResults, service_action};
use scsi::copy::{CopyList, CopySegment, CopyStatus, CopyTarget};
use scsi::vpd::{Designator, DeviceIdentification, Page, page};
use scsi::{AdditionalSense, Completion, SenseKey};
use support::{BLOCK, Host, good, illegal, memory, refused};

fn host() -> Host {
    Host::new(&memory(), 1)
}

fn name_of(host: &Host) -> Designator {
    let command = Inquiry { evpd: true, page: page::DEVICE_IDENTIFICATION, allocation_length: 1024 };
    let page = Page::parse(&good(host.run(Command::Inquiry(command), &[]))).unwrap();
    DeviceIdentification::parse(&page.body).logical_unit_names()[0].clone()
}

fn copy(host: &Host, designator: Designator, segment: CopySegment) -> Completion {
    let targets = vec![CopyTarget { designator, block_length: BLOCK as u32 }];
    let list = CopyList { list: 7, usage: 0, targets, segments: vec![segment] }.to_bytes();
    let length = u32::try_from(list.len()).unwrap();
    host.run(Command::ExtendedCopy(ExtendedCopy { length }), &list)
}

fn segment(source_lba: u64, destination_lba: u64, blocks: u16) -> CopySegment {
    CopySegment { source: 0, destination: 0, blocks, source_lba, destination_lba }
}

fn status(host: &Host, list: u8) -> Completion {
    let action = service_action::COPY_STATUS_LID1;
    host.run(Command::ReceiveCopyResults(ReceiveCopyResults { action, list, allocation_length: 64 }), &[])
}

#[test]
fn a_segment_is_copied_even_onto_itself_and_its_status_is_told_once() {
    let host = host();
    let data: Vec<u8> = (0..16 * BLOCK).map(|at| (at / 100) as u8).collect();
    host.write(0, &data);
    good(copy(&host, name_of(&host), segment(0, 4, 16)));
    assert_eq!(host.read(4, 16), data);
    let told = CopyStatus::parse(&good(status(&host, 7))).unwrap();
    assert_eq!(told, CopyStatus { status: CopyStatus::COMPLETED, segments: 1, blocks: 16 });
    illegal(&status(&host, 7), AdditionalSense::INVALID_FIELD_IN_CDB);
}

#[test]
fn the_status_of_a_copy_belongs_to_its_nexus() {
    let unit = memory();
    let (a, b) = (Host::new(&unit, 1), Host::new(&unit, 2));
    good(copy(&a, name_of(&a), segment(0, 8, 1)));
    illegal(&status(&b, 7), AdditionalSense::INVALID_FIELD_IN_CDB);
    good(status(&a, 7));
}

#[test]
fn a_copy_that_cannot_be_done_is_aborted_and_told_as_failed() {
    let host = host();
    let other = name_of(&Host::new(&memory(), 1));
    let wrong_index = CopySegment { destination: 1, ..segment(0, 8, 1) };
    assert_eq!(refused(&copy(&host, other, segment(0, 8, 1))).0, SenseKey::COPY_ABORTED);
    for segment in [segment(0, 8190, 4), segment(u64::MAX, 0, 4), wrong_index] {
        assert_eq!(refused(&copy(&host, name_of(&host), segment)).0, SenseKey::COPY_ABORTED);
        let told = CopyStatus::parse(&good(status(&host, 7))).unwrap();
        assert_eq!((told.status, told.segments), (CopyStatus::FAILED, 0));
    }
}

#[test]
fn an_empty_list_copies_nothing_and_a_short_one_is_refused() {
    let host = host();
    good(host.run(Command::ExtendedCopy(ExtendedCopy { length: 0 }), &[]));
    for length in [1, 15, 16, 60] {
        let mut list = [0; 60];
        list[3] = 64;
        let cut = host.run(Command::ExtendedCopy(ExtendedCopy { length }), &list[..length as usize]);
        illegal(&cut, AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    }
}
