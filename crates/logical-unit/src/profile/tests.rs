//! Names, strings and sets.

use super::*;
use std::collections::BTreeSet;

#[test]
fn every_profile_is_found_by_its_name() {
    let names: BTreeSet<_> = Profile::ALL.iter().map(|profile| profile.name).collect();
    assert_eq!(names.len(), Profile::ALL.len());
    for profile in Profile::ALL {
        assert_eq!(Profile::by_name(profile.name), Some(profile));
    }
    assert_eq!(Profile::by_name("SPC"), None);
}

#[test]
fn inquiry_strings_fit_their_fields() {
    for profile in Profile::ALL {
        let Product { vendor, product, revision } = profile.product;
        assert!(vendor.len() <= 8 && product.len() <= 16 && revision.len() <= 4, "{}", profile.name);
        assert!(
            [vendor, product, revision].iter().all(|text| text.bytes().all(|b| (0x20..0x7F).contains(&b)))
        );
    }
}

#[test]
fn type_sets_hold_what_they_name() {
    let set = TypeSet::of(&[1, 8]);
    let held: Vec<_> = (0..16).filter(|code| set.contains(ReservationType(*code))).collect();
    assert_eq!(held, [1, 8]);
}
