//! One host with its adapter and the helper of one guest.

use super::{Adapter, QemuEnd};
use crate::process::Background;
use anyhow::{Context, Result, ensure};
use iscsi::initiator::IscsiNexus;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A host.
#[derive(Debug)]
pub struct HelpedHost {
    adapter: Adapter,
    vm: String,
    place: PathBuf,
    helper: Mutex<Option<Background>>,
}

impl HelpedHost {
    /// A host whose disks are these, with a place for its sockets and nodes under `place.…`. The helper does not run yet.
    ///
    /// # Errors
    /// If the target does not let it in.
    pub fn new(place: &Path, vm: &str, devices: &[String]) -> Result<Self> {
        let name = place.file_name().context("a place without a name")?.to_string_lossy();
        let adapter = Adapter::plug_in(place.parent().context("no directory")?, &name, devices)?;
        let (vm, place) = (vm.to_owned(), place.to_owned());
        Ok(Self { adapter, vm, place, helper: Mutex::default() })
    }

    /// The agent's socket of the helper.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.place.with_extension("agents")
    }

    fn socket(&self) -> PathBuf {
        self.place.with_extension("guests")
    }

    /// The files that stand for its disks.
    #[must_use]
    pub fn nodes(&self) -> &[PathBuf] {
        self.adapter.nodes()
    }

    /// Starts the helper, `helper-of-files`, with the host's state, and waits until it serves.
    ///
    /// # Errors
    /// If it runs already, or does not start.
    pub fn start(&self, mut command: Command, state: &Path) -> Result<()> {
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(helper.is_none(), "the helper runs already");
        command.args(["--vm", &self.vm]).arg("-k").arg(self.socket());
        command.arg("--agent-socket").arg(self.agent_socket()).arg("--state").arg(state);
        *helper = Some(Background::start_and_read_line(&mut command)?.0);
        Ok(())
    }

    /// Kills the helper.
    ///
    /// # Errors
    /// If none runs.
    pub fn kill(&self) -> Result<()> {
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let helper = helper.as_mut().context("no helper runs")?;
        ensure!(helper.is_running(), "the helper had ended by itself");
        helper.kill();
        Ok(())
    }

    /// The power of the host failed: what is told of its sessions is the target's.
    ///
    /// # Errors
    /// If a target does not let it in again.
    pub fn power_cycle(&self) -> Result<()> {
        self.adapter.power_cycle()
    }

    /// A disk as the guest's commands reach it.
    ///
    /// # Errors
    /// If there is no such disk.
    pub fn guest(&self, disk: usize) -> Result<QemuEnd> {
        Ok(QemuEnd::new(&self.socket(), self.nodes().get(disk).context("no such disk")?)?)
    }

    /// The disks past the helper.
    #[must_use]
    pub fn nexuses(&self) -> Vec<IscsiNexus> {
        self.adapter.nexuses()
    }
}
