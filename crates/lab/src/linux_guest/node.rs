//! One guest: a VM with Debian's kernel that has its disks, and everything else in its own memory, so that it can move between the sockets that the
//! device keeps for it.

use crate::vm::{Hardware, Media, Moved, Own, Vm};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one step in the guest may take: nobody else's work is to fail it.
const STEP: Duration = Duration::from_secs(900);
/// What is run in it.
const OWN: Own = Own {
    programs: &[
        "blockdev",
        "cmp",
        "dd",
        "fence_scsi",
        "fio",
        "fsck.ext4",
        "fstrim",
        "mkfs.ext4",
        "sfdisk",
        "sg_dd",
        "sg_inq",
        "sg_luns",
        "sg_modes",
        "sg_opcodes",
        "sg_persist",
        "sg_readcap",
        "sg_reset",
        "sg_sync",
        "sg_turs",
        "sg_unmap",
        "sg_verify",
        "sg_write_same",
    ],
    directories: &["/usr/share/fence"],
    python: Some(&["pexpect", "ptyprocess", "pycurl"]),
};
/// What guests boot from; the agent is in the directory `programs`.
pub(super) fn media(cache: &Path, programs: &Path) -> Result<Media> {
    Media::own(cache, programs, &OWN)
}

/// A guest of the device.
#[derive(Debug)]
pub(super) struct Node {
    vm: Vm,
    /// The sockets that the device keeps for it; it moves from one to the next.
    doors: Vec<PathBuf>,
    at: usize,
}

impl Node {
    /// Starts it; [`Self::ready`] must come next.
    pub(super) fn power_on(media: &Media, doors: Vec<PathBuf>) -> Result<Self> {
        let vm = Vm::power_on(media, Path::new("/"), &hardware(&doors, 0)?)?;
        Ok(Self { vm, doors, at: 0 })
    }

    /// Waits until it has found that many disks.
    pub(super) fn ready(&mut self, disks: usize) -> Result<()> {
        self.vm.wait_ready()?;
        self.shell(&in_order(disks), 0, &[]).context("the guest does not find its disks")?;
        Ok(())
    }

    /// Runs a line of shell, and wants this exit status and these words in what it says.
    pub(super) fn shell(&mut self, line: &str, exit: i32, words: &[&str]) -> Result<String> {
        let ended = self.vm.run(&["sh", "-c", line], STEP)?;
        let told = format!("{}{}", ended.out, ended.err);
        ensure!(ended.code == exit, "{line}: exit status {} and not {exit}: {}", ended.code, told.trim());
        for word in words {
            ensure!(told.contains(word), "{line}: no {word:?} in: {}", told.trim());
        }
        Ok(told)
    }

    /// Starts a line of shell and lets it run; its number.
    pub(super) fn begin(&mut self, line: &str, log: &str) -> Result<u32> {
        self.vm.start(&["sh", "-c", line], Path::new(log))
    }

    /// How it has ended, if it has.
    pub(super) fn status(&mut self, id: u32) -> Result<Option<i32>> {
        self.vm.status(id)
    }

    /// To the next socket, in a QEMU of its own.
    pub(super) fn move_on(&mut self, media: &Media) -> Result<Moved> {
        let next = (self.at + 1) % self.doors.len();
        ensure!(next != self.at, "the device has no other socket for this guest");
        let moved = self.vm.move_to(media, &hardware(&self.doors, next)?)?;
        self.at = next;
        Ok(moved)
    }
}

/// `sda` is to be LUN 0, `sdb` LUN 1, and so on; the kernel looks at them side by side, so that is seen to.
fn in_order(disks: usize) -> String {
    let names: Vec<String> = ('a'..='z').take(disks).map(|letter| format!("sd{letter}")).collect();
    let all = names.iter().map(|name| format!("[ -b /dev/{name} ]")).collect::<Vec<_>>().join(" && ");
    format!(
        "for i in $(seq 20); do for j in $(seq 300); do {all} && break; sleep 0.1; done; \
         n=0; for d in {}; do case $(readlink /sys/block/$d/device) in *:$n) n=$((n + 1)) ;; esac; done; \
         [ $n = {disks} ] && exit 0; \
         for disk in /sys/block/sd*; do echo 1 >$disk/device/delete; done; \
         for host in /sys/class/scsi_host/*; do echo '- - -' >$host/scan; done; done; exit 1",
        names.join(" ")
    )
}

fn hardware(doors: &[PathBuf], at: usize) -> Result<Hardware> {
    let disks = doors.get(at).cloned().context("no such socket")?;
    Ok(Hardware { memory: 768, processors: 1, programs: &[], card: None, disks: Some(disks) })
}
