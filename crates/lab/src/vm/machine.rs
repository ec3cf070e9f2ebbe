//! The VM itself: QEMU without KVM, three 9p shares, no disk and no network; commands go to the agent in it.

use crate::process::{Background, wait_for};
use crate::qemu::Qmp;
use crate::vm::agent::{Ended, READY, Run};
use crate::vm::initramfs;
use crate::vm::kernel::Kernel;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long booting may take; it takes ten seconds on two idle cores.
const BOOT: Duration = Duration::from_secs(240);

/// What runs in it besides what this machine has installed: the agent, and the helper.
pub const PROGRAMS: [&str; 2] = ["tenure-lab", "tenure-pr-helper"];

/// A running VM that ends with this value.
#[derive(Debug)]
pub struct Vm {
    // Before the directory, so that the process ends first.
    process: Background,
    qmp: Qmp,
    agent: BufReader<UnixStream>,
    files: TempDir,
}

impl Vm {
    /// Boots Debian's kernel on this machine's own root. Copies of [`PROGRAMS`] from the directory
    /// `programs` are seen in `/lab/programs`, read-only. Downloads are kept in `cache`.
    ///
    /// # Errors
    /// If something is not installed or cannot be fetched, or the VM does not come up in time.
    pub fn boot(cache: &Path, programs: &Path) -> Result<Self> {
        let kernel = Kernel::fetch(cache)?;
        let files = TempDir::new()?;
        std::fs::create_dir(files.path().join("keep"))?;
        copy(programs, &files.path().join("programs"))?;
        std::fs::write(files.path().join("initrd"), initramfs::build(&kernel)?)?;
        let mut process = Background::start(&mut command(&kernel, files.path())?)?;
        let qmp = Qmp::connect(&files.path().join("qmp"), &mut process)?;
        let agent = UnixStream::connect(files.path().join("agent"))?;
        let mut vm = Self { process, qmp, agent: BufReader::new(agent), files };
        vm.wait_ready()?;
        Ok(vm)
    }

    /// Runs a program in the VM to its end, at most for `deadline`.
    ///
    /// # Errors
    /// If the agent does not answer in time.
    pub fn run(&mut self, argv: &[&str], deadline: Duration) -> Result<Ended> {
        self.begin(argv)?;
        let answer = self.line(deadline).with_context(|| argv.join(" "))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Starts a program in the VM and leaves it alone: what is to come is a [`Self::reset`].
    ///
    /// # Errors
    /// If the agent is gone.
    pub fn begin(&mut self, argv: &[&str]) -> Result<()> {
        let run = Run { argv: argv.iter().map(|&word| word.to_owned()).collect() };
        let mut line = serde_json::to_string(&run)?;
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

    fn wait_ready(&mut self) -> Result<()> {
        loop {
            match self.line(BOOT) {
                // The beginning of an answer that a reset cut short may stand before it.
                Ok(line) if line.ends_with(READY) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error.context(self.last_words())),
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

    fn last_words(&self) -> String {
        let console = std::fs::read(self.files.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default();
        format!("the VM's console ends with:\n{}", last.join("\n"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Nothing in it is worth a shutdown.
        self.process.kill();
    }
}

/// They must not change under the VM, which keeps parts of them in memory, when somebody compiles meanwhile.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for name in PROGRAMS {
        let program = from.join(name);
        std::fs::copy(&program, to.join(name)).with_context(|| program.display().to_string())?;
    }
    Ok(())
}

fn command(kernel: &Kernel, files: &Path) -> Result<Command> {
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
    let fixed = "-M pc -accel tcg,thread=multi -cpu max -smp 2 -m 1024 -nodefaults -no-user-config -display none \
                 -device virtio-serial-pci -device virtserialport,chardev=agent,nr=1 -device virtio-rng-pci";
    // It ends with whoever started it, however that ended.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nice", "qemu-system-x86_64"]).args(fixed.split_whitespace());
    command.args(["-kernel".into(), kernel.image.display().to_string(), "-initrd".into(), path("initrd")]);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    command.args(["-serial".into(), format!("file:{}", path("console"))]);
    command.args(["-qmp".into(), format!("unix:{},server=on,wait=off", path("qmp"))]);
    let agent = format!("socket,id=agent,path={},server=on,wait=off", path("agent"));
    command.args(["-chardev".into(), agent]);
    command.args(share("root", Path::new("/"), ",readonly=on"));
    command.args(share("programs", &files.join("programs"), ",readonly=on"));
    command.args(share("keep", &files.join("keep"), ""));
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
