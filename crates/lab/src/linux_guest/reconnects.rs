//! `kill -9` of a Linux guest's device, again and again: QEMU 11.1 connects to the one that follows (`reconnect-ms`, which Debian's own 7.2 has
//! not for this device), and fio in the guest finds what it wrote, whole, and its reservation as it was.
//!
//! Used by `cargo xtask lab guest-kills`. The same without a guest CPU, and a hundred times in a minute, is `front_end::kills`.

use crate::front_end::Shape;
use crate::front_end::scsi::{VirtioScsi, setting};
use crate::linux_guest::moves::{Writer, clear, refuses, reserve, still_holds};
use crate::linux_guest::node::{self, Node};
use crate::linux_guest::{FILE, FIRST, PEER, is_well};
use crate::qemu::Backports;
use crate::random::Random;
use crate::served::Device;
use crate::tenure::Tenure;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const DISKS: [&str; 1] = ["/dev/sda"];
/// Longer than a round of fio's: it is killed at any moment of one.
const LONGEST: Duration = Duration::from_secs(3);

/// A guest whose device dies.
#[derive(Debug)]
pub struct Reconnects {
    // Before the device: a guest that is still there would see its disk vanish.
    guest: Node,
    device: Device,
    tenure: Tenure,
    directory: TempDir,
}

impl Reconnects {
    /// Starts the device, and boots the guest in a QEMU that connects again.
    ///
    /// # Errors
    /// If that QEMU cannot be had, something fails, or the guest does not find its disk.
    pub fn boot(cache: &Path, programs: &Path) -> Result<Self> {
        let directory = TempDir::new()?;
        let media = node::media(cache, programs)?.newer(Backports::fetch(cache)?);
        let tenure = Tenure::at(&programs.join("tenure"));
        let device = serve(&tenure, directory.path())?;
        let door = device.sockets.first().cloned().context("no socket for the guest")?;
        let mut guest = Node::power_on(&media, vec![door])?;
        guest.ready(DISKS.len())?;
        Ok(Self { guest, device, tenure, directory })
    }

    /// Kills the device so many times under fio; tells a summary.
    ///
    /// # Errors
    /// What did not hold.
    pub fn kills(&mut self, count: u32, seed: u64) -> Result<String> {
        let mut random = Random::new(seed);
        reserve(&mut self.guest, &DISKS)?;
        let writer = Writer::start(&mut self.guest, &DISKS)?;
        for number in 1..=count {
            writer.get_on(&mut self.guest)?;
            thread::sleep(random.moment(LONGEST));
            self.restart().with_context(|| format!("kill {number}"))?;
            self.holds().with_context(|| format!("after kill {number}"))?;
        }
        let rounds = writer.finish(&mut self.guest)?;
        is_well(&mut self.guest)?;
        clear(&mut self.guest, &DISKS)?;
        Ok(format!(
            "{count} kills under fio in a guest of QEMU 11.1: {rounds} rounds verified, the reservation held"
        ))
    }

    fn restart(&mut self) -> Result<()> {
        ensure!(self.device.process.is_running(), "the device has ended by itself");
        self.device.process.kill();
        self.device = serve(&self.tenure, self.directory.path())?;
        Ok(())
    }

    /// The guest does, and is told of nothing; nobody else writes.
    fn holds(&mut self) -> Result<()> {
        still_holds(&mut self.guest, &DISKS)?;
        let socket = self.device.sockets.last().context("no socket for the peer")?;
        refuses(&mut VirtioScsi::connect(socket, &setting(2, Shape::default()))?, &DISKS)
    }
}

fn serve(tenure: &Tenure, directory: &Path) -> Result<Device> {
    let lun = format!("file={},size={FILE}", directory.join("disk").display());
    tenure.device(directory, &[FIRST, PEER], &[&lun], &["--num-queues", "2"])
}
