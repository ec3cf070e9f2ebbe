//! Two hosts in one process: two QEMUs that migrate a guest, device servers, journals that survive their agent, and a link that
//! can be cut ([`Wire`]). Every `cont` checks that the guest runs nowhere else, and that it was not resumed from old memory.

mod wire;

pub(super) use wire::Wire;

use crate::conduct::{Hands, NotDurable, Report as Reported};
use crate::ground;
use crate::incoming::ARRIVAL;
use crate::migrate::{
    Begin, End, Ground, Identity, Last, Leg, Log, Lun, Machine, MachineError, Pace, Settings, Site, Stage,
    Stopped, Transfer, Trouble, UnitEnd,
};
use crate::ownership::{Guest, Mark, Marks};
use crate::vmm;
use handover::journal::Stage as Entered;
use handover::known_targets::TargetIdentity;
use handover::{Action, Entry, Outcome, Port, Side, UnitIndex};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use scsi::pr::{InAction, Key, ReservationType, request};
use scsi::{DataPhase, IscsiName, Isid, TransportId};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) const KEY: Key = Key(0x4b);
pub(super) const UUID: &str = "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11";

/// What a killed agent unwinds with.
#[derive(Debug)]
pub(super) struct Killed;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where something happens to a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Memory,
    BeforeTake,
    Switchover,
    Completed,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// QEMU's migration fails.
    Fails(At),
    /// Somebody else cancels it.
    CancelledBySomebody,
    SourceDies(At),
    DestinationDies(At),
    /// Pre-switchover comes before our stop.
    TooFast,
    ContRefused,
    /// The destination's QEMU dies while it is told to let the guest run.
    DiesAtCont,
}

pub(super) struct Qemus {
    pub(super) guests: [Guest; 2],
    pub(super) stage: Stage,
    remaining: u64,
    pace: Pace,
    /// QEMU stopped it, and lets it run again on failure.
    halted: bool,
    pub(super) fault: Fault,
    pub(super) ran_at_destination: bool,
}

pub(super) struct World {
    pub(super) qemus: Mutex<Qemus>,
    pub(super) units: Vec<Arc<LogicalUnit>>,
    pub(super) logs: [Mutex<Option<Arc<Journal>>>; 2],
    /// The agent of this side dies at its n-th step (a write of its journal, before and after; a message).
    pub(super) kill: [AtomicUsize; 2],
    pub(super) steps: [AtomicUsize; 2],
    tag: AtomicU64,
    pub(super) obstacle: Mutex<Option<String>>,
    pub(super) uuid_there: Mutex<String>,
    pub(super) changed: Mutex<bool>,
    pub(super) refused_unit: Mutex<Option<usize>>,
    pub(super) settled: Mutex<Vec<(Side, End)>>,
    /// What each host's record says that the guest is owed, for each unit.
    pub(super) owed: Mutex<[Vec<Vec<Vec<u8>>>; 2]>,
    /// How often the source's record was frozen.
    pub(super) freezes: AtomicUsize,
    /// Commands that the helpers did not send.
    pub(super) unsent: AtomicUsize,
    /// The record of each host says `handover`.
    frozen: [AtomicBool; 2],
    /// The kernel does not tell the ports of this host, so that READ FULL STATUS says nothing of them.
    pub(super) nameless: AtomicBool,
    /// The destination's lock is not to be had the next time.
    pub(super) unfreezable: Mutex<bool>,
    /// What the target calls itself on this host's paths.
    pub(super) targets: [Mutex<Option<TargetIdentity>>; 2],
    /// Where the destination's agent is killed, its whole host is.
    pub(super) whole_host: AtomicBool,
    /// The destination takes as long as it may for all that it does; nobody really waits.
    pub(super) slow: AtomicBool,
    /// What the message under way has taken there.
    took: Mutex<Took>,
}

/// What a message took at a slow destination.
#[derive(Default)]
struct Took {
    qemu: Duration,
    rest: Duration,
}

fn place(side: Side) -> usize {
    usize::from(side == Side::Destination)
}

pub(super) fn nexus(side: Side) -> ItNexus {
    let name = IscsiName::new(&format!("iqn.2026-01.test:{side}")).unwrap();
    let id = u8::try_from(place(side)).unwrap();
    ItNexus { initiator: TransportId::iscsi(name, Isid([0, 2, 3, 4, 5, id])), target_port: 1 }
}

impl World {
    /// A running guest that holds a reservation of `kind` on each of `count` logical units, or with 0 has nothing.
    pub(super) fn new(count: usize, kind: u8) -> Arc<Self> {
        let world = Self {
            qemus: Mutex::new(Qemus {
                guests: [Guest::Running, Guest::Loading],
                stage: Stage::None,
                remaining: 0,
                pace: Pace::Held,
                halted: false,
                fault: Fault::None,
                ran_at_destination: false,
            }),
            units: (0..count).map(unit).collect(),
            logs: Default::default(),
            kill: [AtomicUsize::new(usize::MAX), AtomicUsize::new(usize::MAX)],
            steps: Default::default(),
            tag: AtomicU64::new(1),
            obstacle: Mutex::default(),
            uuid_there: Mutex::new(UUID.to_owned()),
            changed: Mutex::default(),
            refused_unit: Mutex::default(),
            settled: Mutex::default(),
            owed: Mutex::new([vec![Vec::new(); count], vec![Vec::new(); count]]),
            freezes: AtomicUsize::default(),
            unsent: AtomicUsize::default(),
            frozen: Default::default(),
            nameless: AtomicBool::default(),
            unfreezable: Mutex::default(),
            targets: Default::default(),
            whole_host: AtomicBool::default(),
            slow: AtomicBool::default(),
            took: Mutex::default(),
        };
        for unit in 0..count {
            assert!(world.send(unit, Side::Source, &request::register(Key::NONE, KEY, true)));
            if kind != 0 {
                assert!(world.send(unit, Side::Source, &request::reserve(KEY, ReservationType(kind))));
            }
        }
        Arc::new(world)
    }

    pub(super) fn execute(&self, unit: usize, side: Side, request: &scsi::Request) -> scsi::Completion {
        self.execute_on(unit, &self.units[unit].attach(&nexus(side)), request)
    }

    pub(super) fn execute_on(
        &self,
        unit: usize,
        nexus: &NexusHandle,
        request: &scsi::Request,
    ) -> scsi::Completion {
        let unit = &self.units[unit];
        let task = unit.begin(nexus, self.tag.fetch_add(1, Ordering::Relaxed));
        let out = match &request.data {
            DataPhase::Out(data) => data.as_slice(),
            _ => &[],
        };
        unit.execute(nexus, &task, &request.cdb, out)
    }

    /// Whether it ends GOOD, unit attentions aside.
    pub(super) fn send(&self, unit: usize, side: Side, request: &scsi::Request) -> bool {
        (0..8).any(|_| {
            let completion = self.execute(unit, side, request);
            completion.status == scsi::Status::GOOD
        })
    }

    /// Who is registered on every unit, and on no other side.
    pub(super) fn owner(&self) -> Option<Side> {
        let of = |side| {
            (0..self.units.len()).all(|unit| self.send(unit, side, &request::register(KEY, KEY, true)))
        };
        let none = |side| {
            (0..self.units.len()).all(|unit| !self.send(unit, side, &request::register(KEY, KEY, true)))
        };
        match (of(Side::Source) && none(Side::Destination), of(Side::Destination) && none(Side::Source)) {
            (true, false) => Some(Side::Source),
            (false, true) => Some(Side::Destination),
            _ => None,
        }
    }

    pub(super) fn has_all(&self, side: Side) -> bool {
        (0..self.units.len()).all(|unit| self.send(unit, side, &request::register(KEY, KEY, true)))
    }

    /// The reservation of every unit is the guest's.
    pub(super) fn held(&self, owner: Side) -> bool {
        (0..self.units.len()).all(|unit| {
            let read = self.execute(unit, owner, &request::read(InAction::READ_RESERVATION, 64));
            read.data.get(8..16) == Some(&KEY.0.to_be_bytes()[..])
        })
    }

    /// What another node sends ends GOOD, unit attentions aside.
    pub(super) fn send_by_another(&self, unit: usize, request: &scsi::Request) -> bool {
        let name = IscsiName::new("iqn.2026-01.test:other").unwrap();
        let other = ItNexus { initiator: TransportId::iscsi(name, Isid([0, 2, 3, 4, 5, 9])), target_port: 1 };
        let nexus = self.units[unit].attach(&other);
        (0..4).any(|_| self.execute_on(unit, &nexus, request).status == scsi::Status::GOOD)
    }

    /// Another node fences the guest.
    pub(super) fn fence(&self) {
        let key = Key(0xaa);
        for unit in 0..self.units.len() {
            assert!(self.send_by_another(unit, &request::register(Key::NONE, key, true)));
            assert!(self.send_by_another(unit, &request::preempt(key, KEY, ReservationType(5))));
        }
    }

    /// Whether a unit attention waits on this host's nexus; it is taken.
    pub(super) fn reports_attention(&self, unit: usize, side: Side) -> bool {
        let ended = self.execute(unit, side, &request::read(InAction::READ_KEYS, 64));
        ended.decoded_sense().is_some()
    }

    /// Each once, as the ledger's record.
    fn owe(&self, side: Side, unit: usize, sense: &[Vec<u8>]) {
        let owed = &mut lock(&self.owed)[place(side)][unit];
        sense.iter().for_each(|sense| {
            if !owed.contains(sense) {
                owed.push(sense.clone());
            }
        });
    }

    fn forget_owed(&self, side: Side) {
        lock(&self.owed)[place(side)].iter_mut().for_each(Vec::clear);
    }

    pub(super) fn is_frozen(&self, side: Side) -> bool {
        self.frozen[place(side)].load(Ordering::SeqCst)
    }

    /// As the helper: what changes the device is sent only while the record says `handover`.
    fn helper_passes(&self, side: Side, request: &scsi::Request) -> bool {
        !matches!(request.data, DataPhase::Out(_)) || self.is_frozen(side)
    }

    pub(super) fn guest(&self, side: Side) -> Guest {
        lock(&self.qemus).guests[place(side)]
    }

    /// One more step of an agent, which may be its last.
    fn step(&self, side: Side) {
        let step = self.steps[place(side)].fetch_add(1, Ordering::SeqCst);
        // All its threads die.
        if step >= self.kill[place(side)].load(Ordering::SeqCst) {
            resume_unwind(Box::new(Killed));
        }
    }

    /// QEMU is held up, once for each message.
    fn hold_up(&self, side: Side) {
        if self.is_slow(side) {
            lock(&self.took).qemu = vmm::PATIENCE;
        }
    }

    fn take_time(&self, side: Side, time: Duration) {
        if self.is_slow(side) {
            lock(&self.took).rest += time;
        }
    }

    fn is_slow(&self, side: Side) -> bool {
        side == Side::Destination && self.slow.load(Ordering::SeqCst)
    }

    /// What the message that ends took.
    fn took(&self) -> Duration {
        let took = std::mem::take(&mut *lock(&self.took));
        took.qemu + took.rest
    }

    pub(super) fn log(&self, side: Side) -> Option<Arc<Journal>> {
        lock(&self.logs[place(side)]).clone()
    }
}

fn unit(number: usize) -> Arc<LogicalUnit> {
    let unit = LogicalUnit::open(&LunSpec::memory(1 << 20)).unwrap();
    unit.identify(&format!("iqn.2026-01.test:disk{number}"), &[1]);
    unit
}

pub(super) struct Host {
    pub(super) world: Arc<World>,
    pub(super) side: Side,
}

impl Site for Host {
    fn vm(&self) -> &str {
        "web"
    }

    fn machine(&self) -> &dyn Machine {
        self
    }

    fn ground(&self, _: u128, _: Side) -> Result<Arc<dyn Ground>, Trouble> {
        self.world.take_time(self.side, ground::opening(self.world.units.len()));
        Ok(Arc::new(Self { world: Arc::clone(&self.world), side: self.side }))
    }

    fn begin(&self, begin: &Begin) -> Result<Arc<dyn Log>, NotDurable> {
        let log = Arc::new(Journal {
            begin: begin.clone(),
            world: Arc::downgrade(&self.world),
            lines: Mutex::default(),
        });
        *lock(&self.world.logs[place(self.side)]) = Some(Arc::clone(&log));
        Ok(log)
    }
}

impl Ground for Host {
    fn luns(&self) -> Vec<Lun> {
        (0..self.world.units.len()).map(|unit| self.lun(unit)).collect()
    }

    fn arrange(&self, offered: &[String]) -> Result<Vec<Lun>, Trouble> {
        let missing = *lock(&self.world.refused_unit);
        if let Some(unit) = missing.filter(|_| self.side == Side::Destination) {
            return Err(Trouble(format!("this host's QEMU has no logical unit disk{unit}")));
        }
        Ok((0..offered.len()).map(|unit| self.lun(unit)).collect())
    }

    fn owed(&self) -> Vec<Vec<Vec<u8>>> {
        lock(&self.world.owed)[place(self.side)].clone()
    }

    fn owe(&self, owed: &[(u16, Vec<Vec<u8>>)]) -> Result<(), Trouble> {
        owed.iter().for_each(|(unit, sense)| self.world.owe(self.side, usize::from(*unit), sense));
        Ok(())
    }

    fn hands(&self) -> Box<dyn Hands> {
        Box::new(Nexuses { world: Arc::clone(&self.world), side: self.side })
    }

    fn freeze(&self) -> Result<bool, Trouble> {
        if std::mem::take(&mut *lock(&self.world.unfreezable)) && self.side == Side::Destination {
            return Err(Trouble("a command does not end".into()));
        }
        self.world.freezes.fetch_add(usize::from(self.side == Side::Source), Ordering::SeqCst);
        let again = self.world.frozen[place(self.side)].swap(true, Ordering::SeqCst);
        if !again {
            self.world.take_time(self.side, ground::FREEZE);
        }
        if self.side == Side::Destination && !again {
            self.world.forget_owed(self.side);
        }
        Ok(std::mem::take(&mut *lock(&self.world.changed)))
    }

    fn settle(&self, end: End, units: &[UnitEnd]) -> Result<(), Trouble> {
        lock(&self.world.settled).push((self.side, end));
        match end {
            End::Arrived | End::Kept => {
                (0..).zip(units).for_each(|(unit, end)| self.world.owe(self.side, unit, &end.owed));
            }
            End::Departed | End::Refused => self.world.forget_owed(self.side),
        }
        self.world.frozen[place(self.side)].store(false, Ordering::SeqCst);
        Ok(())
    }
}

impl Host {
    fn lun(&self, unit: usize) -> Lun {
        let nexus = nexus(self.side);
        let nameless = self.world.nameless.load(Ordering::SeqCst);
        let port = Port { initiator: Some(nexus.initiator).filter(|_| !nameless), target_port: Some(1) };
        let key = (self.side == Side::Source).then_some(KEY);
        Lun {
            name: format!("disk{unit}"),
            key,
            nodes: vec!["disk".into()],
            ports: vec![port],
            identity_is_ours: false,
            target: *lock(&self.world.targets[place(self.side)]),
        }
    }
}

struct Nexuses {
    world: Arc<World>,
    side: Side,
}

impl Hands for Nexuses {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], _: Instant) -> Vec<Reported> {
        let one = |(unit, action): &(UnitIndex, Action)| {
            let Action::Execute { id, path, request } = action else { panic!("{action:?}") };
            assert_eq!(path.side, self.side, "only its own");
            let outcome = match self.world.helper_passes(self.side, request) {
                true => Outcome::Done(self.world.execute(usize::from(unit.0), self.side, request)),
                false => {
                    self.world.unsent.fetch_add(1, Ordering::SeqCst);
                    Outcome::NotSent
                }
            };
            Reported { unit: *unit, id: *id, outcome: Some(outcome) }
        };
        actions.iter().map(one).collect()
    }
}

#[derive(Clone, Debug)]
enum Line {
    Entry(Leg, UnitIndex, Entry),
    Mark(Mark),
    End(String),
}

pub(super) struct Journal {
    begin: Begin,
    world: std::sync::Weak<World>,
    lines: Mutex<Vec<Line>>,
}

impl Journal {
    fn write(&self, lines: Vec<Line>) {
        let world = self.world.upgrade().unwrap();
        world.step(self.begin.side);
        lock(&self.lines).extend(lines);
        world.step(self.begin.side);
    }

    pub(super) fn ended(&self) -> Option<String> {
        lock(&self.lines).iter().rev().find_map(|line| match line {
            Line::End(verdict) => Some(verdict.clone()),
            _ => None,
        })
    }
}

impl Log for Journal {
    fn entries(&self, _: u64, leg: Leg, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        self.write(entries.iter().map(|(unit, entry)| Line::Entry(leg, *unit, *entry)).collect());
        Ok(())
    }

    fn mark(&self, mark: Mark) -> Result<(), NotDurable> {
        self.write(vec![Line::Mark(mark)]);
        Ok(())
    }

    fn begun(&self) -> &Begin {
        &self.begin
    }

    fn marks(&self) -> Marks {
        let lines = lock(&self.lines);
        let marks: Marks = lines
            .iter()
            .filter_map(|line| if let Line::Mark(mark) = line { Some(*mark) } else { None })
            .collect();
        let touched = lines
            .iter()
            .any(|line| matches!(line, Line::Entry(_, _, entry) if entry.stage >= Entered::Freeze));
        if touched { marks.touched() } else { marks }
    }

    fn last(&self) -> Vec<Option<Last>> {
        let mut last = vec![None; self.begin.luns.len()];
        for line in lock(&self.lines).iter() {
            if let Line::Entry(leg, unit, entry) = line {
                last[usize::from(unit.0)] = Some(Last { leg: *leg, entry: *entry });
            }
        }
        last
    }

    fn end(&self, verdict: &str) -> Result<(), NotDurable> {
        self.write(vec![Line::End(verdict.to_owned())]);
        Ok(())
    }
}

impl Qemus {
    fn check(&self) {
        let running = self.guests.iter().filter(|guest| **guest == Guest::Running).count();
        assert!(running <= 1, "the guest runs on both hosts");
        assert!(!(self.ran_at_destination && self.guests[0] == Guest::Running), "resumed from old memory");
    }

    fn strike(&mut self, at: At) {
        match self.fault {
            Fault::Fails(when) if when == at => self.fail(),
            Fault::SourceDies(when) if when == at => {
                self.guests[0] = Guest::Absent;
                if at != At::Completed {
                    self.guests[1] = Guest::Absent;
                }
            }
            Fault::DestinationDies(when) if when == at => {
                self.guests[1] = Guest::Absent;
                if at != At::Completed {
                    self.fail();
                }
            }
            _ => return,
        }
        self.fault = Fault::None;
    }

    fn fail(&mut self) {
        self.over(Stage::Failed);
    }

    /// With its host. What had not gone over whole is gone with it.
    pub(super) fn source_is_gone(&mut self) {
        self.guests[0] = Guest::Absent;
        if self.stage != Stage::Completed {
            self.guests[1] = Guest::Absent;
        }
    }

    fn over(&mut self, stage: Stage) {
        self.stage = stage;
        self.guests[1] = Guest::Absent;
        if std::mem::take(&mut self.halted) && self.guests[0] == Guest::Paused {
            self.guests[0] = Guest::Running;
        }
        self.check();
    }

    fn advance(&mut self) {
        if self.stage != Stage::Active || self.guests[0] == Guest::Absent {
            return;
        }
        match self.pace {
            Pace::Held => self.remaining = self.remaining.saturating_sub(4096),
            Pace::Limited(_) | Pace::Full => {
                self.strike(At::Memory);
                if self.fault == Fault::CancelledBySomebody {
                    self.over(Stage::Cancelled);
                }
                if self.fault == Fault::TooFast && self.stage == Stage::Active {
                    self.fault = Fault::None;
                    (self.stage, self.halted, self.guests[0]) = (Stage::PreSwitchover, true, Guest::Paused);
                }
                self.remaining = self.remaining.saturating_sub(40 << 20);
            }
            Pace::Switch(_) if self.guests[0] == Guest::Paused => {
                self.stage = Stage::PreSwitchover;
                self.strike(At::BeforeTake);
            }
            Pace::Switch(_) => {}
        }
    }
}

impl Machine for Host {
    fn identity(&self) -> Result<Identity, MachineError> {
        self.world.hold_up(self.side);
        let obstacles = lock(&self.world.obstacle).iter().cloned().collect();
        let uuid = match self.side {
            Side::Source => UUID.to_owned(),
            Side::Destination => lock(&self.world.uuid_there).clone(),
        };
        Ok(Identity { uuid, obstacles })
    }

    fn guest(&self) -> Guest {
        self.world.hold_up(self.side);
        self.world.guest(self.side)
    }

    fn configure(&self, _: &Settings) -> Result<(), MachineError> {
        self.world.hold_up(self.side);
        Ok(())
    }

    fn listen(&self, uri: Option<&str>) -> Result<String, MachineError> {
        Ok(uri.unwrap_or("tcp:127.0.0.1:4444").to_owned())
    }

    fn send(&self, _: &str) -> Result<(), MachineError> {
        let mut qemus = lock(&self.world.qemus);
        // Where nothing happens to the memory it takes no time.
        let of_memory =
            [At::Memory].map(|at| [Fault::Fails(at), Fault::SourceDies(at), Fault::DestinationDies(at)]);
        let sudden = [Fault::CancelledBySomebody, Fault::TooFast];
        let much = of_memory.iter().flatten().chain(&sudden).any(|fault| *fault == qemus.fault);
        (qemus.stage, qemus.remaining) = (Stage::Active, if much { 100 << 20 } else { 8 << 20 });
        Ok(())
    }

    fn transfer(&self) -> Result<Transfer, MachineError> {
        let mut qemus = lock(&self.world.qemus);
        if qemus.guests[place(self.side)] == Guest::Absent {
            return Err(MachineError::Gone("killed".into()));
        }
        qemus.advance();
        let (stage, remaining) = (qemus.stage, qemus.remaining);
        let (total, rate) = (100 << 20, 100 << 20);
        Ok(Transfer { stage, remaining, total, rate, transferred: total - remaining, ..Transfer::default() })
    }

    fn wait(&self, until: Instant) {
        std::thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(1)));
    }

    fn adjust(&self, pace: Pace) -> Result<(), MachineError> {
        lock(&self.world.qemus).pace = pace;
        Ok(())
    }

    fn stop(&self) -> Result<Stopped, MachineError> {
        let mut qemus = lock(&self.world.qemus);
        if qemus.halted {
            return Ok(Stopped::ByMigration);
        }
        qemus.guests[0] = Guest::Paused;
        Ok(Stopped::ByUs)
    }

    fn switch_over(&self) -> Result<(), MachineError> {
        let mut qemus = lock(&self.world.qemus);
        qemus.strike(At::Switchover);
        if qemus.guests[0] == Guest::Absent {
            return Err(MachineError::Gone("killed".into()));
        }
        if qemus.stage == Stage::PreSwitchover {
            (qemus.stage, qemus.guests[1]) = (Stage::Completed, Guest::Paused);
            qemus.strike(At::Completed);
        }
        Ok(())
    }

    fn cancel(&self) -> Result<(), MachineError> {
        let mut qemus = lock(&self.world.qemus);
        if !qemus.stage.is_over() {
            qemus.over(Stage::Cancelled);
        }
        Ok(())
    }

    fn cont(&self) -> Result<(), MachineError> {
        // The guest came late, and is late to run.
        self.world.take_time(self.side, ARRIVAL * 2);
        let mut qemus = lock(&self.world.qemus);
        if self.side == Side::Destination && qemus.fault == Fault::ContRefused {
            return Err(MachineError::Refused("no".into()));
        }
        if self.side == Side::Destination && qemus.fault == Fault::DiesAtCont {
            (qemus.guests[1], qemus.ran_at_destination) = (Guest::Absent, true);
            return Err(MachineError::Gone("no answer".into()));
        }
        match &mut qemus.guests[place(self.side)] {
            guest @ Guest::Paused => *guest = Guest::Running,
            Guest::Running => {}
            _ => return Err(MachineError::Gone("killed".into())),
        }
        qemus.ran_at_destination |= self.side == Side::Destination;
        qemus.check();
        Ok(())
    }
}
