//! The system calls the helper still has, by seccomp: what reading requests, writing the ledger, SG_IO, threads
//! and an orderly end take.
//!
//! Everything else is answered ENOSYS, as by a kernel that does not have the call: libraries fall back then (a thread
//! is made by `clone`, whose flags a filter can see, instead of `clone3`, whose flags it cannot). No program can be
//! started, no process made, no memory made executable, and of ioctls only those listed are left. No socket can be made
//! or connected: many a program that listens on one trusts user 0 whatever its capabilities are. Clients are accepted; the
//! journal, the system log and the service manager were connected to before.

use super::Measure;
use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Allowed whatever their arguments are.
const ALLOWED: &[c_long] = &[
    // Files, always beneath what landlock leaves.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_getcwd,
    libc::SYS_umask,
    // Sockets that are open, and waiting for them.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Memory, threads, time, signals, the end.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The older forms that a C library of this architecture may still use.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_dup2,
    libc::SYS_poll,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// ioctls: SCSI commands, what a device is, and what the standard library asks of sockets and terminals.
const IOCTLS: &[u64] = &[
    0x2285,      // SG_IO
    0x2282,      // SG_GET_VERSION_NUM
    0x2276,      // SG_GET_SCSI_ID
    0x5382,      // SCSI_IOCTL_GET_IDLUN
    0x5386,      // SCSI_IOCTL_GET_BUS_NUMBER
    0x8008_1280, // BLKGETDISKSEQ
    0x5421,      // FIONBIO
    0x541b,      // FIONREAD
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
    0x5401,      // TCGETS
    0x5413,      // TIOCGWINSZ
];

/// What one argument of a call, compared at this width, must be for the call to be allowed.
struct Only(c_long, u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// Calls that depend on an argument, each with its reason.
const CONDITIONAL: &[Only] = &[
    // Threads, not processes.
    Only(libc::SYS_clone, 0, Qword, bits(libc::CLONE_THREAD), libc::CLONE_THREAD as u64),
    // Memory that cannot be executed.
    Only(libc::SYS_mmap, 2, Qword, bits(libc::PROT_EXEC), 0),
    Only(libc::SYS_mprotect, 2, Qword, bits(libc::PROT_EXEC), 0),
    // To where a socket is connected, and not to another address: the journal's would take one.
    Only(libc::SYS_sendto, 4, Qword, SeccompCmpOp::Eq, 0),
    // A thread's name.
    Only(libc::SYS_prctl, 0, Dword, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64),
    // Reading limits of its own, not setting them.
    Only(libc::SYS_prlimit64, 2, Qword, SeccompCmpOp::Eq, 0),
];

/// Compares only these bits.
const fn bits(mask: i32) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(mask as u64)
}

/// Filters the system calls of every thread of this process.
pub(super) fn restrict() -> Measure {
    let program = match program() {
        Ok(program) => program,
        Err(error) => return Measure::Failed(error.to_string()),
    };
    match seccompiler::apply_filter_all_threads(&program) {
        Ok(()) => Measure::Applied,
        Err(Error::Seccomp(error)) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            Measure::Unavailable("the kernel has no seccomp filters".into())
        }
        Err(error) => Measure::Failed(error.to_string()),
    }
}

/// The filter for this architecture.
fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    rules.extend(ALLOWED.iter().chain(OLDER).map(|&call| (call, Vec::new())));
    for Only(call, argument, width, operator, value) in CONDITIONAL {
        rules.insert(*call, vec![rule(*argument, width, operator, *value)?]);
    }
    let ioctls: Result<_, _> =
        IOCTLS.iter().map(|&number| rule(1, &Dword, &SeccompCmpOp::Eq, number)).collect();
    rules.insert(libc::SYS_ioctl, ioctls?);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, missing, SeccompAction::Allow, architecture)?.try_into()
}

fn rule(
    argument: u8,
    width: &SeccompCmpArgLen,
    operator: &SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, width.clone(), operator.clone(), value)?])
}
