//! Both hosts die at every step of a group's handover, and of its recovery: each logical unit ends where a verdict says that
//! it is, never at both hosts, and never registered again once another node removed it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

#[path = "../../handover/tests/group_pair/mod.rs"]
mod group_pair;
#[path = "../../handover/tests/pair/mod.rs"]
mod pair;

use agent::conduct::{self, Hands, Journal, NotDurable, Patience, Report};
use agent::migrate::{Begin, Last, Leg, Lun, Trouble};
use agent::ownership::Marks;
use agent::recover::{Interrupted, alone, interrupted, tell};
use group_pair::{Accident, Duo, End};
use handover::{Action, Ending, Entry, Group, Path, Side, UnitIndex, Verdict};
use logical_unit::Profile;
use pair::{Foreign, K, Role, World, settings, survey};
use peer::message::{Guest, Options, Record, Recover};
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

    fn luns(&self, host: usize, count: usize) -> Vec<Lun> {
        let settings = settings(self.profile, None);
        let ports = if host == 0 { settings.source } else { settings.destination };
        let target = Some(survey(self.profile).target);
        let lun = |_| Lun {
            name: "naa.1".into(),
            key: Some(K),
            nodes: Vec::new(),
            ports: ports.clone(),
            identity_is_ours: false,
            target,
        };
        (0..count).map(lun).collect()
    }

    /// What a host tells of its journal; `before`: what it had when the units turned round.
    fn record(&self, duo: &Duo, host: usize, before: &[[Option<Entry>; 2]]) -> Record {
        let leg = if before.is_empty() { Leg::There } else { Leg::Back };
        let there = |unit: usize| before.get(unit).and_then(|entries| entries[host]);
        let last = |(unit, entries): (usize, &[Option<Entry>; 2])| {
            let now = entries[host].map(|entry| Last { leg, entry });
            now.or_else(|| there(unit).map(|entry| Last { leg: Leg::There, entry }))
        };
        let begin = Begin {
            handover: 1,
            uuid: String::new(),
            side: if host == 0 { Side::Source } else { Side::Destination },
            peer: String::new(),
            luns: self.luns(host, duo.entries.len()),
            theirs: Vec::new(),
            options: Options::default(),
            nonces: Vec::new(),
            was_running: true,
        };
        let last: Vec<_> = duo.entries.iter().enumerate().map(last).collect();
        tell(&begin, Marks::new(), &last, None)
    }

    /// What one host makes of its own journal.
    fn alone(&self, duo: &Duo, side: Side) -> Group {
        let settings = settings(self.profile, None);
        let remains = duo.entries.iter().map(|entries| {
            let last = entries[usize::from(side == Side::Destination)];
            let last = last.map(|entry| Last { leg: Leg::There, entry });
            let ports = [settings.source.clone(), settings.destination.clone()];
            alone(side, last, ports, Some(survey(self.profile).target))
        });
        Group::recover(remains.collect()).unwrap()
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

/// What becomes of what the two hosts tell each other.
fn exchanged(source: Record, destination: &Record, luns: &[Lun]) -> Result<Interrupted, Trouble> {
    let guest = Guest { vm: "vm".into(), uuid: String::new() };
    let recover = Recover { guest, record: source, prefer_destination: false, kept_at_source: false };
    interrupted(&recover, destination, luns)
}

/// What both hosts make of both journals.
struct Part {
    group: Group,
    exchanged: bool,
}

fn together(case: &Case, duo: &Duo, before: &[[Option<Entry>; 2]]) -> Part {
    let [source, destination] = [0, 1].map(|host| case.record(duo, host, before));
    let made = [0, 1].map(|host| {
        let luns = case.luns(host, duo.entries.len());
        exchanged(source.clone(), &destination, &luns).unwrap()
    });
    let [own, other] = made;
    assert_eq!((&own.group, own.leg, &own.places), (&other.group, other.leg, &other.places));
    assert_eq!(own.places.len(), duo.entries.len(), "one part");
    Part { group: own.group.unwrap(), exchanged: own.leg == Leg::Back }
}

/// Where a logical unit's registration is, after recovery.
#[derive(Debug)]
enum Place {
    Source,
    Destination,
    Fenced,
    Lost,
    Unknown,
}

fn place(verdict: Option<Verdict>, exchanged: bool) -> Place {
    match verdict {
        Some(Verdict::Moved) if exchanged => Place::Source,
        Some(Verdict::Moved) => Place::Destination,
        Some(Verdict::KeptAtSource { .. } | Verdict::Refused(_)) if exchanged => Place::Destination,
        Some(Verdict::KeptAtSource { .. } | Verdict::Refused(_)) => Place::Source,
        Some(Verdict::Fenced { .. }) => Place::Fenced,
        Some(Verdict::Lost) => Place::Lost,
        Some(Verdict::InDoubt(_)) | None => Place::Unknown,
    }
}

fn check(duo: &Duo, part: &Part, what: &str) {
    for (unit, (verdict, world)) in duo.verdicts().into_iter().zip(&duo.worlds).enumerate() {
        let place = place(Some(verdict), part.exchanged);
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
            let mut duo = duo.again(part.group.clone(), part.exchanged);
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
            let side = if host == 0 { Side::Source } else { Side::Destination };
            let mut group = case.alone(&duo, side);
            let mut hands = Alone { worlds: &mut duo.worlds, side };
            let mut journal = OwnEntries { entries: &mut duo.entries, host };
            conduct::alone(&mut group, side, &mut hands, &mut journal, Patience::default()).unwrap();
            for ((_, verdict), world) in group.verdicts().zip(&duo.worlds) {
                let story = world.log.join("\n");
                match place(verdict, false) {
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
            let mut duo = duo.again(part.group.clone(), part.exchanged);
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
            let mut duo = duo.again(part.group.clone(), part.exchanged);
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
                let mut duo = duo.again(part.group.clone(), part.exchanged);
                duo.accidents =
                    vec![(again, Accident::CrashAfter(1)), (again + 1, Accident::HalfJournalled(1))];
                let what = format!("{} {:?} {death:?}, again {again}", case.profile.name, case.role);
                if duo.run() == End::Crashed {
                    deaths += 1;
                    let part = together(&case, &duo, &[]);
                    duo = duo.again(part.group.clone(), part.exchanged);
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
            let mut duo = duo.again(part.group.clone(), part.exchanged);
            let what = format!("{} {:?} back {death:?}", case.profile.name, case.role);
            assert!(matches!(duo.run(), End::Ending(_)), "{what}");
            check(&duo, &part, &what);
        }
    }
    assert!(deaths > 300, "{deaths}");
}

#[test]
fn what_a_peer_says_of_another_handover_ends_the_recovery() {
    let case = Case::all().next().unwrap();
    let mut duo = case.duo();
    duo.accidents = vec![(9, Accident::Crash)];
    assert_eq!(duo.run(), End::Crashed);
    let (own, good) = (case.record(&duo, 0, &[]), case.record(&duo, 1, &[]));
    let with = |change: fn(&mut Record)| {
        let mut theirs = good.clone();
        change(&mut theirs);
        exchanged(own.clone(), &theirs, &case.luns(0, 2)).is_ok()
    };
    assert!(with(|_| {}));
    assert!(!with(|record| record.luns.truncate(1)));
    assert!(!with(|record| record.luns[1].lun = "naa.2".into()));
    for key in ["key", "nonce"] {
        let mut theirs = good.clone();
        theirs.luns[1].entry.as_mut().unwrap()["entry"][key] = "0x0000000000000bad".into();
        assert!(exchanged(own.clone(), &theirs, &case.luns(0, 2)).is_err(), "{key}");
    }
}

#[test]
fn a_recovery_knows_of_the_target_what_both_hosts_are_told_by_it() {
    let case = Case::all().find(|case| case.profile.name == "lio").unwrap();
    let mut duo = case.duo();
    duo.accidents = vec![(9, Accident::Crash)];
    assert_eq!(duo.run(), End::Crashed);
    let (own, theirs) = (case.record(&duo, 0, &[]), case.record(&duo, 1, &[]));
    let digest = |source: &Record, destination: &Record| {
        exchanged(source.clone(), destination, &case.luns(0, 2)).unwrap().group.unwrap().digest()
    };
    let mut silent = theirs.clone();
    for lun in &mut silent.luns {
        lun.entry.as_mut().unwrap().as_object_mut().unwrap().remove("target").unwrap();
    }
    assert_ne!(digest(&own, &theirs), digest(&own, &silent), "what is known makes another recovery");
}
