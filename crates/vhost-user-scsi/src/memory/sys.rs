//! What of guest memory needs `unsafe`: the SIGBUS handler, and lists of raw pointers for the kernel.
//!
//! Guarantees: a touch of a mapped page whose file was truncated reads zeros and marks the range torn; every other SIGBUS goes on to
//! whatever would have had it. [`Vectors`] point only into memory that they keep mapped. Used by [`super`] alone.
#![allow(
    unsafe_code,
    reason = "a signal handler, and pointers that cross threads with what keeps them valid"
)]

use super::torn::{Range, tear};
use super::{Error, Memory, Segment};
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, transmute};
use std::ptr::{null, null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Bytes of a page of ordinary mappings.
pub(super) fn page_size() -> usize {
    // SAFETY: only asks; every Linux answers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// What had SIGBUS before us. It is known before our handler can run, and so also where that was not to be had.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
/// Our handler has it.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Installs the handler, once in the process.
pub(super) fn survive_truncation() -> io::Result<()> {
    static ORDER: Mutex<()> = Mutex::new(());
    if INSTALLED.load(Ordering::Acquire) {
        return Ok(());
    }
    let _one = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if INSTALLED.load(Ordering::Acquire) {
        return Ok(());
    }
    install()?;
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

fn install() -> io::Result<()> {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `before` has room for the answer, and is made of integers for which zero is a value.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, null(), before.as_mut_ptr()) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed, and then filled in by the kernel.
    let before = unsafe { before.assume_init() };
    // Known before the handler can run.
    let _ = BEFORE.set(before);
    let mut action = before;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler has the form that SA_SIGINFO asks for, and does what a signal handler may.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Async-signal-safe: reads a table of atomics, maps pages, calls what was there before.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel hands a filled structure in; for SIGBUS from a fault it has an address, and for every other
    // origin the bytes are there too and are not used.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // SAFETY: always a valid pointer to this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    let covered = match code {
        libc::BUS_ADRERR | libc::BUS_MCEERR_AR => tear(address, cover),
        _ => false,
    };
    // SAFETY: as above; what was interrupted must find its own.
    unsafe { *libc::__errno_location() = errno };
    if !covered {
        pass_on(signal, code, info, context);
    }
}

/// Zeros of our own over the page that is missing, and over no other: what is behind it may be the guest's data on its way to a medium. Where
/// the process has no room for one more mapping, over all from there to the end, which takes none.
fn cover(range: Range) -> bool {
    let page = Range { end: range.start.saturating_add(range.page), ..range };
    replace(page) || replace(range)
}

fn replace(range: Range) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let length = range.end.saturating_sub(range.start);
    let pages = without_provenance_mut(range.start);
    // SAFETY: the range lies in a mapping that is being touched, so it is alive and ours; only pointers for volatile access exist into it.
    let replaced = unsafe { libc::mmap(pages, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    replaced != libc::MAP_FAILED
}

/// Not ours: what was installed before us has it, or the default action.
fn pass_on(signal: c_int, code: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return end_as_by_default(signal, code);
    }
    if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) {
        // SAFETY: neither of the two special values, so the address of a function, of the form that SA_SIGINFO says.
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = unsafe { transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: as above, of the other form.
        let handler: extern "C" fn(c_int) = unsafe { transmute(handler) };
        handler(signal);
    }
}

/// A fault comes again when the handler returns, and finds the default; a signal that was sent is sent again.
fn end_as_by_default(signal: c_int, code: c_int) {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is SIG_DFL with no flags and an empty mask; `raise` is async-signal-safe.
    unsafe {
        (*action.as_mut_ptr()).sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, action.as_ptr(), null_mut());
        if code <= 0 {
            libc::raise(signal);
        }
    }
}

/// The most that READV and WRITEV take (`IOV_MAX`).
pub const VECTORS_MAX: usize = 1024;

/// Pieces of guest memory as READV and WRITEV of io_uring want them, which keep that memory mapped.
///
/// Hold them until the kernel has answered. After READV tell [`Memory::mark`].
#[derive(Debug)]
pub struct Vectors {
    list: Vec<libc::iovec>,
    done: usize,
    memory: Arc<Memory>,
}

// SAFETY: the pointers point into shared mappings that `memory` keeps alive, wherever the value goes; nothing here reads through them.
unsafe impl Send for Vectors {}

impl Vectors {
    /// The addresses of `segments`, in order; an error where one of them is not guest memory, or more than [`VECTORS_MAX`] are needed.
    pub fn new(memory: Arc<Memory>, segments: impl IntoIterator<Item = Segment>) -> Result<Self, Error> {
        let mut list = Vec::new();
        for segment in segments {
            memory.pieces(segment, |piece| {
                let guard = piece.ptr_guard_mut();
                list.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() });
            })?;
            if list.len() > VECTORS_MAX {
                return Err(Error::TooMany);
            }
        }
        Ok(Self { list, done: 0, memory })
    }

    /// What is left of the list, valid until this is changed, moved or dropped.
    #[must_use]
    pub fn as_ptr(&self) -> *const libc::iovec {
        self.rest().as_ptr()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.rest().len()).unwrap_or(u32::MAX)
    }

    /// Bytes in them.
    #[must_use]
    pub fn length(&self) -> usize {
        self.rest().iter().map(|vector| vector.iov_len).sum()
    }

    /// Whether every address and length is a multiple of `alignment` (direct I/O).
    #[must_use]
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let unit = alignment.max(1);
        let whole = |vector: &libc::iovec| {
            vector.iov_base.addr().is_multiple_of(unit) && vector.iov_len.is_multiple_of(unit)
        };
        self.rest().iter().all(whole)
    }

    /// The first `bytes` have been moved.
    pub fn advance(&mut self, mut bytes: usize) {
        while let Some(vector) = self.list.get_mut(self.done) {
            if bytes < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(bytes);
                vector.iov_len -= bytes;
                return;
            }
            bytes -= vector.iov_len;
            self.done += 1;
        }
    }

    /// The memory that they point into.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn rest(&self) -> &[libc::iovec] {
        self.list.get(self.done..).unwrap_or_default()
    }
}

/// READV of `file` into `vectors`, as io_uring does it.
#[cfg(test)]
pub(super) fn read_into(file: &std::fs::File, vectors: &Vectors) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let count = c_int::try_from(vectors.count()).unwrap_or(c_int::MAX);
    // SAFETY: the list and what it points to live until the call is over.
    let read = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Touches a page that is not in its file, of a mapping that nobody watches.
#[cfg(test)]
pub(super) fn fault_elsewhere() {
    use std::os::fd::AsRawFd;
    let file = super::tests::memfd(0);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a mapping of our own; reading it ends the process, which is what is tested.
    unsafe {
        let page = libc::mmap(null_mut(), 4096, prot, libc::MAP_SHARED, file.as_raw_fd(), 0);
        page.cast::<u8>().read_volatile();
    }
}
