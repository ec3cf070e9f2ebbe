//! The first guest moves from QEMU to QEMU while fio writes and verifies in it without end, and while it holds a reservation: nothing is lost,
//! nothing of the reservation changes, and it is told of nothing.

use crate::front_end::scsi::VirtioScsi;
use crate::linux_guest::node::Node;
use crate::linux_guest::{DISKS, FIRST, LinuxGuests};
use crate::process::wait_for;
use crate::vm::Moved;
use anyhow::{Context, Result, bail, ensure};
use scsi::{DataPhase, Request, Status, opcode};
use std::time::Duration;

/// How long a round of fio's may take; it takes seconds on two idle cores.
const ROUND: Duration = Duration::from_secs(600);
impl LinuxGuests {
    /// So many moves.
    pub(super) fn move_while_verifying(&mut self, count: u32) -> Result<String> {
        reserve(&mut self.first, &DISKS)?;
        self.refuses_others()?;
        let writer = Writer::start(&mut self.first, &DISKS)?;
        let mut moved = Vec::new();
        for number in 1..=count {
            writer.get_on(&mut self.first)?;
            moved.push(self.first.move_on(&self.media).with_context(|| format!("move {number}"))?);
            self.holds().with_context(|| format!("after move {number}"))?;
        }
        let rounds = writer.finish(&mut self.first)?;
        clear(&mut self.first, &DISKS)?;
        Ok(summary(&moved, &rounds))
    }

    /// Every reservation is the first guest's still, and nobody else's.
    fn holds(&mut self) -> Result<()> {
        still_holds(&mut self.first, &DISKS)?;
        for disk in DISKS {
            self.second.shell(
                &format!("sg_turs {disk}; sg_persist -n -i -k {disk}"),
                0,
                &["1 registered", "0xa"],
            )?;
        }
        let port = self.initiator(FIRST)?;
        let name = port.split(',').next().unwrap_or_default();
        self.second.shell("sg_persist -n -i -s /dev/sda", 0, &[name, "Key=0xa", "Reservation holder"])?;
        self.refuses_others()
    }

    /// Another guest, which is not registered, cannot write.
    fn refuses_others(&mut self) -> Result<()> {
        refuses(&mut self.peer, &DISKS)
    }
}

/// This guest, which is not registered, cannot write to its first disks.
pub(super) fn refuses(guest: &mut VirtioScsi, disks: &[&str]) -> Result<()> {
    let cdb = vec![opcode::WRITE_10, 0, 0, 0, 8, 0, 0, 0, 1, 0];
    let write = Request { cdb, data: DataPhase::Out(vec![0; 512]) };
    for (lun, disk) in (0..).zip(disks) {
        let ended = nexus::retry_unit_attention(&mut guest.disk(lun), &write, 8)?.completion;
        ensure!(ended.status == Status::RESERVATION_CONFLICT, "another guest's write to {disk}: {ended:?}");
    }
    Ok(())
}

/// Registers with every disk and reserves it.
pub(super) fn reserve(node: &mut Node, disks: &[&str]) -> Result<()> {
    for disk in disks {
        let out = format!("sg_persist -n -o -I -S 0xa {disk} && sg_persist -n -o -R -K 0xa -T 5 {disk}");
        node.shell(&format!("sg_turs {disk}; sg_turs {disk}; {out}"), 0, &[])?;
    }
    Ok(())
}

/// Every reservation is this guest's, and its first command after a move ends well: it is owed no unit attention.
pub(super) fn still_holds(node: &mut Node, disks: &[&str]) -> Result<()> {
    for disk in disks {
        node.shell(&format!("sg_turs -v {disk}"), 0, &[])?;
        let held = ["Key=0xa", "Write Exclusive, registrants only"];
        node.shell(&format!("sg_persist -n -i -r {disk}"), 0, &held)?;
        // Good only of a nexus that is registered.
        node.shell(&format!("sg_persist -n -o -G -K 0xa -S 0xa {disk}"), 0, &[])?;
    }
    Ok(())
}

/// Nothing is registered any more.
pub(super) fn clear(node: &mut Node, disks: &[&str]) -> Result<()> {
    for disk in disks {
        node.shell(&format!("sg_persist -n -o -C -K 0xa {disk}"), 0, &[])?;
    }
    Ok(())
}

/// fio, without end: rounds of writes that are read back, each with other contents, on all disks at once.
pub(super) struct Writer(u32);

impl Writer {
    pub(super) fn start(node: &mut Node, disks: &[&str]) -> Result<Self> {
        let jobs: Vec<String> = disks
            .iter()
            .map(|disk| format!("--name={} --filename={disk}", disk.replace("/dev/", "")))
            .collect();
        let line = format!(
            "n=0; while [ ! -e /tmp/stop ]; do fio --minimal --output=/tmp/fio --ioengine=libaio --iodepth=8 --direct=1 \
             --rw=randwrite --bsrange=4k-64k --verify=crc32c --do_verify=1 --verify_fatal=1 --randseed=$((n + 1)) \
             --offset=16M --size=4M {} || exit 1; n=$((n + 1)); echo $n >/tmp/new && mv /tmp/new /tmp/rounds; done",
            jobs.join(" ")
        );
        node.shell("rm -f /tmp/stop; echo 0 >/tmp/rounds", 0, &[])?;
        Ok(Self(node.begin(&line, "/tmp/writer.log")?))
    }

    /// Waits until the round that is under way is over; the next one is then.
    pub(super) fn get_on(&self, node: &mut Node) -> Result<()> {
        let before = self.rounds(node)?;
        let next = || match self.rounds(node) {
            Ok(now) if now == before => None,
            answer => Some(answer),
        };
        wait_for(ROUND, next).context("fio does not get on")?.map(drop)
    }

    /// Ends it after one more round; how many there were.
    pub(super) fn finish(&self, node: &mut Node) -> Result<String> {
        self.get_on(node)?;
        node.shell("touch /tmp/stop", 0, &[])?;
        let ended = wait_for(ROUND, || node.status(self.0).transpose()).context("fio does not end")??;
        let log = node.shell("cat /tmp/writer.log /tmp/fio", 0, &[])?;
        ensure!(ended == 0, "fio in the guest ended with {ended}: {log}");
        Ok(node.shell("cat /tmp/rounds", 0, &[])?.trim().to_owned())
    }

    /// How many rounds are over; it must run.
    fn rounds(&self, node: &mut Node) -> Result<u32> {
        if let Some(ended) = node.status(self.0)? {
            let log = node.shell("cat /tmp/writer.log /tmp/fio; dmesg | tail", 0, &[])?;
            bail!("fio in the guest ended with {ended}: {log}");
        }
        Ok(node.shell("cat /tmp/rounds", 0, &[])?.trim().parse()?)
    }
}

pub(super) fn summary(moved: &[Moved], rounds: &str) -> String {
    let longest = moved.iter().map(|moved| moved.downtime).max().unwrap_or_default();
    let sent: u64 = moved.iter().map(|moved| moved.sent).sum();
    format!(
        "{} moves, {rounds} rounds of fio's, the guest stood still for {} ms at most, {} MiB sent",
        moved.len(),
        longest.as_millis(),
        sent >> 20
    )
}
