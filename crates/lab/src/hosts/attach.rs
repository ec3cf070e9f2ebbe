//! The kernel's iSCSI initiator, by open-iscsi: a host's way to the shared logical unit. Runs as root, in a host's VM.

use crate::process::{DEADLINE, wait_for};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the kernel shows its sessions.
const SESSIONS: &str = "/sys/class/iscsi_session";
/// What iscsid says.
const LOG: &str = "/run/iscsid.log";
/// Nothing is given up because this machine is busy: no pings, and two minutes for a session that broke.
const SETTINGS: &str = "node.startup = manual\n\
                        node.session.timeo.replacement_timeout = 120\n\
                        node.conn[0].timeo.noop_out_interval = 0\n\
                        node.conn[0].timeo.noop_out_timeout = 0\n";

/// Logs in as `initiator` and waits for the disk of LUN 0.
///
/// # Errors
/// If open-iscsi is not installed, cannot log in, or no disk appears.
pub fn attach(portal: &str, target: &str, initiator: &str) -> Result<PathBuf> {
    for directory in ["/run/lock/iscsi", "/etc/iscsi"] {
        fs::create_dir_all(directory)?;
    }
    fs::write("/etc/iscsi/initiatorname.iscsi", format!("InitiatorName={initiator}\n"))?;
    fs::write("/etc/iscsi/iscsid.conf", SETTINGS)?;
    let log = fs::File::create(LOG)?;
    // It goes on after this program has ended.
    Command::new("iscsid").arg("-f").stdout(log.try_clone()?).stderr(log).spawn().context("iscsid")?;
    log_in(portal, target).with_context(|| fs::read_to_string(LOG).unwrap_or_default())
}

fn log_in(portal: &str, target: &str) -> Result<PathBuf> {
    let node = |more: &[&str]| {
        let mut command = Command::new("timeout");
        run(command.args(["30", "iscsiadm", "-m", "node", "-T", target, "-p", portal]).args(more))
    };
    node(&["-o", "new"])?;
    node(&["--login"])?;
    let disk = wait_for(DEADLINE, || disk(Path::new(SESSIONS)));
    disk.context("no disk appeared")
}

/// The only disk of all sessions, once its node is there.
fn disk(sessions: &Path) -> Option<PathBuf> {
    let entries =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let sessions = entries(sessions.to_owned());
    let targets = sessions.flat_map(|session| entries(session.join("device")));
    let units = targets.flat_map(entries);
    let mut disks = units.flat_map(|unit| entries(unit.join("block")));
    let node = Path::new("/dev").join(disks.next()?.file_name()?);
    node.exists().then_some(node)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let told =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    bail!("{command:?}: {}: {}", output.status, told.trim())
}
