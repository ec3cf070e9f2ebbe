//! Debian's kernel, in Debian's QEMU, on the disks of `tenure device`: what guests of a user's do with them, one by one and as a cluster, here and
//! while they move.
//!
//! QEMU runs without KVM and with the device's properties as they are by default. Two guests have the same disks; a third is our
//! [front end](crate::front_end), which is told of every unit attention that Linux would keep to itself.

mod cluster;
mod hotplug;
mod moves;
mod node;
mod reconnects;
mod reservations;
mod speed;
mod steps;
mod two_devices;

use crate::front_end::Shape;
use crate::front_end::scsi::{VirtioScsi, setting};
use crate::process::DEADLINE;
use crate::served::{Device, Served};
use crate::tenure::Tenure;
use crate::tgt::Tgt;
use crate::vm::Media;
use anyhow::{Context, Result, ensure};
use node::Node;
use qmp::{Client, Opening};
pub use reconnects::Reconnects;
use serde_json::Value;
pub use speed::{Speed, speeds};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;
pub use two_devices::TwoDevices;

/// The size of the disk in a file, and of the one in memory, in bytes.
const FILE: u64 = 256 << 20;
const MEMORY: u64 = 64 << 20;
const ISCSI: u64 = 32 << 20;
/// The guests' names.
const FIRST: &str = "first";
const SECOND: &str = "second";
const PEER: &str = "peer";
/// The first guest's other socket.
const ELSEWHERE: &str = "elsewhere";
/// Its disks: a file, memory, tgt's, and `tenure target`'s.
const DISKS: [&str; 4] = ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"];

/// Two guests with the same disks (a file, memory, and one of either target over iSCSI), and the device that they have them from.
#[derive(Debug)]
pub struct LinuxGuests {
    // Before the device: guests that are still there would see their disks vanish.
    first: Node,
    second: Node,
    peer: VirtioScsi,
    control: Client,
    device: Device,
    media: Media,
    _targets: (Tgt, Served),
    _directory: TempDir,
}

impl LinuxGuests {
    /// Starts the targets and the device, and boots the guests.
    ///
    /// # Errors
    /// If something fails, or a guest does not find its disks.
    pub fn boot(cache: &Path, programs: &Path) -> Result<Self> {
        let directory = TempDir::new()?;
        let media = node::media(cache, programs)?;
        let tenure = Tenure::at(&programs.join("tenure"));
        let targets = (Tgt::start(1, ISCSI >> 20)?, tenure.target(&[&format!("memory={ISCSI}")])?);
        let urls = [targets.0.served.url(0), targets.1.url(0)];
        let device = serve(&tenure, directory.path(), &urls)?;
        let doors = |name: &str| -> Vec<PathBuf> {
            let is_its = |socket: &&PathBuf| socket.file_stem().is_some_and(|stem| stem == name);
            let is_other =
                |socket: &&PathBuf| name == FIRST && socket.file_stem().is_some_and(|stem| stem == ELSEWHERE);
            device.sockets.iter().filter(|socket| is_its(socket) || is_other(socket)).cloned().collect()
        };
        let mut first = Node::power_on(&media, doors(FIRST))?;
        let mut second = Node::power_on(&media, doors(SECOND))?;
        let peer = doors(PEER).first().cloned().context("no socket for the peer")?;
        let peer = VirtioScsi::connect(&peer, &setting(2, Shape::default()))?;
        let at = directory.path().join("control");
        let control = Client::connect(&at, &Opening::default(), Instant::now() + DEADLINE)?;
        first.ready(DISKS.len())?;
        second.ready(DISKS.len())?;
        Ok(Self { first, second, peer, control, device, media, _targets: targets, _directory: directory })
    }

    /// What is done without moving; tells a summary.
    ///
    /// # Errors
    /// What did not hold.
    pub fn here(&mut self) -> Result<String> {
        let steps = self.steps()?;
        let reservations = self.reservations()?;
        self.hot_plug().context("LUNs that come and go")?;
        self.share().context("two guests on one disk")?;
        self.fence(0).context("fence_scsi")?;
        self.is_well()?;
        Ok(format!(
            "{steps} steps and {reservations} reservation commands as they should be; a LUN came and went; fence_scsi"
        ))
    }

    /// The first guest moves so many times; tells a summary.
    ///
    /// # Errors
    /// What did not hold.
    pub fn moves(&mut self, count: u32) -> Result<String> {
        let told = self.move_while_verifying(count).context("moves")?;
        self.fence(1).context("fence_scsi and a move")?;
        self.is_well()?;
        Ok(format!("{told}; a guest that was fenced stayed so in its move"))
    }

    fn is_well(&mut self) -> Result<()> {
        ensure!(self.device.process.is_running(), "the device is gone");
        is_well(&mut self.first)?;
        is_well(&mut self.second)
    }

    /// A line of shell in the first guest; its exit status and these words are wanted.
    fn shell(&mut self, line: &str, exit: i32, words: &[&str]) -> Result<String> {
        self.first.shell(line, exit, words)
    }

    /// The initiator port of a guest.
    fn initiator(&self, name: &str) -> Result<String> {
        let is_its =
            |port: &&String| port.split(',').next().is_some_and(|port| port.ends_with(&format!(":{name}")));
        self.device.initiators.iter().find(is_its).cloned().with_context(|| format!("no guest {name}"))
    }

    /// Asks the device's control socket.
    fn ask(&self, command: &str, arguments: Value) -> Result<Value> {
        let Value::Object(arguments) = arguments else { anyhow::bail!("no arguments") };
        Ok(self.control.execute(command, arguments, Instant::now() + DEADLINE)?)
    }
}

/// The guest's kernel complains about nothing but reservations.
fn is_well(guest: &mut Node) -> Result<()> {
    guest.shell(
        "dmesg | grep -E 'I/O error|hung task|offline device|blocked for more than' | grep -v 'reservation conflict' \
         | grep -v 'Power-on or device reset' ; test $? = 1",
        0,
        &[],
    )?;
    Ok(())
}

fn serve(tenure: &Tenure, directory: &Path, urls: &[String]) -> Result<Device> {
    let mut luns =
        vec![format!("file={},size={FILE}", directory.join("disk").display()), format!("memory={MEMORY}")];
    luns.extend(urls.iter().cloned());
    let luns: Vec<&str> = luns.iter().map(String::as_str).collect();
    let [control, state] = ["control", "state"].map(|name| directory.join(name).display().to_string());
    // A name given twice is one guest at two sockets.
    let guests = [(FIRST, FIRST), (SECOND, SECOND), (PEER, PEER), (ELSEWHERE, FIRST)];
    let (sockets, names): (Vec<&str>, Vec<&str>) = guests.into_iter().unzip();
    let mut more = vec!["--num-queues", "2", "--control", &control, "--state", &state];
    more.extend(names.iter().flat_map(|name| ["--name", name]));
    tenure.device(directory, &sockets, &luns, &more)
}
