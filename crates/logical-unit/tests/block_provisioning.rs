//! UNMAP, WRITE SAME and GET LBA STATUS (SBC-4 4.7), on both stores.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use scsi::AdditionalSense;
use scsi::block::{Access, Command, Form, GetLbaStatus, Operation, Sanitize, Unmap, service_action};
use scsi::lba_status::{LbaStatus, Provisioning};
use scsi::unmap::{UnmapDescriptor, UnmapList};
use support::{BLOCK, Host, good, illegal, memory, open};

const BLOCKS: u64 = 8192;

fn on_both_stores(test: impl Fn(&Host)) {
    test(&Host::new(&memory(), 1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lun");
    test(&Host::new(&open(&format!("file={},size=4M", path.display())), 1));
}

fn unmap(host: &Host, runs: &[(u64, u32)]) -> scsi::Completion {
    let descriptors =
        runs.iter().map(|(lba, blocks)| UnmapDescriptor { lba: *lba, blocks: *blocks }).collect();
    let list = UnmapList { descriptors }.to_bytes();
    let length = u16::try_from(list.len()).unwrap();
    host.run(Command::Unmap(Unmap { anchor: false, group: 0, length }), &list)
}

fn status(host: &Host, lba: u64) -> Vec<(u64, u32, bool)> {
    let command = GetLbaStatus { lba, allocation_length: 1000, report_type: 0 };
    let status = LbaStatus::parse(&good(host.run(Command::GetLbaStatus(command), &[]))).unwrap();
    let mapped = |status| status == Provisioning::MAPPED;
    status.descriptors.iter().map(|run| (run.lba, run.blocks, mapped(run.status))).collect()
}

#[test]
fn unmapped_blocks_read_as_zeros_and_are_reported_deallocated() {
    on_both_stores(|host| {
        assert_eq!(status(host, 0), [(0, BLOCKS as u32, false)]);
        host.write(0, &[1; 64 * BLOCK]);
        assert_eq!(status(host, 0), [(0, 64, true), (64, BLOCKS as u32 - 64, false)]);
        good(unmap(host, &[(8, 16), (40, 8)]));
        assert_eq!(host.read(8, 16), [0; 16 * BLOCK]);
        assert_eq!(host.read(24, 16), [1; 16 * BLOCK]);
        let runs = status(host, 8);
        assert_eq!(runs[..3], [(8, 16, false), (24, 16, true), (40, 8, false)]);
        assert_eq!(status(host, 20)[0], (20, 4, false));
    });
}

#[test]
fn a_part_of_a_page_is_zeroed_and_stays_mapped() {
    on_both_stores(|host| {
        host.write(0, &[1; 8 * BLOCK]);
        good(unmap(host, &[(3, 2)]));
        assert_eq!(host.read(0, 8), [vec![1; 3 * BLOCK], vec![0; 2 * BLOCK], vec![1; 3 * BLOCK]].concat());
        assert_eq!(status(host, 0)[0], (0, 8, true));
    });
}

#[test]
fn unmap_checks_everything_before_it_takes_effect() {
    let host = Host::new(&memory(), 1);
    host.write(0, &[1; BLOCK]);
    illegal(&unmap(&host, &[(0, 1), (BLOCKS, 1)]), AdditionalSense::LBA_OUT_OF_RANGE);
    illegal(&unmap(&host, &[(0, 1), (u64::MAX, 1)]), AdditionalSense::LBA_OUT_OF_RANGE);
    illegal(&unmap(&host, &[(0, 1); 257]), AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
    illegal(&unmap(&host, &[(0, (1 << 20) + 1)]), AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
    assert_eq!(host.read(0, 1), [1; BLOCK]);
    good(unmap(&host, &[]));
    good(unmap(&host, &[(0, 0)]));
    assert_eq!(host.read(0, 1), [1; BLOCK]);
    let anchor = Unmap { anchor: true, group: 0, length: 0 };
    illegal(&host.run(Command::Unmap(anchor), &[]), AdditionalSense::INVALID_FIELD_IN_CDB);
    for length in [1, 7, 8, 23] {
        let command = Unmap { anchor: false, group: 0, length };
        let list = UnmapList { descriptors: vec![UnmapDescriptor { lba: 0, blocks: 1 }] }.to_bytes();
        let cut = host.run(Command::Unmap(command), &list[..usize::from(length)]);
        illegal(&cut, AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    }
}

const PLAIN: Operation = Operation::WriteSame { anchor: false, unmap: false, no_data_out: false };
const UNMAPPING: Operation = Operation::WriteSame { anchor: false, unmap: true, no_data_out: false };
const WITHOUT_DATA: Operation = Operation::WriteSame { anchor: false, unmap: false, no_data_out: true };

#[test]
fn write_same_repeats_its_block_and_nothing_else() {
    on_both_stores(|host| {
        let block: Vec<u8> = (0..BLOCK).map(|n| n as u8).collect();
        for form in [Form::Ten, Form::Sixteen] {
            good(host.access(PLAIN, form, 100, 3000, &block));
            assert_eq!(host.read(100, 3000), block.repeat(3000));
            assert_eq!(host.read(99, 1), [0; BLOCK]);
            assert_eq!(host.read(3100, 1), [0; BLOCK]);
        }
    });
}

#[test]
fn write_same_with_unmap_gives_back_only_zeros() {
    on_both_stores(|host| {
        host.write(0, &[1; 64 * BLOCK]);
        good(host.access(UNMAPPING, Form::Ten, 0, 32, &[2; BLOCK]));
        assert_eq!(host.read(0, 32), [2; 32 * BLOCK]);
        good(host.access(UNMAPPING, Form::Sixteen, 0, 32, &[0; BLOCK]));
        good(host.access(WITHOUT_DATA, Form::Sixteen, 32, 32, &[]));
        assert_eq!(host.read(0, 64), [0; 64 * BLOCK]);
        assert_eq!(status(host, 0), [(0, BLOCKS as u32, false)]);
    });
}

#[test]
fn write_same_refuses_what_it_cannot_mean() {
    let host = Host::new(&memory(), 1);
    let anchored = Operation::WriteSame { anchor: true, unmap: true, no_data_out: false };
    illegal(&host.access(anchored, Form::Ten, 0, 1, &[0; BLOCK]), AdditionalSense::INVALID_FIELD_IN_CDB);
    illegal(&host.access(PLAIN, Form::Sixteen, 0, 0, &[0; BLOCK]), AdditionalSense::INVALID_FIELD_IN_CDB);
    illegal(
        &host.access(PLAIN, Form::Sixteen, 0, (1 << 21) + 1, &[0; BLOCK]),
        AdditionalSense::INVALID_FIELD_IN_CDB,
    );
    for data in [&[][..], &[0; 511], &[0; 1024]] {
        let refusal = host.access(PLAIN, Form::Sixteen, 0, 1, data);
        illegal(&refusal, AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
    }
    let mut protect = Access::new(PLAIN, Form::Sixteen, 0, 1);
    protect.protect = 1;
    illegal(&host.run(Command::Access(protect), &[0; BLOCK]), AdditionalSense::INVALID_FIELD_IN_CDB);
}

#[test]
fn lba_status_reports_no_more_than_fits_and_refuses_blocks_beyond_the_last() {
    let host = Host::new(&memory(), 1);
    host.write(8, &[1; 8 * BLOCK]);
    let ask = |lba, allocation_length| {
        host.run(Command::GetLbaStatus(GetLbaStatus { lba, allocation_length, report_type: 0 }), &[])
    };
    assert_eq!(good(ask(0, 24)).len(), 24);
    assert_eq!(good(ask(0, 40)).len(), 40);
    assert!(good(ask(0, 0)).is_empty());
    assert_eq!(good(ask(0, 10))[..4], [0, 0, 0, 20], "the length tells of the descriptor that was cut");
    illegal(&ask(BLOCKS, 24), AdditionalSense::LBA_OUT_OF_RANGE);
    let odd = GetLbaStatus { lba: 0, allocation_length: 24, report_type: 9 };
    illegal(&host.run(Command::GetLbaStatus(odd), &[]), AdditionalSense::INVALID_FIELD_IN_CDB);
}

#[test]
fn sanitize_erases_or_overwrites_the_whole_medium() {
    on_both_stores(|host| {
        host.write(BLOCKS - 8, &[1; 8 * BLOCK]);
        let sanitize = |action, list: &[u8]| {
            let (immediate, allow_unrestricted_exit, reserved) = (false, false, false);
            let length = u16::try_from(list.len()).unwrap();
            host.run(
                Command::Sanitize(Sanitize { immediate, allow_unrestricted_exit, action, length, reserved }),
                list,
            )
        };
        good(sanitize(service_action::SANITIZE_BLOCK_ERASE, &[]));
        assert_eq!(status(host, 0), [(0, BLOCKS as u32, false)]);
        good(sanitize(service_action::SANITIZE_OVERWRITE, &[0x82, 0, 0, 3, 1, 2, 3]));
        let inverted: Vec<u8> = [!1, !2, !3].iter().copied().cycle().take(BLOCK).collect();
        assert_eq!(host.read(BLOCKS - 1, 1), inverted, "the second pass is inverted");
        good(sanitize(service_action::SANITIZE_EXIT_FAILURE_MODE, &[]));
        for (action, list, code) in [
            (service_action::SANITIZE_OVERWRITE, &[][..], AdditionalSense::INVALID_FIELD_IN_CDB),
            (
                service_action::SANITIZE_OVERWRITE,
                &[0, 0, 0, 1, 1],
                AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST,
            ),
            (
                service_action::SANITIZE_OVERWRITE,
                &[1, 0, 0, 0, 1],
                AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST,
            ),
            (
                service_action::SANITIZE_OVERWRITE,
                &[1, 0, 0, 2, 1],
                AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST,
            ),
            (service_action::SANITIZE_BLOCK_ERASE, &[0; 8], AdditionalSense::INVALID_FIELD_IN_CDB),
            (service_action::SANITIZE_CRYPTOGRAPHIC_ERASE, &[], AdditionalSense::INVALID_FIELD_IN_CDB),
        ] {
            illegal(&sanitize(action, list), code);
        }
    });
}
