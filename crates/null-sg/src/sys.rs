//! The functions of the C library that are taken over: `ioctl`, `fstat` and `fstat64`. The only `unsafe` here.
#![expect(unsafe_code, reason = "functions of the C library, called by programs that know nothing of this")]
#![allow(unreachable_pub, reason = "exported to the dynamic linker, not to Rust")]

use libc::{c_int, c_long, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::ptr::copy_nonoverlapping;
use std::slice;

const SG_IO: c_ulong = 0x2285;
const SG_GET_VERSION_NUM: c_ulong = 0x2282;
const BLKGETDISKSEQ: c_ulong = 0x8008_1280;
const SG_VERSION: c_int = 30_536;
const TO_PROGRAM: c_int = -3;
/// Major number of SCSI disks.
const DISK_MAJOR: u32 = 8;
/// Minor numbers of one disk.
const PARTITIONS: u32 = 16;

/// `struct sg_io_hdr` (`include/scsi/sg.h`, interface version 3).
#[repr(C)]
struct Header {
    interface_id: c_int,
    dxfer_direction: c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut u8,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: c_int,
    usr_ptr: *mut c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: c_int,
    duration: u32,
    info: u32,
}

/// The kernel's own answer; `None` with `errno` set.
fn real_stat(fd: c_int) -> Option<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes one `struct stat`, which is the C library's on 64-bit architectures, and only then is 0.
    unsafe { (libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) == 0).then(|| stat.assume_init()) }
}

fn disk(stat: &libc::stat) -> Option<u64> {
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    u64::try_from(stat.st_size).ok().filter(|_| regular).and_then(super::disk_of)
}

/// # Safety
/// `out` must be valid for one `struct stat`, as fstat(2) demands.
unsafe fn stat(fd: c_int, out: *mut libc::stat) -> c_int {
    let Some(mut stat) = real_stat(fd) else { return -1 };
    if let Some(disk) = disk(&stat).and_then(|disk| u32::try_from(disk).ok()) {
        stat.st_mode = libc::S_IFBLK | 0o600;
        stat.st_rdev = libc::makedev(DISK_MAJOR, disk * PARTITIONS);
    }
    // SAFETY: the caller's promise.
    unsafe { out.write(stat) };
    0
}

/// fstat(2).
///
/// # Safety
/// As fstat(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstat(fd: c_int, out: *mut libc::stat) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { stat(fd, out) }
}

/// fstat(2), under the name that programs with 64-bit offsets use.
///
/// # Safety
/// As fstat(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstat64(fd: c_int, out: *mut libc::stat) -> c_int {
    // SAFETY: the caller's promise; both structures are one on 64-bit architectures.
    unsafe { stat(fd, out) }
}

/// ioctl(2), whose third argument is in the same register whether it is variadic or not.
///
/// # Safety
/// As ioctl(2): `argument` is what the request demands.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let ours = matches!(request, SG_IO | SG_GET_VERSION_NUM | BLKGETDISKSEQ);
    let disk = if ours { real_stat(fd).as_ref().and_then(disk) } else { None };
    // SAFETY: the caller's promise, for each request the structure that the kernel would take.
    unsafe {
        match (disk, request) {
            (Some(disk), SG_IO) => execute(disk, &mut *argument.cast()),
            (Some(_), SG_GET_VERSION_NUM) => argument.cast::<c_int>().write(SG_VERSION),
            (Some(disk), BLKGETDISKSEQ) => argument.cast::<u64>().write(disk + 1),
            _ => return forward(fd, request, argument),
        }
    }
    0
}

/// # Safety
/// As ioctl(2).
unsafe fn forward(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise; the kernel gives an `int`.
    unsafe { libc::syscall(libc::SYS_ioctl, c_long::from(fd), request, argument) as c_int }
}

/// # Safety
/// The pointers of `header` are valid for their lengths, as SG_IO demands.
unsafe fn execute(disk: u64, header: &mut Header) {
    // SAFETY: the caller's promise.
    let data = super::data_in(disk, unsafe { slice::from_raw_parts(header.cmdp, header.cmd_len.into()) });
    let room = if header.dxfer_direction == TO_PROGRAM { header.dxfer_len as usize } else { 0 };
    let sent = data.len().min(room);
    if sent > 0 {
        // SAFETY: `sent` is at most the length of either.
        unsafe { copy_nonoverlapping(data.as_ptr(), header.dxferp, sent) };
    }
    header.resid = c_int::try_from(room - sent).unwrap_or(c_int::MAX);
    (header.status, header.masked_status, header.msg_status, header.sb_len_wr) = (0, 0, 0, 0);
    (header.host_status, header.driver_status, header.duration, header.info) = (0, 0, 0, 0);
}
