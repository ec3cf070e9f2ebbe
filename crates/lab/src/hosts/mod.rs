//! Two hosts and what they share: three VMs on a network of their own. One serves a logical unit over iSCSI; two, each with
//! a kernel and an initiator name of its own, have it as a disk. This machine reaches the target as well, as further
//! initiators.
//!
//! The target is the kernel's own (LIO) or `tenure target`.

mod agents;
pub mod attach;
mod blow;
mod course;
mod guest;
mod inquest;
pub mod leash;
mod plain;
mod scenario;
mod strike;

pub use agents::Daemons;
pub use blow::{Blow, Event};
pub use course::{Course, Ran, Way};
pub use guest::{DIRECTORY, Seat};
pub use inquest::TargetHangs;
pub use scenario::{Fate, Scenario};

use crate::process::{DEADLINE, wait_for};
use crate::qemu::qtest::hex;
use crate::vm::{Card, Hardware, Media, Socket, Vm};
use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use iscsi::initiator::{Session, SessionConfig};
use nexus::retry_unit_attention;
use scsi::{DataPhase, IscsiName, Isid, Request, Status, opcode};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// The target's name.
pub const TARGET: &str = "iqn.2026-11.example.tenure:lab";
/// The port that it is served on.
const PORT: u16 = 3260;
/// How long one step of setting up may take; it takes a second or two on idle cores.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where QEMU waits for a guest.
const INCOMING: &str = "tcp:0.0.0.0:4444";
/// The part of the lab that runs in a VM.
const PROGRAM: &str = "/lab/programs/tenure-lab";
const STORAGE_PROGRAMS: &[&str] = &["tenure-lab", "tenure"];
const HOST_PROGRAMS: &[&str] = &["tenure-lab", "tenure", "tenure-pr-helper", "agent-on-a-leash"];
/// Unit attentions that may stand before an answer.
const ATTENTIONS: usize = 8;
/// Who may log in from outside the hosts.
const OUTSIDE: [&str; 3] = ["watcher", "member", "bystander"];

/// Whose target serves the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The kernel's own.
    Lio,
    /// `tenure target`.
    Tenure,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Where the guest is first.
    A,
    /// The other.
    B,
}

impl Name {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// As certificates and initiator names have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "host-a",
            Self::B => "host-b",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    const fn address(self) -> u8 {
        match self {
            Self::A => 11,
            Self::B => 12,
        }
    }
}

/// A host with the shared disk.
#[derive(Debug)]
pub struct Host {
    /// Which.
    pub name: Name,
    /// Its VM.
    pub vm: Vm,
    /// IPv4 address in the lab's network.
    pub address: String,
    /// The shared logical unit, `/dev/sdX`.
    pub disk: PathBuf,
    /// Helper and agent, where they were started.
    pub daemons: Option<Daemons>,
    /// QEMU and what drives it.
    seated: Vec<u32>,
    /// Of its agent, if that is on one.
    leash: Option<leash::Leash>,
    /// Agents that were started here.
    started: u32,
}

/// Everything, until this value is dropped.
#[derive(Debug)]
pub struct Hosts {
    /// Where the guest is first, and the other.
    pub hosts: [Host; 2],
    /// The VM with the target.
    pub storage: Vm,
    target: Target,
    portal: String,
    /// Where this machine's copies of the programs are.
    programs: PathBuf,
    /// Where the VMs' cards are plugged into the hub.
    _places: TempDir,
}

/// The initiator name of somebody of the lab.
#[must_use]
pub fn initiator(name: &str) -> String {
    format!("iqn.2026-11.example.tenure:{name}")
}

impl Host {
    /// Device identification (VPD 83h) as the kernel read it, in digits.
    fn unit_name(&mut self) -> Result<String> {
        let name = self.disk.file_name().context("no disk")?.to_string_lossy().into_owned();
        let page = format!("/sys/block/{name}/device/vpd_pg83");
        let told = self.vm.run(&["od", "-An", "-v", "-tx1", &page], PATIENCE)?.good()?;
        Ok(told.split_whitespace().collect())
    }
}

impl Hosts {
    /// Boots the three, serves the logical unit and attaches both hosts to it.
    ///
    /// # Errors
    /// If any of it fails; the text says what is missing.
    pub fn start(cache: &Path, programs: &Path, target: Target) -> Result<Self> {
        let media = Media::fetch(cache)?;
        let places = TempDir::new()?;
        let (mut storage, vms) = boot(&media, programs, places.path())?;
        match target {
            Target::Lio => serve_lio(&mut storage),
            Target::Tenure => serve_tenure(&mut storage),
        }?;
        let portal = format!("127.0.0.1:{}", storage.forwarded(PORT)?);
        let programs = programs.to_path_buf();
        Ok(Self { hosts: attach_both(vms)?, storage, target, portal, programs, _places: places })
    }

    /// One of the hosts.
    pub const fn host(&mut self, name: Name) -> &mut Host {
        let [a, b] = &mut self.hosts;
        match name {
            Name::A => a,
            Name::B => b,
        }
    }

    /// Reads the logical unit's name at every initiator; they must all have the same.
    ///
    /// # Errors
    /// If one cannot, or sees another unit.
    pub fn look_around(&mut self) -> Result<String> {
        let names = thread::scope(|scope| {
            let reading = self.hosts.each_mut().map(|host| scope.spawn(|| host.unit_name()));
            both(reading.map(thread::ScopedJoinHandle::join))
        })?;
        let page = Request { cdb: vec![opcode::INQUIRY, 1, 0x83, 0x04, 0, 0], data: DataPhase::In(1024) };
        let mut nexus = self.log_in("watcher", 1)?.nexus(0);
        let ended = retry_unit_attention(&mut nexus, &page, ATTENTIONS)?.completion;
        ensure!(ended.status == Status::GOOD, "INQUIRY: {}", ended.status);
        let ours = hex(&ended.data);
        ensure!(names.iter().all(|name| *name == ours), "not one logical unit: {names:?}, {ours}");
        let disks =
            self.hosts.each_ref().map(|host| format!("{} ({})", host.name.as_str(), host.disk.display()));
        Ok(format!("{} and a third initiator see one logical unit", disks.join(", ")))
    }

    /// A session of this machine's own, as one of the initiators that are neither host; each `port` of its name is a
    /// nexus of its own.
    ///
    /// # Errors
    /// If the target refuses it.
    pub fn log_in(&self, name: &str, port: u8) -> Result<Session> {
        let isid = Isid([0x80, 0, 0, 0, 0, port]);
        let config =
            SessionConfig::new(&self.portal, TARGET.parse()?, initiator(name).parse::<IscsiName>()?, isid);
        Session::login(&config).with_context(|| format!("{name}: {}", self.portal))
    }
}

fn boot(media: &Media, programs: &Path, places: &Path) -> Result<(Vm, [Vm; 2])> {
    let place = |name: Name| places.join(name.as_str());
    let hub = Socket::Hub { places: Name::ALL.map(place).to_vec(), forward: PORT };
    let hardware = Hardware {
        memory: 384,
        processors: 2,
        programs: STORAGE_PROGRAMS,
        card: Some(Card { host: 1, socket: hub }),
        disks: None,
    };
    let mut storage = Vm::power_on(media, programs, &hardware)?;
    let mut vms = Vec::new();
    for name in Name::ALL {
        let card = Card { host: name.address(), socket: Socket::Place(place(name)) };
        let hardware =
            Hardware { memory: 640, processors: 2, programs: HOST_PROGRAMS, card: Some(card), disks: None };
        vms.push(Vm::power_on(media, programs, &hardware)?);
    }
    storage.wait_ready()?;
    vms.iter_mut().try_for_each(Vm::wait_ready)?;
    let vms: [Vm; 2] = vms.try_into().map_err(|_| anyhow!("not two hosts"))?;
    Ok((storage, vms))
}

/// Both results, or the first error.
fn both<T>(joined: [thread::Result<Result<T>>; 2]) -> Result<[T; 2]> {
    let [a, b] = joined.map(|one| one.map_err(|_| anyhow!("a thread of the lab died"))?);
    Ok([a?, b?])
}

/// This VM is never reset, so what LIO keeps stays in its memory: no share with this machine is between a PR OUT and its answer.
fn serve_lio(storage: &mut Vm) -> Result<()> {
    let mut argv = vec![PROGRAM, "serve", "--backing", "/run/lun0.img", "--keep", "/run/target"];
    argv.extend(["--target", TARGET]);
    let names: Vec<String> =
        Name::ALL.map(Name::as_str).iter().chain(&OUTSIDE).map(|name| initiator(name)).collect();
    argv.extend(names.iter().flat_map(|name| ["--initiator", name.as_str()]));
    storage.run(&argv, PATIENCE)?.good().context("setting up LIO").map(drop)
}

fn serve_tenure(storage: &mut Vm) -> Result<()> {
    let listen = format!("0.0.0.0:{PORT}");
    let lun = "file=/run/lun0.img,size=64M";
    let argv =
        ["/lab/programs/tenure", "-q", "target", "--listen", &listen, "--target", TARGET, "--lun", lun];
    // The program's log is read from here, so that waiting costs the VM nothing.
    let id = storage.start(&argv, Path::new("/lab/keep/target.log"))?;
    let log = storage.keep().join("target.log");
    let ready = || {
        std::fs::read_to_string(&log).ok()?.lines().next().and_then(|line| serde_json::from_str(line).ok())
    };
    let line: Option<Value> = wait_for(DEADLINE, ready);
    let told = std::fs::read_to_string(&log).unwrap_or_default();
    line.with_context(|| format!("tenure target, number {id}, is not ready: {told}")).map(drop)
}

fn attach_both([a, b]: [Vm; 2]) -> Result<[Host; 2]> {
    thread::scope(|scope| {
        let attaching =
            [(Name::A, a), (Name::B, b)].map(|(name, vm)| scope.spawn(move || attach_one(name, vm)));
        both(attaching.map(thread::ScopedJoinHandle::join))
    })
}

fn attach_one(name: Name, mut vm: Vm) -> Result<Host> {
    let address = |host| Card { host, socket: Socket::Place(PathBuf::new()) }.address();
    let (portal, own) = (format!("{}:{PORT}", address(1)), initiator(name.as_str()));
    let argv = [PROGRAM, "attach", "--portal", &portal, "--target", TARGET, "--initiator", &own];
    let told = vm.run(&argv, PATIENCE)?.good().with_context(|| name.as_str())?;
    Ok(Host {
        name,
        vm,
        address: address(name.address()),
        disk: told.trim().into(),
        daemons: None,
        seated: Vec::new(),
        leash: None,
        started: 0,
    })
}
