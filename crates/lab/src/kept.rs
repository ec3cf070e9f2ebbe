//! A guest of `tenure device` on a real logical unit, and another node of its cluster on the same: what the guest registers is
//! recorded, outlives the death of the device, and is gone, and said to be, when the other node fences it.
//!
//! The guest is the synthetic front end. Used by tests with `tenure target`, by `cargo xtask interop` with tgt, and in the lab's VM with a
//! disk of the kernel's own target.

pub mod moves;

use crate::front_end::Shape;
use crate::front_end::scsi::{VirtioScsi, setting};
use crate::process::{DEADLINE, wait_for};
use crate::served::Device;
use crate::tenure::Tenure;
use agent::drive::{Device as Way, Opened};
use anyhow::{Context, Result, anyhow, bail, ensure};
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReadReservation, ReservationType, request};
use scsi::{AdditionalSense, Completion, DataPhase, Request, SenseKey, Status, opcode};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const GUEST: &str = "db1";
const OWN: Key = Key(0xA1);
const OTHER: Key = Key(0xB2);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const SHAPE: Shape =
    Shape { size: 64, requests: 16, room: 1 << 16, segment: 4096, indirect: true, event_idx: true };
const BLOCK: usize = 512;
/// Unit attentions before a command passes.
const ATTENTIONS: usize = 8;

/// The guest, its device, and the other node.
#[derive(Debug)]
pub struct Story {
    tenure: Tenure,
    directory: TempDir,
    lun: String,
    more: Vec<String>,
    device: Device,
    driver: VirtioScsi,
    other: Opened,
}

/// The whole story of a guest that has `lun` (a LUN of `tenure device`), and of another node that reaches the same logical unit by
/// `other` (a DEVICE); what was seen, in a line.
///
/// # Errors
/// Something was not as it must be.
pub fn run(tenure: &Tenure, lun: &str, other: &str) -> Result<String> {
    let mut story = Story::begin(tenure, lun, other, &[])?;
    story.writes_and_reads()?;
    story.holds()?;
    story.survives()?;
    story.is_fenced()?;
    story.stays_fenced()?;
    story.comes_back()?;
    Ok(format!("{lun}: held, killed, reconciled, fenced and back"))
}

/// The same, where a registration ends with its session.
///
/// # Errors
/// Something was not as it must be.
pub fn run_in_one_session(tenure: &Tenure, lun: &str, other: &str) -> Result<String> {
    let mut story = Story::begin(tenure, lun, other, &[])?;
    story.writes_and_reads()?;
    story.holds()?;
    story.is_fenced()?;
    story.comes_back()?;
    Ok(format!("{lun}: held, fenced and back"))
}

/// A disk of this kernel's that is taken away and found again under the same name.
///
/// # Errors
/// Something was not as it must be.
pub fn come_and_go(tenure: &Tenure, disk: &Path, other: &str) -> Result<String> {
    let lun = disk.to_str().context("path")?;
    let mut story = Story::begin(tenure, lun, other, &[])?;
    story.writes_and_reads()?;
    story.holds()?;
    let host = take_away(disk)?;
    let gone = wait_for(DEADLINE, || story.sense(&ready()).filter(|sense| sense.0 == SenseKey::NOT_READY));
    gone.context("the guest never heard that its disk is gone")?;
    fs::write(host.join("scan"), "- - -")?;
    wait_for(DEADLINE, || disk.exists().then_some(())).with_context(|| format!("{lun} did not come back"))?;
    let told = wait_for(DEADLINE, || story.sense(&ready()).filter(|sense| sense.0 != SenseKey::NOT_READY));
    let told = told.context("the guest's disk did not come back")?;
    ensure!(
        told == (SenseKey::UNIT_ATTENTION, AdditionalSense::POWER_ON_OR_RESET),
        "the guest was told {told:?}"
    );
    story.good(&request::reserve(OWN, KIND))?;
    story.expect_record("active", "holder", Some(OWN))?;
    story.good(&request::clear(OWN))?;
    Ok(format!("{lun}: gone, back, and still the holder"))
}

/// Has the kernel forget the disk; the directory of the SCSI host that can look for it again.
fn take_away(disk: &Path) -> Result<PathBuf> {
    let name = disk.file_name().context("no name")?;
    let device = fs::canonicalize(Path::new("/sys/class/block").join(name).join("device"))?;
    let is_host = |name: &str| name.strip_prefix("host").is_some_and(|number| number.parse::<u32>().is_ok());
    let hosts = device.ancestors().filter_map(|part| part.file_name()?.to_str());
    let host = hosts.filter(|name| is_host(name)).last().context("no SCSI host")?.to_owned();
    fs::write(device.join("delete"), "1")?;
    Ok(Path::new("/sys/class/scsi_host").join(host))
}

impl Story {
    /// Starts a device with the LUN, and its guest.
    ///
    /// # Errors
    /// If either does not start, or the other node has no way.
    pub fn begin(tenure: &Tenure, lun: &str, other: &str, more: &[&str]) -> Result<Self> {
        let directory = TempDir::new()?;
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        let device = serve(tenure, directory.path(), lun, &more)?;
        let driver = VirtioScsi::connect(socket(&device)?, &setting(2, SHAPE))?;
        let way: Way = other.parse().map_err(|what: String| anyhow!(what))?;
        let other = way.open(DEADLINE)?;
        Ok(Self { tenure: tenure.clone(), directory, lun: lun.to_owned(), more, device, driver, other })
    }

    /// Data comes back, by whichever way it goes.
    ///
    /// # Errors
    /// If not.
    pub fn writes_and_reads(&mut self) -> Result<()> {
        self.good(&write(7))?;
        ensure!(self.good(&read())?.data == [7; BLOCK], "a block is not what was written");
        self.good(&flush())?;
        ensure!(self.good_elsewhere(&read())?.data == [7; BLOCK], "the other node finds another block");
        Ok(())
    }

    /// The guest registers and reserves, the record says so, and nobody else writes.
    ///
    /// # Errors
    /// If not.
    pub fn holds(&mut self) -> Result<()> {
        self.good(&request::register(Key::NONE, OWN, false))?;
        self.good(&request::reserve(OWN, KIND))?;
        self.expect_record("active", "holder", Some(OWN))?;
        let refused = self.other(&write(9))?;
        ensure!(refused.status == Status::RESERVATION_CONFLICT, "the other node wrote: {}", told(&refused));
        self.good_elsewhere(&request::register(Key::NONE, OTHER, false))?;
        self.good_elsewhere(&write(9))?;
        Ok(())
    }

    /// The device is killed and started again: the guest finds all as it was, and so does the record.
    ///
    /// # Errors
    /// If not.
    pub fn survives(&mut self) -> Result<()> {
        self.restart()?;
        self.expect_record("active", "holder", Some(OWN))?;
        ensure!(self.good(&read())?.data == [9; BLOCK], "a block is not what was written");
        let held = self.good(&request::read(InAction::READ_RESERVATION, 64))?;
        let held = ReadReservation::parse(&held.data).and_then(|read| read.reservation);
        ensure!(held.is_some_and(|held| held.key == OWN && held.kind == KIND), "the reservation is {held:?}");
        self.good(&request::reserve(OWN, KIND))?;
        self.good(&write(7))?;
        Ok(())
    }

    /// The other node fences the guest: it cannot write, and the record says so.
    ///
    /// # Errors
    /// If not.
    pub fn is_fenced(&mut self) -> Result<()> {
        self.good_elsewhere(&request::preempt(OTHER, OWN, KIND))?;
        let refused = self.attended(&write(8))?;
        ensure!(refused.status == Status::RESERVATION_CONFLICT, "a fenced guest wrote: {}", told(&refused));
        self.expect_record("fenced", "unregistered", None)
    }

    /// It is fenced for the next device as well.
    ///
    /// # Errors
    /// If not.
    pub fn stays_fenced(&mut self) -> Result<()> {
        self.restart()?;
        let refused = self.attended(&request::reserve(OWN, KIND))?;
        ensure!(
            refused.status == Status::RESERVATION_CONFLICT,
            "a fenced guest reserved: {}",
            told(&refused)
        );
        self.expect_record("fenced", "unregistered", None)
    }

    /// It registers again by its own command, as a node that rejoins its cluster.
    ///
    /// # Errors
    /// If it cannot.
    pub fn comes_back(&mut self) -> Result<()> {
        self.good(&request::register(Key::NONE, OWN, false))?;
        self.expect_record("active", "member", Some(OWN))?;
        self.good(&write(6))?;
        self.good(&request::clear(OWN))?;
        self.expect_record("active", "unregistered", None)?;
        ensure!(self.device.process.stop()?.success(), "the device did not end in good order");
        Ok(())
    }

    /// Kills the device while the guest's `request` is with the target, as the record shows; what came of it is found out by the next.
    ///
    /// # Errors
    /// If the record never says that a command is under way, or the device does not come back.
    pub fn dies_with(&mut self, request: &Request) -> Result<()> {
        let process = self.device.process.id();
        let state = self.state();
        let (killed, told) = std::thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let open = wait_for(DEADLINE, || under_way(&state).then_some(()));
                open.context("no command was ever under way").and_then(|()| kill(process))
            });
            let told = self.driver.disk(0).execute(request);
            (watch.join().unwrap_or_else(|_| bail!("the watch died")), told)
        });
        killed?;
        ensure!(told.is_err(), "the guest was told {told:?} by a device that is dead");
        self.restart()
    }

    /// Kills the device, starts it again, and connects the guest.
    fn restart(&mut self) -> Result<()> {
        self.device.process.kill();
        self.device = serve(&self.tenure, self.directory.path(), &self.lun, &self.more)?;
        self.driver = VirtioScsi::connect(socket(&self.device)?, &setting(2, SHAPE))?;
        Ok(())
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// What `tenure status` says of the guest's nexus, which may take a moment.
    ///
    /// # Errors
    /// If it goes on saying something else.
    pub fn expect_record(&self, state: &str, role: &str, key: Option<Key>) -> Result<()> {
        expect(&self.tenure, &self.state(), state, role, key)
    }

    /// The record says of the registered guest what the other node sees: whether the target carried a command out before its session was
    /// lost is the target's to say.
    ///
    /// # Errors
    /// If it says something else.
    pub fn expect_truth(&mut self) -> Result<()> {
        let read = self.good_elsewhere(&request::read(InAction::READ_RESERVATION, 64))?;
        let held = ReadReservation::parse(&read.data).context("no READ RESERVATION data")?.reservation;
        let role = if held.is_some() { "holder" } else { "registrant-only" };
        self.expect_record("active", role, Some(OWN))
    }

    /// The guest's command, past unit attentions.
    ///
    /// # Errors
    /// If it does not end.
    pub fn attended(&mut self, request: &Request) -> Result<Completion> {
        Ok(nexus::retry_unit_attention(&mut self.driver.disk(0), request, ATTENTIONS)?.completion)
    }

    /// The guest's command, which must end GOOD.
    ///
    /// # Errors
    /// If it does not.
    pub fn good(&mut self, request: &Request) -> Result<Completion> {
        let ended = self.attended(request)?;
        ensure!(ended.status.is_good(), "the guest's {:02x?} ended {}", request.cdb, told(&ended));
        Ok(ended)
    }

    /// The sense data of a command that did not end GOOD.
    fn sense(&mut self, request: &Request) -> Option<(SenseKey, AdditionalSense)> {
        let ended = self.driver.disk(0).execute(request).ok()?;
        ended.decoded_sense().map(|sense| (sense.key, sense.code))
    }

    fn other(&mut self, request: &Request) -> Result<Completion> {
        Ok(nexus::retry_unit_attention(&mut self.other, request, ATTENTIONS)?.completion)
    }

    fn good_elsewhere(&mut self, request: &Request) -> Result<Completion> {
        let ended = self.other(request)?;
        ensure!(ended.status.is_good(), "the other node's {:02x?} ended {}", request.cdb, told(&ended));
        Ok(ended)
    }
}

/// What `tenure status` says of the guest's nexus, by the records in the directory `at`, which may take a moment. Where it has had another
/// nexus as well, nothing is registered with that one.
fn expect(tenure: &Tenure, at: &Path, state: &str, role: &str, key: Option<Key>) -> Result<()> {
    let key = key.map(|key| key.to_string());
    let key = key.as_deref();
    let is = |row: &Value| row["state"] == state && row["role"] == role && row["key"].as_str() == key;
    let keys = |rows: &[Value]| rows.iter().filter(|row| row["key"].is_string()).count();
    let are = |rows: &Vec<Value>| rows.iter().any(is) && keys(rows) == usize::from(key.is_some());
    let seen = wait_for(DEADLINE, || records(tenure, at).ok().filter(are));
    seen.map(drop)
        .with_context(|| format!("the record is {:?}, not {state}, {role}, {key:?}", records(tenure, at)))
}

fn records(tenure: &Tenure, at: &Path) -> Result<Vec<Value>> {
    let at = at.to_str().context("path")?;
    let rows = tenure.run(&["status", "--state", at, "--vm", GUEST, "--json"])?.json()?;
    rows.get("records").and_then(Value::as_array).cloned().context("no record")
}

/// Status and sense data.
fn told(ended: &Completion) -> String {
    format!("{} {:02x?}", ended.status, ended.sense)
}

fn serve(tenure: &Tenure, directory: &Path, lun: &str, more: &[String]) -> Result<Device> {
    let state = directory.join("state");
    let state = state.to_str().context("path")?;
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    tenure.device(
        directory,
        &[GUEST],
        &[lun],
        &[&["--num-queues", "2", "--state", state], &more[..]].concat(),
    )
}

fn socket(device: &Device) -> Result<&Path> {
    device.sockets.first().map(PathBuf::as_path).context("a device without sockets")
}

/// Whether the guest's record has a command that was begun and not ended.
fn under_way(state: &Path) -> bool {
    let guest = ledger::Ledger::read_only(state).and_then(|all| all.guest(&ledger::Owner(GUEST.into())));
    let is_open = |record: &ledger::Record| record.paths.iter().any(|path| path.intent.is_some());
    guest.is_ok_and(|guest| guest.records().iter().any(is_open))
}

fn kill(process: u32) -> Result<()> {
    let pid = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).context("no process")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

fn ready() -> Request {
    Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None }
}

fn write(byte: u8) -> Request {
    let cdb = vec![opcode::WRITE_10, 0, 0, 0, 0, 8, 0, 0, 1, 0];
    Request { cdb, data: DataPhase::Out(vec![byte; BLOCK]) }
}

fn read() -> Request {
    Request { cdb: vec![opcode::READ_10, 0, 0, 0, 0, 8, 0, 0, 1, 0], data: DataPhase::In(BLOCK) }
}

fn flush() -> Request {
    Request { cdb: vec![opcode::SYNCHRONIZE_CACHE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], data: DataPhase::None }
}

/// A command of the guest's that releases its reservation.
#[must_use]
pub fn release() -> Request {
    request::release(OWN, KIND)
}

/// How long a target that is slow on purpose takes for each command.
pub const SLOW: Duration = Duration::from_millis(300);
