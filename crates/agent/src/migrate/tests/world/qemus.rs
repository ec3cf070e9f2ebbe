//! The two QEMUs: how the guest stands in each, the migration between them, and what goes wrong there.

use super::{Host, UUID, lock, place};
use crate::incoming::ARRIVAL;
use crate::migrate::{Identity, Machine, MachineError, Pace, Settings, Stage, Stopped, Transfer};
use crate::ownership::Guest;
use handover::Side;
use std::time::{Duration, Instant};

/// Where something happens to a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migrate::tests) enum At {
    Memory,
    BeforeTake,
    Switchover,
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
}

pub(in crate::migrate::tests) struct Qemus {
    pub(in crate::migrate::tests) guests: [Guest; 2],
    pub(in crate::migrate::tests) stage: Stage,
    remaining: u64,
    pace: Pace,
    /// QEMU stopped it, and lets it run again on failure.
    halted: bool,
    pub(in crate::migrate::tests) fault: Fault,
    pub(in crate::migrate::tests) ran_at_destination: bool,
}

impl Qemus {
    /// The guest runs on one, and the other waits for it.
    pub(super) const fn new() -> Self {
        Self {
            guests: [Guest::Running, Guest::Loading],
            stage: Stage::None,
            remaining: 0,
            pace: Pace::Held,
            halted: false,
            fault: Fault::None,
            ran_at_destination: false,
        }
    }

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
    pub(in crate::migrate::tests) fn source_is_gone(&mut self) {
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
