//! Two guests as the nodes of a cluster: each sees what the other registered and reserved, and Debian's `fence_scsi` in both of them fences one,
//! which stays fenced wherever it goes until it joins again by its own command.

use crate::linux_guest::{FIRST, LinuxGuests, SECOND};
use anyhow::{Context, Result};

/// A sector of the disk in a file that nobody else uses.
const WRITE: &str = "dd if=/dev/zero of=/dev/sda bs=512 seek=500000 count=1 oflag=direct";
/// What sg_persist ends with at RESERVATION CONFLICT.
const CONFLICT: i32 = 24;
const CLEAN: &str = "sg_turs /dev/sda; sg_turs /dev/sda; sg_persist -n -o -I -S 0xf /dev/sda; sg_persist -n -o -C -K 0xf /dev/sda";
/// What a node is told first belongs to what happened before.
const LISTEN: &str = "sg_turs /dev/sda; sg_turs /dev/sda; true";

impl LinuxGuests {
    /// Each sees the other's reservation and is held off by it.
    pub(super) fn share(&mut self) -> Result<()> {
        self.first.shell(CLEAN, 0, &[])?;
        self.second.shell(LISTEN, 0, &[])?;
        let names = [self.initiator(FIRST)?, self.initiator(SECOND)?].map(|port| name(&port));
        let names = [names[0].as_str(), names[1].as_str()];
        self.first.shell("sg_persist -n -o -G -S 0xa1 /dev/sda", 0, &[])?;
        self.first.shell("sg_persist -n -o -R -K 0xa1 -T 5 /dev/sda", 0, &[])?;
        let held = "sg_persist -n -i -r /dev/sda";
        self.second.shell(held, 0, &["Key=0xa1", "Write Exclusive, registrants only"])?;
        self.second.shell(WRITE, 1, &[]).context("a node that is not registered writes")?;
        self.second.shell("sg_persist -n -o -R -K 0xb1 -T 5 /dev/sda", CONFLICT, &[])?;
        self.second.shell("sg_persist -n -o -G -S 0xb1 /dev/sda", 0, &[])?;
        self.second.shell(WRITE, 0, &[])?;
        self.first.shell("sg_persist -n -i -s /dev/sda", 0, &[&names[..], &["0xa1", "0xb1"]].concat())?;
        self.second.shell("sg_persist -n -o -P -K 0xb1 -S 0xa1 -T 5 /dev/sda", 0, &[])?;
        self.first.shell(LISTEN, 0, &[])?;
        self.first.shell(held, 0, &["Key=0xb1"])?;
        self.first.shell(WRITE, 1, &[]).context("a node that was preempted writes")?;
        self.second.shell(CLEAN, 0, &[])?;
        self.first.shell(LISTEN, 0, &[])?;
        self.first.shell(WRITE, 0, &[]).map(drop)
    }

    /// Both join, the second fences the first, which then moves so many times, and joins again by its own `on`.
    pub(super) fn fence(&mut self, moves: u32) -> Result<()> {
        self.first.shell(CLEAN, 0, &[])?;
        self.second.shell(LISTEN, 0, &[])?;
        self.first.shell(&agent("on", "a1"), 0, &[])?;
        self.second.shell(&agent("on", "b1"), 0, &[])?;
        self.first.shell(
            "sg_persist -n -i -r /dev/sda",
            0,
            &["Key=0xa1", "Write Exclusive, registrants only"],
        )?;
        for node in [&mut self.first, &mut self.second] {
            node.shell(WRITE, 0, &[])?;
        }
        self.second.shell(&agent("off", "a1"), 0, &[])?;
        self.is_fenced().context("fenced")?;
        for _ in 0..moves {
            self.first.move_on(&self.media)?;
            self.is_fenced().context("fenced, after a move")?;
        }
        self.first.shell(&agent("on", "a1"), 0, &[])?;
        self.first.shell("sg_persist -n -i -k /dev/sda", 0, &["0xa1", "0xb1"])?;
        for node in [&mut self.first, &mut self.second] {
            node.shell(WRITE, 0, &[])?;
        }
        self.first.shell(CLEAN, 0, &[])?;
        self.second.shell(LISTEN, 0, &[]).map(drop)
    }

    fn is_fenced(&mut self) -> Result<()> {
        // Of the agent's: what is asked about is off.
        const OFF: i32 = 2;
        self.first.shell(WRITE, 1, &[]).context("a fenced node writes")?;
        self.first.shell(&agent("status", "a1"), OFF, &["Status: OFF"])?;
        self.second.shell("sg_persist -n -i -k /dev/sda", 0, &["1 registered reservation key", "0xb1"])?;
        self.second.shell("sg_persist -n -i -r /dev/sda", 0, &["Key=0xb1"])?;
        self.second.shell(WRITE, 0, &[]).map(drop)
    }
}

/// fence_scsi's command line, with timeouts for a guest whose processor is emulated.
fn agent(action: &str, key: &str) -> String {
    format!("fence_scsi -o {action} -k {key} -d /dev/sda --power-timeout=300 --shell-timeout=300")
}

/// An initiator port's name.
fn name(port: &str) -> String {
    port.split(',').next().unwrap_or_default().to_owned()
}
