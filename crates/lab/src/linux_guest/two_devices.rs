//! A guest that moves between two processes of `tenure device`, as between two hosts with a file system in common: the disk in a file goes to the
//! other process with its reservation, with that at `tenure target` its initiator port goes, at tgt its registration is
//! handed to another, and nobody orchestrates that.

use crate::linux_guest::moves::{Writer, clear, reserve, still_holds, summary};
use crate::linux_guest::node::{self, Node};
use crate::linux_guest::{FILE, FIRST, ISCSI};
use crate::served::{Device, Served};
use crate::tenure::Tenure;
use crate::tgt::Tgt;
use crate::vm::Media;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use tempfile::TempDir;

/// A file, `tenure target`'s, and tgt's.
const DISKS: [&str; 3] = ["/dev/sda", "/dev/sdb", "/dev/sdc"];

/// A guest, and the two devices.
#[derive(Debug)]
pub struct TwoDevices {
    // Before the devices: a guest that is still there would see its disk vanish.
    guest: Node,
    devices: [Device; 2],
    media: Media,
    _targets: (Served, Tgt),
    _directory: TempDir,
}

impl TwoDevices {
    /// Starts both, and boots the guest at one of them.
    ///
    /// # Errors
    /// If something fails, or the guest does not find its disk.
    pub fn boot(cache: &Path, programs: &Path) -> Result<Self> {
        let directory = TempDir::new()?;
        let media = node::media(cache, programs)?;
        let tenure = Tenure::at(&programs.join("tenure"));
        let targets = (tenure.target(&[&format!("memory={ISCSI}")])?, Tgt::start(1, ISCSI >> 20)?);
        let file = format!("file={},size={FILE}", directory.path().join("disk").display());
        let luns = [file, targets.0.url(0), targets.1.served.url(0)];
        let luns: Vec<&str> = luns.iter().map(String::as_str).collect();
        let devices = tenure.two_devices(directory.path(), FIRST, [&luns, &luns])?;
        let sockets = devices.iter().flat_map(|device| device.sockets.iter().cloned()).collect();
        let mut guest = Node::power_on(&media, sockets)?;
        guest.ready(DISKS.len())?;
        Ok(Self { guest, devices, media, _targets: targets, _directory: directory })
    }

    /// The guest moves so many times, to and fro, while fio verifies in it and it holds a reservation; tells a summary.
    ///
    /// # Errors
    /// What did not hold.
    pub fn moves(&mut self, count: u32) -> Result<String> {
        reserve(&mut self.guest, &DISKS)?;
        let writer = Writer::start(&mut self.guest, &DISKS)?;
        let mut moved = Vec::new();
        for number in 1..=count {
            writer.get_on(&mut self.guest)?;
            moved.push(self.guest.move_on(&self.media).with_context(|| format!("move {number}"))?);
            still_holds(&mut self.guest, &DISKS).with_context(|| format!("after move {number}"))?;
        }
        let rounds = writer.finish(&mut self.guest)?;
        clear(&mut self.guest, &DISKS)?;
        for device in &mut self.devices {
            ensure!(device.process.is_running(), "a device is gone");
        }
        Ok(format!("between two devices: {}", summary(&moved, &rounds)))
    }
}
