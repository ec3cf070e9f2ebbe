//! A guest's QEMU as a migration drives it.

use super::monitors::Monitors;
use crate::config::Vm;
use crate::migrate::{Identity, Left, Machine, MachineError, Pace, Settings, Stopped, Transfer};
use crate::ownership::Guest;
use crate::steps::{Step, Steps, Told};
use crate::vmm::{self, Limits, Role, Vmm, VmmError};
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What QEMU takes for no limit.
const UNLIMITED: u64 = 0;
const BANDWIDTH: &str = "max-bandwidth";
const DOWNTIME: &str = "downtime-limit";
const NOWHERE: &str =
    "nobody says where QEMU is to wait for the guest: set `incoming` of the vm at the destination, or --uri";
/// A stream that has begun cannot begin again.
const SENT: &str = "the descriptor was used for the first attempt: order the migration again, with a new one";

/// These limits were left by a migration of ours whose agent died: nobody else has QEMU wait until nothing is left.
const fn is_ours((bandwidth, downtime): (u64, u64)) -> bool {
    bandwidth == vmm::HELD || downtime == 0
}

/// A QEMU, or where one was.
#[derive(Debug)]
pub(super) struct QemuMachine {
    path: PathBuf,
    vmm: Option<Arc<Vmm>>,
    role: Role,
    uuid: String,
    incoming: Option<String>,
    /// What held before the migration; `None` where this program did not begin it.
    bandwidth: Mutex<Option<u64>>,
    ordered: Ordered,
    steps: Steps,
}

/// How the operator of this host wants the guest sent.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// Where the other QEMU is to listen.
    uri: Option<String>,
    /// Into this, whatever the URI; none inside: it was.
    stream: Option<Mutex<Option<OwnedFd>>>,
}

impl Ordered {
    pub(super) fn new(uri: Option<String>, stream: Option<OwnedFd>) -> Self {
        Self { uri, stream: stream.map(|stream| Mutex::new(Some(stream))) }
    }
}

impl QemuMachine {
    pub(super) fn new(vm: &Vm, role: Role, steps: Steps, monitors: &Monitors) -> Self {
        let vmm = monitors.connect(&vm.qmp, vmm::PATIENCE);
        let (path, uuid, incoming) = (vm.qmp.clone(), vm.uuid.as_str().to_owned(), vm.incoming.clone());
        Self {
            path,
            vmm,
            role,
            uuid,
            incoming,
            bandwidth: Mutex::default(),
            ordered: Ordered::default(),
            steps,
        }
    }

    /// The same, which sends the guest as it was ordered.
    pub(super) fn ordered(self, ordered: Ordered) -> Self {
        Self { ordered, ..self }
    }

    pub(super) fn vmm(&self) -> Option<&Vmm> {
        self.vmm.as_deref()
    }

    /// What holds a migration back now: bytes in a second, and milliseconds of standstill.
    fn limits_now(&self) -> Option<(u64, u64)> {
        let set = self.vmm.as_ref()?.qemu().parameters().ok()?;
        let of = |name: &str| set.get(name).and_then(Value::as_u64);
        Some((of(BANDWIDTH)?, of(DOWNTIME)?))
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
        let now =
            self.limits_now().filter(|now| !is_ours(*now)).map_or(UNLIMITED, |(bandwidth, _)| bandwidth);
        *self.bandwidth.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        Ok(())
    }

    fn listen(&self, uri: Option<&str>) -> Result<String, MachineError> {
        let own = self.incoming.as_deref();
        let uri = uri.or(own).ok_or_else(|| MachineError::Refused(NOWHERE.into()))?;
        if own != Some(uri) {
            vmm::travels(uri)?;
        }
        self.tell(Told::Listen, |vmm| vmm.listen(uri))
    }

    fn send(&self, uri: &str) -> Result<(), MachineError> {
        let Some(given) = &self.ordered.stream else {
            if self.ordered.uri.as_deref() != Some(uri) {
                vmm::travels(uri)?;
            }
            return self.tell(Told::Send, |vmm| vmm.send(uri));
        };
        let stream = given.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = stream.ok_or_else(|| MachineError::Refused(SENT.into()))?;
        self.tell(Told::Send, |vmm| vmm.send_into(&stream))
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
        if before.is_none() && !self.limits_now().is_some_and(is_ours) {
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
        self.vmm().is_some_and(Vmm::ran)
    }

    fn left(&self) -> Result<Option<Left>, MachineError> {
        self.ask(Vmm::left)
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

#[cfg(test)]
mod tests;
