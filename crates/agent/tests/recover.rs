//! Both hosts die at every step of a group's handover, and of its recovery: each logical unit ends where a verdict says that
//! it is, never at both hosts, and never registered again once another node removed it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

#[path = "../../handover/tests/group_pair/mod.rs"]
mod group_pair;
#[path = "../../handover/tests/pair/mod.rs"]
mod pair;

use agent::conduct::{self, Hands, Journal, NotDurable, Patience, Report};
use agent::journal::Last;
use agent::recover::{Half, HalfUnit, Part, Place, Wishes, parts};
use group_pair::{Accident, Duo, End};
use handover::known_targets::KnownTargets;
use handover::{Action, Ending, Entry, Path, Side, UnitIndex, Verdict};
use logical_unit::Profile;
use pair::{Foreign, K, Role, World, settings, survey};
use std::time::Instant;

const CASES: [(&str, Role); 5] = [
    ("spc", Role::Holder(5)),
    ("tgt", Role::Holder(1)),
    ("lio", Role::Member(6)),
    ("spdk", Role::WithOthersInAll(7)),
    ("keep-self", Role::Registrant),
];

#[derive(Clone, Copy)]
struct Case {
    profile: &'static Profile,
    role: Role,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        CASES.into_iter().filter_map(|(name, role)| Some(Self { profile: Profile::by_name(name)?, role }))
    }

    fn duo(&self) -> Duo {
        Duo::of(vec![World::new(self.profile, self.role, false, true); 2], settings(self.profile, None))
    }

    fn half(&self, duo: &Duo, host: usize, before: &[[Option<Entry>; 2]]) -> Half {
        let settings = settings(self.profile, None);
        let there = |unit: usize| {
            before.get(unit).and_then(|entries| entries[host]).map(|entry| Last { turn: 0, entry })
        };
        let turn = u16::from(!before.is_empty());
        let unit = |(unit, entries): (usize, &[Option<Entry>; 2])| HalfUnit {
            lun: "naa.1".into(),
            own: if host == 0 { settings.source.clone() } else { settings.destination.clone() },
            peer: if host == 0 { settings.destination.clone() } else { settings.source.clone() },
            last: entries[host].map(|entry| Last { turn, entry }).or_else(|| there(unit)),
            target: Some(survey(self.profile).target),
        };
        let side = if host == 0 { Side::Source } else { Side::Destination };
        Half { side, alive: true, units: duo.entries.iter().enumerate().map(unit).collect() }
    }

    /// Every way to die in a handover; each once.
    fn deaths(&self) -> Vec<(u64, Accident)> {
        let mut duo = self.duo();
        assert_eq!(duo.run(), End::Ending(Ending::Moved), "{}", duo.story());
        let rounds = (1u64..).zip(&duo.sizes);
        let of = |(round, size): (u64, &usize)| {
            let halves = [0, 1].map(|host| (round, Accident::HalfJournalled(host)));
            let parts = (0..=*size).map(move |done| (round, Accident::CrashAfter(done)));
            halves.into_iter().chain(parts).collect::<Vec<_>>()
        };
        rounds.flat_map(of).collect()
    }
}

/// Both hosts, from both journals.
fn together(case: &Case, duo: &Duo, before: &[[Option<Entry>; 2]]) -> Part {
    let halves = [0, 1].map(|host| case.half(duo, host, before));
    let table = KnownTargets::default();
    let own = parts(&halves[0], Some(&halves[1]), Wishes::default(), &table).unwrap();
    // The other host makes the same of what travelled.
    let travelled = |half: &Half| {
        let record = peer::message::Record {
            handover: peer::message::Id(1),
            led: half.side == Side::Source,
            marks: Vec::new(),
            luns: half.to_luns(),
            verdict: None,
        };
        Half::from_record(&record).unwrap()
    };
    assert_eq!(parts(&halves[1], Some(&travelled(&halves[0])), Wishes::default(), &table), Ok(own.clone()));
    assert_eq!(parts(&halves[0], Some(&travelled(&halves[1])), Wishes::default(), &table), Ok(own.clone()));
    let [part] = own.as_slice() else { unreachable!("one part") };
    part.clone()
}

fn check(duo: &Duo, part: &Part, what: &str) {
    for ((unit, place), world) in
        part.places(duo.verdicts().into_iter().map(Some)).into_iter().zip(&duo.worlds)
    {
        let owners = (world.key_of(Path::source(0)) == K, world.key_of(Path::destination(0)) == K);
        let story = format!("{what}: {unit:?} {place:?}\n{}", duo.story());
        assert_eq!(world.gap, None, "{story}");
        match place {
            Place::Source => assert_eq!(owners, (true, false), "{story}"),
            Place::Destination => assert_eq!(owners, (false, true), "{story}"),
            Place::Fenced => assert_eq!(owners, (false, false), "{story}"),
            Place::Lost | Place::Unknown => unreachable!("{story}"),
        }
    }
}

#[test]
fn both_hosts_die_at_any_step_and_recover_together() {
    let mut deaths = 0;
    for case in Case::all() {
        for death in case.deaths() {
            let mut duo = case.duo();
            duo.accidents = vec![death];
            if duo.run() != End::Crashed {
                continue;
            }
            deaths += 1;
            let part = together(&case, &duo, &[]);
            let mut duo = duo.again(part.group().unwrap(), part.exchanged);
            let what = format!("{} {:?} {death:?}", case.profile.name, case.role);
            assert!(matches!(duo.run(), End::Ending(_)), "{what}");
            check(&duo, &part, &what);
        }
    }
    assert!(deaths > 300, "{deaths}");
}

/// The nexuses of a host that is alone.
struct Alone<'a> {
    worlds: &'a mut [World],
    side: Side,
}

impl Hands for Alone<'_> {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], _: Instant) -> Vec<Report> {
        let act = |(unit, action): &(UnitIndex, Action)| {
            let Action::Execute { id, path, request } = action else {
                unreachable!("no method here closes sessions")
            };
            assert_eq!(path.side, self.side, "a command for the host that is gone");
            let outcome = self.worlds[usize::from(unit.0)].execute(0, *path, request, &[]);
            Report { unit: *unit, id: *id, outcome: Some(outcome) }
        };
        actions.iter().map(act).collect()
    }
}

/// The journal of a host that is alone.
struct OwnEntries<'a> {
    entries: &'a mut [[Option<Entry>; 2]],
    host: usize,
}

impl Journal for OwnEntries<'_> {
    fn append(&mut self, _: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        for (unit, entry) in entries {
            self.entries[usize::from(unit.0)][self.host] = Some(*entry);
        }
        Ok(())
    }
}

#[test]
fn one_host_alone_says_only_what_is_true_and_both_together_finish_it() {
    let mut concluded = [0; 2];
    for (case, host) in Case::all().flat_map(|case| [(case, 0), (case, 1)]) {
        for death in case.deaths() {
            let mut duo = case.duo();
            duo.accidents = vec![death];
            if duo.run() != End::Crashed {
                continue;
            }
            let what = format!("{} {:?} {death:?} host {host}", case.profile.name, case.role);
            let half = case.half(&duo, host, &[]);
            let alone = parts(&half, None, Wishes::default(), &KnownTargets::default()).unwrap();
            let [part] = alone.as_slice() else { unreachable!("{what}") };
            let mut group = part.group().unwrap();
            let mut hands = Alone { worlds: &mut duo.worlds, side: half.side };
            let mut journal = OwnEntries { entries: &mut duo.entries, host };
            conduct::alone(&mut group, half.side, &mut hands, &mut journal, Patience::default()).unwrap();
            let places = part.places(group.verdicts().map(|(_, verdict)| verdict));
            for ((_, place), world) in places.iter().zip(&duo.worlds) {
                let story = world.log.join("\n");
                match place {
                    Place::Source => assert_eq!(world.key_of(Path::source(0)), K, "{what}\n{story}"),
                    Place::Destination => {
                        assert_eq!(world.key_of(Path::destination(0)), K, "{what}\n{story}")
                    }
                    Place::Unknown => continue,
                    other => unreachable!("{other:?} {what}\n{story}"),
                }
                concluded[host] += 1;
            }
            let part = together(&case, &duo, &[]);
            let mut duo = duo.again(part.group().unwrap(), part.exchanged);
            assert!(matches!(duo.run(), End::Ending(_)), "{what}");
            check(&duo, &part, &what);
        }
    }
    assert!(concluded.iter().all(|count| *count > 100), "{concluded:?}");
}

#[test]
fn a_guest_that_is_fenced_before_the_recovery_stays_fenced() {
    for case in Case::all() {
        for death in case.deaths() {
            let mut duo = case.duo();
            duo.accidents = vec![death];
            if duo.run() != End::Crashed {
                continue;
            }
            duo.worlds[0].intervene(Foreign::PreemptGuest);
            let part = together(&case, &duo, &[]);
            let touched = duo.entries[0].iter().all(Option::is_some);
            let mut duo = duo.again(part.group().unwrap(), part.exchanged);
            let what = format!("{} {:?} {death:?}", case.profile.name, case.role);
            assert!(matches!(duo.run(), End::Ending(_)), "{what}");
            let world = &duo.worlds[0];
            let left = [Path::source(0), Path::destination(0)].map(|path| world.key_of(path) == K);
            assert_eq!(left, [false, false], "un-fenced: {what}\n{}", duo.story());
            assert_eq!(world.foreign_mismatch, None, "{what}\n{}", duo.story());
            let over = matches!(duo.verdicts()[0], Verdict::Fenced { .. } | Verdict::Moved);
            assert!(over || !touched, "{what}\n{}", duo.story());
        }
    }
}

#[test]
fn they_die_again_at_any_step_of_the_recovery() {
    let mut deaths = 0;
    for case in Case::all() {
        for death in case.deaths().into_iter().filter(|(round, _)| *round >= 7) {
            for again in 1..6 {
                let mut duo = case.duo();
                duo.accidents = vec![death];
                if duo.run() != End::Crashed {
                    continue;
                }
                let part = together(&case, &duo, &[]);
                let mut duo = duo.again(part.group().unwrap(), part.exchanged);
                duo.accidents =
                    vec![(again, Accident::CrashAfter(1)), (again + 1, Accident::HalfJournalled(1))];
                let what = format!("{} {:?} {death:?}, again {again}", case.profile.name, case.role);
                if duo.run() == End::Crashed {
                    deaths += 1;
                    let part = together(&case, &duo, &[]);
                    duo = duo.again(part.group().unwrap(), part.exchanged);
                    assert!(matches!(duo.run(), End::Ending(_)), "{what}");
                }
                check(&duo, &part, &what);
            }
        }
    }
    assert!(deaths > 300, "{deaths}");
}

#[test]
fn they_die_at_any_step_of_the_way_back() {
    let mut deaths = 0;
    for case in Case::all() {
        for death in case.deaths() {
            let mut duo = case.duo();
            duo.run();
            let before = duo.entries.clone();
            let order = settings(case.profile, None);
            let mut duo = duo.way_back(&order, Some(K));
            duo.accidents = vec![death];
            if duo.run() != End::Crashed {
                continue;
            }
            deaths += 1;
            let part = together(&case, &duo, &before);
            // Until both have an entry of the way back the last one says that they moved.
            assert_eq!(part.exchanged, duo.entries.iter().flatten().all(Option::is_some));
            let mut duo = duo.again(part.group().unwrap(), part.exchanged);
            let what = format!("{} {:?} back {death:?}", case.profile.name, case.role);
            assert!(matches!(duo.run(), End::Ending(_)), "{what}");
            check(&duo, &part, &what);
        }
    }
    assert!(deaths > 300, "{deaths}");
}

#[test]
fn what_a_peer_says_of_another_handover_ends_the_recovery() {
    use agent::recover::Unfit;
    let case = Case::all().next().unwrap();
    let mut duo = case.duo();
    duo.accidents = vec![(9, Accident::Crash)];
    assert_eq!(duo.run(), End::Crashed);
    let (own, good) = (case.half(&duo, 0, &[]), case.half(&duo, 1, &[]));
    let with = |change: fn(&mut Half)| {
        let mut theirs = good.clone();
        change(&mut theirs);
        parts(&own, Some(&theirs), Wishes::default(), &KnownTargets::default())
    };
    assert!(with(|_| {}).is_ok());
    assert_eq!(with(|half| half.side = Side::Source), Err(Unfit::SameSide(Side::Source)));
    assert_eq!(with(|half| half.units.truncate(1)), Err(Unfit::OtherUnits));
    assert_eq!(with(|half| half.units[1].lun = "naa.2".into()), Err(Unfit::OtherUnits));
    for change in
        [(|half: &mut Half| half.units[1].last.as_mut().unwrap().entry.key.0 ^= 1) as fn(&mut Half), |half| {
            half.units[1].last.as_mut().unwrap().entry.nonce.0 ^= 1
        }]
    {
        assert_eq!(with(change), Err(Unfit::OtherKeys(UnitIndex(1))));
    }
}
