//! The command line.

use super::faults::Fault;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::str::FromStr;

/// QEMU's part in a live migration, without QEMU.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "scripted-qemu")]
pub struct Options {
    /// Unix socket to speak QMP on, with one client at a time; repeat for more
    #[arg(long, required = true)]
    pub qmp: Vec<PathBuf>,
    /// Which QEMU to behave as
    #[arg(long, default_value = "7.2")]
    pub release: Release,
    /// Who this is, in the diary
    #[arg(long, default_value = "qemu")]
    pub name: String,
    /// What query-uuid says
    #[arg(long, default_value = "00000000-0000-0000-0000-000000000000")]
    pub uuid: String,
    /// Wait for migrate-incoming, as -incoming defer
    #[arg(long)]
    pub incoming: bool,
    /// Do not start the guest, as -S
    #[arg(short = 'S', long)]
    pub paused: bool,
    /// Diary of when the guest ran: the same file for both ends
    #[arg(long)]
    pub diary: Option<PathBuf>,
    /// Bytes of memory to be sent
    #[arg(long, default_value_t = 1 << 20)]
    pub ram: u64,
    /// Bytes that the guest changes in a second while it runs
    #[arg(long, default_value_t = 0)]
    pub dirty: u64,
    /// A disk: ID=FRONT,node=NAME,driver=DRIVER,file=FILE[,migrate-pr=on|off|fixed]
    #[arg(long = "disk")]
    pub disks: Vec<Disk>,
    /// Ids of pr-manager-helper objects
    #[arg(long = "pr-manager")]
    pub managers: Vec<String>,
    /// What goes wrong, and where: POINT=die|exit|hang|fail|lie|flood|chatter|bloat|stray|linger|say:STATE
    #[arg(long = "fault")]
    pub faults: Vec<Fault>,
}

/// Whose behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// Debian 12's.
    V7_2,
    /// Debian 13's, from backports.
    V11_1,
}

impl Release {
    /// Major, minor and micro.
    pub(crate) const fn version(self) -> [u32; 3] {
        match self {
            Self::V7_2 => [7, 2, 22],
            Self::V11_1 => [11, 1, 3],
        }
    }
}

impl FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "7.2" => Ok(Self::V7_2),
            "11.1" => Ok(Self::V11_1),
            _ => bail!("neither 7.2 nor 11.1"),
        }
    }
}

/// What a front end says about QEMU's own handling of reservations in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigratePr {
    /// It has no such property.
    Absent,
    /// On or off, and may be changed.
    Switch(bool),
    /// On, and QEMU refuses to change it.
    Fixed,
}

/// A disk of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The front end's id.
    pub id: String,
    /// Its type.
    pub front: String,
    /// The node's name.
    pub node: String,
    /// The node's driver.
    pub driver: String,
    /// What it is on.
    pub file: String,
    /// Whether QEMU migrates reservations itself.
    pub migrate_pr: MigratePr,
}

impl FromStr for Disk {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (id, rest) = text.split_once('=').context("ID=FRONT,…")?;
        let mut parts = rest.split(',');
        let front = parts.next().unwrap_or_default().to_owned();
        let mut disk = Self {
            id: id.to_owned(),
            front,
            node: format!("node-{id}"),
            driver: "host_device".to_owned(),
            file: String::new(),
            migrate_pr: MigratePr::Absent,
        };
        for part in parts {
            let (name, value) = part.split_once('=').context("NAME=VALUE")?;
            match (name, value) {
                ("node", _) => value.clone_into(&mut disk.node),
                ("driver", _) => value.clone_into(&mut disk.driver),
                ("file", _) => value.clone_into(&mut disk.file),
                ("migrate-pr", "on") => disk.migrate_pr = MigratePr::Switch(true),
                ("migrate-pr", "off") => disk.migrate_pr = MigratePr::Switch(false),
                ("migrate-pr", "fixed") => disk.migrate_pr = MigratePr::Fixed,
                _ => bail!("unknown {part:?}"),
            }
        }
        Ok(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read_with_what_is_left_out() {
        let disk: Disk = "hd0=scsi-block,file=/dev/sda,migrate-pr=fixed".parse().unwrap();
        assert_eq!((disk.node.as_str(), disk.driver.as_str()), ("node-hd0", "host_device"));
        assert_eq!(disk.migrate_pr, MigratePr::Fixed);
        for wrong in ["hd0", "hd0=scsi-block,file", "hd0=scsi-block,size=1", "hd0=scsi-block,migrate-pr=yes"]
        {
            assert!(wrong.parse::<Disk>().is_err(), "{wrong}");
        }
    }
}
