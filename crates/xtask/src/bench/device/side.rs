//! The back ends that are compared, each a process with one disk in one file: started, driven by the same synthetic front end, ended.

use crate::shell;
use anyhow::{Context, Result};
use lab::front_end::block::{self, Block};
use lab::front_end::load::{Job, Kind, Rate, Until, run};
use lab::front_end::scsi::{REQUESTS, Scsi, VirtioScsi, setting};
use lab::front_end::{FrontEnd, Shape};
use lab::process::Background;
use lab::tenure::Tenure;
use nexus::Nexus;
use scsi::pr::{Key, ReservationType, request};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const KEY: Key = Key(0x7e57);
/// What a guest that is registered and holds it may do as before, and what every command is checked against.
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Debian's `qemu-storage-daemon`, virtio-blk.
    StorageDaemon,
    /// rust-vmm's `vhost-device-scsi`.
    RustVmm,
    /// Ours, its disk without a reservation.
    Tenure,
    /// Ours, the guest registered and holding a reservation.
    Reserved,
    /// Ours without `io_uring`.
    Threads,
    /// Ours by the page cache, as [`Side::RustVmm`] is.
    Buffered,
}

impl Side {
    pub(super) const ALL: [Self; 6] =
        [Self::StorageDaemon, Self::RustVmm, Self::Tenure, Self::Reserved, Self::Threads, Self::Buffered];

    /// For the tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::StorageDaemon => "qemu-storage-daemon",
            Self::RustVmm => "vhost-device-scsi",
            Self::Tenure => "tenure device",
            Self::Reserved => "tenure device, reserved",
            Self::Threads => "tenure device, --aio threads",
            Self::Buffered => "tenure device, direct=off",
        }
    }
}

/// Where the programs are.
pub(super) struct Programs {
    pub(super) tenure: PathBuf,
    rust_vmm: PathBuf,
}

impl Programs {
    /// Builds ours and, once, rust-vmm's.
    pub(super) fn build(built: Option<&Path>) -> Result<Self> {
        let tenure = crate::programs::build(built)?.join("tenure");
        let root = crate::programs::target().join("bench/vhost-device-scsi");
        let rust_vmm = root.join("bin/vhost-device-scsi");
        if !rust_vmm.exists() {
            let mut cargo = shell::cargo_command();
            cargo.args(["install", "-q", "--locked", "vhost-device-scsi", "--root"]).arg(&root);
            shell::run(&mut cargo)?;
        }
        Ok(Self { tenure, rust_vmm })
    }

    /// Starts one on the file, and connects to it.
    pub(super) fn start(&self, side: Side, file: &Path) -> Result<Server> {
        let directory = TempDir::new()?;
        let socket = directory.path().join("bench.sock");
        let (process, driver) = match side {
            Side::StorageDaemon => {
                let process = Background::start(&mut storage_daemon(file, &socket))?;
                let (front, _) = block::connect(&socket, &block::setting(1, SHAPE))?;
                (process, Driver::Block(front))
            }
            Side::RustVmm => {
                let mut command = Command::new(&self.rust_vmm);
                let process = Background::start(command.arg("--socket-path").arg(&socket).arg(file))?;
                (process, Driver::connect(&socket)?)
            }
            Side::Tenure | Side::Reserved | Side::Threads | Side::Buffered => {
                let direct = if side == Side::Buffered { "off" } else { "on" };
                let lun = format!("file={},direct={direct}", file.display());
                let aio = if side == Side::Threads { "threads" } else { "io_uring" };
                let more = ["--num-queues", "1", "--aio", aio];
                let served = Tenure::at(&self.tenure).device(directory.path(), &["bench"], &[&lun], &more)?;
                (served.process, Driver::connect(&socket)?)
            }
        };
        let mut server = Server { process, driver, _directory: directory };
        if side == Side::Reserved
            && let Driver::Scsi(driver, _) = &mut server.driver
        {
            reserve(driver)?;
        }
        Ok(server)
    }
}

/// 128 requests of 128 KiB, each in one piece, as a guest with large pages has it; no side takes a longer ring.
const SHAPE: Shape =
    Shape { size: 128, requests: 128, room: 128 << 10, segment: 128 << 10, indirect: true, event_idx: true };

fn storage_daemon(file: &Path, socket: &Path) -> Command {
    let disk = format!("driver=file,node-name=disk,aio=io_uring,cache.direct=on,filename={}", file.display());
    let export = format!(
        "type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=io,addr.type=unix,addr.path={}",
        socket.display()
    );
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--object", "iothread,id=io", "--blockdev", &disk, "--export", &export]);
    command
}

/// One that runs, and its front end.
pub(super) struct Server {
    process: Background,
    driver: Driver,
    _directory: TempDir,
}

enum Driver {
    Scsi(VirtioScsi, Scsi),
    Block(FrontEnd),
}

impl Driver {
    fn connect(socket: &Path) -> Result<Self> {
        let mut driver = VirtioScsi::connect(socket, &setting(1, SHAPE))?;
        let dialect = driver.dialect(0)?;
        Ok(Self::Scsi(driver, dialect))
    }
}

/// What one run told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Requests in a second.
    pub(super) rate: f64,
    /// Processor time of the back end for each, in seconds.
    pub(super) processor: f64,
    /// The median latency, in seconds.
    pub(super) latency: f64,
    /// How often the back end was kicked, for each.
    pub(super) kicks: f64,
    /// How often the front end slept, for each.
    pub(super) waits: f64,
}

/// What is done, always to the whole file.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) length: u32,
    pub(super) is_random: bool,
}

impl Server {
    /// Runs a load for some time.
    pub(super) fn run(&mut self, load: Load, depth: usize, span: u64, time: Duration) -> Result<Measured> {
        let Load { kind, length, is_random, .. } = load;
        let random = is_random.then_some(7);
        let job = Job { kind, length, depth, span, random, until: Until::After(time) };
        let before = self.processor_time()?;
        let rate: Rate = match &mut self.driver {
            Driver::Scsi(driver, dialect) => run(driver.front.ring(REQUESTS)?, dialect, &job)?,
            Driver::Block(front) => run(front.ring(0)?, &Block, &job)?,
        };
        let used = self.processor_time()?.saturating_sub(before);
        let requests = rate.requests.max(1) as f64;
        Ok(Measured {
            rate: rate.per_second(),
            processor: used.as_secs_f64() / requests,
            latency: rate.latency(0.5).as_secs_f64(),
            kicks: rate.kicks as f64 / requests,
            waits: rate.waits as f64 / requests,
        })
    }

    /// Of all its threads, also those of the kernel that do its I/O, and those that have ended; in clock ticks.
    fn processor_time(&self) -> Result<Duration> {
        let file = format!("/proc/{}/stat", self.process.id());
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        // The second field is the program's name in parentheses; user and system time are the 14th and 15th.
        let fields = text.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11).take(2));
        let ticks = fields.map(|fields| fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>());
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_secs_f64(ticks.context(file)? as f64 / per_second as f64))
    }
}

/// Registers the guest and gives it a reservation.
pub(super) fn reserve(driver: &mut VirtioScsi) -> Result<()> {
    for command in [request::register(Key::NONE, KEY, false), request::reserve(KEY, KIND)] {
        let ended = driver.disk(0).execute(&command)?;
        anyhow::ensure!(ended.status.is_good(), "{command:?}: {ended:?}");
    }
    Ok(())
}
