//! Debian's kernel, in Debian's QEMU, on the disks of `tenure device`: what a guest of a user's does with them first.
//!
//! QEMU runs without KVM and with the device's properties as they are by default. The guest's programs are this machine's own, over 9p.
//! Another guest of the same device, which is our [front end](crate::front_end), is the other node of the cluster.

mod reservations;
mod steps;

use crate::front_end::Shape;
use crate::front_end::scsi::{VirtioScsi, setting};
use crate::process::wait_for;
use crate::served::Device;
use crate::tenure::Tenure;
use crate::vm::{Hardware, Media, Vm};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The size of the disk in a file, and of the one in memory, in bytes.
const FILE: u64 = 256 << 20;
const MEMORY: u64 = 64 << 20;
/// How long one step in the guest may take: its programs come over 9p, and nobody else's work is to fail it.
const STEP: Duration = Duration::from_secs(900);
const GUEST: Hardware = Hardware { memory: 1024, programs: &["tenure-lab"], card: None, disks: None };

/// A guest with two disks, and the device it has them from.
#[derive(Debug)]
pub struct LinuxGuest {
    // Before the device: a guest that is still there would see its disks vanish.
    vm: Vm,
    peer: VirtioScsi,
    device: Device,
    _directory: TempDir,
}

impl LinuxGuest {
    /// Starts the device and boots the guest.
    ///
    /// # Errors
    /// If either fails, or the guest does not find its disks.
    pub fn boot(cache: &Path, programs: &Path) -> Result<Self> {
        let directory = TempDir::new()?;
        let luns = [
            format!("file={},size={FILE}", directory.path().join("disk").display()),
            format!("memory={MEMORY}"),
        ];
        let tenure = Tenure::at(&programs.join("tenure"));
        let luns: Vec<&str> = luns.iter().map(String::as_str).collect();
        let device = tenure.device(directory.path(), &["guest", "peer"], &luns, &["--num-queues", "2"])?;
        let [guest, peer] = device.sockets.as_slice() else { anyhow::bail!("not two sockets") };
        let hardware = Hardware { disks: Some(guest.clone()), ..GUEST };
        let peer = VirtioScsi::connect(peer, &setting(2, Shape::default()))?;
        let mut vm = Vm::boot(&Media::fetch(cache)?, programs, &hardware)?;
        wait_for(STEP, || vm.run(&["test", "-b", "/dev/sdb"], STEP).ok().filter(|ended| ended.code == 0))
            .context("the guest does not find its disks")?;
        Ok(Self { vm, peer, device, _directory: directory })
    }

    /// Everything; tells a summary.
    ///
    /// # Errors
    /// What did not hold.
    pub fn all(&mut self) -> Result<String> {
        let steps = self.steps()?;
        let reservations = self.reservations()?;
        ensure!(self.device.process.is_running(), "the device is gone");
        Ok(format!("{steps} steps and {reservations} reservation commands as they should be"))
    }

    /// Runs a line of shell in the guest, and wants this exit status and these words in what it says.
    fn shell(&mut self, line: &str, exit: i32, words: &[&str]) -> Result<String> {
        let ended = self.vm.run(&["sh", "-c", line], STEP)?;
        let told = format!("{}{}", ended.out, ended.err);
        ensure!(ended.code == exit, "{line}: exit status {} and not {exit}: {}", ended.code, told.trim());
        for word in words {
            ensure!(told.contains(word), "{line}: no {word:?} in: {}", told.trim());
        }
        Ok(told)
    }
}
