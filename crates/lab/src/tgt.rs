//! A private `tgtd`, the user-space target of Debian's package `tgt`: its own ports, its own files.

use crate::process::{Background, DEADLINE, wait_for};
use crate::served::Served;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const IQN: &str = "iqn.2026-11.example.tenure:tgt";

/// A running `tgtd` with one file-backed disk for each size asked for.
#[derive(Debug)]
pub struct Tgt {
    /// How to reach it.
    pub served: Served,
    // The backing files live as long as the process that serves them.
    _files: TempDir,
}

impl Tgt {
    /// Starts it and serves `disks` thin disks of `megabytes` each.
    ///
    /// # Errors
    /// If tgt is not installed, cannot be started, or rejects the configuration.
    pub fn start(disks: u16, megabytes: u64) -> Result<Self> {
        let files = TempDir::new()?;
        // Asking the system for a free port leaves a moment for somebody else to take it; tgtd then ends and says so.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // tgtd's control port is the name of a socket file, at most 32767; the port number makes it ours.
        let control = (port & 0x7FFF).to_string();
        let log = File::create(files.path().join("tgtd.log"))?;
        let portal = format!("127.0.0.1:{port}");
        let mut command = Command::new("tgtd");
        command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]);
        command.stdout(Stdio::null()).stderr(log);
        let mut process = Background::start(&mut command)?;
        let up = || admin(&control, &["--op", "show", "--mode", "sys"]).is_ok();
        wait_for(DEADLINE, || (up() || !process.is_running()).then_some(()));
        ensure!(up() && process.is_running(), "tgtd did not come up");
        configure(&control, files.path(), disks, megabytes)?;
        let served = Served { process, portal, iqn: IQN.to_owned(), first_lun: 1 };
        Ok(Self { served, _files: files })
    }
}

impl Drop for Tgt {
    // tgtd does not end on SIGTERM while initiators are logged in; nothing it holds is worth waiting for.
    fn drop(&mut self) {
        self.served.process.kill();
    }
}

fn configure(control: &str, files: &Path, disks: u16, megabytes: u64) -> Result<()> {
    admin(control, &["--op", "new", "--mode", "target", "--tid", "1", "-T", IQN])?;
    for lun in 1..=disks {
        let path = files.join(format!("lun{lun}.img"));
        File::create(&path)?.set_len(megabytes << 20)?;
        let lun = lun.to_string();
        let path = path.to_str().context("path")?;
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", &lun];
        admin(control, &[&["--op", "new"], &unit[..], &["-b", path]].concat())?;
        admin(control, &[&["--op", "update"], &unit[..], &["--params", "thin_provisioning=1"]].concat())?;
    }
    admin(control, &["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"])
}

fn admin(control: &str, args: &[&str]) -> Result<()> {
    let output = Command::new("tgtadm").args(["-C", control, "--lld", "iscsi"]).args(args).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tgtadm {}: {}", args.join(" "), told.trim());
    Ok(())
}
