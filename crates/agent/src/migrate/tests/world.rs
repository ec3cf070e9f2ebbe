//! Two hosts in one process: two QEMUs that migrate a guest, device servers, journals that survive their agent, and a link that
//! can be cut ([`Wire`]). The QEMUs go on by themselves, whoever asks or not ([`qemus`]); whenever a guest is let run it is checked
//! that it runs nowhere else, and not from old memory.

mod paper;
mod qemus;
mod wire;

pub(super) use paper::Journal;
pub(super) use qemus::{At, Fault, Qemus, Told};
pub(super) use wire::{Hook, Wire};

use crate::conduct::{Hands, NotDurable, Report as Reported};
use crate::ground;
use crate::migrate::{Begin, End, Ground, Log, Lun, Machine, Site, Trouble, UnitEnd};
use crate::ownership::Guest;
use crate::vmm;
use handover::known_targets::TargetIdentity;
use handover::{Action, Outcome, Port, Side, UnitIndex};
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
    /// The destination's lock is not to be had.
    pub(super) unfreezable: Mutex<bool>,
    /// What the target calls itself on this host's paths.
    pub(super) targets: [Mutex<Option<TargetIdentity>>; 2],
    /// Where the destination's agent is killed, its whole host is.
    pub(super) whole_host: AtomicBool,
    /// The destination takes as long as it may for all that it does; nobody really waits.
    pub(super) slow: AtomicBool,
    /// What the message under way has taken there.
    took: Mutex<Took>,
    /// What QEMU was told of migrations, but for their begin and switchover.
    pub(super) told: Mutex<Vec<(Side, Told)>>,
    /// The ledger of the destination cannot be written.
    pub(super) full: AtomicBool,
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
            qemus: Mutex::new(Qemus::new()),
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
            told: Mutex::default(),
            full: AtomicBool::default(),
        };
        for unit in 0..count {
            assert!(world.send(unit, Side::Source, &request::register(Key::NONE, KEY, true)));
            if kind != 0 {
                assert!(world.send(unit, Side::Source, &request::reserve(KEY, ReservationType(kind))));
            }
        }
        let world = Arc::new(world);
        qemus::go_on(&world);
        world
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
            if side == Side::Source {
                lock(&self.qemus).source_agent_dies();
            }
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

    /// As if both agents had died just before they wrote that the guest ran.
    pub(super) fn forget_ran_and_end(&self) {
        for log in [Side::Source, Side::Destination].into_iter().filter_map(|side| self.log(side)) {
            log.forget_ran_and_end();
        }
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
        let log = Arc::new(Journal::new(begin, &self.world));
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
        if *lock(&self.world.unfreezable) && self.side == Side::Destination {
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
        if self.side == Side::Destination && self.world.full.load(Ordering::SeqCst) {
            return Err(Trouble("no space left on device".into()));
        }
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
