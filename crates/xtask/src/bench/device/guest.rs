//! The same fio in a guest of Debian's, on `tenure device` and on QEMU's own virtio-scsi disk.

use crate::{lab, programs, tools};
use ::lab::linux_guest::{Speed, speeds};
use anyhow::Result;
use std::path::Path;
use tempfile::TempDir;

/// Seconds of each load.
const SECONDS: u64 = 5;

/// Prints a table.
pub(super) fn print(built: Option<&Path>) -> Result<()> {
    [tools::LAB, tools::DISKS].into_iter().try_for_each(tools::ensure)?;
    let (programs, directory) = (programs::build(built)?, TempDir::new_in("/dev/shm")?);
    let file = directory.path().join("disk");
    super::fill(&file)?;
    println!(
        "fio in a guest under TCG, one run of {SECONDS} s each; a file on a tmpfs; requests in a second"
    );
    println!("{:<34} {:>12} {:>12}   ratio", "", "tenure", "QEMU's own");
    for Speed { load, depth, ours, theirs } in speeds(&lab::cache()?, &programs, &file, SECONDS)? {
        let what = format!("{load}, depth {depth}");
        println!("{what:<34} {ours:>12.0} {theirs:>12.0}   {:.2}", ours / theirs);
    }
    Ok(())
}
