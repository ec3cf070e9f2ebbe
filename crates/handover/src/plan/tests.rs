//! Tests of the module above: the order of preference, and every condition on its own.

use super::*;
use crate::settings::Port;
use scsi::pr::{Key, ReservationType};
use scsi::{IscsiName, Isid, TransportId};

const WE: ReservationType = ReservationType(1);
const WE_AR: ReservationType = ReservationType(7);

fn settings() -> Settings {
    let name = IscsiName::new("iqn.2026-01.test:d").unwrap();
    let port = Port { initiator: Some(TransportId::iscsi(name, Isid([0; 6]))), target_port: Some(1) };
    Settings::new(Some(Key(1)), Key(2), Port::default(), port)
}

fn good_traits() -> Traits {
    Traits {
        keeps_sender: Known::Yes,
        register_and_move: Known::Yes,
        full_status: Known::Yes,
        aptpl: Known::Yes,
        counts_registrations: Known::Yes,
        counts_unregistrations: Known::Yes,
        counts_removals: Known::No,
        refuses_unmatched_preempt: Known::Yes,
        keeps_identity: Known::Yes,
    }
}

/// A single holder on a target that can do everything.
fn holder(settings: &Settings) -> Situation<'_> {
    Situation {
        settings,
        traits: good_traits(),
        role: Role::Holder(WE),
        shared: false,
        move_reported: Known::Yes,
        role_sure: true,
        port_proved: true,
        holder_known: true,
        excluded: 0,
    }
}

fn chosen(situation: &Situation<'_>) -> Result<Method, Reason> {
    situation.choose().map(|(method, _)| method)
}

#[test]
fn methods_are_preferred_in_their_order() {
    let mut settings = settings();
    settings.identity_is_ours = true;
    assert_eq!(chosen(&holder(&settings)), Ok(Method::Identity));
    settings.identity_is_ours = false;
    let all = holder(&settings);
    assert_eq!(chosen(&all), Ok(Method::RegisterAndMove));
    let no_move = Situation { move_reported: Known::Unknown, ..all };
    assert_eq!(chosen(&no_move), Ok(Method::PreemptOwnKey));
    assert_eq!(chosen(&Situation { shared: true, ..no_move }), Ok(Method::SourceNonce));
    for role in [Role::Registrant, Role::Member(WE), Role::AllRegistrants(WE_AR)] {
        assert_eq!(chosen(&Situation { role, ..all }), Ok(Method::MakeBeforeBreak), "{role}");
    }
    let unsure = Situation { role: Role::HolderOrSharer(WE), shared: true, ..all };
    assert_eq!(chosen(&unsure), Ok(Method::SourceNonce));
}

#[test]
fn what_was_passed_over_is_told_with_its_reason() {
    let settings = settings();
    let (method, passed_over) = holder(&settings).choose().unwrap();
    assert_eq!(method, Method::RegisterAndMove);
    let expected =
        [(Method::Identity, Reason::IdentityNotOurs), (Method::MakeBeforeBreak, Reason::SourceHolds)];
    assert_eq!(passed_over, expected);
}

#[test]
fn each_condition_refuses_its_method() {
    let settings = settings();
    let all = holder(&settings);
    let refuses = |situation: Situation<'_>, method, reason| {
        assert_eq!(situation.fits(method), Err(reason), "{method}");
    };
    let traits = |edit: &dyn Fn(&mut Traits)| {
        let mut traits = good_traits();
        edit(&mut traits);
        Situation { traits, ..all }
    };
    let moves = Method::RegisterAndMove;
    refuses(Situation { role: Role::Member(WE), ..all }, moves, Reason::SourceDoesNotHold);
    refuses(Situation { role: Role::HolderOrSharer(WE), ..all }, moves, Reason::HolderUnknown);
    refuses(Situation { holder_known: false, ..all }, moves, Reason::HolderUnknown);
    refuses(traits(&|traits| traits.register_and_move = Known::No), moves, Reason::MoveUnusable);
    refuses(Situation { excluded: moves.bit(), ..all }, moves, Reason::MoveUnusable);
    let own = Method::PreemptOwnKey;
    refuses(Situation { shared: true, ..all }, own, Reason::KeyShared);
    refuses(Situation { role_sure: false, ..all }, own, Reason::HolderUnknown);
    refuses(traits(&|traits| traits.keeps_sender = Known::Unknown), own, Reason::SenderNotKept);
    refuses(
        Situation { role: Role::HolderOrSharer(WE), ..all },
        Method::MakeBeforeBreak,
        Reason::HolderUnknown,
    );
}

#[test]
fn the_move_needs_the_destinations_names_and_that_the_source_sees_it_there() {
    let mut settings = settings();
    let unproved = Situation { port_proved: false, ..holder(&settings) };
    assert_eq!(chosen(&unproved), Ok(Method::PreemptOwnKey));
    assert_eq!(unproved.fits(Method::RegisterAndMove), Err(Reason::PortUnproved));
    settings.destination[0].target_port = None;
    assert_eq!(holder(&settings).fits(Method::RegisterAndMove), Err(Reason::PortUnknown));
    settings.destination[0].target_port = Some(1);
    settings.destination[0].initiator = None;
    assert_eq!(holder(&settings).fits(Method::RegisterAndMove), Err(Reason::PortUnknown));
}

#[test]
fn an_identity_is_moved_only_where_the_target_keeps_it() {
    let mut settings = settings();
    settings.identity_is_ours = true;
    let mut situation = holder(&settings);
    situation.traits.keeps_identity = Known::No;
    // The destination has no session of its own, so no other method is left.
    assert_eq!(chosen(&situation), Err(Reason::IdentityNotKept));
}

#[test]
fn without_the_source_only_the_destination_nonce_is_left_and_only_with_leave() {
    let mut settings = settings();
    settings.source_alive = false;
    for method in Method::ALL.into_iter().filter(|method| *method != Method::DestinationNonce) {
        assert_eq!(holder(&settings).fits(method), Err(Reason::SourceNeeded));
    }
    assert_eq!(chosen(&holder(&settings)), Err(Reason::AbsenceNotAllowed));
    settings.allow_absence = true;
    assert_eq!(chosen(&holder(&settings)), Ok(Method::DestinationNonce));
    assert_eq!(chosen(&Situation { shared: true, ..holder(&settings) }), Err(Reason::KeyShared));
    let mut blind = Situation { role: Role::Member(WE), ..holder(&settings) };
    assert_eq!(chosen(&blind), Ok(Method::DestinationNonce));
    blind.traits.refuses_unmatched_preempt = Known::Unknown;
    assert_eq!(chosen(&blind), Err(Reason::ProofMissing));
}

#[test]
fn a_forced_method_is_taken_or_refused_but_never_replaced() {
    let mut settings = settings();
    settings.method = Some(Method::MakeBeforeBreak);
    assert_eq!(chosen(&holder(&settings)), Err(Reason::SourceHolds));
    settings.method = Some(Method::SourceNonce);
    for role in [Role::Registrant, Role::Member(WE), Role::AllRegistrants(WE_AR), Role::Holder(WE)] {
        assert_eq!(chosen(&Situation { role, ..holder(&settings) }), Ok(Method::SourceNonce), "{role}");
    }
}
