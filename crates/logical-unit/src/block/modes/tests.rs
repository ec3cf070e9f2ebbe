//! MODE SENSE and MODE SELECT as an initiator sees them.

use super::*;
use scsi::{Sense, SenseKey};

fn modes() -> Modes {
    Modes::new(2048, 512, true, false)
}

fn sense(page: u8, control: PageControl) -> ModeSense {
    ModeSense {
        form: Form::Six,
        disable_block_descriptor: true,
        long_lba_accepted: false,
        control,
        page,
        subpage: 0,
        allocation_length: 255,
    }
}

fn read(modes: &Modes, page: u8, control: PageControl) -> ModeParameters {
    ModeParameters::parse(&modes.sense(&sense(page, control)).unwrap(), Form::Six).unwrap()
}

fn select(modes: &Modes, parameters: &ModeParameters) -> Result<bool, Refusal> {
    let mut list = parameters.to_bytes(Form::Six);
    list[0] = 0;
    let length = u16::try_from(list.len()).unwrap();
    modes.select(&ModeSelect { form: Form::Six, page_format: true, save: false, length }, &list)
}

#[test]
fn all_pages_come_in_ascending_order_and_fill_their_length() {
    let parameters = read(&modes(), page::ALL, PageControl::Current);
    let codes: Vec<_> = parameters.pages.iter().map(|page| (page.code, page.body.len())).collect();
    assert_eq!(codes, [(1, 10), (8, 18), (0x0A, 10), (0x1C, 10)]);
    assert_eq!(parameters.device_specific, mode::DPO_FUA);
}

#[test]
fn swp_is_set_shown_and_reset() {
    let modes = modes();
    let mut control = read(&modes, page::CONTROL, PageControl::Current);
    control.pages[0].body[2] |= 0x08;
    assert_eq!(select(&modes, &control), Ok(true));
    assert!(modes.write_protected());
    assert_eq!(select(&modes, &control), Ok(false), "nothing changed the second time");
    let shown = read(&modes, page::CONTROL, PageControl::Current);
    assert_eq!(shown.device_specific & mode::WRITE_PROTECTED, mode::WRITE_PROTECTED);
    modes.reset();
    assert!(!modes.write_protected());
}

#[test]
fn a_bit_that_cannot_change_is_refused_with_its_place_and_nothing_changes() {
    let modes = modes();
    let mut all = read(&modes, page::ALL, PageControl::Current);
    all.pages[1].body[0] = 0;
    all.pages[2].body[4] ^= 0x07;
    let refused = FieldError::parameter(4 + 12 + 20 + 2 + 4);
    assert_eq!(select(&modes, &all), Err(refused.into()));
    assert!(!modes.write_through());
}

#[test]
fn clearing_wce_means_write_through_and_a_store_without_cache_has_no_wce() {
    let modes = modes();
    let mut caching = read(&modes, page::CACHING, PageControl::Current);
    assert_eq!(caching.pages[0].body[0], 0x04);
    caching.pages[0].body[0] = 0;
    assert_eq!(select(&modes, &caching), Ok(true));
    assert!(modes.write_through());
    let without = Modes::new(8, 512, false, false);
    assert_eq!(read(&without, page::CACHING, PageControl::Current).pages[0].body[0], 0);
}

#[test]
fn the_changeable_mask_names_just_the_bits_that_can_change() {
    let mask = read(&modes(), page::CONTROL, PageControl::Changeable);
    assert_eq!(mask.pages[0].body, [0x04, 0, 0x08, 0x40, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn unknown_pages_and_saved_values_are_refused() {
    let modes = modes();
    assert_eq!(modes.sense(&sense(0x19, PageControl::Current)), Err(FieldError::cdb_bit(2, 5).into()));
    let saved = modes.sense(&sense(page::CONTROL, PageControl::Saved));
    let sense = Sense::new(SenseKey::ILLEGAL_REQUEST, AdditionalSense::SAVING_PARAMETERS_NOT_SUPPORTED);
    assert_eq!(saved, Err(Refusal(sense)));
}

#[test]
fn a_block_descriptor_must_name_this_medium() {
    let modes = modes();
    let with =
        |descriptor: [u8; 8]| ModeParameters { block_descriptor: descriptor.to_vec(), ..Default::default() };
    assert_eq!(select(&modes, &with([0, 0, 8, 0, 0, 0, 2, 0])), Ok(false));
    assert_eq!(select(&modes, &with([0, 0, 0, 0, 0, 0, 2, 0])), Ok(false));
    assert_eq!(select(&modes, &with([0, 0, 0, 9, 0, 0, 2, 0])), Err(FieldError::parameter(4).into()));
    assert_eq!(select(&modes, &with([0, 0, 8, 0, 0, 0, 16, 0])), Err(FieldError::parameter(9).into()));
}

#[test]
fn lists_of_any_length_are_answered() {
    let modes = modes();
    let list = read(&modes, page::ALL, PageControl::Current).to_bytes(Form::Six);
    for length in 0..=list.len() + 2 {
        let command = ModeSelect { form: Form::Six, page_format: true, save: false, length: length as u16 };
        let _ = modes.select(&command, &list);
    }
    let command = ModeSelect { form: Form::Six, page_format: true, save: false, length: 0 };
    assert_eq!(modes.select(&command, &[]), Ok(false));
}
