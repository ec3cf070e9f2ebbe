//! SCSI disks of Linux: SG_IO through the node that was named, transfers through the disk's block node. Used by
//! [`Passthrough`](super::Passthrough).

use super::{Device, Disk, Open};
use nexus::TransportError;
use nexus::linux::SgDevice;
use rustix::fs::{OFlags, ioctl_blksszget, major, minor};
use scsi::{Completion, Request};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What one SG_IO moves where the kernel does not say: what every driver can.
const MOST_UNKNOWN: u32 = 128 << 10;
/// Smallest page: a segment of a buffer in memory may be no longer.
const SEGMENT: u32 = 4096;

/// Opens nodes of this host.
#[derive(Debug)]
pub struct Linux;

#[derive(Debug)]
struct LinuxDevice {
    device: SgDevice,
    disk: Option<Disk>,
}

impl Open for Linux {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Device>> {
        let device = SgDevice::open(path).map_err(io::Error::other)?;
        let node = if device.is_block() { Some(path.to_owned()) } else { block_node(device.number()) };
        let disk = node.map(|node| open_disk(&node)).transpose()?;
        Ok(Box::new(LinuxDevice { device, disk }))
    }
}

impl Device for LinuxDevice {
    fn send(&self, request: &Request, timeout: Duration) -> Result<Completion, TransportError> {
        self.device.send(request, timeout)
    }

    fn reset(&self) -> io::Result<()> {
        self.device.reset_logical_unit()
    }

    fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }
}

/// The block node of the disk behind `/dev/sgN`; none for what is no disk.
fn block_node(number: u64) -> Option<PathBuf> {
    let folder = format!("/sys/dev/char/{}:{}/device/block", major(number), minor(number));
    let entry = fs::read_dir(folder).ok()?.next()?.ok()?;
    Some(Path::new("/dev").join(entry.file_name()))
}

/// O_EXCL: the kernel then keeps it from being mounted, and refuses what is. It is no help against other programs like this one,
/// which the caller has to know of.
fn open_disk(node: &Path) -> io::Result<Disk> {
    let flags = OFlags::EXCL | OFlags::DIRECT | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(node)?;
    let block = ioctl_blksszget(&file)?;
    let number = file.metadata()?.rdev();
    let queue = PathBuf::from(format!("/sys/dev/block/{}:{}/queue", major(number), minor(number)));
    let alignment = usize::try_from(block).map_err(io::Error::other)?.max(1);
    Ok(Disk { medium: Arc::new(OwnedFd::from(file)), block, alignment, most: most(&queue) })
}

/// The most bytes of one SG_IO: of the command, and of a buffer whose pages lie anywhere.
fn most(queue: &Path) -> u32 {
    let told = |name: &str| fs::read_to_string(queue.join(name)).ok()?.trim().parse::<u32>().ok();
    let command = told("max_sectors_kb").and_then(|kib| kib.checked_mul(1024));
    // A buffer that does not begin at a page has one segment more.
    let segments = told("max_segments").and_then(|count| count.saturating_sub(1).checked_mul(SEGMENT));
    let limits = [command, segments].into_iter().flatten().filter(|limit| *limit > 0);
    limits.min().unwrap_or(MOST_UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_moves_what_both_the_adapter_and_its_segments_allow() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(most(folder.path()), MOST_UNKNOWN);
        write("max_sectors_kb", "1280\n");
        assert_eq!(most(folder.path()), 1280 << 10);
        write("max_segments", "65\n");
        assert_eq!(most(folder.path()), 64 * 4096);
        write("max_segments", "0\n");
        write("max_sectors_kb", "4194304\n");
        assert_eq!(most(folder.path()), MOST_UNKNOWN, "what cannot be is not believed");
    }

    #[test]
    fn what_takes_no_scsi_commands_is_refused() {
        assert!(Linux.open(Path::new("/dev/null")).is_err());
        assert!(Linux.open(Path::new("/no/such/node")).is_err());
    }
}
