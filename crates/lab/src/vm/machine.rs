//! The VM itself: QEMU without KVM, three 9p shares, no disk, perhaps a network card; commands go to the agent in it.

use crate::process::{Background, wait_for};
use crate::qemu::{Backports, Qmp};
use crate::vm::agent::{Answer, Ask, Ended, READY};
use crate::vm::hardware::{Card, Hardware, forwarded, shared};
use crate::vm::initramfs;
use crate::vm::kernel::Kernel;
use crate::vm::root::{self, Own};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long booting may take; it takes ten seconds on two idle cores.
const BOOT: Duration = Duration::from_secs(240);

/// How long the agent may take for what takes it no time.
const MOMENT: Duration = Duration::from_secs(60);

/// Soon enough to be said before everybody outside has given up: what waits so long for a file or a lock hangs.
const HUNG: &str = "sysctl.kernel.hung_task_timeout_secs=30";

/// What a VM of the trials of a helper is made of.
pub const ALONE: Hardware = Hardware {
    memory: 1024,
    processors: 2,
    programs: &["tenure-lab", "tenure-pr-helper", "tenure"],
    card: None,
    disks: None,
};

/// What every VM boots from.
#[derive(Debug)]
pub struct Media {
    kernel: Kernel,
    initramfs: Vec<u8>,
    /// The rest of the root is this machine's own, over 9p.
    is_shared: bool,
    /// Instead of this machine's own QEMU.
    newer: Option<Backports>,
}

impl Media {
    /// Debian's kernel, and a first root with the modules that are needed. Downloads are kept in `cache`.
    ///
    /// # Errors
    /// If something is not installed or cannot be fetched.
    pub fn fetch(cache: &Path) -> Result<Self> {
        let kernel = Kernel::fetch(cache)?;
        Ok(Self { initramfs: initramfs::build(&kernel)?, kernel, is_shared: true, newer: None })
    }

    /// The same with a root that has all that is needed, the agent from the directory `programs`: what boots from it can move.
    ///
    /// # Errors
    /// If something is not installed or cannot be fetched.
    pub fn own(cache: &Path, programs: &Path, own: &Own) -> Result<Self> {
        let kernel = Kernel::fetch(cache)?;
        Ok(Self { initramfs: root::build(&kernel, own, programs)?, kernel, is_shared: false, newer: None })
    }

    /// The same in another QEMU than this machine's, which connects again to a vhost-user device that died.
    #[must_use]
    pub fn newer(self, newer: Backports) -> Self {
        Self { newer: Some(newer), ..self }
    }

    /// It ends with whoever started it, however that ended.
    fn emulator(&self) -> Command {
        self.newer.as_ref().map_or_else(
            || {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "nice", "qemu-system-x86_64"]);
                command
            },
            Backports::command,
        )
    }
}

/// A running VM that ends with this value.
#[derive(Debug)]
pub struct Vm {
    // Before the directory, so that the process ends first.
    pub(super) process: Background,
    pub(super) qmp: Qmp,
    agent: BufReader<UnixStream>,
    /// An answer is overdue: what the agent says next belongs to that question.
    pub(super) is_silent: bool,
    pub(super) files: TempDir,
}

impl Vm {
    /// Boots on this machine's own root. Copies of the programs, from the directory `programs`, are seen in `/lab/programs`, read-only.
    ///
    /// # Errors
    /// If the VM does not come up in time.
    pub fn boot(media: &Media, programs: &Path, hardware: &Hardware) -> Result<Self> {
        let mut vm = Self::power_on(media, programs, hardware)?;
        vm.wait_ready()?;
        Ok(vm)
    }

    /// The same without waiting: its devices, a hub with them, are there. [`Self::wait_ready`] must come next. The VM ends
    /// with the calling thread.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub(crate) fn power_on(media: &Media, programs: &Path, hardware: &Hardware) -> Result<Self> {
        let files = TempDir::new()?;
        std::fs::create_dir(files.path().join("keep"))?;
        if media.is_shared {
            copy(programs, &files.path().join("programs"), hardware.programs)?;
        }
        std::fs::write(files.path().join("initrd"), &media.initramfs)?;
        let command = command(media, files.path(), hardware)?;
        Self::started(command, files)
    }

    /// QEMU with this command line, in whose directory its sockets are.
    pub(super) fn started(mut command: Command, files: TempDir) -> Result<Self> {
        let mut process = Background::start(&mut command)?;
        let qmp = Qmp::connect(&files.path().join("qmp"), &mut process)?;
        let agent = UnixStream::connect(files.path().join("agent"))?;
        Ok(Self { process, qmp, agent: BufReader::new(agent), is_silent: false, files })
    }

    /// Runs a program in the VM to its end, at most for `deadline`.
    ///
    /// # Errors
    /// If the agent does not answer in time.
    pub fn run(&mut self, argv: &[&str], deadline: Duration) -> Result<Ended> {
        match self.ask(&Ask::Run { argv: owned(argv) }, deadline).with_context(|| argv.join(" "))? {
            Answer::Ended(ended) => Ok(ended),
            other => bail!("{}: {other:?}", argv.join(" ")),
        }
    }

    /// Starts a program in the VM and leaves it alone: what is to come is a [`Self::reset`].
    ///
    /// # Errors
    /// If the agent is gone.
    pub fn begin(&mut self, argv: &[&str]) -> Result<()> {
        self.send(&Ask::Run { argv: owned(argv) })
    }

    /// Starts a program in the VM, both its outputs into the file `log` there, and gives its number.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, argv: &[&str], log: &Path) -> Result<u32> {
        match self.ask(&Ask::Start { argv: owned(argv), log: log.to_owned() }, MOMENT)? {
            Answer::Started(id) => Ok(id),
            other => bail!("{}: {other:?}", argv.join(" ")),
        }
    }

    /// How a program that was started has ended: its exit status, a signal's number below zero, or nothing while it runs.
    ///
    /// # Errors
    /// If no such program was started.
    pub fn status(&mut self, id: u32) -> Result<Option<i32>> {
        self.ask_status(&Ask::Status { id })
    }

    /// Sends a program that was started a signal, unless it has ended, and gives what [`Self::status`] gave before.
    ///
    /// # Errors
    /// If no such program was started.
    pub fn signal(&mut self, id: u32, signal: Signal) -> Result<Option<i32>> {
        self.ask_status(&Ask::Signal { id, signal: signal.as_raw() })
    }

    /// Kills a program that was started, and waits until it is gone.
    ///
    /// # Errors
    /// If no such program was started, or it does not end.
    pub fn end(&mut self, id: u32) -> Result<()> {
        self.ask_status(&Ask::End { id }).map(drop)
    }

    /// Waits until a program that was started has made a file. It has not if it ended, or took too long.
    ///
    /// # Errors
    /// If no such program was started.
    pub fn appears(&mut self, path: &str, id: u32, within: Duration) -> Result<bool> {
        match self.ask(&Ask::Appear { path: path.into(), id, within }, within + MOMENT)? {
            Answer::There(there) => Ok(there),
            other => bail!("{path}: {other:?}"),
        }
    }

    /// Waits until a program that was started has ended, and says how; nothing if it runs even after `within`.
    ///
    /// # Errors
    /// If no such program was started.
    pub fn ended(&mut self, id: u32, within: Duration) -> Result<Option<i32>> {
        // No file has the empty path.
        self.appears("", id, within)?;
        self.status(id)
    }

    /// Makes a directory in the VM, empty, whatever was there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn empty(&mut self, directory: &str) -> Result<()> {
        match self.ask(&Ask::Empty { directory: directory.into() }, MOMENT)? {
            Answer::Done => Ok(()),
            other => bail!("{directory}: {other:?}"),
        }
    }

    /// The port of 127.0.0.1 under which this machine reaches a port of the card, where [the hub](super::Socket::Hub) is.
    ///
    /// # Errors
    /// If the port is not forwarded.
    pub fn forwarded(&mut self, port: u16) -> Result<u16> {
        let line = json!({ "command-line": "info usernet" });
        let told = self.qmp.execute_with("human-monitor-command", &line)?;
        let told = told.as_str().unwrap_or_default();
        forwarded(told, port).with_context(|| format!("port {port} is not forwarded: {told}"))
    }

    /// Pulls the network cable of the VM, or plugs it in again.
    ///
    /// # Errors
    /// If it has no card.
    pub fn plug(&mut self, is_in: bool) -> Result<()> {
        self.qmp.execute_with("set_link", &json!({ "name": "card", "up": is_in })).map(drop)
    }

    fn ask_status(&mut self, ask: &Ask) -> Result<Option<i32>> {
        match self.ask(ask, MOMENT)? {
            Answer::Status(status) => Ok(status),
            other => bail!("{ask:?}: {other:?}"),
        }
    }

    fn ask(&mut self, ask: &Ask, deadline: Duration) -> Result<Answer> {
        ensure!(!self.is_silent, "the VM has not answered before");
        self.send(ask)?;
        let line = self.line(deadline);
        self.is_silent = line.is_err();
        Ok(serde_json::from_str(&line?)?)
    }

    fn send(&mut self, ask: &Ask) -> Result<()> {
        let mut line = serde_json::to_string(ask)?;
        line.push('\n');
        Ok(self.agent.get_mut().write_all(line.as_bytes())?)
    }

    /// Pulls the plug and boots again. What was in memory is gone; `/lab/keep` is what a disk that loses nothing would be.
    ///
    /// # Errors
    /// If it does not come up in time.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset")?;
        self.wait_ready()
    }

    /// What `/lab/keep` is outside.
    #[must_use]
    pub fn keep(&self) -> PathBuf {
        self.files.path().join("keep")
    }

    /// Waits until programs can be run in it.
    ///
    /// # Errors
    /// If it does not come up in time, with the end of its console.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        loop {
            match self.line(BOOT) {
                // The beginning of an answer that a reset cut short may stand before it.
                Ok(line) if line.ends_with(READY) => {
                    self.is_silent = false;
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => return Err(error.context(self.last_words(12))),
            }
        }
    }

    fn line(&mut self, deadline: Duration) -> Result<String> {
        self.agent.get_ref().set_read_timeout(Some(deadline))?;
        let mut line = String::new();
        self.agent.read_line(&mut line).context("the VM does not answer")?;
        if line.is_empty() {
            bail!("the VM ended");
        }
        Ok(line)
    }

    /// The end of its console, at most so many lines.
    pub(crate) fn last_words(&self, most: usize) -> String {
        let console = std::fs::read(self.files.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(most)..).unwrap_or_default();
        format!("the VM's console ends with:\n{}", last.join("\n"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Nothing in it is worth a shutdown.
        self.process.kill();
    }
}

fn owned(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|&word| word.to_owned()).collect()
}

/// They must not change under the VM, which keeps parts of them in memory, when somebody compiles meanwhile.
fn copy(from: &Path, to: &Path, programs: &[&str]) -> Result<()> {
    std::fs::create_dir(to)?;
    for name in programs {
        let program = from.join(name);
        std::fs::copy(&program, to.join(name)).with_context(|| program.display().to_string())?;
    }
    Ok(())
}

/// QEMU's command line, but for a directory with its initial root, and with what it shares, in `files`.
pub(super) fn command(media: &Media, files: &Path, hardware: &Hardware) -> Result<Command> {
    let path = |name: &str| files.join(name).display().to_string();
    let share = |tag: &str, at: &Path, more: &str| {
        let local = format!("local,id={tag},path={},security_model=none,multidevs=remap{more}", at.display());
        [
            "-fsdev".to_owned(),
            local,
            "-device".to_owned(),
            format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        ]
    };
    // KVM is left alone: where the lab runs in a VM itself, nested guests may hang.
    let fixed = "-M pc -accel tcg,thread=multi -cpu max -nodefaults -no-user-config -display none \
                 -device virtio-serial-pci -device virtserialport,chardev=agent,nr=1 -device virtio-rng-pci";
    let mut command = media.emulator();
    command.args(fixed.split_whitespace());
    command.args(["-smp", &hardware.processors.to_string()]);
    command.args([
        "-kernel".into(),
        media.kernel.image.display().to_string(),
        "-initrd".into(),
        path("initrd"),
    ]);
    let addresses = hardware.card.as_ref().map(Card::append).unwrap_or_default();
    let append = format!("console=ttyS0 quiet panic=-1 mitigations=off {HUNG}{addresses}");
    command.args(["-append", &append, "-m", &hardware.memory.to_string()]);
    command.args(hardware.card.iter().flat_map(Card::arguments));
    let reconnects = media.newer.is_some();
    command.args(hardware.disks.iter().flat_map(|socket| shared(hardware.memory, socket, reconnects)));
    command.args(["-serial".into(), format!("file:{}", path("console"))]);
    command.args(["-qmp".into(), format!("unix:{},server=on,wait=off", path("qmp"))]);
    let agent = format!("socket,id=agent,path={},server=on,wait=off", path("agent"));
    command.args(["-chardev".into(), agent]);
    if media.is_shared {
        command.args(share("root", Path::new("/"), ",readonly=on"));
        command.args(share("programs", &files.join("programs"), ",readonly=on"));
        command.args(share("keep", &files.join("keep"), ""));
    }
    command.stdout(File::create(files.join("qemu.log"))?).stderr(File::create(files.join("qemu.err"))?);
    Ok(command)
}

/// Waits until a Unix socket takes a connection, or the process that should serve it is gone.
pub(crate) fn connect(path: &Path, process: &mut Background) -> Result<UnixStream> {
    let attempt = || match UnixStream::connect(path) {
        Ok(stream) => Some(Ok(stream)),
        Err(_) if process.is_running() => None,
        Err(error) => Some(Err(error)),
    };
    let stream = wait_for(Duration::from_secs(60), attempt);
    stream.context("nobody listens")?.with_context(|| format!("{}", path.display()))
}
