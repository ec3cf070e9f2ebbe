//! The durable reservation image: arbitrary bytes, also with the header and checksum made good, because
//! no fuzzer guesses a CRC.
#![no_main]

use fuzz::names::Names;
use fuzz::settles;
use libfuzzer_sys::fuzz_target;
use logical_unit::Profile;
use logical_unit::aptpl::Image;

/// `body` behind the header of format version 1.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut out = b"TENUREPR\0\x01".to_vec();
    out.extend(u32::try_from(body.len()).expect("small").to_be_bytes());
    out.extend(crc32c::crc32c(body).to_be_bytes());
    out.extend(body);
    out
}

fuzz_target!(|bytes: &[u8]| {
    settles(bytes, |image| Image::parse(image).ok(), Image::to_bytes);
    let Some(image) = settles(&sealed(bytes), |image| Image::parse(image).ok(), Image::to_bytes) else {
        return;
    };
    for profile in Profile::ALL {
        let mut names = Names::default();
        if let Ok(unit) = image.restore(profile, &mut names) {
            assert_eq!(unit.reservations().registrations().len(), image.registrations.len());
        }
    }
});
