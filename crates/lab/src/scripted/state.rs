//! The virtual machine: run state, migration state, and everybody who waits for a change of them.

use super::diary::Diary;
use super::faults::{self, Kind};
use super::options::{MigratePr, Options, Release};
use anyhow::Result;
use qmp::Object;
use qmp::qemu::{MigrationStatus, RunState};
use qmp::server::Emitter;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// How many see it before it goes on, where it lingers.
const LOOKS: u64 = 3;

/// Everything that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) run: RunState,
    /// How often somebody asked for it.
    pub(super) looks: u64,
    /// Destination: run when everything has come.
    pub(super) autostart: bool,
    pub(super) migration: Migration,
    pub(super) capabilities: BTreeSet<String>,
    pub(super) parameters: Object,
    pub(super) migrate_pr: BTreeMap<String, MigratePr>,
}

impl State {
    pub(super) fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(capability)
    }

    pub(super) fn is_running(&self) -> bool {
        self.run == RunState::RUNNING
    }

    /// A parameter that is a number.
    pub(super) fn parameter(&self, name: &str) -> u64 {
        self.parameters.get(name).and_then(Value::as_u64).unwrap_or(0)
    }
}

/// The migration, in either direction.
#[derive(Debug, Default)]
pub(super) struct Migration {
    /// `None`: there was none yet.
    pub(super) status: Option<MigrationStatus>,
    pub(super) error: Option<String>,
    pub(super) remaining: u64,
    pub(super) transferred: u64,
    pub(super) passes: u64,
    pub(super) started: Option<Instant>,
    pub(super) stopped: Option<Instant>,
    pub(super) downtime: Option<u64>,
    pub(super) total_time: Option<u64>,
    /// Destination: where it listens.
    pub(super) address: Option<Value>,
    pub(super) continued: bool,
    pub(super) cancelled: bool,
}

impl Migration {
    pub(super) fn status(&self) -> MigrationStatus {
        self.status.clone().unwrap_or(MigrationStatus::NONE)
    }
}

/// A machine, shared by its monitor and its migration.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) options: Options,
    state: Mutex<State>,
    changed: Condvar,
    emitters: OnceLock<Vec<Emitter>>,
    diary: Option<Diary>,
    /// Dropping it ends the server.
    stop: Mutex<Option<UnixStream>>,
}

impl Machine {
    pub(super) fn new(options: Options, stop: UnixStream) -> Result<Self> {
        let diary = options.diary.as_ref().map(|path| Diary::open(path, &options.name)).transpose()?;
        let state = State {
            run: if options.incoming { RunState::INMIGRATE } else { RunState::PRELAUNCH },
            looks: 0,
            autostart: !options.paused,
            migration: Migration::default(),
            capabilities: BTreeSet::new(),
            parameters: parameters(),
            migrate_pr: options.disks.iter().map(|disk| (disk.id.clone(), disk.migrate_pr)).collect(),
        };
        let (changed, emitters) = (Condvar::new(), OnceLock::new());
        Ok(Self { options, state: Mutex::new(state), changed, emitters, diary, stop: Mutex::new(Some(stop)) })
    }

    /// Starts the guest, unless it was told to wait.
    pub(super) fn power_on(&self, emitters: Vec<Emitter>) -> Result<()> {
        let _ = self.emitters.set(emitters);
        if !self.options.incoming && !self.options.paused {
            self.resume(&mut self.lock())?;
        }
        Ok(())
    }

    pub(super) fn release(&self) -> Release {
        self.options.release
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, and until then once for every change.
    pub(super) fn wait_while(&self, waiting: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.lock(), |state| waiting(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Stays as it is until a few have looked, if it was told to; otherwise nobody sees it so: the lock is kept.
    pub(super) fn linger<'a>(&self, point: &str, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let enough = state.looks + LOOKS;
        let lingers = self.fault(point) == Some(&Kind::Linger);
        let waited = self.changed.wait_while(state, |state| lingers && state.looks < enough);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    pub(super) fn emit(&self, event: &str, data: &Value) {
        for emitter in self.emitters.get().into_iter().flatten() {
            emitter.emit(event, data.as_object().cloned().unwrap_or_default());
        }
    }

    /// The guest runs from now on.
    pub(super) fn resume(&self, state: &mut State) -> Result<()> {
        if !state.is_running() {
            self.diary.as_ref().map_or(Ok(()), Diary::runs)?;
            state.run = RunState::RUNNING;
            self.emit("RESUME", &json!({}));
            self.notify();
        }
        Ok(())
    }

    /// The guest stands still from now on, for this reason.
    pub(super) fn halt(&self, state: &mut State, why: RunState) -> Result<()> {
        let ran = state.is_running();
        state.run = why;
        if ran {
            self.diary.as_ref().map_or(Ok(()), Diary::stopped)?;
            self.emit("STOP", &json!({}));
        }
        self.notify();
        Ok(())
    }

    /// The migration's next state, told where that was asked for.
    pub(super) fn migration_is(&self, state: &mut State, status: MigrationStatus) {
        let said = self.said(&status);
        state.migration.status = Some(status);
        if state.has("events") {
            self.emit("MIGRATION", &json!({ "status": said }));
        }
        self.notify();
    }

    pub(super) fn pass(&self, state: &mut State) {
        state.migration.passes += 1;
        if state.has("events") {
            self.emit("MIGRATION_PASS", &json!({ "pass": state.migration.passes }));
        }
    }

    /// What a state is called: its name, or what it was told to say.
    pub(super) fn said(&self, status: &MigrationStatus) -> MigrationStatus {
        match self.fault(status.as_str()) {
            Some(Kind::Say(other)) => other.clone().into(),
            _ => status.clone(),
        }
    }

    /// The same of a run state.
    pub(super) fn said_of_run(&self, run: &RunState) -> RunState {
        match self.fault(run.as_str()) {
            Some(Kind::Say(other)) => other.clone().into(),
            _ => run.clone(),
        }
    }

    fn fault(&self, point: &str) -> Option<&Kind> {
        self.options.faults.iter().find(|fault| fault.point == point).map(|fault| &fault.kind)
    }

    /// Passes a point where something may go wrong. What is left for the caller to do wrong, if anything.
    pub(super) fn at(&self, point: &str) -> Option<&Kind> {
        let kind = self.fault(point)?;
        match kind {
            Kind::Die => faults::die(),
            Kind::Exit => std::process::exit(1),
            Kind::Hang => faults::hang(),
            Kind::Flood => self.emit("FLOOD", &json!({ "data": "x".repeat(faults::MEGABYTES) })),
            Kind::Chatter => (0..faults::MANY).for_each(|_| self.emit("RESUME", &json!({}))),
            Kind::Fail | Kind::Lie | Kind::Bloat | Kind::Stray | Kind::Linger | Kind::Say(_) => {}
        }
        Some(kind)
    }

    /// Passes a point of the migration. An error: it fails there.
    pub(super) fn step(&self, point: &str) -> Result<()> {
        anyhow::ensure!(self.at(point) != Some(&Kind::Fail), "failed at {point}, as it was told to");
        Ok(())
    }

    /// Ends the server, and with it the process; the guest does not run any more from now on.
    pub(super) fn quit(&self) {
        // Without a diary there is nothing to be said; a full disk keeps nobody from going.
        let _ = self.halt(&mut self.lock(), RunState::SHUTDOWN);
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Those that anybody here asks for; QEMU has some thirty.
fn parameters() -> Object {
    let parameters = json!({
        "downtime-limit": 300, "max-bandwidth": 128 << 20, "multifd-channels": 2, "multifd-compression": "none",
        "max-postcopy-bandwidth": 0, "tls-creds": "", "tls-hostname": "", "tls-authz": "", "announce-initial": 50,
    });
    parameters.as_object().cloned().unwrap_or_default()
}
