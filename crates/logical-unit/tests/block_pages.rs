//! What the device tells about itself: INQUIRY, capacity, supported operation codes, REPORT LUNS
//! (SPC-4 6, SBC-4 5), and that no allocation length alters a length field.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use logical_unit::{Device, LogicalUnit};
use scsi::block::{Command, Inquiry, ReadCapacity16, ReportLuns, ReportingOptions, SupportedOperations};
use scsi::capacity::{Capacity10, Capacity16};
use scsi::inquiry::StandardInquiry;
use scsi::supported::{AllCommands, OneCommand};
use scsi::vpd::{BlockLimits, DeviceIdentification, LogicalBlockProvisioning, Page, page};
use scsi::{AdditionalSense, Status};
use std::sync::Arc;
use support::{Host, good, illegal, memory, open};

fn inquiry(host: &Host, evpd: bool, page: u8, allocation_length: u16) -> scsi::Completion {
    host.run(Command::Inquiry(Inquiry { evpd, page, allocation_length }), &[])
}

fn vpd(host: &Host, code: u8) -> Page {
    Page::parse(&good(inquiry(host, true, code, 1024))).unwrap()
}

#[test]
fn every_listed_page_exists_in_ascending_order_and_no_other() {
    let host = Host::new(&memory(), 1);
    let listed = vpd(&host, page::SUPPORTED_PAGES).body;
    assert!(listed.is_sorted());
    for code in 0..=0xFF {
        let reply = inquiry(&host, true, code, 1024);
        if listed.contains(&code) {
            assert_eq!(Page::parse(&good(reply)).unwrap().code, code);
        } else {
            illegal(&reply, AdditionalSense::INVALID_FIELD_IN_CDB);
        }
    }
    illegal(&inquiry(&host, false, 1, 96), AdditionalSense::INVALID_FIELD_IN_CDB);
}

#[test]
fn a_profile_gives_the_logical_unit_its_name() {
    for (profile, vendor) in [("spc", "TENURE"), ("lio", "LIO-ORG"), ("tgt", "IET")] {
        let host = Host::new(&open(&format!("memory=1M,profile={profile}")), 1);
        let inquiry = StandardInquiry::parse(&good(inquiry(&host, false, 0, 96))).unwrap();
        assert_eq!(inquiry.vendor_text(), vendor);
        assert!(inquiry.command_queue && inquiry.third_party_copy && !inquiry.removable);
    }
}

#[test]
fn no_allocation_length_alters_a_length_field() {
    let host = Host::new(&memory(), 1);
    let whole = |command: &dyn Fn(u16) -> Command| {
        let full = good(host.run(command(u16::MAX), &[]));
        for allocation in 0..=full.len() as u16 + 1 {
            let cut = good(host.run(command(allocation), &[]));
            assert_eq!(cut[..], full[..full.len().min(usize::from(allocation))]);
        }
    };
    for code in vpd(&host, page::SUPPORTED_PAGES).body {
        whole(&|allocation_length| Command::Inquiry(Inquiry { evpd: true, page: code, allocation_length }));
    }
    whole(&|allocation_length| Command::Inquiry(Inquiry { evpd: false, page: 0, allocation_length }));
    whole(&|length| Command::ReadCapacity16(ReadCapacity16 { allocation_length: length.into() }));
    let (timeouts, options, opcode, action) = (true, ReportingOptions::ALL, 0, 0);
    whole(&|length| {
        let allocation_length = length.into();
        Command::SupportedOperations(SupportedOperations {
            timeouts,
            options,
            opcode,
            action,
            allocation_length,
        })
    });
}

#[test]
fn two_hosts_see_one_logical_unit_and_another_run_sees_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let spec = format!("file={},size=1M", folder.path().join("lun").display());
    let names = |unit: &Arc<LogicalUnit>, number| {
        let page =
            DeviceIdentification::parse(&vpd(&Host::new(unit, number), page::DEVICE_IDENTIFICATION).body);
        page.logical_unit_names().into_iter().cloned().collect::<Vec<_>>()
    };
    let unit = open(&spec);
    let (first, second) = (names(&unit, 1), names(&unit, 2));
    assert_eq!(first, second);
    let serial = vpd(&Host::new(&unit, 1), page::UNIT_SERIAL_NUMBER).body;
    drop(unit);
    let unit = open(&spec);
    assert_eq!(names(&unit, 1), first);
    assert_eq!(vpd(&Host::new(&unit, 1), page::UNIT_SERIAL_NUMBER).body, serial);
    assert_ne!(names(&memory(), 1), names(&memory(), 1));
}

#[test]
fn page_83h_names_the_target_port_it_came_through() {
    let unit = memory();
    Device::new(vec![Arc::clone(&unit)]).identify("iqn.2026-01.example:t", &[1, 2]);
    let page = DeviceIdentification::parse(&vpd(&Host::new(&unit, 1), page::DEVICE_IDENTIFICATION).body);
    assert_eq!(page.relative_target_port(), Some(1));
    assert!(page.designators.iter().any(|name| name.bytes.starts_with(b"iqn.2026-01.example:t,t,0x0001")));
}

#[test]
fn capacity_and_thin_provisioning_agree_in_all_places() {
    let host = Host::new(&memory(), 1);
    let short = Capacity10::parse(&good(host.run(Command::ReadCapacity10, &[]))).unwrap();
    let long = Command::ReadCapacity16(ReadCapacity16 { allocation_length: 32 });
    let long = Capacity16::parse(&good(host.run(long, &[]))).unwrap();
    assert_eq!((u64::from(short.last_lba), short.block_length), (long.last_lba, long.block_length));
    assert!(long.provisioning && long.read_zeros);
    let limits = BlockLimits::parse(&vpd(&host, page::BLOCK_LIMITS).body).unwrap();
    assert_eq!(limits.unmap_granularity, 1 << long.physical_exponent);
    let provisioning =
        LogicalBlockProvisioning::parse(&vpd(&host, page::LOGICAL_BLOCK_PROVISIONING).body).unwrap();
    assert!(provisioning.unmap && provisioning.read_zeros == 1 && provisioning.provisioning_type == 2);
}

#[test]
fn every_reported_command_is_there_and_every_other_is_an_invalid_operation_code() {
    let host = Host::new(&memory(), 1);
    let ask = |options, opcode, action| {
        let (timeouts, allocation_length) = (false, 65_535);
        let command = SupportedOperations { timeouts, options, opcode, action, allocation_length };
        host.run(Command::SupportedOperations(command), &[])
    };
    let all = AllCommands::parse(&good(ask(ReportingOptions::ALL, 0, 0))).unwrap().commands;
    let mut known = vec![false; 256];
    for (command, _) in all {
        known[usize::from(command.opcode)] = true;
        let (right, wrong) = match command.action {
            Some(_) => (ReportingOptions::SERVICE_ACTION, ReportingOptions::OPCODE),
            None => (ReportingOptions::OPCODE, ReportingOptions::SERVICE_ACTION),
        };
        let action = command.action.unwrap_or(0);
        for options in [right, ReportingOptions::EITHER] {
            let one = OneCommand::parse(&good(ask(options, command.opcode, action))).unwrap();
            assert!(one.is_supported());
            assert_eq!(one.usage[0], command.opcode);
        }
        illegal(&ask(wrong, command.opcode, action), AdditionalSense::INVALID_FIELD_IN_CDB);
    }
    for code in 0..=0xFF_u8 {
        let completion = host.raw(&[code, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        let sense = completion.decoded_sense().map(|sense| sense.code);
        let invalid = sense == Some(AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
        assert_eq!(invalid, !known[usize::from(code)], "{code:#x}: {:?}", completion.status);
    }
    assert!(!OneCommand::parse(&good(ask(ReportingOptions::EITHER, 0xFF, 0))).unwrap().is_supported());
    illegal(&ask(ReportingOptions(4), 0, 0), AdditionalSense::INVALID_FIELD_IN_CDB);
}

#[test]
fn the_device_lists_its_luns_and_answers_for_those_that_are_missing() {
    let units = vec![memory(), memory()];
    let device = Device::new(units.clone());
    let host = Host::new(&units[0], 1);
    let report = |select, allocation_length| {
        let cdb = Command::ReportLuns(ReportLuns { select, allocation_length }).to_bytes();
        device.execute(&units[0], &host.handle, &host.begin(1), &cdb, &[])
    };
    assert_eq!(
        good(report(0, 255)),
        [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(good(report(0, 16))[..4], [0, 0, 0, 16]);
    assert_eq!(good(report(1, 255))[..4], [0, 0, 0, 0], "there are no well known logical units");
    illegal(&report(9, 255), AdditionalSense::INVALID_FIELD_IN_CDB);

    assert!(device.unit([0, 1, 0, 0, 0, 0, 0, 0]).is_some_and(|unit| Arc::ptr_eq(unit, &units[1])));
    assert!(device.unit([0x40, 1, 0, 0, 0, 0, 0, 0]).is_some_and(|unit| Arc::ptr_eq(unit, &units[1])));
    for missing in [[0, 2, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0, 0, 0], [0xC1, 1, 0, 0, 0, 0, 0, 0]] {
        assert!(device.unit(missing).is_none());
    }
    let inquiry = device.execute_missing(
        &Command::Inquiry(Inquiry { evpd: false, page: 0, allocation_length: 96 }).to_bytes(),
    );
    assert_eq!(good(inquiry)[0], 0x7F);
    illegal(&device.execute_missing(&[0; 6]), AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    assert_eq!(device.execute_missing(&[0x12]).status, Status::CHECK_CONDITION);
}
