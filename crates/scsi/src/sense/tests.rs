//! Sense data: byte fixtures, field pointers, and properties both ways.

use super::*;
use crate::field::FieldError;
use proptest::prelude::*;

const PREEMPTED_FIXED: [u8; 18] = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2A, 5, 0, 0, 0, 0];

fn any_sense() -> impl Strategy<Value = Sense> {
    let pointer = (any::<bool>(), any::<u16>(), prop::option::of(0_u8..8))
        .prop_map(|(in_cdb, byte, bit)| FieldPointer { in_cdb, byte, bit });
    let key = prop_oneof![Just(SenseKey::ILLEGAL_REQUEST), (0_u8..16).prop_map(SenseKey)];
    (key, any::<(u8, u8)>(), any::<bool>(), any::<Option<u32>>(), prop::option::of(pointer)).prop_map(
        |(key, (asc, ascq), deferred, information, pointer)| Sense {
            deferred,
            information: information.map(u64::from),
            field_pointer: pointer.filter(|_| key == SenseKey::ILLEGAL_REQUEST),
            ..Sense::new(key, AdditionalSense::new(asc, ascq))
        },
    )
}

#[test]
fn unit_attention_has_the_golden_bytes_in_both_formats() {
    let sense = Sense::unit_attention(AdditionalSense::REGISTRATIONS_PREEMPTED);
    assert_eq!(sense.to_fixed(), PREEMPTED_FIXED);
    assert_eq!(sense.to_descriptor(), [0x72, 6, 0x2A, 5, 0, 0, 0, 0]);
    assert_eq!(Sense::parse(&PREEMPTED_FIXED), Some(sense.clone()));
    assert_eq!(Sense::parse(&[0x72, 6, 0x2A, 5, 0, 0, 0, 0]), Some(sense));
}

#[test]
fn field_pointer_has_the_golden_bytes_in_both_formats() {
    let in_cdb = FieldError::cdb_bit(2, 3).sense();
    assert_eq!(in_cdb.to_fixed()[12..], [0x24, 0, 0, 0xCB, 0, 2]);
    let in_list = FieldError::parameter(8).sense();
    assert_eq!(in_list.to_fixed()[12..], [0x26, 0, 0, 0x80, 0, 8]);
    let descriptor = [0x72, 5, 0x26, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0x80, 0, 8, 0];
    assert_eq!(in_list.to_descriptor(), descriptor);
    assert_eq!(Sense::parse(&descriptor), Some(in_list));
}

#[test]
fn list_length_error_has_no_field_pointer() {
    let sense = FieldError::list_length().sense();
    assert_eq!(sense.code, AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    assert_eq!(sense.to_fixed()[15..], [0, 0, 0]);
}

#[test]
fn miscompare_offset_travels_as_information() {
    let code = AdditionalSense::MISCOMPARE_DURING_VERIFY;
    let sense = Sense { information: Some(0x1234), ..Sense::new(SenseKey::MISCOMPARE, code) };
    assert_eq!(sense.to_fixed()[..8], [0xF0, 0, 0x0E, 0, 0, 0x12, 0x34, 10]);
    let wide = Sense { information: Some(1 << 32), ..sense };
    assert_eq!(Sense::parse(&wide.to_fixed()).unwrap().information, None, "it does not fit 32 bits");
    assert_eq!(Sense::parse(&wide.to_descriptor()), Some(wide));
}

#[test]
fn bytes_behind_the_additional_length_do_not_count() {
    let mut bytes = PREEMPTED_FIXED;
    bytes[7] = 0;
    assert_eq!(Sense::parse(&bytes).unwrap().code, AdditionalSense::NONE);
    let behind = [0x72, 5, 0x24, 0, 0, 0, 0, 0, 2, 6, 0, 0, 0xC0, 0, 8, 0];
    assert_eq!(Sense::parse(&behind).unwrap().field_pointer, None);
}

#[test]
fn unknown_descriptors_are_skipped() {
    let bytes = [0x72, 5, 0x24, 0, 0, 0, 0, 14, 0x80, 4, 1, 2, 3, 4, 2, 6, 0, 0, 0xC0, 0, 9, 0];
    let pointer = FieldPointer { in_cdb: true, byte: 9, bit: None };
    assert_eq!(Sense::parse(&bytes).unwrap().field_pointer, Some(pointer));
}

#[test]
fn deferred_errors_are_told_apart() {
    let mut bytes = PREEMPTED_FIXED;
    bytes[0] = 0x71;
    assert!(Sense::parse(&bytes).unwrap().deferred);
    assert!(Sense::parse(&[0x73, 6, 0x29, 0, 0, 0, 0, 0]).unwrap().deferred);
}

#[test]
fn other_response_codes_are_not_sense_data() {
    for bytes in [&[][..], &[0; 18], &[0x7F; 18], &[0x6F; 18], &[0x72]] {
        assert_eq!(Sense::parse(bytes), None);
    }
}

#[test]
fn display_names_key_and_code_and_gives_the_numbers() {
    let sense = Sense::unit_attention(AdditionalSense::REGISTRATIONS_PREEMPTED);
    assert_eq!(sense.to_string(), "UNIT ATTENTION: REGISTRATIONS PREEMPTED (2a/05)");
    let unknown = Sense { deferred: true, ..Sense::new(SenseKey(0xC), AdditionalSense::new(0x80, 1)) };
    assert_eq!(unknown.to_string(), "deferred sense key 0xc: additional sense 80h/01h (80/01)");
}

proptest! {
    #[test]
    fn fixed_format_round_trips(sense in any_sense()) {
        prop_assert_eq!(Sense::parse(&sense.to_fixed()), Some(sense));
    }

    #[test]
    fn descriptor_format_round_trips(sense in any_sense(), information: Option<u64>) {
        let sense = Sense { information, ..sense };
        prop_assert_eq!(Sense::parse(&sense.to_descriptor()), Some(sense));
    }

    #[test]
    fn arbitrary_bytes_settle_after_one_parse(mut bytes in prop::collection::vec(any::<u8>(), 1..260), kind in 0x70_u8..0x74) {
        bytes[0] = bytes[0] & 0x80 | kind;
        let parsed = Sense::parse(&bytes);
        prop_assert_eq!(parsed.is_some(), bytes.len() > if kind < 0x72 { 2 } else { 1 });
        if let Some(sense) = parsed {
            prop_assert_eq!(Sense::parse(&sense.to_descriptor()), Some(sense));
        }
    }

    #[test]
    fn cut_sense_keeps_the_fields_it_holds(sense in any_sense(), cut in 0_usize..20) {
        let (fixed, descriptor) = (sense.to_fixed(), sense.to_descriptor());
        let read = Sense::parse(&fixed[..cut.min(fixed.len())]);
        prop_assert_eq!(read.map(|read| read.key), (cut > 2).then_some(sense.key));
        let read = Sense::parse(&descriptor[..cut.min(descriptor.len())]);
        prop_assert_eq!(read.map(|read| read.key), (cut > 1).then_some(sense.key));
    }
}
