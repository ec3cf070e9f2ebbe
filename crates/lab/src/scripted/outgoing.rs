//! The source: memory, pause, devices, and what becomes of the guest when that fails.

use super::link::{Address, Link, Parcel};
use super::options::Release;
use super::state::{Machine, Migration, State};
use anyhow::{Result, bail, ensure};
use qmp::qemu::{MigrationStatus, RunState};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How often the memory is looked at.
const TICK: Duration = Duration::from_millis(1);

/// Bytes in a second where the parameter says 0, which is no limit.
const UNLIMITED: u64 = 1 << 40;

/// Begins. An error: QEMU would have refused at once.
pub(super) fn begin(machine: &Arc<Machine>, address: Address, descriptor: Option<OwnedFd>) -> Result<()> {
    let mut state = machine.lock();
    ensure!(state.run != RunState::INMIGRATE, "Guest is waiting for an incoming migration");
    let postmigrate = "Can't migrate the vm that was paused due to previous migration";
    ensure!(state.run != RunState::POSTMIGRATE, postmigrate);
    let over = state.migration.status().is_over();
    ensure!(over, "There's a migration process in progress");
    state.migration = Migration { started: Some(Instant::now()), ..Migration::default() };
    machine.migration_is(&mut state, MigrationStatus::SETUP);
    drop(state);
    let machine = Arc::clone(machine);
    let source = thread::Builder::new().name("migration".into());
    source.spawn(move || Source { machine, ran: None }.migrate(&address, descriptor))?;
    Ok(())
}

/// A migration under way.
struct Source {
    machine: Arc<Machine>,
    /// Whether the guest ran when it was stopped for the switchover; `None` before.
    ran: Option<bool>,
}

impl Source {
    fn migrate(mut self, address: &Address, descriptor: Option<OwnedFd>) {
        if let Err(error) = self.send(address, descriptor) {
            let _ = self.put_back(&format!("{error:#}"));
        }
    }

    fn send(&mut self, address: &Address, descriptor: Option<OwnedFd>) -> Result<()> {
        self.machine.step("setup")?;
        let mut link = Link::connect(address, descriptor)?;
        let answer = self.machine.lock().has("return-path");
        link.send(&Parcel::Begin { answer })?;
        self.send_memory(&link)?;
        self.switch_over(&mut link, answer)?;
        self.complete()
    }

    fn send_memory(&self, link: &Link) -> Result<()> {
        let mut state = self.machine.lock();
        state.migration.remaining = self.machine.options.ram;
        self.machine.pass(&mut state);
        self.machine.migration_is(&mut state, MigrationStatus::ACTIVE);
        drop(state);
        self.machine.step("active")?;
        let mut last = Instant::now();
        while !self.is_through(last.elapsed()) {
            last = Instant::now();
            ensure!(!self.machine.lock().migration.cancelled, "cancelled");
            ensure!(link.is_alive(), "Unable to write to socket: Broken pipe");
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Sends what `time` allows for. Whether the rest would take no longer than the limit.
    fn is_through(&self, time: Duration) -> bool {
        let mut state = self.machine.lock();
        let bandwidth = match state.parameter("max-bandwidth") {
            0 => UNLIMITED,
            limit => limit,
        };
        let bytes = |rate: u64, time: Duration| {
            u64::try_from(u128::from(rate) * time.as_micros() / 1_000_000).unwrap_or(u64::MAX)
        };
        let sent = bytes(bandwidth, time).min(state.migration.remaining);
        let dirtied = if state.is_running() { bytes(self.machine.options.dirty, time) } else { 0 };
        let limit = bytes(bandwidth, Duration::from_millis(state.parameter("downtime-limit")));
        let remaining =
            (state.migration.remaining - sent).saturating_add(dirtied).min(self.machine.options.ram);
        state.migration.remaining = remaining;
        state.migration.transferred += sent;
        // All memory is sent once, whatever the limit.
        let once = state.migration.transferred >= self.machine.options.ram;
        once && (remaining == 0 || remaining < limit)
    }

    fn switch_over(&mut self, link: &mut Link, answer: bool) -> Result<()> {
        self.stop_guest()?;
        if self.machine.lock().has("pause-before-switchover") {
            self.pause()?;
        }
        self.machine.step("device")?;
        link.send(&Parcel::Devices { ran: self.ran == Some(true) })?;
        self.machine.pass(&mut self.machine.lock());
        self.machine.step("sent")?;
        if answer {
            ensure!(link.receive()? == Parcel::Loaded, "the destination could not load the devices");
        }
        self.machine.step("completed")
    }

    fn stop_guest(&mut self) -> Result<()> {
        let mut state = self.machine.lock();
        ensure!(!state.migration.cancelled, "cancelled");
        self.ran = Some(state.is_running());
        state.migration.stopped = Some(Instant::now());
        self.machine.halt(&mut state, RunState::FINISH_MIGRATE)
    }

    /// Waits before the switchover, for ever if need be.
    fn pause(&self) -> Result<()> {
        self.machine.migration_is(&mut self.machine.lock(), MigrationStatus::PRE_SWITCHOVER);
        self.machine.step("pre-switchover")?;
        let waiting = |state: &State| !state.migration.continued && !state.migration.cancelled;
        let mut state = self.machine.wait_while(waiting);
        if state.migration.cancelled {
            bail!("cancelled");
        }
        self.machine.migration_is(&mut state, MigrationStatus::DEVICE);
        drop(state);
        self.machine.step("continued")
    }

    fn complete(&self) -> Result<()> {
        let mut state = self.machine.lock();
        // A cancel that comes now is too late.
        let (downtime, total) = (millis(state.migration.stopped), millis(state.migration.started));
        state.migration.downtime = downtime;
        state.migration.total_time = total;
        self.machine.halt(&mut state, RunState::POSTMIGRATE)?;
        self.machine.migration_is(&mut state, MigrationStatus::COMPLETED);
        Ok(())
    }

    /// After a failure or a cancel: the guest runs again if the migration had stopped it.
    fn put_back(&self, why: &str) -> Result<()> {
        let mut state = self.machine.lock();
        let cancelled = state.migration.cancelled;
        let new = self.machine.release() >= Release::V11_1;
        if cancelled {
            self.resume(&mut state)?;
            self.machine.migration_is(&mut state, MigrationStatus::CANCELLED);
            return Ok(());
        }
        // QEMU 7.2 says nothing more here than that the link failed.
        state.migration.error = (new || self.ran.is_none()).then(|| why.to_owned());
        if new {
            self.machine.migration_is(&mut state, MigrationStatus::FAILING);
            self.resume(&mut state)?;
            self.machine.migration_is(&mut state, MigrationStatus::FAILED);
            return Ok(());
        }
        self.machine.migration_is(&mut state, MigrationStatus::FAILED);
        self.resume(&mut self.machine.linger("failed", state))
    }

    fn resume(&self, state: &mut State) -> Result<()> {
        match self.ran {
            None => Ok(()),
            Some(true) => self.machine.resume(state),
            Some(false) if self.machine.release() >= Release::V11_1 => {
                self.machine.halt(state, RunState::PAUSED)
            }
            Some(false) => self.machine.halt(state, RunState::POSTMIGRATE),
        }
    }
}

fn millis(since: Option<Instant>) -> Option<u64> {
    since.and_then(|since| u64::try_from(since.elapsed().as_millis()).ok())
}
