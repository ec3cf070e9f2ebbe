//! A keeper between a guest and a device server in process: what the ledger says is what the device has.

use super::*;
use ::guard::identify;
use ledger::{Change, Guest, HandoverId, Ledger, Owner, State};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use nexus::TransportError;
use scsi::pr::{Key, ReservationType, request};
use scsi::{AdditionalSense, IscsiName, Isid, Status, TransportId};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

const KEY: Key = Key(0x10);
const OTHER: Key = Key(0x20);
const KIND: ReservationType = ReservationType(5);

/// A nexus to a logical unit in process; with `lost` its answers no longer arrive, but those to INQUIRY.
#[derive(Clone)]
struct Line {
    unit: Arc<LogicalUnit>,
    handle: NexusHandle,
    lost: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
}

impl Line {
    fn to(unit: &Arc<LogicalUnit>, name: &str) -> Self {
        let initiator = TransportId::iscsi(IscsiName::new(name).unwrap(), Isid([0x80, 0, 0, 0, 0, 1]));
        let handle = unit.attach(&ItNexus { initiator, target_port: 1 });
        Self { unit: Arc::clone(unit), handle, lost: Arc::default(), sent: Arc::default() }
    }

    fn send(&mut self, request: &Request) -> Completion {
        self.execute(request).unwrap()
    }
}

impl Nexus for Line {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let out: &[u8] = if let DataPhase::Out(list) = &request.data { list } else { &[] };
        self.sent.fetch_add(1, Ordering::SeqCst);
        let ended = self.unit.execute(&self.handle, &self.unit.begin(&self.handle, 1), &request.cdb, out);
        let is_inquiry = request.cdb.first() == Some(&scsi::opcode::INQUIRY);
        if self.lost.load(Ordering::SeqCst) && !is_inquiry {
            return Err(TransportError::OutcomeUnknown(std::io::ErrorKind::TimedOut.into()));
        }
        Ok(ended)
    }
}

struct World {
    state: tempfile::TempDir,
    guest: Line,
    other: Line,
    keeper: Keeper,
}

fn ledger(state: &tempfile::TempDir) -> Arc<Guest> {
    Arc::new(Ledger::open(state.path()).unwrap().guest(&Owner("db".into())).unwrap())
}

fn keeper(state: &tempfile::TempDir, line: &mut Line, migrate: bool) -> Keeper {
    let identity = identify(line, "/dev/sdx".into()).unwrap().unwrap();
    Keeper::new(Arc::new(Guard::new(Box::new(ledger(state)))), identity, migrate)
}

impl World {
    fn new(migrate: bool) -> Self {
        let state = tempfile::tempdir().unwrap();
        let unit = LogicalUnit::open(&LunSpec::memory(1 << 20)).unwrap();
        let (mut guest, mut other) = (Line::to(&unit, "iqn.a"), Line::to(&unit, "iqn.b"));
        for line in [&mut guest, &mut other] {
            while unit_attention(&line.send(&request::read(scsi::pr::InAction::READ_KEYS, 8))).is_some() {}
        }
        let keeper = keeper(&state, &mut guest, migrate);
        Self { state, guest, other, keeper }
    }

    /// A guest that holds the reservation.
    fn holder() -> Self {
        let mut world = Self::new(true);
        assert_eq!(world.send(&request::register(Key::NONE, KEY, false)), Status::GOOD);
        assert_eq!(world.send(&request::reserve(KEY, KIND)), Status::GOOD);
        world
    }

    fn command(&mut self, request: &Request) -> Completion {
        self.keeper.execute(&mut self.guest, request).unwrap()
    }

    fn send(&mut self, request: &Request) -> Status {
        self.command(request).status
    }

    /// As a device that was killed and started again.
    fn restart(&mut self) {
        self.keeper = keeper(&self.state, &mut self.guest, true);
    }

    fn recorded(&self) -> (State, Option<Key>, Option<ReservationType>) {
        let record = ledger(&self.state).record(&self.keeper.identity.lun).unwrap();
        let tracked = record.path(&self.keeper.identity.path).map(|path| path.tracked).unwrap_or_default();
        (record.standing(), tracked.key, tracked.held)
    }

    fn set(&self, state: State) {
        let change = Change::State { state, handover: Some(HandoverId(7)), why: None };
        ledger(&self.state).append(&[(self.keeper.identity.lun.clone(), change)]).unwrap();
    }

    /// The other node fences the guest.
    fn fence(&mut self) {
        for request in [request::register(Key::NONE, OTHER, false), request::preempt(OTHER, KEY, KIND)] {
            while unit_attention(&self.other.send(&request)).is_some() {}
        }
    }
}

#[test]
fn what_the_guest_registers_is_recorded_before_it_hears_of_it() {
    let mut world = World::holder();
    assert_eq!(world.recorded(), (State::Active, Some(KEY), Some(KIND)));
    assert_eq!(world.send(&request::release(OTHER, KIND)), Status::RESERVATION_CONFLICT);
    assert_eq!(world.recorded(), (State::Active, Some(KEY), Some(KIND)));
    assert_eq!(world.send(&request::register(KEY, Key::NONE, false)), Status::GOOD);
    assert_eq!(world.recorded(), (State::Active, None, None));
}

#[test]
fn a_command_whose_outcome_got_lost_is_asked_about_after_a_restart() {
    let mut world = World::holder();
    world.guest.lost.store(true, Ordering::SeqCst);
    assert_eq!(world.send(&request::release(KEY, KIND)), Status::CHECK_CONDITION);
    assert_eq!(world.recorded().0, State::Unverified);
    world.guest.lost.store(false, Ordering::SeqCst);
    world.restart();
    let (keeper, guest) = (&world.keeper, &mut world.guest);
    keeper.settle(guest);
    assert_eq!(world.recorded(), (State::Active, Some(KEY), None));
}

#[test]
fn a_guest_that_moved_away_or_is_being_handed_over_changes_nothing() {
    let mut world = World::holder();
    for (state, status) in [(State::Moved, Status::RESERVATION_CONFLICT), (State::Handover, Status::BUSY)] {
        world.set(state);
        let (sent, begun) = (world.guest.sent.load(Ordering::SeqCst), Instant::now());
        assert_eq!(world.send(&request::release(KEY, KIND)), status);
        assert_eq!(world.guest.sent.load(Ordering::SeqCst), sent, "{state}");
        assert_eq!(state == State::Handover, begun.elapsed() >= Guard::WAIT);
        let (keeper, guest) = (&world.keeper, &mut world.guest);
        keeper.settle(guest);
        assert_eq!(world.recorded().0, state);
    }
}

#[test]
fn a_guest_that_was_fenced_is_told_so_and_so_is_the_record() {
    let mut world = World::holder();
    world.fence();
    let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
    let told = world.guest.send(&ready);
    assert_eq!(unit_attention(&told), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    let (keeper, guest) = (&world.keeper, &mut world.guest);
    keeper.told(guest, &ready, &told);
    assert_eq!(world.recorded(), (State::Fenced, None, None));
    assert_eq!(world.send(&request::register(Key::NONE, KEY, false)), Status::GOOD);
    assert_eq!(world.recorded(), (State::Active, Some(KEY), None));
}

#[test]
fn a_conflict_of_a_registrant_is_looked_into_where_the_attention_went_elsewhere() {
    let mut world = World::holder();
    world.fence();
    let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
    assert!(unit_attention(&world.guest.send(&ready)).is_some(), "to the kernel, say");
    let write = Request { cdb: vec![0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], data: DataPhase::Out(vec![0; 512]) };
    let conflict = world.guest.send(&write);
    assert_eq!(conflict.status, Status::RESERVATION_CONFLICT);
    let (keeper, guest) = (&world.keeper, &mut world.guest);
    keeper.told(guest, &write, &conflict);
    assert_eq!(world.recorded(), (State::Fenced, None, None));
}

#[test]
fn an_attention_that_own_questions_took_comes_with_the_next_command_whatever_it_is() {
    let mut world = World::holder();
    world.fence();
    world.restart();
    let (keeper, guest) = (&world.keeper, &mut world.guest);
    keeper.settle(guest);
    assert!(keeper.owes());
    let owed = keeper.owed(guest).unwrap();
    assert_eq!(unit_attention(&owed), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(keeper.owed(guest), None);
    assert!(!keeper.owes(), "and reads and writes go their way again");
}

#[test]
fn a_guest_that_migrates_registers_nothing_for_others() {
    let capabilities = request::read(scsi::pr::InAction::REPORT_CAPABILITIES, 8);
    let mut register = request::register(Key::NONE, KEY, false);
    let DataPhase::Out(list) = &mut register.data else { unreachable!() };
    list[20] |= 0x04;
    let mut world = World::new(true);
    assert_eq!(world.command(&capabilities).data[2] & 0x0C, 0);
    assert_eq!(world.send(&register), Status::CHECK_CONDITION);
    let mut world = World::new(false);
    assert_ne!(world.command(&capabilities).data[2] & 0x0C, 0);
    assert_eq!(world.send(&register), Status::GOOD);
}

#[test]
fn a_parameter_list_that_is_cut_is_not_sent_and_a_longer_buffer_is() {
    let mut world = World::new(true);
    let mut register = request::register(Key::NONE, KEY, false);
    let DataPhase::Out(list) = &mut register.data else { unreachable!() };
    list.truncate(23);
    let sent = world.guest.sent.load(Ordering::SeqCst);
    assert_eq!(world.send(&register), Status::CHECK_CONDITION);
    assert_eq!(world.guest.sent.load(Ordering::SeqCst), sent);
    let mut register = request::register(Key::NONE, KEY, false);
    let DataPhase::Out(list) = &mut register.data else { unreachable!() };
    list.resize(512, 0xFF);
    assert_eq!(world.send(&register), Status::GOOD);
    assert_eq!(world.recorded(), (State::Active, Some(KEY), None));
}

#[test]
fn what_was_away_for_a_while_is_asked_before_it_changes_anything() {
    let mut world = World::holder();
    let before = world.guest.sent.load(Ordering::SeqCst);
    assert_eq!(world.send(&request::reserve(KEY, KIND)), Status::GOOD);
    let quiet = world.guest.sent.load(Ordering::SeqCst) - before;
    world.keeper.doubt();
    assert_eq!(world.send(&request::reserve(KEY, KIND)), Status::GOOD);
    assert!(world.guest.sent.load(Ordering::SeqCst) - before > 2 * quiet, "the device was asked");
}
