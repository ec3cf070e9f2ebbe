//! Real QEMU with one disk behind a pr-manager, and a guest that consists of our driver alone; such a guest [on a vhost-user
//! device](Seated); and a [`Pair`] of newer ones, between which QEMU itself moves a guest with many disks.

mod backports;
pub mod migration;
mod pair;
mod qmp;
pub mod qtest;
mod seats;
mod virtio_scsi;

pub use backports::Backports;
pub use pair::{Moved, Pair, Setting};
pub use qmp::{Gate, Qmp};
pub use seats::Seated;
pub use virtio_scsi::{Disk, Rings, VirtioScsi};

use crate::process::Background;
use crate::vm::connect;
use anyhow::{Result, bail};
use qtest::Qtest;
use rustix::process::{Pid, Signal, kill_process};
use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// Which of QEMU's pass-through devices the guest's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// On `/dev/sdX`; reads and writes go another way than other commands.
    Block,
    /// On `/dev/sgN`; every command is passed through.
    Generic,
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "scsi-block",
            Self::Generic => "scsi-generic",
        })
    }
}

impl FromStr for Front {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "scsi-block" => Ok(Self::Block),
            "scsi-generic" => Ok(Self::Generic),
            _ => bail!("{text:?} is neither scsi-block nor scsi-generic"),
        }
    }
}

/// What a QEMU is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Machine {
    /// Where its files and sockets are: `qmp`, `qmp-guest` and `qmp-other`, `qtest`
    #[arg(long)]
    pub directory: PathBuf,
    /// scsi-block or scsi-generic
    #[arg(long, default_value = "scsi-block")]
    pub front: Front,
    /// The guest's disk: /dev/sdX, or /dev/sgN for scsi-generic
    #[arg(long)]
    pub device: PathBuf,
    /// The socket of a helper for its persistent reservations
    #[arg(long)]
    pub helper: Option<PathBuf>,
    /// Its UUID
    #[arg(long, default_value = "7e4a0000-0000-4000-8000-0000000000aa")]
    pub uuid: String,
    /// Wait for a guest that comes from another host, and do not run it
    #[arg(long)]
    pub incoming: bool,
}

impl Machine {
    /// One with a helper, that begins a guest of its own.
    #[must_use]
    pub fn new(directory: &Path, front: Front, device: &Path, helper: &Path) -> Self {
        Self {
            directory: directory.into(),
            front,
            device: device.into(),
            helper: Some(helper.into()),
            uuid: "7e4a0000-0000-4000-8000-0000000000aa".into(),
            incoming: false,
        }
    }

    /// Becomes it.
    ///
    /// # Errors
    /// If QEMU cannot be executed.
    pub fn exec(&self) -> Result<Infallible> {
        std::fs::create_dir_all(&self.directory)?;
        Err(command(self)?.exec().into())
    }
}

/// A QEMU with its driver.
#[derive(Debug)]
pub struct Qemu {
    /// The guest's disk.
    pub disk: VirtioScsi,
    /// Its control socket.
    pub qmp: Qmp,
    process: Background,
}

impl Qemu {
    /// Starts one; if it has a helper, that listens already.
    ///
    /// # Errors
    /// If QEMU does not start, or has not the devices that the driver needs.
    pub fn start(machine: &Machine) -> Result<Self> {
        let mut process = Background::start(&mut command(machine)?)?;
        let qmp = Qmp::connect(&machine.directory.join("qmp"), &mut process)?;
        let qtest = Qtest::new(connect(&machine.directory.join("qtest"), &mut process)?)?;
        let disk = VirtioScsi::new(qtest, qmp.gate.clone())?;
        Ok(Self { disk, qmp, process })
    }

    /// Somebody who can kill it while its driver waits for an answer. QEMU must not have been ended before.
    pub(crate) fn killer(&self) -> Killer {
        Killer(self.process.pid())
    }
}

/// Kills a QEMU as a crash would.
pub(crate) struct Killer(Option<Pid>);

impl Killer {
    pub(crate) fn kill(self) {
        if let Some(pid) = self.0 {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn command(machine: &Machine) -> Result<Command> {
    let Machine { directory, front, device, helper, uuid, incoming } = machine;
    std::fs::write(directory.join("halt.rom"), halting_rom())?;
    let at = |name: &str| directory.join(name).display().to_string();
    let socket = |name: &str| format!("unix:{},server=on,wait=off", at(name));
    let manager = if helper.is_some() { ",pr-manager=helper" } else { "" };
    // Two hosts share a block device, so nothing may stay in one's page cache; a generic one has none, and refuses O_DIRECT.
    let (direct, sharing) =
        if *front == Front::Block { (",cache.direct=on", ",share-rw=on") } else { ("", "") };
    let disk = format!("driver=host_device,node-name=disk,filename={}{direct}{manager}", device.display());
    let mut command = Command::new("qemu-system-x86_64");
    command.args("-M pc -accel tcg -m 64 -nodefaults -no-user-config -display none".split(' '));
    command.args(["-bios", &at("halt.rom"), "-uuid", uuid, "-qtest", &socket("qtest")]);
    for control in ["qmp", "qmp-guest", "qmp-other"] {
        command.args(["-qmp", &socket(control)]);
    }
    command.args(["-qtest-log", "/dev/null"]);
    if let Some(helper) = helper {
        command.args(["-object", &format!("pr-manager-helper,id=helper,path={}", helper.display())]);
    }
    command.args(["-blockdev", &disk, "-device", "virtio-scsi-pci,disable-modern=on"]);
    command.args(["-device", &format!("{front},drive=disk{sharing}")]);
    if *incoming {
        command.args(["-S", "-incoming", "defer"]);
    }
    let log = File::create(directory.join("qemu.log"))?;
    command.stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// 64 KiB that end with a reset vector where the CPU halts: cli; hlt; jmp to the hlt.
fn halting_rom() -> Vec<u8> {
    let mut rom = vec![0; 0x1_0000];
    rom.splice(0xFFF0..0xFFF4, [0xFA, 0xF4, 0xEB, 0xFD]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rom_halts_at_the_reset_vector() {
        let rom = halting_rom();
        assert_eq!(rom.len(), 0x1_0000);
        assert_eq!(rom[0xFFF0..0xFFF4], [0xFA, 0xF4, 0xEB, 0xFD]);
    }

    #[test]
    fn devices_are_named_as_qemu_names_them() {
        for front in [Front::Block, Front::Generic] {
            assert_eq!(front.to_string().parse::<Front>().unwrap(), front);
        }
        assert!("scsi-hd".parse::<Front>().is_err());
    }
}
