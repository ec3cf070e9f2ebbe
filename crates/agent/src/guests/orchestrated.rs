//! A guest that somebody else moves: libvirt, or a script that speaks QMP itself. To a handover it is a QEMU whose migration costs
//! nothing and in which the guest stands still: before and after it, at whichever host. Nobody here sends `stop`, `migrate` or
//! `cont`; what QEMU can be asked is asked all the same, so that a guest that runs is not handed over.

use super::machine::QemuMachine;
use crate::config::Vm;
use crate::migrate::{Identity, Left, Machine, MachineError, Pace, Settings, Stage, Stopped, Transfer};
use crate::ownership::Guest;
use crate::vmm::{Finding, Role, Vmm};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// How far the other's migration is taken to be.
#[derive(Debug)]
struct Play {
    stage: Stage,
    /// The guest is here, as far as this host has been told.
    here: bool,
}

/// A guest whose QEMU is somebody else's to drive.
#[derive(Debug)]
pub(super) struct Orchestrated {
    qemu: QemuMachine,
    role: Role,
    uuid: String,
    play: Mutex<Play>,
}

impl Orchestrated {
    /// `qemu` is the only connection: QEMU leaves a second one waiting, as if nobody could be asked. `here`: the guest stands here.
    /// At a destination whose handover begins it is still to come.
    pub(super) fn new(qemu: QemuMachine, vm: &Vm, role: Role, here: bool) -> Self {
        let uuid = vm.uuid.as_str().to_owned();
        Self { qemu, role, uuid, play: Mutex::new(Play { stage: Stage::None, here }) }
    }

    pub(super) fn vmm(&self) -> Option<&Vmm> {
        self.qemu.vmm()
    }

    fn play<T>(&self, act: impl FnOnce(&mut Play) -> T) -> T {
        act(&mut self.play.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self, stage: Stage) {
        self.play(|play| play.stage = stage);
    }
}

impl Machine for Orchestrated {
    /// A QEMU that does not answer is its orchestrator's affair.
    fn identity(&self) -> Result<Identity, MachineError> {
        let findings = self.vmm().and_then(|vmm| vmm.findings(self.role, &self.uuid).ok());
        let ours =
            |finding: &Finding| matches!(finding, Finding::AnotherGuest { .. } | Finding::MigratePr { .. });
        let obstacles = findings.into_iter().flatten().filter(ours).map(|finding| finding.to_string());
        Ok(Identity { uuid: self.uuid.clone(), obstacles: obstacles.collect() })
    }

    fn guest(&self) -> Guest {
        match self.vmm().map(Vmm::guest) {
            Some(Guest::Running) => Guest::Running,
            _ if self.play(|play| play.here) => Guest::Paused,
            _ => Guest::Loading,
        }
    }

    fn configure(&self, _: &Settings) -> Result<(), MachineError> {
        Ok(())
    }

    fn listen(&self, _: Option<&str>) -> Result<String, MachineError> {
        self.play(|play| play.here = true);
        Ok("orchestrated".to_owned())
    }

    fn send(&self, _: &str) -> Result<(), MachineError> {
        self.enter(Stage::Active);
        Ok(())
    }

    fn transfer(&self) -> Result<Transfer, MachineError> {
        Ok(Transfer { stage: self.play(|play| play.stage), total: 1, ..Transfer::default() })
    }

    fn wait(&self, until: Instant) {
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    fn adjust(&self, _: Pace) -> Result<(), MachineError> {
        Ok(())
    }

    /// It is stopped, or nothing is done.
    fn stop(&self) -> Result<Stopped, MachineError> {
        if self.guest() == Guest::Running {
            return Err(MachineError::Refused("the guest runs: its orchestrator stops it".into()));
        }
        if let Some(vmm) = self.vmm() {
            vmm.watch_still();
        }
        self.enter(Stage::PreSwitchover);
        Ok(Stopped::ByUs)
    }

    fn ran(&self) -> bool {
        self.vmm().is_some_and(Vmm::ran)
    }

    /// Whoever sent it knows.
    fn left(&self) -> Result<Option<Left>, MachineError> {
        Ok(None)
    }

    fn switch_over(&self) -> Result<(), MachineError> {
        self.enter(Stage::Completed);
        Ok(())
    }

    fn cancel(&self) -> Result<(), MachineError> {
        self.enter(Stage::Cancelled);
        Ok(())
    }

    fn cont(&self) -> Result<(), MachineError> {
        Err(MachineError::Refused("its orchestrator lets it run".into()))
    }
}
