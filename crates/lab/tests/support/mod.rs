//! QEMUs for tests: real ones of Debian's, and stand-ins.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use lab::process::Background;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's.
    Real,
    /// The stand-in, as of a release.
    Scripted(&'static str),
}

impl Kind {
    /// Starts one in `directory`; gives also its QMP socket.
    pub fn start(self, directory: &Path, name: &str, more: &[&str]) -> (Background, PathBuf) {
        let path = directory.join(format!("{name}.qmp"));
        let mut command = match self {
            Self::Real => real(directory, &path),
            Self::Scripted(release) => scripted(directory, &path, name, release),
        };
        (Background::start(command.args(more)).unwrap(), path)
    }

    /// The arguments of one that waits for a guest.
    pub fn incoming(self, paused: bool) -> &'static [&'static str] {
        match (self, paused) {
            (Self::Real, true) => &["-incoming", "defer", "-S"],
            (Self::Real, false) => &["-incoming", "defer"],
            (_, true) => &["--incoming", "-S"],
            (_, false) => &["--incoming"],
        }
    }
}

/// All that this machine has: a missing one is said, and may be none where nothing may be skipped.
pub fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind::Scripted("7.2"), Kind::Scripted("11.1")];
    if is_installed("qemu-system-x86_64") {
        kinds.push(Kind::Real);
    } else {
        assert!(std::env::var_os("TENURE_NO_SKIP").is_none(), "qemu-system-x86_64 is not installed");
        eprintln!("skipped: qemu-system-x86_64 is not installed");
    }
    kinds
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn real(directory: &Path, path: &Path) -> Command {
    // A CPU that halts at once.
    let mut rom = vec![0; 0x1_0000];
    rom.splice(0xFFF0..0xFFF4, [0xFA, 0xF4, 0xEB, 0xFD]);
    std::fs::write(directory.join("halt.rom"), rom).unwrap();
    let mut command = Command::new("qemu-system-x86_64");
    command.args("-M pc -accel tcg -m 64 -nodefaults -no-user-config -display none -bios".split(' '));
    command.arg(directory.join("halt.rom"));
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", path.display())]);
    // What a load that fails says is no news.
    command.stderr(Stdio::null());
    command
}

fn scripted(directory: &Path, path: &Path, name: &str, release: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scripted-qemu"));
    command.args(["--release", release, "--name", name, "--qmp"]).arg(path);
    command.arg("--diary").arg(directory.join("diary"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}
