//! The ioctls of Linux: SG_IO (`include/scsi/sg.h`, interface version 3) and what tells devices apart. The only `unsafe` of
//! this crate.
//!
//! [`sg_io`] is safe to call with any bytes: lengths come from the slices themselves. Used by
//! [`super::SgDevice`] alone.
#![expect(unsafe_code, reason = "ioctls take pointers inside a structure")]

use rustix::fd::BorrowedFd;
use rustix::ioctl::{self, Getter, Setter, Updater};
use std::ffi::c_void;
use std::mem::{offset_of, size_of};
use std::ptr::null_mut;

const SG_GET_VERSION_NUM: ioctl::Opcode = 0x2282;
const SG_SCSI_RESET: ioctl::Opcode = 0x2284;
const SG_IO: ioctl::Opcode = 0x2285;
const BLKGETDISKSEQ: ioctl::Opcode = ioctl::opcode::read::<u64>(0x12, 128);

/// SG_SCSI_RESET_DEVICE with SG_SCSI_RESET_NO_ESCALATE: the logical unit, never its target or bus.
const RESET_LOGICAL_UNIT: i32 = 0x101;

/// Room for sense data: the most that fixed or descriptor format can have (SPC-4 4.5.2.1).
pub(super) const SENSE_LENGTH: usize = 252;

/// What the driver fills in when the command is over.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returned {
    pub(super) status: u8,
    pub(super) masked_status: u8,
    pub(super) msg_status: u8,
    pub(super) sb_len_wr: u8,
    pub(super) host_status: u16,
    pub(super) driver_status: u16,
    pub(super) resid: i32,
    pub(super) duration: u32,
    pub(super) info: u32,
}

/// `struct sg_io_hdr`.
#[repr(C)]
struct Header {
    interface_id: i32,
    dxfer_direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut c_void,
    cmdp: *mut u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut c_void,
    returned: Returned,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<Header>() == 88);
    assert!(offset_of!(Header, dxfer_len) == 12);
    assert!(offset_of!(Header, dxferp) == 16);
    assert!(offset_of!(Header, sbp) == 32);
    assert!(offset_of!(Header, timeout) == 40);
    assert!(offset_of!(Header, usr_ptr) == 56);
    assert!(offset_of!(Header, returned) == 64);
};
const _: () = {
    assert!(size_of::<Returned>() == 20);
    assert!(offset_of!(Returned, host_status) == 4);
    assert!(offset_of!(Returned, resid) == 8);
    assert!(offset_of!(Returned, info) == 16);
};

/// The data phase of one SG_IO.
pub(super) enum Transfer<'a> {
    None,
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

impl Transfer<'_> {
    /// `dxfer_direction`, buffer and length.
    fn parts(self) -> Option<(i32, *mut c_void, u32)> {
        Some(match self {
            Self::None => (-1, null_mut(), 0),
            Self::Out(data) => (-2, data.as_ptr().cast_mut().cast(), u32::try_from(data.len()).ok()?),
            Self::In(data) => (-3, data.as_mut_ptr().cast(), u32::try_from(data.len()).ok()?),
        })
    }
}

/// Sends one command and waits until the driver is done with it, at most about `timeout_ms`
/// milliseconds. INVAL without a call for a CDB above 255 bytes or data above 4 GiB.
pub(super) fn sg_io(
    device: BorrowedFd<'_>,
    cdb: &[u8],
    transfer: Transfer<'_>,
    sense: &mut [u8; SENSE_LENGTH],
    timeout_ms: u32,
) -> rustix::io::Result<Returned> {
    let (Ok(cmd_len), Some((dxfer_direction, dxferp, dxfer_len))) =
        (u8::try_from(cdb.len()), transfer.parts())
    else {
        return Err(rustix::io::Errno::INVAL);
    };
    let mut header = Header {
        interface_id: i32::from(b'S'),
        dxfer_direction,
        cmd_len,
        mx_sb_len: const { SENSE_LENGTH as u8 },
        iovec_count: 0,
        dxfer_len,
        dxferp,
        cmdp: cdb.as_ptr().cast_mut(),
        sbp: sense.as_mut_ptr(),
        timeout: timeout_ms,
        flags: 0,
        pack_id: 0,
        usr_ptr: null_mut(),
        returned: Returned::default(),
    };
    // SAFETY: SG_IO takes a pointer to this structure and keeps none of its pointers after it returns.
    // It reads `cmd_len` bytes at `cmdp`; by direction it reads or writes at most `dxfer_len` bytes at
    // `dxferp`, writes at most `mx_sb_len` at `sbp`: each is the length of the slice behind it, and the
    // slices outlive the call. What it only reads (the CDB, data-out) it never writes.
    unsafe { ioctl::ioctl(device, Updater::<SG_IO, Header>::new(&mut header)) }?;
    Ok(header.returned)
}

/// The version of the SG interface, e.g. 30 536 for 3.5.36; an error if the device takes no SCSI commands.
pub(super) fn version(device: BorrowedFd<'_>) -> rustix::io::Result<i32> {
    // SAFETY: SG_GET_VERSION_NUM writes one `int`.
    unsafe { ioctl::ioctl(device, Getter::<SG_GET_VERSION_NUM, i32>::new()) }
}

/// Resets the logical unit; returns when that is over.
pub(super) fn reset_logical_unit(device: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // SAFETY: SG_SCSI_RESET reads one `int`.
    unsafe { ioctl::ioctl(device, Setter::<SG_SCSI_RESET, i32>::new(RESET_LOGICAL_UNIT)) }
}

/// The sequence number of a block device's disk; NOTTY before Linux 5.15.
pub(super) fn disk_sequence(device: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    // SAFETY: BLKGETDISKSEQ writes one `u64`.
    unsafe { ioctl::ioctl(device, Getter::<BLKGETDISKSEQ, u64>::new()) }
}
