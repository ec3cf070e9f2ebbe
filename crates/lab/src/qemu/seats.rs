//! A guest without CPU, our driver alone, on the disks of a vhost-user device, in one QEMU after another: it moves by live migration between the
//! sockets that the device keeps for it. QEMU and the device's properties are as they are by default, but for the driver's legacy interface.
//!
//! Used by `kept`, in the lab's VM and on this machine.

use super::qtest::Qtest;
use super::{Qmp, VirtioScsi, halting_rom};
use crate::process::{Background, wait_for};
use crate::vm::connect;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long a migration may take; it takes a moment on two idle cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// The guest, in the QEMU where it is.
#[derive(Debug)]
pub struct Seated {
    driver: VirtioScsi,
    seat: Seat,
    moved: u32,
    files: TempDir,
}

#[derive(Debug)]
struct Seat {
    qmp: Qmp,
    process: Background,
    directory: PathBuf,
}

impl Seated {
    /// Starts a QEMU at this socket of the device, and the driver in it.
    ///
    /// # Errors
    /// If QEMU does not start, or the device is not one for the driver.
    pub fn start(socket: &Path) -> Result<Self> {
        let files = TempDir::new()?;
        let mut seat = Seat::start(&files.path().join("0"), socket, &[])?;
        let driver = VirtioScsi::new(seat.qtest()?, seat.qmp.gate.clone())?;
        Ok(Self { driver, seat, moved: 0, files })
    }

    /// Its disks.
    pub const fn driver(&mut self) -> &mut VirtioScsi {
        &mut self.driver
    }

    /// Moves to a new QEMU at another socket. `meanwhile` happens when the guest runs at neither; the old QEMU then ends.
    ///
    /// # Errors
    /// If it cannot be moved, or `meanwhile` fails.
    pub fn move_to(&mut self, socket: &Path, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.moved += 1;
        let directory = self.files.path().join(self.moved.to_string());
        let mut there = Seat::start(&directory, socket, &["-incoming", "defer"])?;
        let uri = format!("unix:{}", directory.join("incoming").display());
        there.pauses()?;
        there.qmp.execute_with("migrate-incoming", &json!({ "uri": uri }))?;
        self.seat.pauses()?;
        self.seat.qmp.execute_with("migrate", &json!({ "uri": uri }))?;
        self.seat.await_status("pre-switchover").with_context(|| there.log())?;
        meanwhile()?;
        self.seat.qmp.execute_with("migrate-continue", &json!({ "state": "pre-switchover" }))?;
        self.seat.await_status("completed").with_context(|| there.log())?;
        there.qmp.gate.pass(PATIENCE).with_context(|| there.log())?;
        self.driver = VirtioScsi::arrived(there.qtest()?, there.qmp.gate.clone(), self.driver.rings());
        self.seat.process.kill();
        self.seat = there;
        Ok(())
    }
}

impl Seat {
    fn start(directory: &Path, socket: &Path, more: &[&str]) -> Result<Self> {
        std::fs::create_dir(directory)?;
        let mut process = Background::start(command(directory, socket)?.args(more))?;
        let qmp = Qmp::connect(&directory.join("qmp"), &mut process).with_context(|| log(directory))?;
        Ok(Self { qmp, process, directory: directory.to_owned() })
    }

    fn qtest(&mut self) -> Result<Qtest> {
        Qtest::new(connect(&self.directory.join("qtest"), &mut self.process)?)
    }

    fn pauses(&mut self) -> Result<()> {
        let capability = json!([{ "capability": "pause-before-switchover", "state": true }]);
        self.qmp.execute_with("migrate-set-capabilities", &json!({ "capabilities": capability })).map(drop)
    }

    fn await_status(&mut self, wanted: &str) -> Result<()> {
        let over = || {
            let told = self.qmp.execute("query-migrate").ok()?;
            let status = told.get("status").and_then(Value::as_str)?.to_owned();
            (status == wanted || matches!(status.as_str(), "completed" | "failed" | "cancelled"))
                .then_some(told)
        };
        let told = wait_for(PATIENCE, over).context("the migration takes too long")?;
        ensure!(told.get("status").and_then(Value::as_str) == Some(wanted), "the migration: {told}");
        Ok(())
    }

    fn log(&self) -> String {
        log(&self.directory)
    }
}

/// What a QEMU said.
fn log(directory: &Path) -> String {
    let told = std::fs::read_to_string(directory.join("qemu.log")).unwrap_or_default();
    format!("QEMU said: {}", told.trim())
}

fn command(directory: &Path, socket: &Path) -> Result<Command> {
    std::fs::write(directory.join("halt.rom"), halting_rom())?;
    let at = |name: &str| directory.join(name).display().to_string();
    let server = |name: &str| format!("unix:{},server=on,wait=off", at(name));
    // It ends with whoever started it, however that ended.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(
        "-M pc,memory-backend=ram -accel tcg -m 64 -nodefaults -no-user-config -display none".split(' '),
    );
    command.args(["-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-bios", &at("halt.rom")]);
    command.args(["-qmp", &server("qmp"), "-qtest", &server("qtest"), "-qtest-log", "/dev/null"]);
    command.args(["-chardev", &format!("socket,id=disks,path={}", socket.display())]);
    command.args(["-device", "vhost-user-scsi-pci,chardev=disks,disable-modern=on"]);
    let log = File::create(directory.join("qemu.log"))?;
    command.stdout(log.try_clone()?).stderr(log);
    Ok(command)
}
