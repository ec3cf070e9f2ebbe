//! The guest's disks through which its reservation commands reach a device, and what is behind them.

use super::{Vmm, VmmError};
use qmp::qemu::{Block, BlockNode, Inserted, Qemu};
use serde_json::Value;
use std::path::PathBuf;

/// QEMU's front ends that pass reservation commands through (scsi-hd and virtio-blk do not).
const PASSING: [&str; 2] = ["scsi-block", "scsi-generic"];
const PROPERTY: &str = "migrate-pr";

/// A disk that passes reservation commands through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The device's path in QEMU's object tree.
    pub device: String,
    /// Its type, `scsi-block` or `scsi-generic`.
    pub front: String,
    /// The block node's name, where it has one.
    pub node: Option<String>,
    /// What is behind it.
    pub backing: Backing,
    /// Whether QEMU migrates its reservations by itself.
    pub migrate_pr: MigratePr,
}

/// What is behind a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A device node of this host.
    HostDevice(PathBuf),
    /// QEMU's own initiator, with a new ISID at each start: a nexus that nobody else can address.
    Iscsi(String),
    /// Something else; reservation commands do not pass through it.
    Other {
        /// QEMU's driver.
        driver: String,
        /// What QEMU calls the file.
        file: String,
    },
}

/// Whether QEMU migrates a disk's reservations by itself (11.0 and newer), which two must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigratePr {
    /// It cannot.
    Absent,
    /// Switched off.
    Off,
    /// On, and can be switched off.
    On,
    /// On, and QEMU refuses to change it while the device is there.
    Fixed,
}

impl Vmm {
    /// The disks that pass reservation commands through, in QEMU's order.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn disks(&self) -> Result<Vec<Disk>, VmmError> {
        let blocks = self.ask(Qemu::blocks)?;
        let nodes = self.ask(Qemu::block_nodes)?;
        let disks = blocks.iter().map(|block| self.disk(block, &nodes));
        disks.filter_map(Result::transpose).collect()
    }

    /// Switches QEMU's own migration of reservations off where it is on.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn switch_off_migrate_pr(&self) -> Result<(), VmmError> {
        let disks = self.disks()?;
        let mut on = disks.iter().filter(|disk| disk.migrate_pr == MigratePr::On);
        on.try_for_each(|disk| self.ask(|qemu| qemu.qom_set(&disk.device, PROPERTY, &false.into())))
    }

    fn disk(&self, block: &Block, nodes: &[BlockNode]) -> Result<Option<Disk>, VmmError> {
        let (Some(qdev), Some(inserted)) = (&block.qdev, &block.inserted) else { return Ok(None) };
        let device = path_of(qdev);
        let Some(front) = self.front(&device)? else { return Ok(None) };
        let migrate_pr = self.migrate_pr(&device)?;
        let (node, backing) = (inserted.node_name.clone(), backing(inserted, nodes));
        Ok(Some(Disk { device, front, node, backing, migrate_pr }))
    }

    /// The device's type, of one that passes reservation commands through.
    fn front(&self, device: &str) -> Result<Option<String>, VmmError> {
        match self.ask(|qemu| qemu.qom_get(device, "type")) {
            Ok(Value::String(kind)) => Ok(PASSING.contains(&kind.as_str()).then_some(kind)),
            Ok(_) => Err(VmmError::Silent(format!("the type of {device} is no string"))),
            // Unplugged since it was listed.
            Err(VmmError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn migrate_pr(&self, device: &str) -> Result<MigratePr, VmmError> {
        match self.ask(|qemu| qemu.qom_get(device, PROPERTY)) {
            Ok(Value::Bool(false)) => Ok(MigratePr::Off),
            // Setting what it is changes nothing and tells whether it can be changed.
            Ok(Value::Bool(true)) => match self.ask(|qemu| qemu.qom_set(device, PROPERTY, &true.into())) {
                Ok(()) => Ok(MigratePr::On),
                Err(VmmError::Refused(_)) => Ok(MigratePr::Fixed),
                Err(error) => Err(error),
            },
            Ok(_) => Err(VmmError::Silent(format!("{PROPERTY} of {device} is no truth value"))),
            Err(VmmError::Refused(_)) => Ok(MigratePr::Absent),
            Err(error) => Err(error),
        }
    }
}

/// `query-block` gives an id where the device has one, else a path.
fn path_of(qdev: &str) -> String {
    if qdev.starts_with('/') { qdev.to_owned() } else { format!("/machine/peripheral/{qdev}") }
}

/// A format on top of it (`raw` of a `-drive`) is looked through.
fn backing(inserted: &Inserted, nodes: &[BlockNode]) -> Backing {
    let same_file = nodes.iter().filter(|node| node.file == inserted.file).map(|node| node.drv.as_str());
    let mut drivers = std::iter::once(inserted.drv.as_str()).chain(same_file);
    let known = drivers.find(|driver| ["host_device", "iscsi"].contains(driver));
    match (known, filename(&inserted.file)) {
        (Some("host_device"), Some(path)) => Backing::HostDevice(path.into()),
        (Some("iscsi"), _) => Backing::Iscsi(inserted.file.clone()),
        _ => Backing::Other { driver: inserted.drv.clone(), file: inserted.file.clone() },
    }
}

/// The path in a name of QEMU's; `json:{…}` is what it makes of a node with options that no name can hold.
fn filename(file: &str) -> Option<String> {
    let Some(json) = file.strip_prefix("json:") else { return Some(file.to_owned()) };
    let mut node: Value = serde_json::from_str(json).ok()?;
    // Not deeper than the parser allowed.
    while let Some(inner) = node.get_mut("file").map(Value::take) {
        node = inner;
    }
    node.get("filename").and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inserted(drv: &str, file: &str) -> Inserted {
        Inserted { drv: drv.into(), file: file.into(), ..Inserted::default() }
    }

    #[test]
    fn a_format_on_top_of_a_device_is_looked_through() {
        let node = |drv: &str| BlockNode { drv: drv.into(), file: "/dev/sdb".into(), ..BlockNode::default() };
        let nodes = [node("raw"), node("host_device")];
        assert_eq!(backing(&inserted("raw", "/dev/sdb"), &nodes), Backing::HostDevice("/dev/sdb".into()));
        let other = backing(&inserted("raw", "/dev/sdc"), &nodes);
        assert_eq!(other, Backing::Other { driver: "raw".into(), file: "/dev/sdc".into() });
    }

    #[test]
    fn options_do_not_hide_the_device() {
        let plain = r#"json:{"driver": "host_device", "filename": "/dev/sdb", "pr-manager": "helper"}"#;
        assert_eq!(filename(plain).unwrap(), "/dev/sdb");
        let nested = r#"json:{"driver": "raw", "file": {"driver": "host_device", "filename": "/dev/sdb"}}"#;
        assert_eq!(filename(nested).unwrap(), "/dev/sdb");
        for lie in ["json:", "json:{}", "json:[]", r#"json:{"filename": 7}"#] {
            assert_eq!(filename(lie), None, "{lie}");
        }
    }

    #[test]
    fn an_id_is_a_device_with_a_name() {
        assert_eq!(path_of("hd0"), "/machine/peripheral/hd0");
        assert_eq!(path_of("/machine/peripheral-anon/device[1]"), "/machine/peripheral-anon/device[1]");
    }
}
