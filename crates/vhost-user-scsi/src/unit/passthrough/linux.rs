//! SCSI disks of Linux: SG_IO through the node that was named, transfers through the disk's block node. Used by
//! [`Passthrough`](super::Passthrough).

use super::{Device, Disk, Open};
use guard::host::{Host, SYS};
use nexus::TransportError;
use nexus::linux::SgDevice;
use rustix::fs::{OFlags, ioctl_blksszget, major, makedev, minor};
use scsi::inquiry::StandardInquiry;
use scsi::{Completion, DataPhase, Request, opcode};
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

/// Longest standard INQUIRY data that is looked at.
const INQUIRY_LENGTH: u8 = 36;
/// How long INQUIRY may take, which reads no medium.
const INQUIRY_TIMEOUT: Duration = Duration::from_secs(10);
/// PERIPHERAL DEVICE TYPE of disks (SPC-4 6.6.2).
const DISK: u8 = 0;

/// What is a SCSI device and cannot be a guest's disk.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(
        "a dm-multipath map sends commands by paths of its own choice, so registrations cannot be kept; pass one path, or use iscsi://"
    )]
    Multipath,
    #[error("a partition is no logical unit; name the whole disk")]
    Partition,
    #[error("it lies on top of other devices, or is no SCSI disk; name the disk itself, or use block=")]
    Stacked,
    #[error("{} became another device in this moment", .0.display())]
    Exchanged(PathBuf),
    #[error("it does not answer INQUIRY; is the logical unit still mapped to this host?")]
    Silent,
    #[error("it is no disk, but {}", kind(*.0))]
    NotADisk(u8),
    #[error("its disk has no block node; is the sd driver loaded?")]
    NoBlockNode,
    #[error("{} is in use: something on it is mounted, or another program has it open exclusively; lsblk and fuser -v say what", .0.display())]
    InUse(PathBuf),
    #[error("cannot open {} for direct I/O", .0.display())]
    Block(PathBuf, #[source] io::Error),
}

/// Other PERIPHERAL DEVICE TYPEs than a disk's, in words.
fn kind(code: u8) -> String {
    let known = match code {
        1 => "a tape",
        3 => "a processor device",
        5 => "a CD or DVD drive",
        7 => "an optical memory",
        8 => "a medium changer",
        0x0C => "a storage array controller",
        0x0D => "an enclosure",
        0x14 => "a zoned disk that its host has to manage",
        _ => return format!("a device of type {code:#04x}"),
    };
    known.to_owned()
}

/// Opens nodes of this host.
#[derive(Debug)]
pub struct Linux;

#[derive(Debug)]
struct LinuxDevice {
    device: SgDevice,
    disk: Disk,
}

impl Open for Linux {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Device>> {
        let named = SgDevice::open(path).map_err(io::Error::other)?;
        let disk = open_disk_of(&named, path).map_err(Unfit::told)?;
        // Both kinds of commands go to the same open file, which no exchange of nodes can tear apart; and by the block node SG_IO is over
        // before a killed process is, so that no write of its comes after those of the next.
        let device = SgDevice::from_fd(disk.medium.try_clone()?).map_err(io::Error::other)?;
        Ok(Box::new(LinuxDevice { device, disk }))
    }
}

impl Unfit {
    /// What a caller may want to wait for keeps its kind.
    fn told(self) -> io::Error {
        let kind =
            if matches!(self, Self::InUse(_)) { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
        io::Error::new(kind, self)
    }
}

fn open_disk_of(device: &SgDevice, path: &Path) -> Result<Disk, Unfit> {
    let (number, block) = (device.number(), device.is_block());
    if (Host { sys: Path::new(SYS), number, block }).is_multipath() {
        return Err(Unfit::Multipath);
    }
    if block {
        is_whole(Path::new(&format!("{SYS}/dev/block/{}:{}", major(number), minor(number))))?;
    }
    match peripheral(device) {
        Some(DISK) => {}
        Some(kind) => return Err(Unfit::NotADisk(kind)),
        None => return Err(Unfit::Silent),
    }
    let here = (path.to_owned(), number);
    let (node, number) = if block { here } else { block_node(number).ok_or(Unfit::NoBlockNode)? };
    let disk = open_disk(&node).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => Unfit::InUse(node.clone()),
        _ => Unfit::Block(node.clone(), error),
    })?;
    if disk.number == number { Ok(disk.disk) } else { Err(Unfit::Exchanged(node)) }
}

/// A block device that is a SCSI disk from its first block to its last: LBAs mean the same to the block node and to SG_IO.
fn is_whole(device: &Path) -> Result<(), Unfit> {
    if device.join("partition").exists() {
        return Err(Unfit::Partition);
    }
    if device.join("device").exists() { Ok(()) } else { Err(Unfit::Stacked) }
}

/// PERIPHERAL DEVICE TYPE, if a logical unit is there.
fn peripheral(device: &SgDevice) -> Option<u8> {
    let cdb = vec![opcode::INQUIRY, 0, 0, 0, INQUIRY_LENGTH, 0];
    let request = Request { cdb, data: DataPhase::In(INQUIRY_LENGTH.into()) };
    let ended = device.send(&request, INQUIRY_TIMEOUT).ok().filter(|ended| ended.status.is_good())?;
    let first = *ended.data.first()?;
    (StandardInquiry::parse(&ended.data).is_some() && first >> 5 == 0).then_some(first & 0x1F)
}

impl Device for LinuxDevice {
    fn send(&self, request: &Request, timeout: Duration) -> Result<Completion, TransportError> {
        self.device.send(request, timeout)
    }

    fn reset(&self) -> io::Result<()> {
        self.device.reset_logical_unit()
    }

    fn disk(&self) -> Option<&Disk> {
        Some(&self.disk)
    }

    fn number(&self) -> Option<(u64, bool)> {
        Some((self.device.number(), self.device.is_block()))
    }
}

/// The block node of the disk behind `/dev/sgN`, and its number; none for what is no disk.
fn block_node(number: u64) -> Option<(PathBuf, u64)> {
    let folder = format!("{SYS}/dev/char/{}:{}/device/block", major(number), minor(number));
    let entry = fs::read_dir(folder).ok()?.next()?.ok()?;
    let told = fs::read_to_string(entry.path().join("dev")).ok()?;
    let (major, minor) = told.trim().split_once(':')?;
    let number = makedev(major.parse().ok()?, minor.parse().ok()?);
    Some((Path::new("/dev").join(entry.file_name()), number))
}

/// A block node that was opened.
struct OpenDisk {
    disk: Disk,
    number: u64,
}

/// O_EXCL: the kernel then keeps it from being mounted, and refuses what is. It is no help against other programs like this one,
/// which the caller has to know of.
fn open_disk(node: &Path) -> io::Result<OpenDisk> {
    let flags = OFlags::EXCL | OFlags::DIRECT | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(node)?;
    let block = ioctl_blksszget(&file)?;
    let number = file.metadata()?.rdev();
    let queue = PathBuf::from(format!("/sys/dev/block/{}:{}/queue", major(number), minor(number)));
    let alignment = usize::try_from(block).map_err(io::Error::other)?.max(1);
    let disk = Disk { medium: Arc::new(OwnedFd::from(file)), block, alignment, most: most(&queue) };
    Ok(OpenDisk { disk, number })
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
    fn only_a_whole_disk_has_the_same_blocks_by_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(is_whole(folder.path()), Err(Unfit::Stacked)), "a logical volume, say");
        fs::create_dir(folder.path().join("device")).unwrap();
        is_whole(folder.path()).unwrap();
        fs::write(folder.path().join("partition"), "1\n").unwrap();
        assert!(matches!(is_whole(folder.path()), Err(Unfit::Partition)));
    }

    #[test]
    fn who_may_wait_for_a_disk_in_use_is_told_apart() {
        assert_eq!(Unfit::InUse("/dev/sda".into()).told().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(Unfit::Partition.told().kind(), io::ErrorKind::Other);
    }

    #[test]
    fn what_is_no_disk_is_called_by_its_name() {
        assert_eq!(Unfit::NotADisk(1).to_string(), "it is no disk, but a tape");
        assert_eq!(Unfit::NotADisk(0x1E).to_string(), "it is no disk, but a device of type 0x1e");
    }

    #[test]
    fn what_takes_no_scsi_commands_is_refused() {
        assert!(Linux.open(Path::new("/dev/null")).is_err());
        assert!(Linux.open(Path::new("/no/such/node")).is_err());
    }
}
