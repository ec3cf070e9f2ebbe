//! A guest's records and the helper's service while a handover freezes it, moves it, gives it back, or dies.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod host;

use agent::conduct::Hands;
use agent::drive::Lines;
use agent::ground::{End, Error, Fate, Ground, nodes_again, nodes_of, sense};
use handover::group::Ending;
use handover::{Group, GroupStep, Phase, Port, Settings, Side, Tracked, UnitIndex};
use host::*;
use ledger::{Change, HandoverId, LunId, State};
use scsi::pr::{Key, request};
use scsi::{AdditionalSense, DataPhase, Request, Sense, SenseKey, Status};
use std::time::Instant;

const NONCE: Key = Key(0x99);
const U: UnitIndex = UnitIndex(0);

/// A guest that holds the reservation of each logical unit at the first of two hosts.
fn hosts(count: usize) -> (Host, Host) {
    let units = units(count);
    let (source, destination) = (Host::new(&units, 1), Host::new(&units, 2));
    (0..count).for_each(|index| source.hold(index));
    (source, destination)
}

fn grounds(source: &Host, destination: &Host) -> (Ground, Ground) {
    let there = source.ground(Side::Source, ID).unwrap();
    let mut here = destination.ground(Side::Destination, ID).unwrap();
    let luns: Vec<LunId> = there.units().iter().map(|unit| unit.lun.clone()).collect();
    here.arrange(&luns).unwrap();
    (there, here)
}

fn freeze(ground: &mut Ground) -> Result<bool, Error> {
    ground.freeze(Instant::now() + PATIENCE).map(|frozen| frozen.changed)
}

fn has_it() -> Fate {
    Fate::Has(Tracked { key: Some(KEY), held: Some(KIND), ..Tracked::default() })
}

fn end(fate: Fate) -> End {
    End { unit: U, fate, owed: Vec::new() }
}

/// Both replicas in one: runs the group until it ends, or stands at the end of this phase.
fn run(group: &mut Group, lines: &mut [Lines; 2], until: Option<Phase>) -> Option<Ending> {
    loop {
        match group.poll() {
            GroupStep::Run(round) => {
                for report in lines
                    .iter_mut()
                    .flat_map(|lines| lines.carry_out(&round.actions, Instant::now() + PATIENCE))
                {
                    group.report(report.unit, report.id, report.outcome.expect("it is over"));
                }
            }
            GroupStep::Wait => panic!("an action that no host carried out"),
            GroupStep::PhaseDone(phase) if Some(phase) == until => return None,
            GroupStep::PhaseDone(_) => group.proceed(),
            GroupStep::Finished(ending) => return Some(ending),
        }
    }
}

fn group(source: &Ground, destination: &Ground) -> Group {
    let settings = source.units().iter().zip(destination.units()).map(|(from, to)| Settings {
        source: from.ports(),
        destination: to.ports(),
        ..Settings::new(from.key(), NONCE, from.ports()[0].clone(), to.ports()[0].clone())
    });
    Group::new(settings.collect()).unwrap()
}

#[test]
fn a_guest_is_moved_through_both_helpers_and_each_says_where_it_is() {
    let (source, destination) = hosts(2);
    let (mut from, mut to) = grounds(&source, &destination);
    let mut lines = [from.lines(), to.lines()];
    let mut group = group(&from, &to);
    assert_eq!(run(&mut group, &mut lines, Some(Phase::Prepare)), None);
    assert_eq!(source.guest(0, &refresh()).status, Status::GOOD, "the guest runs while all is prepared");
    assert!(!freeze(&mut from).unwrap() && !freeze(&mut to).unwrap());
    assert_eq!(source.guest(0, &refresh()).status, Status::BUSY);
    group.proceed();
    assert_eq!(
        run(&mut group, &mut lines, None),
        Some(Ending::Moved),
        "{:?}",
        group.verdicts().collect::<Vec<_>>()
    );
    let ends = [U, UnitIndex(1)].map(|unit| End { unit, ..end(has_it()) });
    to.arrive(&ends).unwrap();
    from.depart().unwrap();
    for index in 0..2 {
        assert_eq!(source.guest(index, &refresh()).status, Status::RESERVATION_CONFLICT);
        assert_eq!(destination.insist(index, &request::release(KEY, KIND)).status, Status::GOOD);
        assert_eq!(
            (source.record(index).state, destination.record(index).state),
            (State::Moved, State::Active)
        );
        assert!(source.record(index).paths.iter().all(|path| path.tracked == Tracked::default()));
    }
}

/// As with the kernel's own iSCSI initiator, whose ISID it does not tell.
fn nameless(source: &Ground, destination: &Ground) -> Group {
    let settings = source.units().iter().zip(destination.units());
    let settings =
        settings.map(|(from, _)| Settings::new(from.key(), NONCE, Port::default(), Port::default()));
    Group::new(settings.collect()).unwrap()
}

#[test]
fn a_destination_that_is_frozen_from_the_beginning_may_be_asked_whether_it_has_the_key_and_others_may_not() {
    let (source, destination) = hosts(1);
    let (mut from, mut to) = grounds(&source, &destination);
    let mut lines = [from.lines(), to.lines()];
    let ended = run(&mut nameless(&from, &to), &mut lines, Some(Phase::Prepare));
    assert!(ended.is_some(), "the helper sends no change before the record says handover");
    freeze(&mut to).unwrap();
    let mut group = nameless(&from, &to);
    assert_eq!(run(&mut group, &mut lines, Some(Phase::Prepare)), None);
    assert_eq!(source.guest(0, &refresh()).status, Status::GOOD, "the guest runs while all is prepared");
    freeze(&mut from).unwrap();
    group.proceed();
    assert_eq!(run(&mut group, &mut lines, None), Some(Ending::Moved));
}

#[test]
fn what_is_frozen_is_not_recorded_again_but_read_again() {
    let (source, destination) = hosts(1);
    let (_, mut to) = grounds(&source, &destination);
    freeze(&mut to).unwrap();
    let before = destination.record(0);
    assert!(!freeze(&mut to).unwrap());
    assert_eq!(destination.record(0).history.len(), before.history.len());
    to.depart().unwrap();
    assert_eq!(destination.record(0).state, State::Moved);
}

#[test]
fn a_unit_attention_that_the_guest_is_owed_goes_with_it_and_is_given_once() {
    let (source, destination) = hosts(1);
    let (mut from, mut to) = grounds(&source, &destination);
    let path = from.units()[0].paths[0].path.clone();
    let before = sense(AdditionalSense::CAPACITY_CHANGED);
    source.ledger().append(&[(lun(0), Change::Owed { path, sense: Some(before.clone()) })]).unwrap();
    freeze(&mut from).unwrap();
    freeze(&mut to).unwrap();
    let taken = sense(AdditionalSense::RESERVATIONS_RELEASED);
    let mut owed = from.owed().into_iter().flat_map(|(_, owed)| owed).collect::<Vec<_>>();
    assert_eq!(owed, std::slice::from_ref(&before));
    // What handover commands took themselves comes after it; what was recorded twice is owed once.
    owed.extend([taken.clone(), before.clone()]);
    let mut line = destination.lines[0].clone();
    line.insist(&request::register(Key::NONE, KEY, false));
    to.arrive(&[End { unit: U, fate: Fate::Has(Tracked { key: Some(KEY), ..Tracked::default() }), owed }])
        .unwrap();
    from.depart().unwrap();
    assert_eq!(source.record(0).paths[0].owed.len(), 0, "it is not owed at the old place as well");
    assert_eq!(destination.guest(0, &read_keys()).sense, before);
    assert_eq!(destination.guest(0, &refresh()).sense, taken);
    assert_eq!(destination.guest(0, &refresh()).status, Status::GOOD);
    let told = Sense::parse(&taken).unwrap();
    assert_eq!((told.key, told.code), (SenseKey::UNIT_ATTENTION, AdditionalSense::RESERVATIONS_RELEASED));
}

#[test]
fn an_agent_that_dies_in_a_freeze_leaves_the_guest_waiting_until_it_is_recovered() {
    let (source, _destination) = hosts(2);
    let mut from = source.ground(Side::Source, ID).unwrap();
    freeze(&mut from).unwrap();
    drop(from);
    for index in 0..2 {
        assert_eq!(
            source.guest(index, &refresh()).status,
            Status::BUSY,
            "the lock is gone, the record is not"
        );
        assert_eq!((source.record(index).state, source.record(index).handover), (State::Handover, Some(ID)));
    }
    let mut again = source.ground(Side::Source, ID).unwrap();
    assert_eq!(again.units().len(), 2);
    assert!(!freeze(&mut again).unwrap());
    again.restore(&[]).unwrap();
    for index in 0..2 {
        assert_eq!(source.guest(index, &refresh()).status, Status::GOOD);
        assert_eq!(source.record(index).standing(), State::Active);
    }
}

#[test]
fn another_handover_cannot_end_the_one_under_way() {
    let (source, _destination) = hosts(1);
    let mut from = source.ground(Side::Source, ID).unwrap();
    freeze(&mut from).unwrap();
    let state = Change::State { state: State::Active, handover: Some(HandoverId(8)), why: None };
    source.ledger().append(&[(lun(0), state)]).unwrap();
    assert_eq!(source.guest(0, &refresh()).status, Status::BUSY);
    from.restore(&[]).unwrap();
    assert_eq!(source.guest(0, &refresh()).status, Status::GOOD);
}

#[test]
fn a_handover_does_not_freeze_what_another_one_has_or_took_away_meanwhile() {
    let (source, destination) = hosts(1);
    let (mut from, mut to) = grounds(&source, &destination);
    // An export in another process, and an import of the same guest there.
    for (host, ground) in [(&source, &mut from), (&destination, &mut to)] {
        let enter =
            |state, why: &str| Change::State { state, handover: Some(HandoverId(8)), why: Some(why.into()) };
        host.ledger().append(&[(lun(0), enter(State::Handover, "it is being exported"))]).unwrap();
        let refused = freeze(ground);
        assert!(
            matches!(&refused, Err(Error::UnderWay { other, .. }) if other.contains("exported")),
            "{refused:?}"
        );
        ground.restore(&[]).unwrap();
        ground.depart().unwrap();
        let record = host.record(0);
        assert_eq!(
            (record.state, record.handover),
            (State::Handover, Some(HandoverId(8))),
            "it stays the other's"
        );
        host.ledger().append(&[(lun(0), enter(State::Moved, "it was exported"))]).unwrap();
    }
    let refused = freeze(&mut from);
    assert!(matches!(&refused, Err(Error::UnderWay { .. })), "the guest has left: {refused:?}");
    assert_eq!(source.record(0).state, State::Moved);
    assert!(freeze(&mut to).is_ok(), "nobody was at the destination");
    to.depart().unwrap();
    // Whoever looks now knows that it is away.
    assert!(freeze(&mut source.ground(Side::Source, ID).unwrap()).is_ok());
}

#[test]
fn a_guest_that_was_fenced_arrives_fenced_and_its_own_register_brings_it_back() {
    let (source, destination) = hosts(1);
    let (mut from, mut to) = grounds(&source, &destination);
    freeze(&mut from).unwrap();
    freeze(&mut to).unwrap();
    to.arrive(&[end(Fate::Fenced)]).unwrap();
    from.depart().unwrap();
    assert_eq!(destination.record(0).state, State::Fenced);
    let rejoins = request::register_and_ignore(KEY, false);
    assert_eq!(destination.insist(0, &rejoins).status, Status::GOOD);
    assert_eq!(destination.record(0).standing(), State::Active);
}

#[test]
fn a_guest_that_was_fenced_before_is_looked_for_under_the_key_that_it_had() {
    let (source, _destination) = hosts(1);
    let mut foreign = Line::new(&units(1)[0], 9);
    foreign.insist(&read_keys());
    let mut killer = source.lines[0].clone();
    assert_eq!(killer.insist(&request::register(KEY, Key::NONE, false)), Status::GOOD);
    source.insist(0, &read_keys());
    assert_eq!(source.record(0).state, State::Fenced);
    let ground = source.ground(Side::Source, ID).unwrap();
    assert_eq!(ground.units()[0].key(), Some(KEY));
    assert_eq!(ground.units()[0].standing(), agent::ground::Standing::Fenced);
}

#[test]
fn what_the_guest_did_between_plan_and_freeze_is_noticed() {
    let (source, _destination) = hosts(2);
    let open = || source.ground(Side::Source, ID).unwrap();
    let mut releases = open();
    assert_eq!(source.insist(0, &request::release(KEY, KIND)).status, Status::GOOD);
    assert!(freeze(&mut releases).unwrap(), "the devices must be read again");
    releases.restore(&[]).unwrap();
    let mut rekeys = open();
    assert_eq!(source.insist(1, &request::register(KEY, OTHER, false)).status, Status::GOOD);
    assert!(matches!(freeze(&mut rekeys), Err(Error::Replan(of)) if of == lun(1)));
    rekeys.restore(&[]).unwrap();
    assert_eq!(source.insist(1, &request::register(OTHER, Key::NONE, false)).status, Status::GOOD);
    let mut registers = open();
    assert_eq!((registers.units().len(), registers.resting().len()), (1, 1));
    assert_eq!(source.insist(1, &request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    assert!(matches!(freeze(&mut registers), Err(Error::Replan(of)) if of == lun(1)));
}

#[test]
fn a_logical_unit_on_which_the_guest_has_nothing_is_frozen_and_moves_along() {
    let units = units(2);
    let (source, destination) = (Host::new(&units, 1), Host::new(&units, 2));
    source.hold(0);
    source.hold(1);
    assert_eq!(source.insist(1, &request::register(KEY, Key::NONE, false)).status, Status::GOOD);
    let (mut from, mut to) = grounds(&source, &destination);
    assert_eq!((from.units().len(), to.units().len(), to.resting().len()), (1, 1, 1));
    freeze(&mut from).unwrap();
    freeze(&mut to).unwrap();
    assert_eq!(source.guest(1, &request::register(Key::NONE, KEY, false)).status, Status::BUSY);
    to.arrive(&[end(has_it())]).unwrap();
    from.depart().unwrap();
    assert_eq!(
        source.guest(1, &request::register(Key::NONE, KEY, false)).status,
        Status::RESERVATION_CONFLICT
    );
    assert_eq!(destination.insist(1, &request::register(Key::NONE, KEY, false)).status, Status::GOOD);
}

#[test]
fn a_host_without_one_of_the_logical_units_says_which() {
    let (source, destination) = hosts(1);
    let (_, mut to) = grounds(&source, &destination);
    let missing = LunId("naa.7".into());
    assert!(matches!(to.arrange(&[lun(0), missing.clone()]), Err(Error::NotHere(lun)) if lun == missing));
}

#[test]
fn a_registration_that_no_device_leads_to_is_not_left_behind() {
    let (source, _destination) = hosts(1);
    let tracked = Tracked { key: Some(KEY), ..Tracked::default() };
    let path = ledger::PathId("another nexus".into());
    source.ledger().append(&[(lun(0), Change::Commit { path, tracked, generation: None })]).unwrap();
    let refused = source.ground(Side::Source, ID).unwrap_err().to_string();
    assert!(refused.contains("`another nexus`"), "{refused}");
}

#[test]
fn a_freeze_that_cannot_be_had_in_time_is_undone() {
    let (source, _destination) = hosts(1);
    let guest = source.ledger();
    let command = guest.share(&lun(0), Instant::now()).unwrap();
    let mut from = source.ground(Side::Source, ID).unwrap();
    assert!(matches!(from.freeze(Instant::now()), Err(Error::Ledger(ledger::Error::Locked(_)))));
    from.restore(&[]).unwrap();
    drop(command);
    assert_eq!(source.guest(0, &refresh()).status, Status::GOOD);
}

#[test]
fn the_helper_is_waited_for_while_it_is_away_and_its_refusals_lose_nothing() {
    let (source, _destination) = hosts(1);
    let mut from = source.ground(Side::Source, ID).unwrap();
    let mut lines = from.lines();
    let ask = |lines: &mut Lines, request: Request| {
        let (id, path) = (handover::CommandId(0), handover::Path::source(0));
        let action = handover::Action::Execute { id, path, request };
        let begun = Instant::now();
        let told = lines.carry_out(&[(U, action)], Instant::now() + PATIENCE).pop().unwrap().outcome.unwrap();
        assert!(begun.elapsed() < PATIENCE / 2, "nobody was waited for");
        told
    };
    assert_eq!(ask(&mut lines, refresh()), handover::Outcome::NotSent, "no handover is under way yet");
    let troubles = lines.troubles();
    assert!(troubles[0].2.contains("the record says active"), "{troubles:?}");
    assert!(matches!(ask(&mut lines, read_keys()), handover::Outcome::Done(_)));
    freeze(&mut from).unwrap();
    assert!(matches!(ask(&mut lines, refresh()), handover::Outcome::Done(done) if done.status.is_good()));
    let block = Request { cdb: vec![0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], data: DataPhase::In(512) };
    assert_eq!(ask(&mut lines, block), handover::Outcome::NotSent);
}

#[test]
fn nodes_are_found_by_what_the_devices_themselves_say() {
    let (source, _destination) = hosts(2);
    let dev = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dev.path().join("disk/by-id")).unwrap();
    std::os::unix::fs::symlink(source.node(0), dev.path().join("disk/by-id/wwn-0x6001")).unwrap();
    // The link was made for a device that is gone; the other two nodes are one nexus.
    std::os::unix::fs::symlink(source.node(1), dev.path().join("sda")).unwrap();
    std::os::unix::fs::symlink(source.node(1), dev.path().join("sdb")).unwrap();
    let found = |index| nodes_of(&lun(index), source.devices(), dev.path());
    assert_eq!(found(1), [dev.path().join("sda")]);
    assert!(found(0).is_empty(), "no name leads to it");
}

#[test]
fn the_nodes_of_a_handover_are_found_again_without_its_qemu_and_no_others_with_them() {
    let (source, _destination) = hosts(2);
    let dev = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(source.node(0), dev.path().join("sda")).unwrap();
    std::os::unix::fs::symlink(source.node(1), dev.path().join("sdb")).unwrap();
    let again = |before: &[&str]| {
        let before: Vec<_> = before.iter().map(|node| dev.path().join(node)).collect();
        nodes_again(&lun(1), &before, source.devices(), dev.path())
    };
    assert_eq!(again(&["sdb"]), [dev.path().join("sdb")]);
    assert_eq!(again(&["sdz"]), [dev.path().join("sdb")], "renamed since");
    assert_eq!(again(&["sda"]), [dev.path().join("sdb")], "that name is another disk's now");
    assert!(again(&["sdy", "sdz"]).is_empty(), "which of two it is nobody knows");
}

#[test]
fn what_a_handover_says_that_the_guest_is_owed_is_recorded_at_once_on_either_host() {
    let (source, destination) = hosts(1);
    let (mut from, mut to) = grounds(&source, &destination);
    let owed =
        |host: &Host| host.record(0).paths.iter().flat_map(|path| path.owed.clone()).collect::<Vec<_>>();
    let (old, taken) =
        (sense(AdditionalSense::RESERVATIONS_RELEASED), sense(AdditionalSense::CAPACITY_CHANGED));
    let path = to.units()[0].paths[0].path.clone();
    destination.ledger().append(&[(lun(0), Change::Owed { path, sense: Some(old) })]).unwrap();
    // At the source while the guest still runs, and only once.
    from.owe(&[(U, vec![taken.clone()])]).unwrap();
    from.owe(&[(U, vec![taken.clone()])]).unwrap();
    assert_eq!(owed(&source), std::slice::from_ref(&taken));
    freeze(&mut to).unwrap();
    assert!(owed(&destination).is_empty(), "what whoever was here before was owed");
    to.owe(&from.owed()).unwrap();
    // The destination's agent dies and finds the handover under way.
    drop(to);
    let mut to = destination.ground(Side::Destination, ID).unwrap();
    to.arrange(&[lun(0)]).unwrap();
    freeze(&mut to).unwrap();
    assert_eq!(owed(&destination), std::slice::from_ref(&taken));
    let mut line = destination.lines[0].clone();
    line.insist(&request::register(Key::NONE, KEY, false));
    to.arrive(&[end(has_it())]).unwrap();
    assert_eq!(owed(&destination), [taken]);
}

#[test]
fn a_guest_that_was_given_back_is_not_given_back_again() {
    let (source, destination) = hosts(1);
    let (mut from, _) = grounds(&source, &destination);
    freeze(&mut from).unwrap();
    let taken = sense(AdditionalSense::CAPACITY_CHANGED);
    let ends = [End { unit: U, fate: Fate::AsBefore, owed: vec![taken.clone()] }];
    from.restore(&ends).unwrap();
    assert_eq!(source.guest(0, &read_keys()).sense, taken);
    // It runs, and its helper finds that it was fenced.
    let fenced = Change::State { state: State::Fenced, handover: None, why: None };
    source.ledger().append(&[(lun(0), fenced)]).unwrap();
    from.restore(&ends).unwrap();
    let record = source.record(0);
    assert_eq!((record.state, record.paths[0].owed.len()), (State::Fenced, 0));
}
