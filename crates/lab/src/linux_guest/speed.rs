//! How fast a guest finds its disk: the same fio in the same guest, on a disk of `tenure device` and on QEMU's own. Used by the benchmarks.
//!
//! The guest's processor is emulated, which most of the time goes into: whatever differs is less than what a user would see.

use crate::linux_guest::node::{self, Node};
use crate::tenure::Tenure;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What fio is told: name, direction, block size, depth.
const LOADS: [(&str, &str, &str, u32); 4] = [
    ("4 KiB random read", "randread", "4k", 1),
    ("4 KiB random read", "randread", "4k", 32),
    ("4 KiB random write", "randwrite", "4k", 32),
    ("128 KiB sequential read", "read", "128k", 32),
];

/// One load, and how many requests a second there were.
#[derive(Clone, Debug)]
pub struct Speed {
    /// What it was.
    pub load: &'static str,
    /// How many requests there were at once.
    pub depth: u32,
    /// On a disk of `tenure device`.
    pub ours: f64,
    /// On QEMU's virtio-scsi with scsi-hd.
    pub theirs: f64,
}

/// Boots a guest on either disk, in turn, both in `file`, and runs every load for so many seconds.
///
/// # Errors
/// If a guest does not come up, or fio fails.
pub fn speeds(cache: &Path, programs: &Path, file: &Path, seconds: u64) -> Result<Vec<Speed>> {
    let (directory, media) = (TempDir::new()?, node::media(cache, programs)?);
    let run = |disks: PathBuf| -> Result<Vec<f64>> {
        let mut guest = Node::power_on(&media, vec![disks])?;
        guest.ready(1)?;
        LOADS.iter().map(|load| fio(&mut guest, load, seconds)).collect()
    };
    let theirs = run(file.to_owned()).context("QEMU's own disk")?;
    let lun = format!("file={}", file.display());
    let tenure = Tenure::at(&programs.join("tenure"));
    let device = tenure.device(directory.path(), &["guest"], &[&lun], &["--num-queues", "2"])?;
    let ours = run(device.sockets.first().cloned().context("no socket")?).context("tenure's disk")?;
    let all = LOADS.iter().zip(ours.into_iter().zip(theirs));
    Ok(all.map(|((load, _, _, depth), (ours, theirs))| Speed { load, depth: *depth, ours, theirs }).collect())
}

fn fio(guest: &mut Node, (_, direction, size, depth): &(&str, &str, &str, u32), seconds: u64) -> Result<f64> {
    let line = format!(
        "fio --name=speed --filename=/dev/sda --rw={direction} --bs={size} --iodepth={depth} --ioengine=libaio --direct=1 \
         --time_based --runtime={seconds} --ramp_time=1 --output-format=json"
    );
    let told = guest.shell(&line, 0, &[])?;
    rate(&told).with_context(|| format!("{line}: {told}"))
}

/// Reads and writes in a second, in what fio tells.
fn rate(told: &str) -> Option<f64> {
    let document: Value = serde_json::from_str(told.get(told.find('{')?..=told.rfind('}')?)?).ok()?;
    let job = document.get("jobs")?.get(0)?;
    let of = |direction| job.get(direction)?.get("iops")?.as_f64();
    Some(of("read")? + of("write")?).filter(|rate| *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fio_tells_is_found_among_its_warnings() {
        let told =
            "note: both\n{\"jobs\": [{\"read\": {\"iops\": 10.5}, \"write\": {\"iops\": 0}}]}\nfio: over\n";
        assert_eq!(rate(told), Some(10.5));
        assert_eq!(rate("{\"jobs\": [{\"read\": {\"iops\": 0}, \"write\": {\"iops\": 0}}]}"), None);
        assert_eq!(rate("}{"), None);
    }
}
