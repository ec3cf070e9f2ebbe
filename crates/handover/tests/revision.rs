//! What the engine does in recorded courses. Two hosts run a handover together only if their [`ENGINE_REVISION`] is the same,
//! so whoever changes what the engine does must raise it; this test is there so that nobody forgets.

mod group_pair;
mod pair;

use group_pair::{Accident, Duo};
use handover::{ENGINE_REVISION, Method};
use logical_unit::Profile;
use pair::{Fault, Foreign, Role, World, settings, unknown_target};
use std::fmt::Write as _;

/// The courses as this revision runs them.
const RECORDED: &str = include_str!("recorded/courses.txt");

const METHODS: [Option<Method>; 7] = [
    None,
    Some(Method::Identity),
    Some(Method::MakeBeforeBreak),
    Some(Method::RegisterAndMove),
    Some(Method::PreemptOwnKey),
    Some(Method::SourceNonce),
    Some(Method::DestinationNonce),
];

const ACCIDENTS: [Accident; 8] = [
    Accident::JournalFails,
    Accident::Abort,
    Accident::GiveUp(0),
    Accident::Foreign(0, Foreign::PreemptGuest),
    Accident::Foreign(0, Foreign::ChangeAptpl),
    Accident::Fault(0, Fault::LostReply),
    Accident::Fault(0, Fault::LinkDown),
    Accident::Fault(0, Fault::PowerCycle),
];

/// One course in a line: its name, how many rounds it took, and the digest of everything that was done.
fn told(name: &str, duo: &mut Duo) -> String {
    let end = duo.run();
    format!("{name}: {end:?} after {} rounds, {:016x}\n", duo.group().rounds(), duo.group().digest())
}

fn courses() -> String {
    let mut text = format!("engine revision {ENGINE_REVISION}\n");
    for profile in Profile::ALL {
        for (role, method) in Role::ALL.into_iter().flat_map(|role| METHODS.map(|method| (role, method))) {
            let world = World::new(profile, role, role == Role::Holder(6), true);
            let mut duo = Duo::of(vec![world], settings(profile, method));
            let name = format!("{} {role:?} {method:?}", profile.name);
            text.push_str(&told(&name, &mut duo));
        }
        for role in [Role::Holder(5), Role::Member(6), Role::AloneInAll(7)] {
            let known =
                [("", settings(profile, None)), ("unknown ", unknown_target(settings(profile, None)))];
            for (what, order) in known {
                text.push_str(&troubled(profile, role, what, &order));
            }
        }
    }
    text
}

/// The courses of two units with an accident in each round, all in one line.
fn troubled(profile: &'static Profile, role: Role, what: &str, order: &handover::Settings) -> String {
    let mut line = format!("{what}{} {role:?} with accidents:", profile.name);
    for (accident, round) in ACCIDENTS.into_iter().flat_map(|accident| (5..14).map(move |at| (accident, at)))
    {
        let mut duo = Duo::of(vec![World::new(profile, role, false, true); 2], order.clone());
        duo.accidents = vec![(round, accident)];
        duo.run();
        let _ = write!(line, " {:08x}", duo.group().digest() >> 32);
    }
    line + "\n"
}

/// After raising [`ENGINE_REVISION`]: `TENURE_RECORD=1 cargo test -p tenure-handover --test revision`.
#[test]
fn whoever_changes_what_the_engine_does_raises_its_revision() {
    let now = courses();
    if std::env::var_os("TENURE_RECORD").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/courses.txt");
        std::fs::write(path, &now).unwrap();
        return;
    }
    let changed = now.lines().zip(RECORDED.lines()).find(|(now, then)| now != then);
    assert_eq!(
        changed, None,
        "the engine (or the device server that it is tried on) does something else: raise ENGINE_REVISION, then record anew"
    );
    assert_eq!(now.lines().count(), RECORDED.lines().count());
}
