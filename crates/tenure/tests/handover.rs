//! `tenure handover` as a user runs it, against `tenure target`: every state in every profile, sharers, refusals,
//! interrupted runs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lab::moves::{Became, hand_over, hand_over_in_session};
use lab::states::{Guest, Standing};
use lab::tenure::Tenure;
use std::path::Path;

const PROFILES: [&str; 8] = ["spc", "keep-self", "lio", "scst", "tgt", "spdk", "comstar", "ctl"];

fn tenure() -> Tenure {
    Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")))
}

/// One disk for each state, so that no state can lean on what another left.
fn every_state(profile: &str, shared: bool) -> Vec<(Standing, Became)> {
    let tenure = tenure();
    let spec = format!("memory=1M,profile={profile}");
    let states = Standing::all();
    let served = tenure.target(&vec![spec.as_str(); states.len()]).unwrap();
    let one = |(index, standing): (usize, Standing)| {
        let index = u16::try_from(index).unwrap();
        let guest = Guest::new(standing, shared);
        let became = match profile {
            // Like their models, these profiles forget the nexus with its session.
            "tgt" | "spdk" => hand_over_in_session(&served, index, guest),
            _ => hand_over(&tenure, &served, index, guest),
        };
        (standing, became.unwrap_or_else(|error| panic!("profile {profile}, {standing}: {error:?}")))
    };
    states.into_iter().enumerate().map(one).collect()
}

#[test]
fn every_state_moves_in_every_profile() {
    for profile in PROFILES {
        for (standing, became) in every_state(profile, false) {
            assert!(matches!(became, Became::Moved(_)), "profile {profile}, {standing}: {became:?}");
        }
    }
}

#[test]
fn a_node_that_shares_the_key_is_never_harmed() {
    for profile in PROFILES {
        // `hand_over` has looked at the sharer; a refusal has a reason.
        every_state(profile, true);
    }
}

#[test]
fn the_standards_own_target_gets_the_gentlest_methods() {
    for (standing, became) in every_state("spc", false) {
        let expected = match standing {
            // Exclusive Access types too, where REPORT SUPPORTED OPERATION CODES conflicts at the destination.
            Standing::Holder(kind) if !kind.is_all_registrants() => "register-and-move",
            _ => "make-before-break",
        };
        assert_eq!(became, Became::Moved(expected.into()), "{standing}");
    }
}
