//! The kernel's own target (LIO) by configfs: one file-backed logical unit, served to SCSI hosts of this kernel's own
//! (`tcm_loop`), each an I_T nexus of its own to it, or over iSCSI. Runs as root, in the lab's VM.

use crate::process::{DEADLINE, wait_for};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const CONFIGFS: &str = "/sys/kernel/config/target";
/// The logical unit.
const UNIT: &str = "core/fileio_0/lun0";
const SERIAL: &str = "7e4a0000-0000-4000-8000-000000000001";
/// Where LIO keeps what must survive power loss. It writes there only if the directory exists.
const STATE: &str = "/var/target";

/// The device nodes of one nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `/dev/sdX`.
    pub block: PathBuf,
    /// `/dev/sgN`.
    pub generic: PathBuf,
}

/// Serves `backing` to `nexuses` initiator ports and waits for their disks. LIO's own state goes to `keep`. Registrations that were made with
/// APTPL before this kernel booted are given back to the target, as `targetcli` does.
///
/// # Errors
/// If a module is missing, LIO refuses, or a disk does not appear.
pub fn up(backing: &Path, megabytes: u64, nexuses: u8, keep: &Path) -> Result<Vec<Disk>> {
    let unit = unit(backing, megabytes, keep)?;
    (1..=nexuses).map(|index| nexus(&unit, index)).collect()
}

/// Serves `backing` as LUN 0 of the iSCSI target `name` to these initiators, on port 3260 of every address, without
/// authentication. The rest is as in [`up`].
///
/// # Errors
/// If a module is missing, or LIO refuses.
pub fn serve(backing: &Path, megabytes: u64, keep: &Path, name: &str, initiators: &[String]) -> Result<()> {
    target(&unit(backing, megabytes, keep)?, name, &Access::Listed(initiators))
}

/// Who may log in to an iSCSI target.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// These initiators.
    Listed(&'a [String]),
    /// Everybody.
    Everybody,
}

/// Serves the logical unit that [`up`] has made as LUN 0 of one more target.
///
/// # Errors
/// If LIO refuses.
pub fn also(name: &str, access: &Access<'_>) -> Result<()> {
    target(&Path::new(CONFIGFS).join(UNIT), name, access)
}

fn target(unit: &Path, name: &str, access: &Access<'_>) -> Result<()> {
    let group = Path::new(CONFIGFS).join(format!("iscsi/{name}/tpgt_1"));
    fs::create_dir_all(&group).context("LIO (module iscsi_target_mod)")?;
    let lun = group.join("lun/lun_0");
    fs::create_dir_all(&lun)?;
    symlink(unit, lun.join("port"))?;
    put(&group, "attrib/authentication", "0")?;
    admit(&group, &lun, access)?;
    fs::create_dir_all(group.join("np/0.0.0.0:3260"))?;
    put(&group, "enable", "1")
}

fn admit(group: &Path, lun: &Path, access: &Access<'_>) -> Result<()> {
    if let Access::Listed(initiators) = access {
        for initiator in *initiators {
            // LIO knows names in lower case alone.
            let mapped = group.join(format!("acls/{}/lun_0", initiator.to_lowercase()));
            fs::create_dir_all(&mapped)?;
            symlink(lun, mapped.join("lun"))?;
        }
        return Ok(());
    }
    put(group, "attrib/demo_mode_write_protect", "0")?;
    put(group, "attrib/generate_node_acls", "1")
}

fn unit(backing: &Path, megabytes: u64, keep: &Path) -> Result<PathBuf> {
    for directory in ["pr", "alua"] {
        fs::create_dir_all(keep.join(directory))?;
    }
    fs::create_dir_all(STATE)?;
    rustix::mount::mount_bind(keep, STATE).context("where the target keeps its state")?;
    let unit = backstore(backing, megabytes)?;
    restore(&unit)?;
    Ok(unit)
}

fn backstore(backing: &Path, megabytes: u64) -> Result<PathBuf> {
    let size = megabytes << 20;
    fs::OpenOptions::new().create(true).append(true).open(backing)?.set_len(size)?;
    let unit = Path::new(CONFIGFS).join(UNIT);
    fs::create_dir_all(&unit).context("LIO (modules target_core_mod, target_core_file)")?;
    put(&unit, "control", &format!("fd_dev_name={},fd_dev_size={size}", backing.display()))?;
    put(&unit, "wwn/vpd_unit_serial", SERIAL)?;
    put(&unit, "enable", "1")?;
    Ok(unit)
}

fn restore(unit: &Path) -> Result<()> {
    let kept = fs::read_to_string(Path::new(STATE).join("pr").join(format!("aptpl_{SERIAL}")));
    for registration in kept.iter().flat_map(|text| registrations(text)) {
        put(unit, "pr/res_aptpl_metadata", &registration)?;
    }
    Ok(())
}

/// LIO's file has a block of lines for each registration; it takes one back as a list with commas.
fn registrations(text: &str) -> Vec<String> {
    let blocks = text.split("PR_REG_START:").skip(1);
    let block = |block: &str| {
        let lines = block.lines().skip(1).take_while(|line| !line.starts_with("PR_REG_END"));
        lines.map(str::trim).collect::<Vec<_>>().join(",")
    };
    blocks.map(block).collect()
}

fn nexus(unit: &Path, index: u8) -> Result<Disk> {
    let group = Path::new(CONFIGFS).join(format!("loopback/naa.50014050000000{index:02x}/tpgt_1"));
    fs::create_dir_all(&group).context("LIO (module tcm_loop)")?;
    put(&group, "nexus", &initiator(index))?;
    fs::create_dir_all(group.join("lun/lun_0"))?;
    symlink(unit, group.join("lun/lun_0/port"))?;
    let address = fs::read_to_string(group.join("address"))?;
    let device = PathBuf::from(format!("/sys/class/scsi_device/{}:0/device", address.trim()));
    let node = |class: &str| {
        let found = wait_for(DEADLINE, || fs::read_dir(device.join(class)).ok()?.next()?.ok());
        let found = found.with_context(|| format!("nexus {index} got no {class} device"))?;
        anyhow::Ok(Path::new("/dev").join(found.file_name()))
    };
    Ok(Disk { block: node("block")?, generic: node("scsi_generic")? })
}

/// The name of a nexus's initiator port.
#[must_use]
pub fn initiator(index: u8) -> String {
    format!("naa.60014050000000{index:02x}")
}

fn put(directory: &Path, name: &str, value: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registration_of_the_file_is_given_back_alone() {
        let text = "PR_REG_START: 0\ninitiator_fabric=loopback\nsa_res_key=161\nPR_REG_END: 0\n\
                    PR_REG_START: 1\ninitiator_fabric=loopback\nsa_res_key=178\nPR_REG_END: 1\n";
        let given = ["initiator_fabric=loopback,sa_res_key=161", "initiator_fabric=loopback,sa_res_key=178"];
        assert_eq!(registrations(text), given);
    }

    #[test]
    fn a_file_that_says_there_are_none_gives_none() {
        assert!(registrations("No Registrations or Reservations").is_empty());
    }
}
