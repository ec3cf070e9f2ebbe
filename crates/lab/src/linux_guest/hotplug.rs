//! A LUN that is added while guests run and goes again: they see it by themselves, write to it, and see it go.

use crate::linux_guest::LinuxGuests;
use anyhow::{Context, Result, ensure};
use serde_json::json;

const SIZE: u64 = 32 << 20;
/// The disk of LUN 7, as the kernel has it.
const DISK: &str = "d=/dev/$(ls /sys/class/scsi_device/*:0:0:7/device/block)";

impl LinuxGuests {
    /// All of it.
    pub(super) fn hot_plug(&mut self) -> Result<()> {
        let added = self.ask("lun-add", json!({ "spec": format!("memory={SIZE}"), "lun": 7 }))?;
        ensure!(added == json!({ "lun": 7 }), "lun-add: {added}");
        for guest in [&mut self.first, &mut self.second] {
            guest
                .shell(&until("ls /sys/class/scsi_device/*:0:0:7/device/block/*/size"), 0, &[])
                .context("it comes")?;
            let size = SIZE.to_string();
            guest.shell(&format!("{DISK}; blockdev --getsize64 $d"), 0, &[&size])?;
            guest.shell("sg_luns /dev/sda", 0, &["0007000000000000"])?;
        }
        let write =
            "head -c 1048576 /dev/urandom >/tmp/new && dd if=/tmp/new of=$d bs=64k oflag=direct && sync";
        self.first.shell(&format!("{DISK}; {write}"), 0, &[])?;
        self.first.shell(
            &format!("{DISK}; dd if=$d bs=64k count=16 iflag=direct | cmp - /tmp/new"),
            0,
            &[],
        )?;
        let sum = |guest: &mut super::Node| {
            guest.shell(
                &format!("{DISK}; dd if=$d bs=64k count=16 iflag=direct 2>/dev/null | sha256sum"),
                0,
                &[],
            )
        };
        ensure!(
            sum(&mut self.first)? == sum(&mut self.second)?,
            "the guests read different things from one LUN"
        );
        self.ask("lun-remove", json!({ "lun": 7 }))?;
        for guest in [&mut self.first, &mut self.second] {
            guest.shell(&until("! ls -d /sys/class/scsi_device/*:0:0:7"), 0, &[]).context("it goes")?;
            let told = guest.shell("sg_luns /dev/sda", 0, &["0001000000000000"])?;
            ensure!(!told.contains("0007000000000000"), "a LUN that was removed is reported: {told}");
        }
        Ok(())
    }
}

/// Waits in the guest, for a minute.
fn until(condition: &str) -> String {
    format!("for i in $(seq 600); do {condition} >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1")
}
