//! The programs that are compared: built, started with disks that are not there, ended.

use crate::shell;
use anyhow::{Context, Result};
use lab::process::{Background, DEADLINE, wait_for};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// What is compared.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// Debian's qemu-pr-helper.
    Incumbent,
    /// Ours with its state on a file system in memory.
    Memory,
    /// Ours with its state on the disk that this tree is on.
    Durable,
}

impl Side {
    pub(super) const ALL: [Self; 3] = [Self::Incumbent, Self::Memory, Self::Durable];

    /// For the tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Incumbent => "qemu-pr-helper",
            Self::Memory => "tenure-pr-helper, state in memory",
            Self::Durable => "tenure-pr-helper, durable",
        }
    }
}

/// Where the programs are.
pub(super) struct Programs {
    ours: PathBuf,
    theirs: PathBuf,
    disks: PathBuf,
}

impl Programs {
    /// Builds ours, calling the system through the C library, and the disks, beside the usual build.
    pub(super) fn build() -> Result<Self> {
        let target = shell::root().join("target/bench");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "-q", "-p", "tenure-pr-helper", "-p", "tenure-null-sg"]);
        cargo.args(["--features", "tenure-null-sg/preload", "--target-dir"]).arg(&target);
        shell::run(cargo.current_dir(shell::root()).env("RUSTFLAGS", "--cfg rustix_use_libc"))?;
        let built = |name: &str| target.join("release").join(name);
        let theirs = shell::which("qemu-pr-helper").context("qemu-pr-helper is not installed")?;
        Ok(Self { ours: built("tenure-pr-helper"), theirs, disks: built("libnull_sg.so") })
    }

    /// Starts one, and waits until clients can connect.
    pub(super) fn start(&self, side: Side) -> Result<Server> {
        let directory = match side {
            Side::Memory => TempDir::new_in("/dev/shm")?,
            Side::Incumbent | Side::Durable => TempDir::new_in(shell::root().join("target"))?,
        };
        let socket = directory.path().join("pr.sock");
        let mut command =
            Command::new(if matches!(side, Side::Incumbent) { &self.theirs } else { &self.ours });
        command.arg("-q").arg("-k").arg(&socket).env("LD_PRELOAD", &self.disks);
        if !matches!(side, Side::Incumbent) {
            command.arg("--state").arg(directory.path().join("state"));
        }
        let process = Background::start(&mut command)?;
        let connected = wait_for(DEADLINE, || UnixStream::connect(&socket).ok());
        connected.with_context(|| format!("{} does not listen", side.name()))?;
        Ok(Server { process, socket, _directory: directory })
    }
}

/// One that runs, with a state directory of its own.
pub(super) struct Server {
    process: Background,
    socket: PathBuf,
    _directory: TempDir,
}

impl Server {
    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Processor time that all its threads, also those that ended, have taken so far; in clock ticks.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        let file = format!("/proc/{}/stat", self.id());
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        // The second field is the program's name in parentheses; user and system time are the 14th and 15th.
        let fields = text.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11).take(2));
        let ticks = fields.map(|fields| fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>());
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_secs_f64(ticks.context(file)? as f64 / per_second as f64))
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}
