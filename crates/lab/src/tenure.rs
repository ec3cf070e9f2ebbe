//! The program under test: its commands run to their end, and its target in the background.

use crate::process::Background;
use crate::served::{Device, Served};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The hosts of two devices.
pub const HOSTS: [&str; 2] = ["here", "there"];

/// The `tenure` binary.
#[derive(Clone, Debug)]
pub struct Tenure {
    program: PathBuf,
    bound: bool,
}

/// What one run of `tenure` left.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit status.
    pub exit: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output as the one JSON document it must be.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("not one JSON document: {self:?}"))
    }
}

impl Tenure {
    /// Uses this binary.
    #[must_use]
    pub fn at(program: &Path) -> Self {
        Self { program: program.to_path_buf(), bound: false }
    }

    /// The same, and whatever is started by it or beside it ends with the thread that starts it: nothing is left where this process is
    /// killed.
    #[must_use]
    pub fn bound(self) -> Self {
        Self { bound: true, ..self }
    }

    /// A command line that begins with this program, which ends as [`Self::bound`] says.
    #[must_use]
    pub fn beside(&self, program: &Path) -> Command {
        if !self.bound {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    }

    /// A command line that begins with the binary.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.beside(&self.program);
        command.args(args);
        command
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// If the binary cannot be run or dies by a signal.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        let output = self.command(args).output().with_context(|| self.program.display().to_string())?;
        Ok(Ran {
            exit: output.status.code().with_context(|| format!("{args:?}: {}", output.status))?,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Serves these LUN SPECs on a free port.
    ///
    /// # Errors
    /// If the target does not become ready.
    pub fn target(&self, luns: &[&str]) -> Result<Served> {
        self.target_with(luns, &[])
    }

    /// The same, with further arguments.
    ///
    /// # Errors
    /// If the target does not become ready.
    pub fn target_with(&self, luns: &[&str], more: &[&str]) -> Result<Served> {
        let iqn = "iqn.2026-11.example.tenure:lab";
        let mut command = self.command(&["-q", "target", "--listen", "127.0.0.1:0", "--target", iqn]);
        for lun in luns {
            command.args(["--lun", lun]);
        }
        let (process, line) = Background::start_and_read_line(command.args(more))?;
        let ready: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let portal = ready.get("listen").and_then(Value::as_str).with_context(|| line.clone())?.to_owned();
        Ok(Served { process, portal, iqn: iqn.to_owned(), first_lun: 0 })
    }

    /// Gives these guests disks over vhost-user; their sockets are in `directory`.
    ///
    /// # Errors
    /// If the device does not become ready.
    pub fn device(&self, directory: &Path, guests: &[&str], luns: &[&str], more: &[&str]) -> Result<Device> {
        let mut command = self.command(&["-q", "device"]);
        let sockets: Vec<PathBuf> =
            guests.iter().map(|guest| directory.join(format!("{guest}.sock"))).collect();
        for socket in &sockets {
            command.arg("--socket").arg(socket);
        }
        for lun in luns {
            command.args(["--lun", lun]);
        }
        let (process, line) = Background::start_and_read_line(command.args(more))?;
        let ready: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let told = ready.get("guests").and_then(Value::as_array).with_context(|| line.clone())?;
        let initiator = |guest: &Value| Some(guest.get("initiator")?.as_str()?.to_owned());
        let initiators =
            told.iter().map(initiator).collect::<Option<Vec<_>>>().with_context(|| line.clone())?;
        Ok(Device { process, sockets, initiators })
    }

    /// Two devices, as of two hosts that trust each other, between which `guest` can move: it is at the first. Each has its LUNs, and its own
    /// directory below `directory`, with its `state` in it.
    ///
    /// # Errors
    /// If either does not become ready.
    pub fn two_devices(&self, directory: &Path, guest: &str, luns: [&[&str]; 2]) -> Result<[Device; 2]> {
        let [here, there] = HOSTS;
        let first = self.device_at(directory, guest, luns[0], [here, there], &["--first"]);
        let first = first.with_context(|| format!("the device {here}"))?;
        let second = self.device_at(directory, guest, luns[1], [there, here], &["--incoming", here]);
        Ok([first, second.with_context(|| format!("the device {there}"))?])
    }

    fn device_at(
        &self,
        directory: &Path,
        guest: &str,
        luns: &[&str],
        [host, other]: [&str; 2],
        more: &[&str],
    ) -> Result<Device> {
        let own = directory.join(host);
        std::fs::create_dir(&own)?;
        let address = |host: &str| format!("unix:{}", directory.join(host).join("peer").display());
        let (listen, peer) = (address(host), format!("{other}={}", address(other)));
        let state = own.join("state").display().to_string();
        let words = ["--num-queues", "2", "--name", guest, "--host", host, "--peer", &peer];
        let words = [&words[..], &["--peer-listen", &listen, "--state", &state], more].concat();
        self.device(&own, &[guest], luns, &words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{DEADLINE, wait_for};
    use std::thread;

    /// Starts a program in a thread that ends when the program runs; whether it has ended as well, within the deadline.
    fn ends_with_its_thread(tenure: Tenure) -> bool {
        let start = move || {
            let child = tenure.beside(Path::new("sleep")).arg("30").spawn().unwrap();
            let name = format!("/proc/{}/comm", child.id());
            let runs = || (std::fs::read_to_string(&name).ok()?.trim() == "sleep").then_some(());
            wait_for(DEADLINE, runs).unwrap();
            child
        };
        let mut child = thread::spawn(start).join().unwrap();
        let ended = wait_for(DEADLINE, || child.try_wait().ok().flatten()).is_some();
        let _ = (child.kill(), child.wait());
        ended
    }

    #[test]
    fn what_is_bound_ends_with_whoever_started_it() {
        assert!(ends_with_its_thread(Tenure::at(Path::new("tenure")).bound()));
    }
}
