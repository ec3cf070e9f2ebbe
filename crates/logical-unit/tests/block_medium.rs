//! Medium access commands as an initiator sees them (SBC-4 5): what they move, compare and refuse.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use proptest::prelude::*;
use scsi::block::{Access, Command, Form, Operation};
use scsi::{AdditionalSense, SenseKey};
use support::{BLOCK, Host, good, illegal, memory, refused};

const BLOCKS: u64 = 8192;
const FORMS: [Form; 4] = [Form::Six, Form::Ten, Form::Twelve, Form::Sixteen];

fn host() -> Host {
    Host::new(&memory(), 1)
}

fn pattern(byte: u8, blocks: usize) -> Vec<u8> {
    vec![byte; blocks * BLOCK]
}

#[test]
fn every_form_of_write_is_read_by_every_form_of_read() {
    let host = host();
    for (number, write) in FORMS.into_iter().enumerate() {
        let data = pattern(number as u8 + 1, 3);
        good(host.access(Operation::Write, write, 40, 3, &data));
        for read in FORMS {
            assert_eq!(good(host.access(Operation::Read, read, 40, 3, &[])), data, "{write:?} {read:?}");
        }
    }
}

#[test]
fn blocks_never_written_read_as_zeros_to_the_last_and_no_further() {
    let host = host();
    assert_eq!(host.read(BLOCKS - 1, 1), pattern(0, 1));
    for form in [Form::Ten, Form::Sixteen] {
        for (lba, blocks) in [(BLOCKS - 1, 2), (BLOCKS, 1), (BLOCKS + 1, 0)] {
            let beyond = host.access(Operation::Read, form, lba, blocks, &[]);
            illegal(&beyond, AdditionalSense::LBA_OUT_OF_RANGE);
        }
        assert!(good(host.access(Operation::Read, form, BLOCKS, 0, &[])).is_empty());
    }
    illegal(
        &host.access(Operation::Read, Form::Sixteen, u64::MAX, 2, &[]),
        AdditionalSense::LBA_OUT_OF_RANGE,
    );
}

#[test]
fn protection_information_is_refused_with_a_pointer_to_its_field() {
    let host = host();
    for operation in
        [Operation::Read, Operation::Write, Operation::OrWrite, Operation::Verify { byte_check: 0 }]
    {
        let mut access = Access::new(operation, Form::Sixteen, 0, 1);
        access.protect = 1;
        let refused = host.run(Command::Access(access), &pattern(0, 1));
        illegal(&refused, AdditionalSense::INVALID_FIELD_IN_CDB);
        let at = refused.decoded_sense().unwrap().field_pointer.unwrap();
        assert_eq!((at.in_cdb, at.byte, at.bit), (true, 1, Some(7)));
    }
}

#[test]
fn naca_is_refused() {
    let refused = host().raw(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04], &[]);
    illegal(&refused, AdditionalSense::INVALID_FIELD_IN_CDB);
    assert_eq!(refused.decoded_sense().unwrap().field_pointer.unwrap().byte, 9);
}

#[test]
fn a_transfer_beyond_the_limits_page_is_refused_before_any_memory_is_taken() {
    let refused = host().access(Operation::Read, Form::Sixteen, 0, u32::MAX, &[]);
    illegal(&refused, AdditionalSense::INVALID_FIELD_IN_CDB);
    assert_eq!(refused.decoded_sense().unwrap().field_pointer.unwrap().byte, 10);
}

#[test]
fn whole_blocks_of_a_short_write_are_written_and_a_part_of_one_is_refused() {
    let host = host();
    host.write(0, &pattern(1, 2));
    good(host.access(Operation::Write, Form::Ten, 0, 2, &pattern(2, 1)));
    assert_eq!(host.read(0, 2), [pattern(2, 1), pattern(1, 1)].concat());
    let part = host.access(Operation::Write, Form::Ten, 0, 1, &[3; 200]);
    illegal(&part, AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
    assert_eq!(host.read(0, 1), pattern(2, 1));
    good(host.access(Operation::Write, Form::Ten, 0, 1, &pattern(4, 2)));
    assert_eq!(host.read(0, 2), [pattern(4, 1), pattern(1, 1)].concat());
}

#[test]
fn compare_and_write_writes_only_what_was_expected() {
    let host = host();
    host.write(8, &pattern(7, 2));
    let swap = |expected: u8, new: u8| [pattern(expected, 2), pattern(new, 2)].concat();
    good(host.access(Operation::CompareAndWrite, Form::Sixteen, 8, 2, &swap(7, 9)));
    assert_eq!(host.read(8, 2), pattern(9, 2));
    let mut other = swap(9, 1);
    other[700] = 0;
    let refusal = host.access(Operation::CompareAndWrite, Form::Sixteen, 8, 2, &other);
    assert_eq!(refused(&refusal), (SenseKey::MISCOMPARE, AdditionalSense::MISCOMPARE_DURING_VERIFY));
    assert_eq!(refusal.decoded_sense().unwrap().information, Some(700));
    assert_eq!(host.read(8, 2), pattern(9, 2));
    for wrong in [&swap(9, 1)[..2047], &[swap(9, 1), vec![0]].concat()] {
        let refusal = host.access(Operation::CompareAndWrite, Form::Sixteen, 8, 2, wrong);
        illegal(&refusal, AdditionalSense::INVALID_FIELD_IN_CDB);
    }
}

#[test]
fn or_write_sets_bits_and_clears_none() {
    let host = host();
    host.write(0, &pattern(0x55, 1));
    good(host.access(Operation::OrWrite, Form::Sixteen, 0, 1, &pattern(0x0F, 1)));
    assert_eq!(host.read(0, 1), pattern(0x5F, 1));
}

#[test]
fn write_atomic_takes_exactly_its_blocks_and_no_boundary() {
    let host = host();
    good(host.access(Operation::WriteAtomic { boundary: 0 }, Form::Sixteen, 3, 2, &pattern(6, 2)));
    assert_eq!(host.read(3, 2), pattern(6, 2));
    let boundary = host.access(Operation::WriteAtomic { boundary: 1 }, Form::Sixteen, 3, 2, &pattern(6, 2));
    illegal(&boundary, AdditionalSense::INVALID_FIELD_IN_CDB);
    let short = host.access(Operation::WriteAtomic { boundary: 0 }, Form::Sixteen, 3, 2, &pattern(9, 1));
    illegal(&short, AdditionalSense::INVALID_FIELD_IN_CDB);
    let long = host.access(Operation::WriteAtomic { boundary: 0 }, Form::Sixteen, 0, 2049, &[]);
    illegal(&long, AdditionalSense::INVALID_FIELD_IN_CDB);
    assert_eq!(host.read(3, 2), pattern(6, 2));
}

#[test]
fn verify_compares_as_byte_check_says() {
    let host = host();
    host.write(10, &pattern(5, 2));
    for form in [Form::Ten, Form::Twelve, Form::Sixteen] {
        let verify =
            |byte_check, data: &[u8]| host.access(Operation::Verify { byte_check }, form, 10, 2, data);
        good(verify(0, &[]));
        good(verify(1, &pattern(5, 2)));
        good(verify(3, &pattern(5, 1)));
        let mut data = pattern(5, 2);
        data[600] = 6;
        for (byte_check, data) in [(1, data), (3, pattern(6, 1))] {
            assert_eq!(refused(&verify(byte_check, &data)).0, SenseKey::MISCOMPARE);
        }
        illegal(&verify(2, &pattern(5, 2)), AdditionalSense::INVALID_FIELD_IN_CDB);
        illegal(&verify(1, &[]), AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
    }
}

#[test]
fn write_and_verify_writes_and_compares() {
    let host = host();
    for form in [Form::Ten, Form::Twelve, Form::Sixteen] {
        for byte_check in [0, 1] {
            good(host.access(Operation::WriteAndVerify { byte_check }, form, 10, 2, &pattern(8, 2)));
        }
        let reserved = host.access(Operation::WriteAndVerify { byte_check: 3 }, form, 10, 2, &pattern(8, 2));
        illegal(&reserved, AdditionalSense::INVALID_FIELD_IN_CDB);
        assert_eq!(host.read(10, 2), pattern(8, 2));
    }
}

#[test]
fn prefetch_and_synchronize_cache_check_their_extent() {
    let host = host();
    for form in [Form::Ten, Form::Sixteen] {
        for operation in
            [Operation::PreFetch { immediate: true }, Operation::SynchronizeCache { immediate: false }]
        {
            good(host.access(operation, form, 0, 0, &[]));
            good(host.access(operation, form, 0, BLOCKS as u32, &[]));
            let beyond = host.access(operation, form, 1, BLOCKS as u32, &[]);
            illegal(&beyond, AdditionalSense::LBA_OUT_OF_RANGE);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any bytes as CDB and data-out end with some status, and no reply exceeds what a command may have.
    #[test]
    fn any_bytes_are_answered(code: u8, cdb in prop::collection::vec(any::<u8>(), 0..16), data in prop::collection::vec(any::<u8>(), 0..600)) {
        let host = host();
        let cdb = [vec![code], cdb].concat();
        let completion = host.raw(&cdb, &data);
        prop_assert!(completion.data.len() <= 65_536 * BLOCK);
        prop_assert!(completion.status.is_good() || completion.data.is_empty());
    }
}
