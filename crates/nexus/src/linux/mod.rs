//! SCSI disks of Linux through SG_IO: `/dev/sdX`, `/dev/sgN`, and whatever else takes the ioctl.
//!
//! [`SgDevice`] opens the node and is a [`Nexus`]; `outcome` decides what a returned header means, with
//! the codes of `status`; `sys` has the ioctl. Sending PERSISTENT RESERVE OUT takes write access to the
//! node and, on most kernels, CAP_SYS_RAWIO.

mod outcome;
mod status;
mod sys;
#[cfg(test)]
mod tests;

pub use outcome::SgIoFailure;
pub use status::{DriverStatus, HostStatus};

use crate::{Nexus, TransportError};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use scsi::{Completion, DataPhase, Request};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::Transfer;

/// How long a command may take unless the caller says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest CDB that SG_IO takes on every kernel.
const CDB_LENGTH_MAX: usize = 16;
/// The first SG driver with the header used here.
const SG_VERSION_3: i32 = 30_000;

/// Why a device node cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The node cannot be opened for reading and writing.
    #[error("cannot open {}{}", path.display(), hint(source))]
    Open {
        /// The node.
        path: PathBuf,
        /// What the kernel said.
        source: Error,
    },
    /// A regular file, directory, socket …
    #[error("{} is neither a block nor a character device; give a SCSI disk such as /dev/sda or /dev/sg0", .0.display())]
    NotADevice(PathBuf),
    /// A device that takes no SCSI commands.
    #[error("{} takes no SCSI commands (no SG_IO, version 3); give a SCSI disk such as /dev/sda or /dev/sg0", path.display())]
    NotScsi {
        /// The node.
        path: PathBuf,
        /// What the kernel said, unless it is only an old version.
        source: Option<Error>,
    },
}

/// What the user can do about a failed open.
fn hint(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "; list the SCSI disks of this machine with lsblk --scsi",
        ErrorKind::PermissionDenied => "; it takes read and write permission on the node and CAP_SYS_RAWIO",
        ErrorKind::ReadOnlyFilesystem => "; the device is set read-only: blockdev --setrw",
        ErrorKind::ResourceBusy => "; another program has it open exclusively",
        _ => "",
    }
}

/// A SCSI device node: one I_T nexus to one logical unit.
#[derive(Debug)]
pub struct SgDevice {
    device: OwnedFd,
    node: Node,
    timeout: Duration,
}

/// What the descriptor says of itself.
#[derive(Clone, Copy, Debug)]
struct Node {
    number: u64,
    block: bool,
    writable: bool,
}

impl Node {
    /// `Ok(None)`: neither a block nor a character device, or a descriptor that cannot be used (O_PATH).
    fn of(device: &OwnedFd) -> rustix::io::Result<Option<Self>> {
        let stat = rustix::fs::fstat(device)?;
        let flags = rustix::fs::fcntl_getfl(device)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let usable = is_device(kind) && !flags.contains(OFlags::PATH);
        let writable = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        Ok(usable.then_some(Self { number: stat.st_rdev, block: kind == FileType::BlockDevice, writable }))
    }
}

impl SgDevice {
    /// Opens a block or character device for reading and writing, without waiting for it to be ready.
    ///
    /// # Errors
    /// [`OpenError`], whose text says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let failed =
            |errno: rustix::io::Errno| OpenError::Open { path: path.to_owned(), source: errno.into() };
        check_type(path, rustix::fs::stat(path).map_err(failed)?.st_mode)?;
        // NONBLOCK: neither wait for another program's exclusive open of /dev/sgN nor for a medium.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let node = Node::of(&device).map_err(failed)?;
        let node = node.ok_or_else(|| OpenError::NotADevice(path.to_owned()))?;
        let not_scsi = |source| OpenError::NotScsi { path: path.to_owned(), source };
        match sys::version(device.as_fd()) {
            Ok(SG_VERSION_3..) => Ok(Self { device, node, timeout: DEFAULT_TIMEOUT }),
            Ok(_) => Err(not_scsi(None)),
            Err(errno) => Err(not_scsi(Some(errno.into()))),
        }
    }

    /// A device that somebody else opened, e.g. a descriptor received over a socket. It is looked at, not touched: no
    /// command is sent and no ioctl made. Whether it takes SCSI commands shows with the first.
    ///
    /// # Errors
    /// [`OpenError::NotADevice`] if it is neither a block nor a character device, or cannot be used at all (O_PATH).
    pub fn from_fd(device: OwnedFd) -> Result<Self, OpenError> {
        let node = Node::of(&device).ok().flatten();
        let node = node.ok_or_else(|| OpenError::NotADevice(PathBuf::from("the descriptor")))?;
        Ok(Self { device, node, timeout: DEFAULT_TIMEOUT })
    }

    /// Whether it was opened for writing, without which the kernel's permissions did not allow its opener to change
    /// anything.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.node.writable
    }

    /// The device number, of the node and not of the file system it is on.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.node.number
    }

    /// It is a block device, and not a character device.
    #[must_use]
    pub const fn is_block(&self) -> bool {
        self.node.block
    }

    /// The number that the kernel gave the disk when it was attached and will give no other disk until it is booted anew
    /// (BLKGETDISKSEQ, Linux 5.15): of the disk that this descriptor was opened on, whatever has its device number now.
    #[must_use]
    pub fn disk_sequence(&self) -> Option<u64> {
        if !self.node.block {
            return None;
        }
        sys::disk_sequence(self.device.as_fd()).ok()
    }

    /// Sets how long a command may take; whole milliseconds, at least one. Linux takes 7 s on `/dev/sdX`
    /// for anything shorter, and aborting a command that timed out takes time of its own.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sends one command, which may take as long as `timeout`; several threads may at once.
    ///
    /// # Errors
    /// [`TransportError`] if no completion arrived.
    pub fn send(&self, request: &Request, timeout: Duration) -> Result<Completion, TransportError> {
        if request.cdb.is_empty() || request.cdb.len() > CDB_LENGTH_MAX {
            let error = Error::new(ErrorKind::InvalidInput, "SG_IO takes CDBs of 1 to 16 bytes");
            return Err(TransportError::NotSent(error));
        }
        let mut sense = [0; sys::SENSE_LENGTH];
        let mut data_in = Vec::new();
        let transfer = match &request.data {
            DataPhase::None | DataPhase::In(0) => Transfer::None,
            DataPhase::Out(data) if data.is_empty() => Transfer::None,
            DataPhase::Out(data) => Transfer::Out(data),
            DataPhase::In(length) => {
                data_in.resize(*length, 0);
                Transfer::In(&mut data_in)
            }
        };
        let returned =
            sys::sg_io(self.device.as_fd(), &request.cdb, transfer, &mut sense, milliseconds(timeout))
                .map_err(outcome::ioctl_error)?;
        outcome::completion(&returned, &sense, data_in)
    }

    /// Has the kernel reset the logical unit, and nothing that reaches further (SG_SCSI_RESET). It takes CAP_SYS_ADMIN and
    /// CAP_SYS_RAWIO.
    ///
    /// # Errors
    /// The kernel's: its driver cannot, or this program may not.
    pub fn reset_logical_unit(&self) -> Result<(), Error> {
        Ok(sys::reset_logical_unit(self.device.as_fd())?)
    }
}

/// SG_IO takes `u32::MAX` for "for ever" and 0 for a default: neither is what a caller asked for.
fn milliseconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).clamp(1, u32::MAX - 1)
}

/// Opening a FIFO or a tape may have effects, so the type is looked at before and, against races, after.
fn check_type(path: &Path, mode: rustix::fs::RawMode) -> Result<(), OpenError> {
    let device = is_device(FileType::from_raw_mode(mode));
    device.then_some(()).ok_or_else(|| OpenError::NotADevice(path.to_owned()))
}

const fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::BlockDevice | FileType::CharacterDevice)
}

impl Nexus for SgDevice {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.send(request, self.timeout)
    }
}
