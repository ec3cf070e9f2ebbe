//! CDBs both ways, and the bytes of a few commands as the standards draw them.

use super::*;
use proptest::prelude::*;

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Six), Just(Form::Ten), Just(Form::Twelve), Just(Form::Sixteen)]
}

fn operation() -> impl Strategy<Value = Operation> {
    let bits = any::<(bool, bool, bool)>();
    prop_oneof![
        Just(Operation::Read),
        Just(Operation::Write),
        Just(Operation::OrWrite),
        Just(Operation::CompareAndWrite),
        any::<u16>().prop_map(|boundary| Operation::WriteAtomic { boundary }),
        (0_u8..4).prop_map(|byte_check| Operation::WriteAndVerify { byte_check }),
        (0_u8..4).prop_map(|byte_check| Operation::Verify { byte_check }),
        any::<bool>().prop_map(|immediate| Operation::PreFetch { immediate }),
        any::<bool>().prop_map(|immediate| Operation::SynchronizeCache { immediate }),
        bits.prop_map(|(anchor, unmap, no_data_out)| Operation::WriteSame { anchor, unmap, no_data_out }),
    ]
}

prop_compose! {
    fn access()(
        operation in operation(), form in form(), lba: u64, blocks: u32, group: u8, protect: u8, dpo: bool, fua: bool,
    ) -> Access {
        Access { operation, extent: Extent { form, lba, blocks, group }, protect, dpo, fua }
    }
}

proptest! {
    /// Values too wide for the CDB are cut once and for all: what was emitted is read and emitted again unchanged.
    #[test]
    fn access_survives_its_bytes(access in access()) {
        let bytes = access.to_bytes();
        let read = Command::parse(&bytes).unwrap();
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn any_bytes_parse_to_a_command_that_survives(cdb in prop::collection::vec(any::<u8>(), 0..20), known: prop::sample::Index) {
        let mut cdb = cdb;
        if let Some(first) = cdb.first_mut() {
            *first = *known.get(&OPCODES);
        }
        if let Ok(command) = Command::parse(&cdb) {
            prop_assert_eq!(Command::parse(&command.to_bytes()), Ok(command));
        }
    }

    #[test]
    fn a_cut_command_is_refused_and_never_panics(access in access(), keep in 0_usize..16) {
        let bytes = access.to_bytes();
        if keep < bytes.len() {
            prop_assert!(Command::parse(&bytes[..keep]).is_err());
        }
    }
}

const OPCODES: [u8; 16] =
    [0x00, 0x03, 0x12, 0x1A, 0x5A, 0x15, 0x55, 0x1B, 0x1E, 0x1D, 0x9E, 0xA3, 0x83, 0x84, 0x48, 0xB7];

#[test]
fn read_6_with_length_zero_means_256_blocks() {
    let command = Command::parse(&[0x08, 0xE1, 0x02, 0x03, 0, 0]).unwrap();
    assert_eq!(command, Command::Access(Access::new(Operation::Read, Form::Six, 0x01_02_03, 256)));
    assert_eq!(command.to_bytes(), [0x08, 0x01, 0x02, 0x03, 0, 0]);
}

#[test]
fn flags_stand_where_the_standard_puts_them() {
    let mut access = Access::new(Operation::Write, Form::Sixteen, 0x0102_0304_0506_0708, 0x0A0B_0C0D);
    (access.protect, access.dpo, access.fua, access.extent.group) = (5, true, true, 0x3F);
    let bytes = [0x8A, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8, 0x0A, 0x0B, 0x0C, 0x0D, 0x3F, 0];
    assert_eq!(access.to_bytes(), bytes);
    assert_eq!(Command::parse(&bytes), Ok(Command::Access(access)));
}

#[test]
fn lengths_of_compare_and_write_and_write_atomic_have_their_own_place() {
    let compare = Access::new(Operation::CompareAndWrite, Form::Sixteen, 7, 9);
    assert_eq!(compare.to_bytes(), [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0]);
    let atomic = Access::new(Operation::WriteAtomic { boundary: 0x0102 }, Form::Sixteen, 7, 0x0304);
    assert_eq!(atomic.to_bytes(), [0x9C, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3, 4, 0, 0]);
}

#[test]
fn unknown_codes_are_told_apart() {
    let opcode = Command::parse(&[0xFF; 16]).unwrap_err();
    assert_eq!((opcode.code, opcode.pointer), (AdditionalSense::INVALID_COMMAND_OPERATION_CODE, None));
    assert_eq!(Command::parse(&[0x9E, 0x1F, 0, 0]), Err(FieldError::cdb_bit(1, 4)));
    assert_eq!(Command::parse(&[]), Err(FieldError::cdb(0)));
}
