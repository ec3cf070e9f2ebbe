//! The two QEMUs, which go on by themselves as real ones do: what they come to is there whether anybody asks or not, and may have
//! changed since the last look.

use super::{Host, UUID, World, lock, place};
use crate::incoming::ARRIVAL;
use crate::migrate::{Identity, Left, Machine, MachineError, Pace, Settings, Stage, Stopped, Transfer};
use crate::ownership::Guest;
use handover::Side;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Between two steps of the QEMUs.
const TICK: Duration = Duration::from_micros(500);

/// Where something happens to a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migrate::tests) enum At {
    Memory,
    BeforeTake,
    Switchover,
    /// The destination has everything; the source has not heard of it.
    Loaded,
    Completed,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migrate::tests) enum Fault {
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
    /// Somebody lets the guest run after our stop; QEMU halts it for the switchover.
    ResumedBeforeSwitchover,
    /// Somebody lets it run when all of it is at the destination, and stops it again.
    ResumedAfterSwitchover,
    /// Somebody types `cont` at the destination as soon as the guest is there.
    ResumedByHand,
}

/// What QEMU was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migrate::tests) enum Told {
    Adjust,
    Cancel,
    Cont,
}

pub(in crate::migrate::tests) struct Qemus {
    pub(in crate::migrate::tests) guests: [Guest; 2],
    pub(in crate::migrate::tests) stage: Stage,
    remaining: u64,
    pace: Pace,
    /// QEMU stopped it, and lets it run again on failure.
    halted: bool,
    /// It ran since it was stopped by us, as far as the source's agent has heard.
    ran: bool,
    /// It ran since it was sent, which QEMU knows whoever listened.
    ran_since: bool,
    /// It ran at the destination, as far as the agent there has heard over this connection.
    heard_there: bool,
    pub(in crate::migrate::tests) fault: Fault,
    pub(in crate::migrate::tests) ran_at_destination: bool,
}

/// They go on as long as there is a world.
pub(super) fn go_on(world: &Arc<World>) {
    let world = Arc::downgrade(world);
    let tick = |world: &Weak<World>| world.upgrade().map(|world| lock(&world.qemus).advance());
    thread::spawn(move || {
        while tick(&world).is_some() {
            thread::sleep(TICK);
        }
    });
}

impl Qemus {
    pub(super) const fn new() -> Self {
        Self {
            guests: [Guest::Running, Guest::Loading],
            stage: Stage::None,
            remaining: 0,
            pace: Pace::Held,
            halted: false,
            ran: false,
            ran_since: false,
            heard_there: false,
            fault: Fault::None,
            ran_at_destination: false,
        }
    }

    /// Somebody types `cont` at the destination.
    pub(in crate::migrate::tests) fn resume_by_hand(&mut self) {
        (self.guests[1], self.ran_at_destination, self.heard_there) = (Guest::Running, true, true);
    }

    /// And `stop`.
    pub(in crate::migrate::tests) fn run_by_hand(&mut self) {
        self.resume_by_hand();
        self.guests[1] = Guest::Paused;
    }

    /// Another connection is told nothing of what was.
    pub(in crate::migrate::tests) fn destination_connects(&mut self) {
        self.heard_there = false;
    }

    /// Somebody types `cont` and `stop` at the source while no agent listens.
    pub(in crate::migrate::tests) fn run_unheard(&mut self) {
        (self.guests[0], self.ran_since) = (Guest::Paused, true);
    }

    /// What QEMU told is not told again to the next agent.
    pub(super) fn source_agent_dies(&mut self) {
        self.ran = false;
    }

    fn check(&self) {
        let running = self.guests.iter().filter(|guest| **guest == Guest::Running).count();
        assert!(running <= 1, "the guest runs on both hosts");
        assert!(!(self.ran_at_destination && self.guests[0] == Guest::Running), "resumed from old memory");
    }

    /// With its host. What had not gone over whole is gone with it.
    pub(in crate::migrate::tests) fn source_is_gone(&mut self) {
        self.guests[0] = Guest::Absent;
        if self.guests[1] == Guest::Loading {
            self.guests[1] = Guest::Absent;
        }
    }

    fn strike(&mut self, at: At) {
        match self.fault {
            Fault::Fails(when) if when == at => self.over(Stage::Failed),
            Fault::SourceDies(when) if when == at => self.source_is_gone(),
            Fault::DestinationDies(when) if when == at => {
                self.guests[1] = Guest::Absent;
                if at != At::Completed {
                    self.over(Stage::Failed);
                }
            }
            Fault::CancelledBySomebody if at == At::Memory => self.over(Stage::Cancelled),
            Fault::TooFast if at == At::Memory => self.halt(),
            Fault::ResumedBeforeSwitchover if at == At::BeforeTake => {
                self.run_source();
                self.halt();
            }
            Fault::ResumedAfterSwitchover if at == At::Completed => {
                self.run_source();
                self.guests[0] = Guest::Paused;
            }
            Fault::ResumedByHand if at == At::Completed => self.resume_by_hand(),
            _ => return,
        }
        self.fault = Fault::None;
    }

    fn run_source(&mut self) {
        (self.guests[0], self.ran, self.ran_since) = (Guest::Running, true, true);
        self.check();
    }

    /// Before the switchover. A guest that runs is stopped for it.
    fn halt(&mut self) {
        self.halted = self.guests[0] == Guest::Running;
        (self.stage, self.guests[0]) = (Stage::PreSwitchover, Guest::Paused);
    }

    /// It ends without a guest at the destination, unless that was there before.
    fn over(&mut self, stage: Stage) {
        self.stage = stage;
        if self.guests[1] == Guest::Loading {
            self.guests[1] = Guest::Absent;
        }
        if std::mem::take(&mut self.halted) && self.guests[0] == Guest::Paused {
            self.run_source();
        }
    }

    fn advance(&mut self) {
        if self.guests[0] == Guest::Absent {
            return;
        }
        match (self.stage, self.guests[1]) {
            (Stage::Active, _) => self.send_memory(),
            (Stage::Device, Guest::Loading) => {
                self.strike(At::Switchover);
                if self.stage == Stage::Device && self.guests[0] != Guest::Absent {
                    self.guests[1] = Guest::Paused;
                    self.strike(At::Loaded);
                }
            }
            (Stage::Device, _) => {
                (self.stage, self.ran_since) = (Stage::Completed, false);
                self.strike(At::Completed);
            }
            _ => {}
        }
    }

    fn send_memory(&mut self) {
        match self.pace {
            Pace::Held => self.remaining = self.remaining.saturating_sub(4096),
            Pace::Limited(_) | Pace::Full => {
                self.remaining = self.remaining.saturating_sub(2 << 20);
                self.strike(At::Memory);
            }
            Pace::Switch(_) => {
                self.strike(At::BeforeTake);
                if self.stage == Stage::Active && self.guests[0] != Guest::Absent {
                    self.halt();
                }
            }
        }
    }
}

impl Host {
    fn note(&self, told: Told) {
        lock(&self.world.told).push((self.side, told));
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
        let qemus = lock(&self.world.qemus);
        if qemus.guests[place(self.side)] == Guest::Absent {
            return Err(MachineError::Gone("killed".into()));
        }
        let (stage, remaining) = (qemus.stage, qemus.remaining);
        let (total, rate) = (100 << 20, 100 << 20);
        Ok(Transfer { stage, remaining, total, rate, transferred: total - remaining, ..Transfer::default() })
    }

    fn wait(&self, until: Instant) {
        thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(1)));
    }

    fn adjust(&self, pace: Pace) -> Result<(), MachineError> {
        self.note(Told::Adjust);
        lock(&self.world.qemus).pace = pace;
        Ok(())
    }

    fn stop(&self) -> Result<Stopped, MachineError> {
        let mut qemus = lock(&self.world.qemus);
        if qemus.halted {
            return Ok(Stopped::ByMigration);
        }
        (qemus.guests[0], qemus.ran) = (Guest::Paused, false);
        Ok(Stopped::ByUs)
    }

    fn ran(&self) -> bool {
        let qemus = lock(&self.world.qemus);
        if self.side == Side::Source { qemus.ran } else { qemus.heard_there }
    }

    fn left(&self) -> Result<Option<Left>, MachineError> {
        let qemus = lock(&self.world.qemus);
        let over = qemus.stage == Stage::Completed && qemus.guests[place(self.side)] == Guest::Paused;
        Ok(over.then_some(if qemus.ran_since { Left::Ran } else { Left::Still }))
    }

    fn switch_over(&self) -> Result<(), MachineError> {
        let mut qemus = lock(&self.world.qemus);
        match (qemus.guests[0], qemus.stage) {
            (Guest::Absent, _) => Err(MachineError::Gone("killed".into())),
            (_, Stage::PreSwitchover) => {
                qemus.stage = Stage::Device;
                Ok(())
            }
            (_, stage) => Err(MachineError::Refused(format!("it is {stage:?}"))),
        }
    }

    fn cancel(&self) -> Result<(), MachineError> {
        self.note(Told::Cancel);
        let mut qemus = lock(&self.world.qemus);
        if !qemus.stage.is_over() {
            qemus.over(Stage::Cancelled);
        }
        Ok(())
    }

    fn cont(&self) -> Result<(), MachineError> {
        self.note(Told::Cont);
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
        qemus.heard_there |= self.side == Side::Destination;
        qemus.ran_since |= self.side == Side::Source;
        qemus.check();
        Ok(())
    }
}
