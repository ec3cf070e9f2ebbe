//! A guest's QEMU as a migration drives it.

use crate::config::Vm;
use crate::migrate::{Identity, Machine, MachineError, Pace, Settings, Stopped, Transfer};
use crate::ownership::Guest;
use crate::steps::{Step, Steps, Told};
use crate::vmm::{self, Limits, Role, Vmm, VmmError};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What QEMU takes for no limit.
const UNLIMITED: u64 = 0;
const BANDWIDTH: &str = "max-bandwidth";

/// A QEMU, or where one was.
#[derive(Debug)]
pub(super) struct QemuMachine {
    path: PathBuf,
    vmm: Option<Vmm>,
    role: Role,
    uuid: String,
    incoming: Option<String>,
    /// What held before the migration; `None` where this program did not begin it.
    bandwidth: Mutex<Option<u64>>,
    steps: Steps,
}

impl QemuMachine {
    pub(super) fn new(vm: &Vm, role: Role, steps: Steps) -> Self {
        let vmm = Vmm::connect(&vm.qmp, vmm::PATIENCE).ok();
        let (path, uuid, incoming) = (vm.qmp.clone(), vm.uuid.as_str().to_owned(), vm.incoming.clone());
        Self { path, vmm, role, uuid, incoming, bandwidth: Mutex::default(), steps }
    }

    pub(super) const fn vmm(&self) -> Option<&Vmm> {
        self.vmm.as_ref()
    }

    /// Bytes in a second that a migration may send.
    fn limit_now(&self) -> Option<u64> {
        self.vmm.as_ref()?.qemu().parameters().ok()?.get(BANDWIDTH)?.as_u64()
    }

    /// What changes QEMU is a step.
    fn tell<T>(&self, told: Told, tell: impl FnOnce(&Vmm) -> Result<T, VmmError>) -> Result<T, MachineError> {
        self.steps.take(Step::Qemu(told), || self.ask(tell))
    }

    fn ask<T>(&self, ask: impl FnOnce(&Vmm) -> Result<T, VmmError>) -> Result<T, MachineError> {
        let gone = || MachineError::Gone(format!("nobody listens on {}", self.path.display()));
        Ok(ask(self.vmm.as_ref().ok_or_else(gone)?)?)
    }
}

impl From<VmmError> for MachineError {
    fn from(error: VmmError) -> Self {
        match error {
            VmmError::Gone(why) => Self::Gone(why),
            VmmError::Silent(why) => Self::Silent(why),
            VmmError::Refused(why) | VmmError::Unfit(why) => Self::Refused(why),
        }
    }
}

impl Machine for QemuMachine {
    fn identity(&self) -> Result<Identity, MachineError> {
        let findings = self.ask(|vmm| vmm.findings(self.role, &self.uuid))?;
        let obstacles = findings.iter().map(ToString::to_string).collect();
        Ok(Identity { uuid: self.ask(Vmm::uuid)?, obstacles })
    }

    fn guest(&self) -> Guest {
        match &self.vmm {
            Some(vmm) => vmm.guest(),
            None => Vmm::guest_at(&self.path, Duration::from_secs(2)),
        }
    }

    fn configure(&self, settings: &Settings) -> Result<(), MachineError> {
        self.ask(|vmm| vmm.configure(&settings.capabilities, &settings.parameters))?;
        // What holds then is given back after the migration was held.
        let now = self.limit_now().unwrap_or(UNLIMITED);
        *self.bandwidth.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        Ok(())
    }

    fn listen(&self, uri: Option<&str>) -> Result<String, MachineError> {
        let uri = uri.or(self.incoming.as_deref()).ok_or_else(|| {
            MachineError::Refused(
                "nobody says where QEMU is to wait for the guest: set `incoming` of the vm at the destination, or --uri".into(),
            )
        })?;
        self.tell(Told::Listen, |vmm| vmm.listen(uri))
    }

    fn send(&self, uri: &str) -> Result<(), MachineError> {
        self.tell(Told::Send, |vmm| vmm.send(uri))
    }

    fn transfer(&self) -> Result<Transfer, MachineError> {
        self.ask(Vmm::progress)
    }

    fn wait(&self, until: Instant) {
        match &self.vmm {
            Some(vmm) => vmm.wait(until),
            None => thread::sleep(until.saturating_duration_since(Instant::now())),
        }
    }

    fn adjust(&self, pace: Pace) -> Result<(), MachineError> {
        let before = *self.bandwidth.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_none() && self.limit_now() != Some(vmm::HELD) {
            // What this program did not set is not its to give back.
            return Ok(());
        }
        let full = before.unwrap_or(UNLIMITED);
        let limits = match pace {
            Pace::Held => Limits { bandwidth: Some(vmm::HELD), downtime: Some(Duration::ZERO) },
            Pace::Limited(rate) => {
                let rate = if full == UNLIMITED { rate } else { rate.min(full) };
                Limits { bandwidth: Some(rate), downtime: Some(Duration::ZERO) }
            }
            Pace::Full => Limits { bandwidth: Some(full), downtime: Some(Duration::ZERO) },
            Pace::Switch(downtime) => Limits { bandwidth: Some(full), downtime },
        };
        self.ask(|vmm| vmm.limit(limits))
    }

    fn stop(&self) -> Result<Stopped, MachineError> {
        Ok(match self.tell(Told::Stop, Vmm::stop)? {
            vmm::Stopped::ForGood => Stopped::ByUs,
            vmm::Stopped::ByMigration => Stopped::ByMigration,
        })
    }

    fn ran(&self) -> bool {
        self.vmm.as_ref().is_some_and(Vmm::ran)
    }

    fn switch_over(&self) -> Result<(), MachineError> {
        self.tell(Told::SwitchOver, Vmm::switch_over)
    }

    fn cancel(&self) -> Result<(), MachineError> {
        self.tell(Told::Cancel, Vmm::cancel)
    }

    fn cont(&self) -> Result<(), MachineError> {
        self.tell(Told::Cont, Vmm::cont)
    }
}
