//! A guest that was exported, or died with its host, is started again: here, elsewhere, fenced, twice.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod host;

use agent::claim::{Book, Claim, Error, Interrupted, Order, Owed, Policy, claim, resume};
use agent::conduct::{Journal, NotDurable};
use agent::export::{Document, Export, Exported};
use handover::journal::Stage;
use handover::known_targets::KnownTargets;
use handover::{Entry, Port, Side, UnitIndex};
use host::*;
use ledger::{Change, HandoverId, LunId, State};
use logical_unit::LogicalUnit;
use scsi::Status;
use scsi::pr::{InAction, Key, ReadKeys, ReadReservation, request};
use std::sync::Arc;
use std::time::Instant;

const NONCE: Key = Key(0x99);

/// Keeps the entries, or none.
#[derive(Default)]
struct Paper {
    entries: Vec<(UnitIndex, Entry)>,
    sources: Vec<(UnitIndex, Port)>,
    full: bool,
}

impl Book for Paper {
    fn claimed_from(&mut self, sources: &[(UnitIndex, Port)]) -> Result<(), NotDurable> {
        assert!(self.entries.is_empty(), "it is known before anything is changed");
        self.sources.extend_from_slice(sources);
        Ok(())
    }
}

impl Journal for Paper {
    fn append(&mut self, _: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        if self.full {
            return Err(NotDurable("full".into()));
        }
        self.entries.extend_from_slice(entries);
        Ok(())
    }
}

/// A cluster node that is registered on every logical unit, and looks.
struct Cluster(Vec<Line>);

impl Cluster {
    fn new(units: &[Arc<LogicalUnit>]) -> Self {
        let mut nodes: Vec<_> = units.iter().map(|unit| Line::new(unit, 9)).collect();
        for node in &mut nodes {
            assert_eq!(node.insist(&request::register(Key::NONE, OTHER, false)), Status::GOOD);
        }
        Self(nodes)
    }

    fn fence(&mut self, index: usize) {
        assert_eq!(self.0[index].insist(&request::preempt(OTHER, KEY, KIND)), Status::GOOD);
    }

    /// The keys, sorted, and who holds.
    fn sees(&mut self, index: usize) -> (Vec<Key>, Option<Key>) {
        let mut ask = |action| {
            nexus::retry_unit_attention(&mut self.0[index], &request::read(action, 4096), 8)
                .unwrap()
                .completion
                .data
        };
        let mut keys = ReadKeys::parse(&ask(InAction::READ_KEYS)).unwrap().keys;
        keys.sort();
        let held = ReadReservation::parse(&ask(InAction::READ_RESERVATION)).unwrap().reservation;
        (keys, held.map(|held| held.key))
    }
}

struct Scene {
    hosts: Vec<Host>,
    cluster: Cluster,
    units: Vec<Arc<LogicalUnit>>,
}

/// Three hosts; the guest holds every logical unit at the first one.
fn scene(count: usize) -> Scene {
    let units = units(count);
    let hosts: Vec<_> = (1..=3).map(|number| Host::new(&units, number)).collect();
    let cluster = Cluster::new(&units);
    (0..count).for_each(|index| hosts[0].hold(index));
    Scene { hosts, cluster, units }
}

impl Scene {
    fn export(&self, host: usize) -> Document {
        let guest = self.hosts[host].ledger();
        let export = Export::begin(&guest, HandoverId(77), Instant::now() + PATIENCE).unwrap();
        let document = export.document();
        export.finish().unwrap();
        Document::parse(&document.to_text()).unwrap()
    }

    fn claim(&self, host: usize, known: &[Exported], policy: Policy) -> Result<Vec<Claim>, Error> {
        self.claim_with(host, known, policy, &mut Paper::default())
    }

    fn claim_with(
        &self,
        host: usize,
        known: &[Exported],
        policy: Policy,
        journal: &mut Paper,
    ) -> Result<Vec<Claim>, Error> {
        let mut ground = self.hosts[host].ground(Side::Destination, HandoverId(100 + host as u128)).unwrap();
        let mut nonce = || NONCE;
        let targets = KnownTargets::default();
        let mut order =
            Order { policy, known, targets, nonce: &mut nonce, wait: PATIENCE, patience: PATIENCE };
        let claims = claim(&mut ground, &mut order, journal)?;
        assert_eq!(
            claims.iter().map(|(lun, _)| lun.clone()).collect::<Vec<_>>(),
            known.iter().map(|known| known.lun.clone()).collect::<Vec<_>>()
        );
        Ok(claims.into_iter().map(|(_, claim)| claim).collect())
    }

    fn holds(&mut self, host: usize, index: usize) {
        assert_eq!(self.cluster.sees(index), (vec![KEY, OTHER], Some(KEY)));
        assert_eq!(self.hosts[host].insist(index, &request::release(KEY, KIND)).status, Status::GOOD);
        assert_eq!(self.hosts[host].insist(index, &request::reserve(KEY, KIND)).status, Status::GOOD);
        assert_eq!(self.hosts[host].record(index).standing(), State::Active);
    }
}

#[test]
fn a_guest_that_is_restored_on_the_same_host_finds_its_registration_and_what_it_is_owed() {
    let mut scene = scene(1);
    let path = scene.hosts[0].record(0).paths[0].path.clone();
    let owed = agent::ground::sense(scsi::AdditionalSense::CAPACITY_CHANGED);
    scene.hosts[0].ledger().append(&[(lun(0), Change::Owed { path, sense: Some(owed.clone()) })]).unwrap();
    let document = scene.export(0);
    assert_eq!(scene.hosts[0].guest(0, &refresh()).status, Status::RESERVATION_CONFLICT);
    assert_eq!(scene.claim(0, &document.luns, Policy::Own).unwrap(), [Claim::Proved]);
    assert_eq!(scene.hosts[0].guest(0, &read_keys()).sense, owed);
    scene.holds(0, 0);
}

#[test]
fn a_guest_that_is_started_on_another_host_is_taken_over_only_where_that_is_allowed() {
    let mut scene = scene(2);
    let document = scene.export(0);
    let refused = scene.claim(1, &document.luns, Policy::Own).unwrap_err();
    assert!(matches!(&refused, Error::Elsewhere { by, .. } if by.contains("test:1,")), "{refused}");
    assert_eq!(scene.hosts[1].guest(0, &refresh()).status, Status::RESERVATION_CONFLICT);
    assert_eq!(scene.cluster.sees(0), (vec![KEY, OTHER], Some(KEY)));
    let mut journal = Paper::default();
    let claims = scene.claim_with(1, &document.luns, Policy::TakeOver, &mut journal).unwrap();
    assert_eq!(claims, [Claim::TakenOver, Claim::TakenOver]);
    assert!(journal.entries.iter().any(|(unit, _)| *unit == UnitIndex(1)), "it was written ahead");
    (0..2).for_each(|index| scene.holds(1, index));
    let mut old = scene.hosts[0].lines[0].clone();
    assert_eq!(old.insist(&refresh()), Status::RESERVATION_CONFLICT, "the old nexus has nothing");
}

#[test]
fn a_guest_that_was_fenced_meanwhile_comes_back_without_and_nothing_is_registered_for_it() {
    for (host, policy) in [(0, Policy::Own), (1, Policy::TakeOver)] {
        let mut scene = scene(2);
        let document = scene.export(0);
        scene.cluster.fence(0);
        let claims = scene.claim(host, &document.luns, policy).unwrap();
        assert_eq!(claims[0], Claim::Fenced);
        assert_eq!(scene.cluster.sees(0).0, [OTHER]);
        assert_eq!(scene.hosts[host].record(0).state, State::Fenced);
        scene.holds(host, 1);
    }
}

#[test]
fn a_document_is_no_right_to_take_a_guest_from_where_it_runs_by_now() {
    let mut scene = scene(1);
    let document = scene.export(0);
    assert_eq!(scene.claim(1, &document.luns, Policy::TakeOver).unwrap(), [Claim::TakenOver]);
    let again = scene.claim(2, &document.luns, Policy::TakeOver).unwrap_err();
    assert!(matches!(&again, Error::Elsewhere { by, .. } if by.contains("test:2,")), "{again}");
    let back = scene.claim(0, &document.luns, Policy::TakeOver).unwrap_err();
    assert!(matches!(back, Error::Elsewhere { .. }), "{back}");
    scene.holds(1, 0);
}

#[test]
fn a_target_that_forgot_is_no_fencer() {
    let scene = scene(1);
    let document = scene.export(0);
    scene.units[0].power_cycle();
    // PRGENERATION has begun anew.
    let known = [Exported { generation: Some(9), ..document.luns[0].clone() }];
    assert_eq!(scene.claim(1, &known, Policy::TakeOver).unwrap(), [Claim::Lost]);
    assert_eq!(scene.hosts[1].record(0).state, State::Lost);
}

#[test]
fn what_cannot_be_taken_over_as_a_whole_is_not_taken_over_at_all() {
    let mut scene = scene(2);
    let document = scene.export(0);
    // Another guest of the second host has a registration through the same nexus.
    let mut other = scene.hosts[1].lines[1].clone();
    assert_eq!(other.insist(&request::register(Key::NONE, Key(0x55), false)), Status::GOOD);
    let refused = scene.claim(1, &document.luns, Policy::TakeOver).unwrap_err();
    assert!(matches!(&refused, Error::Refused { .. }), "{refused}");
    assert_eq!(scene.cluster.sees(0), (vec![KEY, OTHER], Some(KEY)));
    assert_eq!(
        other.insist(&request::register(Key(0x55), Key(0x55), false)),
        Status::GOOD,
        "the bystander keeps it"
    );
    assert_eq!(scene.hosts[1].record(0).state, State::Moved);
    let mut old = scene.hosts[0].lines[0].clone();
    assert_eq!(old.insist(&refresh()), Status::GOOD, "and so does the guest, where it was");
}

#[test]
fn nothing_is_taken_over_that_cannot_be_written_ahead() {
    let mut scene = scene(1);
    let document = scene.export(0);
    let mut full = Paper { full: true, ..Paper::default() };
    let refused = scene.claim_with(1, &document.luns, Policy::TakeOver, &mut full).unwrap_err();
    assert!(matches!(&refused, Error::Refused { .. }), "{refused}");
    assert_eq!(scene.cluster.sees(0), (vec![KEY, OTHER], Some(KEY)));
    assert_eq!(scene.claim(0, &document.luns, Policy::Own).unwrap(), [Claim::Proved], "and it can go home");
}

#[test]
fn a_guest_whose_new_host_died_is_claimed_back_by_what_the_record_remembers() {
    let mut scene = scene(1);
    let document = scene.export(0);
    assert_eq!(scene.claim(1, &document.luns, Policy::TakeOver).unwrap(), [Claim::TakenOver]);
    let known = [Exported::remembered(&scene.hosts[0].record(0))];
    assert_eq!(known[0].tracked.key, Some(KEY));
    let known = [Exported { ports: Vec::new(), ..known[0].clone() }];
    assert_eq!(scene.claim(0, &known, Policy::TakeOver).unwrap(), [Claim::TakenOver]);
    scene.holds(0, 0);
}

#[test]
fn where_nothing_may_be_claimed_nothing_is_asked() {
    let scene = scene(1);
    let document = scene.export(0);
    assert!(matches!(scene.claim(0, &document.luns, Policy::Off), Err(Error::Off)));
    assert_eq!(scene.hosts[0].record(0).state, State::Moved);
    let missing = [Exported { lun: LunId("naa.7".into()), ..document.luns[0].clone() }];
    assert!(matches!(scene.claim(0, &missing, Policy::Own), Err(Error::Ground(_))));
}

/// The entry of a take-over before its commands, and the logical unit as they left it when the host died: the nonce is
/// registered, and the guest's key preempted or not.
fn interrupted(preempted: bool) -> (Scene, Document, Interrupted) {
    let entry = {
        let scene = scene(1);
        let mut journal = Paper::default();
        scene.claim_with(1, &scene.export(0).luns, Policy::TakeOver, &mut journal).unwrap();
        let take = journal.entries.iter().rev().find(|(_, entry)| entry.stage == Stage::Take);
        take.expect("a take-over is journalled before it").1
    };
    let scene = scene(1);
    let document = scene.export(0);
    let mut dying = scene.hosts[1].lines[0].clone();
    assert_eq!(dying.insist(&request::register(Key::NONE, NONCE, false)), Status::GOOD);
    if preempted {
        assert_eq!(dying.insist(&request::preempt(NONCE, KEY, KIND)), Status::GOOD);
    }
    let source = document.luns[0].ports.iter();
    let source = source.map(|port| Port { initiator: Some(port.clone()), target_port: None }).collect();
    (scene, document, Interrupted { lun: lun(0), source, entry: Some(entry) })
}

fn put_in_order(scene: &Scene, left: Interrupted) -> Owed {
    let mut ground = scene.hosts[1].ground(Side::Destination, HandoverId(5)).unwrap();
    resume(&mut ground, &[left], &mut Paper::default(), PATIENCE, PATIENCE).unwrap()
}

#[test]
fn of_a_guest_with_several_ports_the_one_that_it_is_taken_from_is_written_ahead() {
    let scene = scene(2);
    let document = scene.export(0);
    let elsewhere = "iqn.2026-11.test:7,i,0x800000000007".parse().unwrap();
    let with_more = |unit: &Exported| {
        let ports = [vec![elsewhere], unit.ports.clone()].concat();
        Exported { ports, ..unit.clone() }
    };
    let known = [document.luns[0].clone(), with_more(&document.luns[1])];
    let mut journal = Paper::default();
    scene.claim_with(1, &known, Policy::TakeOver, &mut journal).unwrap();
    let there = |unit: u16| {
        let initiator = document.luns[usize::from(unit)].ports.first().cloned();
        (UnitIndex(unit), Port { initiator, target_port: None })
    };
    assert_eq!(journal.sources, [there(0), there(1)]);
}

#[test]
fn a_unit_attention_that_a_claim_or_its_recovery_takes_is_owed_to_the_guest() {
    let reset = agent::ground::sense(scsi::AdditionalSense { asc: 0x29, ascq: 0x03 });
    for preempted in [false, true] {
        let (scene, document, left) = interrupted(preempted);
        scene.units[0].reset();
        let owed = put_in_order(&scene, left);
        let told: Vec<_> = owed.iter().map(|(_, sense)| sense.as_slice()).collect();
        assert_eq!(told, [std::slice::from_ref(&reset)], "{preempted}");
        let known = [Exported { owed: owed[0].1.clone(), ..document.luns[0].clone() }];
        scene.claim(1, &known, Policy::TakeOver).unwrap();
        assert_eq!(scene.hosts[1].record(0).paths[0].owed, std::slice::from_ref(&reset));
    }
}

#[test]
fn a_claim_whose_host_died_half_way_is_put_in_order_by_that_host_alone() {
    for preempted in [false, true] {
        let (mut scene, document, left) = interrupted(preempted);
        put_in_order(&scene, left);
        assert_eq!(scene.cluster.sees(0), (vec![KEY, OTHER], Some(KEY)), "no nonce is left");
        let claimed = scene.claim(1, &document.luns, Policy::TakeOver).unwrap();
        assert!(matches!(claimed[..], [Claim::Proved | Claim::TakenOver]), "{claimed:?}");
        scene.holds(1, 0);
    }
}

#[test]
fn a_guest_that_was_fenced_while_its_claim_was_interrupted_stays_so() {
    let (mut scene, document, left) = interrupted(false);
    scene.cluster.fence(0);
    put_in_order(&scene, left);
    assert_eq!(scene.claim(1, &document.luns, Policy::TakeOver).unwrap(), [Claim::Fenced]);
    assert!(!scene.cluster.sees(0).0.contains(&KEY));
}

#[test]
fn a_claim_that_is_refused_where_the_guest_was_last_leaves_its_record_and_what_it_is_owed() {
    let scene = scene(2);
    let path = scene.hosts[0].record(0).paths[0].path.clone();
    let owed = vec![agent::ground::sense(scsi::AdditionalSense::CAPACITY_CHANGED)];
    let change = ledger::Change::Owed { path, sense: owed.first().cloned() };
    scene.hosts[0].ledger().append(&[(lun(0), change)]).unwrap();
    let document = scene.export(0);
    // One is registered here; of the other nobody can tell, because its key is on another nexus.
    let mut other = scene.hosts[1].lines[1].clone();
    let mut own = scene.hosts[0].lines[1].clone();
    assert_eq!(other.insist(&request::register(Key::NONE, KEY, false)), Status::GOOD);
    assert_eq!(own.insist(&request::register(KEY, Key::NONE, false)), Status::GOOD);
    let refused = scene.claim(0, &document.luns, Policy::Own);
    assert!(matches!(refused, Err(Error::Elsewhere { .. })), "{refused:?}");
    let record = scene.hosts[0].record(0);
    assert!(record.state == State::Active && record.paths[0].owed == owed, "{record:?}");
}
