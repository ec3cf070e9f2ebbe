//! A guest with many disks over iSCSI that QEMU 11.1 itself moves, its registrations too (`migrate-pr`): two QEMUs on one
//! machine, the guest being our driver alone.
//!
//! QEMU's iSCSI driver takes a random ISID for each disk of each process. So every disk here is an I_T nexus of its own that
//! nothing outside can name before it is there, or address; the destination's nexuses are others than the source's
//! whatever the initiator's name, and those of a QEMU that is started again are others than its own before.

use super::qtest::Qtest;
use super::{Backports, Gate, VirtioScsi, halting_rom};
use crate::process::Background;
use crate::served::Served;
use crate::vm::connect;
use anyhow::{Context, Result, bail, ensure};
use qmp::message::Timestamp;
use qmp::qemu::{Capability, MigrationStatus, Qemu, Version};
use qmp::{Events, Heard};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a command of QEMU's, or a migration, may take.
const PATIENCE: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Bytes per second: memory must not be what a migration waits for.
const BANDWIDTH: u64 = 10 << 30;

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// QEMU.
    pub program: &'a Backports,
    /// Where the disks are.
    pub served: &'a Served,
    /// How many of them.
    pub disks: u8,
    /// Whether QEMU moves registrations.
    pub migrate_pr: bool,
}

/// A guest that runs, and a QEMU to which it can move.
#[derive(Debug)]
pub struct Pair {
    guest: VirtioScsi,
    source: Side,
    destination: Side,
    _files: TempDir,
}

#[derive(Debug)]
struct Side {
    qmp: Qemu,
    process: Background,
    directory: PathBuf,
}

/// How long the guest stood still, and what QEMU did on its disks meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// From the source's STOP to the destination's RESUME, by QEMU's own stamps.
    pub downtime: Duration,
    /// Reservation commands of QEMU's own; it has sent one after the other.
    pub commands: u32,
    /// How long these took together: from the first to the last, and once more the mean between two for the last.
    pub busy: Duration,
}

impl Pair {
    /// Starts both, and the driver on the source.
    ///
    /// # Errors
    /// If QEMU does not start, or cannot log in.
    pub fn start(setting: &Setting<'_>) -> Result<Self> {
        let files = TempDir::new()?;
        std::fs::write(files.path().join("halt.rom"), halting_rom())?;
        let mut source = Side::start(setting, files.path(), "source", &[])?;
        let destination = Side::start(setting, files.path(), "destination", &["-incoming", "defer"])?;
        let gate = Gate::following(source.qmp.events(), true);
        let guest = VirtioScsi::new(source.qtest()?, gate)?;
        Ok(Self { guest, source, destination, _files: files })
    }

    /// QEMU's, as it says itself.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.source.qmp.version()
    }

    /// The guest, wherever it is.
    pub const fn guest(&mut self) -> &mut VirtioScsi {
        &mut self.guest
    }

    /// Moves the guest. A pair moves once.
    ///
    /// # Errors
    /// If the migration fails; the text has what the destination said.
    pub fn migrate(&mut self) -> Result<Moved> {
        let (stopped, resumed) = (self.source.qmp.events(), self.destination.qmp.events());
        let gate = Gate::following(self.destination.qmp.events(), false);
        self.begin()?;
        let end = Instant::now() + PATIENCE;
        let stopped = await_event(&stopped, "STOP", end)?;
        let resumed = await_event(&resumed, "RESUME", end).with_context(|| self.destination.log())?;
        self.completed(end)?;
        self.guest = VirtioScsi::arrived(self.destination.qtest()?, gate, self.guest.rings());
        let downtime =
            microseconds(resumed)?.checked_sub(microseconds(stopped)?).context("time ran backwards")?;
        let (commands, busy) = self.destination.own_commands()?;
        Ok(Moved { downtime: Duration::from_micros(downtime), commands, busy })
    }

    fn begin(&self) -> Result<()> {
        let uri = format!("unix:{}", self.source.directory.join("migration").display());
        for side in [&self.source, &self.destination] {
            side.qmp.set_capabilities(&[(Capability::EVENTS, true), (Capability::RETURN_PATH, true)])?;
        }
        let parameters = json!({ "max-bandwidth": BANDWIDTH });
        self.source.qmp.set_parameters(parameters.as_object().cloned().unwrap_or_default())?;
        self.destination.qmp.migrate_incoming(&uri)?;
        Ok(self.source.qmp.migrate(&uri)?)
    }

    /// The source knows that it is over only after the destination has said so.
    fn completed(&self, end: Instant) -> Result<()> {
        loop {
            let info = self.source.qmp.migration()?;
            if info.status() == MigrationStatus::COMPLETED {
                return Ok(());
            }
            ensure!(!info.status().is_over() && Instant::now() < end, "{info:?}: {}", self.destination.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Side {
    fn start(setting: &Setting<'_>, files: &Path, name: &str, more: &[&str]) -> Result<Self> {
        let directory = files.join(name);
        std::fs::create_dir(&directory)?;
        let mut process = Background::start(command(setting, &directory, name)?.args(more))?;
        // Whoever can connect is served: the socket is there before the disks are.
        let connected = connect(&directory.join("qmp"), &mut process).map(drop);
        let log = || log(&directory);
        connected.with_context(log)?;
        let qmp = Qemu::connect(&directory.join("qmp"), PATIENCE).with_context(log)?;
        Ok(Self { qmp, process, directory })
    }

    fn qtest(&mut self) -> Result<Qtest> {
        Qtest::new(connect(&self.directory.join("qtest"), &mut self.process)?)
    }

    /// Reservation commands that QEMU sent by itself, not for the guest, and how long they took.
    fn own_commands(&self) -> Result<(u32, Duration)> {
        let trace = std::fs::read_to_string(self.directory.join("trace.log"))?;
        let own = trace.lines().filter(|line| line.contains("cmd=0x5e") || line.contains("cmd=0x5f"));
        let sent =
            own.map(|line| time_of_day(line).with_context(|| line.to_owned())).collect::<Result<Vec<_>>>()?;
        Ok(together(&sent))
    }

    fn log(&self) -> String {
        log(&self.directory)
    }
}

/// How many, and how long, if each begins where the one before ends.
fn together(sent: &[Duration]) -> (u32, Duration) {
    let (Some(first), Some(last)) = (sent.first(), sent.last()) else { return (0, Duration::ZERO) };
    // A day may have ended between them.
    let between = last.checked_sub(*first).unwrap_or_else(|| *last + DAY - *first);
    let number = u32::try_from(sent.len()).unwrap_or(u32::MAX);
    (number, between + between / number.saturating_sub(1).max(1))
}

/// Of a line that begins "2026-11-21T20:06:43.878619Z".
fn time_of_day(line: &str) -> Option<Duration> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.splitn(3, ':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds = Duration::try_from_secs_f64(parts.next()?.parse().ok()?).ok()?;
    Some(Duration::from_secs(hours * 3600 + minutes * 60) + seconds)
}

/// The end of what a QEMU said.
fn log(directory: &Path) -> String {
    let text = std::fs::read_to_string(directory.join("qemu.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
}

fn command(setting: &Setting<'_>, directory: &Path, name: &str) -> Result<Command> {
    let at = |name: &str| directory.join(name).display().to_string();
    let socket = |name: &str| format!("unix:{},server=on,wait=off", at(name));
    let mut command = setting.program.command();
    command.args("-M pc -accel qtest -m 64 -nodefaults -no-user-config -display none".split(' '));
    command.args(["-bios", &at("../halt.rom"), "-qmp", &socket("qmp"), "-qtest", &socket("qtest")]);
    command.args(["-qtest-log", "/dev/null", "-msg", "timestamp=on", "-D", &at("trace.log")]);
    command.args([
        "-trace",
        "scsi_generic_ioctl_sgio_*",
        "-device",
        "virtio-scsi-pci,id=scsi,disable-modern=on",
    ]);
    for disk in 0..setting.disks {
        let lun = setting.served.first_lun + u16::from(disk);
        command.args(["-blockdev", &blockdev(setting.served, disk, lun, name)]);
        let migrate_pr = if setting.migrate_pr { "on" } else { "off" };
        let device = format!("scsi-block,bus=scsi.0,scsi-id={disk},lun=0,drive=disk{disk},share-rw=on");
        command.args(["-device", &format!("{device},migrate-pr={migrate_pr}")]);
    }
    let log = File::create(directory.join("qemu.log"))?;
    command.stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

fn blockdev(served: &Served, disk: u8, lun: u16, name: &str) -> String {
    let Served { portal, iqn, .. } = served;
    let initiator = format!("iqn.2026-11.example.tenure:{name}");
    format!(
        "driver=iscsi,node-name=disk{disk},transport=tcp,portal={portal},target={iqn},lun={lun},\
         initiator-name={initiator},cache.direct=on"
    )
}

fn await_event(events: &Events, name: &str, end: Instant) -> Result<Timestamp> {
    loop {
        match events.next(end) {
            Heard::Event(event) if event.event == name => return Ok(event.timestamp),
            Heard::Event(_) | Heard::Missed(_) => {}
            Heard::Silence => bail!("no {name} in time"),
            Heard::Closed => bail!("QEMU ended before {name}"),
        }
    }
}

fn microseconds(at: Timestamp) -> Result<u64> {
    let all = at.seconds.checked_mul(1_000_000).and_then(|seconds| seconds.checked_add(at.microseconds));
    all.and_then(|all| all.try_into().ok()).context("QEMU does not know the time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_trace_line_is_read_to_the_microsecond() {
        let line = "2026-11-21T20:06:43.878619Z scsi_generic_ioctl_sgio_command generic ioctl sgio: cmd=0x5e";
        let read = time_of_day(line).unwrap().as_secs_f64();
        assert!((read - 72_403.878_619).abs() < 1e-6, "{read}");
        assert_eq!(time_of_day("no time at all"), None);
    }

    #[test]
    fn commands_take_the_mean_between_two_each_also_over_midnight() {
        let at = |milliseconds: u64| Duration::from_millis(milliseconds);
        assert_eq!(together(&[at(10), at(12), at(16)]), (3, at(9)));
        assert_eq!(together(&[DAY - at(2), at(2)]), (2, at(8)));
        assert_eq!(together(&[]), (0, Duration::ZERO));
    }
}
