//! io_uring for a queue's thread: the kick, the inbox and the transfers are waited for in one place; and one operation carried out on the
//! spot, for threads that may wait. The only `unsafe` of the queues.
//!
//! [`Uring`] is safe to use with any descriptors and buffers: it owns descriptor and buffers of an operation from the moment it is
//! handed in until the kernel is done with it, also when it is dropped in between (then it waits; where even that fails, the
//! buffers are leaked rather than freed).
#![allow(unsafe_code, reason = "io_uring takes addresses of buffers that have to outlive the call")]

use super::engine::Event;
use crate::memory::Vectors;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt::Debug;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory that an operation reads from or writes to: the guest's own, or a buffer where the medium would not take that.
#[derive(Debug)]
pub(crate) enum Pinned {
    /// The guest's.
    Guest(Vectors),
    /// Ours.
    Own(Aligned),
}

impl Pinned {
    /// The list for the kernel. Neither it nor what it points to moves with the value; both live as long, if nobody changes it.
    fn list(&self) -> (*const libc::iovec, u32) {
        match self {
            Self::Guest(vectors) => (vectors.as_ptr(), vectors.count()),
            Self::Own(aligned) => (&raw const *aligned.rest, 1),
        }
    }

    /// Bytes that are left.
    fn length(&self) -> usize {
        match self {
            Self::Guest(vectors) => vectors.length(),
            Self::Own(aligned) => aligned.rest.iov_len,
        }
    }

    /// The first `bytes` have been moved; what is left is moved next.
    pub(crate) fn advance(&mut self, bytes: usize) {
        match self {
            Self::Guest(vectors) => vectors.advance(bytes),
            Self::Own(aligned) => aligned.advance(bytes),
        }
    }
}

/// A buffer of our own at an aligned address, for memory of the guest that a medium would not take.
#[derive(Debug)]
pub(crate) struct Aligned {
    start: NonNull<u8>,
    layout: Layout,
    /// What the kernel has not moved yet; in a place of its own, that the kernel is told.
    rest: Box<libc::iovec>,
}

// SAFETY: it owns its memory, as a `Box<[u8]>` does.
unsafe impl Send for Aligned {}

impl Aligned {
    /// `length` zero bytes (at least one) at a multiple of `alignment`; none where there is no memory or the alignment is no power of 2.
    pub(crate) fn new(length: usize, alignment: usize) -> Option<Self> {
        let layout = Layout::from_size_align(length.max(1), alignment.max(1)).ok()?;
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let rest = Box::new(libc::iovec { iov_base: start.as_ptr().cast(), iov_len: layout.size() });
        Some(Self { start, layout, rest })
    }

    fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.rest.iov_len);
        self.rest.iov_base = self.rest.iov_base.wrapping_byte_add(bytes);
        self.rest.iov_len -= bytes;
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: initialised (zeroed) memory of that size, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From the file into the buffers.
    Read,
    /// From the buffers into the file.
    Write {
        /// With `RWF_DSYNC`.
        durable: bool,
    },
    /// `fdatasync`.
    Flush,
}

/// One operation on a file, with all that it needs.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) file: Arc<OwnedFd>,
    pub(crate) kind: Kind,
    /// Where in the file.
    pub(crate) offset: u64,
    /// The memory; none for a flush.
    pub(crate) memory: Option<Pinned>,
}

impl Io {
    /// Carries it out, and waits for that: bytes moved. Offset `u64::MAX` is wherever the file stands.
    pub(crate) fn carry_out(&self) -> io::Result<usize> {
        let (list, count) = self.memory.as_ref().map_or((std::ptr::null(), 0), Pinned::list);
        let (file, count) = (self.file.as_raw_fd(), i32::try_from(count).unwrap_or(i32::MAX));
        let offset = self.offset.cast_signed();
        let is_one = count == 1 && offset >= 0;
        loop {
            // SAFETY: the list and the memory that it names belong to `self`, which nobody changes while it is borrowed here; where it
            // has one entry there is one to be read.
            let moved = unsafe {
                match self.kind {
                    // The kernel has less to do for one piece than for a list of one.
                    Kind::Read if is_one => libc::pread(file, (*list).iov_base, (*list).iov_len, offset),
                    Kind::Write { durable: false } if is_one => {
                        libc::pwrite(file, (*list).iov_base, (*list).iov_len, offset)
                    }
                    Kind::Read => libc::preadv2(file, list, count, offset, 0),
                    Kind::Write { durable } => {
                        libc::pwritev2(file, list, count, offset, if durable { libc::RWF_DSYNC } else { 0 })
                    }
                    Kind::Flush => libc::fdatasync(file) as isize,
                }
            };
            let result = usize::try_from(moved).map_err(|_| io::Error::last_os_error());
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

const WATCH: u64 = 1 << 32;

/// An io_uring that owns what it works with.
pub(crate) struct Uring {
    ring: IoUring,
    /// What the kernel works on, by token.
    flying: Vec<Option<Io>>,
    count: usize,
    watched: Vec<(u32, Arc<OwnedFd>)>,
    completed: Vec<cqueue::Entry>,
}

impl Uring {
    /// A ring for `operations` at once (their tokens are below that), beside what is watched. To be used by the thread that makes it.
    ///
    /// # Errors
    /// The kernel has no io_uring for us.
    pub(crate) fn new(operations: u16) -> io::Result<Self> {
        let entries = (u32::from(operations) + 8).next_power_of_two();
        // With the flag, also an entry that waits for nothing takes what has happened.
        let eager = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries);
        let ring = match eager {
            Ok(ring) => ring,
            // Before Linux 6.1.
            Err(_) => IoUring::new(entries)?,
        };
        let flying = std::iter::repeat_with(|| None).take(operations.into()).collect();
        Ok(Self { ring, flying, count: 0, watched: Vec::new(), completed: Vec::new() })
    }

    /// Tells of every time that `descriptor` becomes readable, also if nobody reads it (an eventfd that counts on).
    pub(crate) fn watch(&mut self, token: u32, descriptor: Arc<OwnedFd>) -> io::Result<()> {
        let readable = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), readable).multi(true).build();
        if !self.watched.iter().any(|(watched, _)| *watched == token) {
            self.watched.push((token, descriptor));
        }
        self.push(&entry.user_data(WATCH | u64::from(token)))
    }

    /// Starts an operation. `token` is taken until its end is told.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start(&mut self, token: u32, io: Io) -> io::Result<()> {
        let place = self.flying.get_mut(token as usize).filter(|place| place.is_none());
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        // Owned by the ring before the kernel hears of it.
        let entry = entry(place.insert(io)).user_data(token.into());
        self.count += 1;
        self.push(&entry).inspect_err(|_| drop(self.land(token)))
    }

    /// The operation is not with the kernel any more.
    fn land(&mut self, token: u32) -> Option<Io> {
        let io = self.flying.get_mut(token as usize)?.take()?;
        self.count -= 1;
        Some(io)
    }

    /// How many operations are with the kernel.
    #[cfg(test)]
    const fn flying(&self) -> usize {
        self.count
    }

    /// Hands in what was started and waits until something happened; appends that to `events`.
    pub(crate) fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.enter(1, events)
    }

    /// Hands in what was started, and appends what has happened already to `events`.
    pub(crate) fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        if self.has_nothing_to_do() { Ok(()) } else { self.enter(0, events) }
    }

    /// Nothing was started, and nothing has happened: the kernel need not be asked.
    fn has_nothing_to_do(&mut self) -> bool {
        let submission = self.ring.submission();
        let is_quiet = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        is_quiet && self.ring.completion().is_empty()
    }

    fn enter(&mut self, want: usize, events: &mut Vec<Event>) -> io::Result<()> {
        unless_later(self.ring.submit_and_wait(want))?;
        let mut completed = std::mem::take(&mut self.completed);
        completed.extend(self.ring.completion());
        // All of them, also after one that failed: whose end is not taken note of would be waited for in vain.
        let mut result = Ok(());
        for entry in completed.drain(..) {
            result = result.and(self.complete(&entry, events));
        }
        self.completed = completed;
        result
    }

    fn complete(&mut self, entry: &cqueue::Entry, events: &mut Vec<Event>) -> io::Result<()> {
        let token = u32::try_from(entry.user_data() & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        if entry.user_data() & WATCH == 0 {
            if let Some(io) = self.land(token) {
                let result = usize::try_from(entry.result())
                    .map_err(|_| io::Error::from_raw_os_error(entry.result().wrapping_neg()));
                events.push(Event::Done(token, io, result));
            }
            return Ok(());
        }
        if entry.result() < 0 {
            return Err(io::Error::from_raw_os_error(entry.result().wrapping_neg()));
        }
        // Nobody will ever write to it again, or it was no eventfd: to wait on would be to spin.
        if entry.result() & i32::from(libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        events.push(Event::Readable(token));
        if !cqueue::more(entry.flags())
            && let Some((_, descriptor)) = self.watched.iter().find(|(watched, _)| *watched == token).cloned()
        {
            self.watch(token, descriptor)?;
        }
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        for _ in 0..2 {
            // SAFETY: descriptor, list and buffers belong to `flying` or `watched`, which give them up only when the kernel has
            // told of the operation's end, or (descriptors that are watched) when the ring is closed. `Vectors` and `Aligned`
            // keep list and memory in place while nobody changes them, and nobody can while `flying` has them.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut events = Vec::new();
        while self.count > 0 {
            if let Err(error) = self.enter(1, &mut events) {
                tracing::error!(%error, "transfers cannot be waited for; their memory is kept");
                std::mem::forget(std::mem::take(&mut self.flying));
                self.count = 0;
            }
            events.clear();
        }
    }
}

impl Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "io_uring with {} operations", self.count)
    }
}

/// What the kernel does not take now it takes the next time.
fn unless_later(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
            Ok(())
        }
        result => result.map(drop),
    }
}

/// A longer operation is the kernel's threads' from the beginning: to hand in what a disk's queue has no room for would have to wait.
const LONG: usize = 1 << 20;

fn entry(io: &Io) -> squeue::Entry {
    let is_long = io.memory.as_ref().is_some_and(|memory| memory.length() > LONG);
    let flags = if is_long { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
    plain_entry(io).flags(flags)
}

fn plain_entry(io: &Io) -> squeue::Entry {
    let file = Fd(io.file.as_raw_fd());
    let (list, count) = io.memory.as_ref().map_or((std::ptr::null(), 0), Pinned::list);
    match io.kind {
        Kind::Read => opcode::Readv::new(file, list, count).offset(io.offset).build(),
        Kind::Write { durable } => opcode::Writev::new(file, list, count)
            .offset(io.offset)
            .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
            .build(),
        Kind::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::io::Write;

    fn done(uring: &mut Uring) -> (u32, Io, io::Result<usize>) {
        let mut events = Vec::new();
        while events.is_empty() {
            uring.wait(&mut events).unwrap();
        }
        match events.remove(0) {
            Event::Done(token, io, result) => (token, io, result),
            Event::Readable(_) => panic!("nothing is watched"),
        }
    }

    fn file() -> (tempfile::NamedTempFile, Arc<OwnedFd>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let descriptor = Arc::new(OwnedFd::from(file.reopen().unwrap()));
        (file, descriptor)
    }

    fn own(length: usize) -> Option<Pinned> {
        Aligned::new(length, 1).map(Pinned::Own)
    }

    #[test]
    fn a_read_goes_on_where_the_memory_was_advanced_to() {
        let (_keep, file) = file();
        let mut uring = Uring::new(4).unwrap();
        let mut memory = own(8);
        memory.as_mut().unwrap().advance(2);
        uring.start(3, Io { file, kind: Kind::Read, offset: 6, memory }).unwrap();
        let (token, io, result) = done(&mut uring);
        assert_eq!((token, result.unwrap()), (3, 4));
        let Some(Pinned::Own(memory)) = io.memory else { panic!("another memory") };
        assert_eq!(&*memory, [0, 0, b'6', b'7', b'8', b'9', 0, 0]);
    }

    #[test]
    fn a_durable_write_and_a_flush_reach_the_file() {
        let (keep, file) = file();
        let mut uring = Uring::new(4).unwrap();
        let mut memory = Aligned::new(3, 1).unwrap();
        memory.copy_from_slice(b"abc");
        let kind = Kind::Write { durable: true };
        let memory = Some(Pinned::Own(memory));
        let io = Io { file: Arc::clone(&file), kind, offset: 1, memory };
        uring.start(0, io).unwrap();
        assert_eq!(done(&mut uring).2.unwrap(), 3);
        uring.start(0, Io { file, kind: Kind::Flush, offset: 0, memory: None }).unwrap();
        assert_eq!(done(&mut uring).2.unwrap(), 0);
        assert_eq!(std::fs::read(keep.path()).unwrap(), b"0abc456789");
    }

    #[test]
    fn every_kick_is_told_though_nobody_reads_the_eventfd() {
        let kick = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let mut uring = Uring::new(4).unwrap();
        uring.watch(9, Arc::clone(&kick)).unwrap();
        let mut events = Vec::new();
        uring.poll(&mut events).unwrap();
        assert!(events.is_empty());
        for _ in 0..3 {
            rustix::io::write(&*kick, &1_u64.to_ne_bytes()).unwrap();
            uring.wait(&mut events).unwrap();
            assert!(matches!(events[..], [Event::Readable(9)]), "{events:?}");
            events.clear();
        }
    }

    #[test]
    fn a_kick_that_can_never_come_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let mut uring = Uring::new(4).unwrap();
        uring.watch(9, Arc::new(OwnedFd::from(reader))).unwrap();
        assert!(uring.wait(&mut Vec::new()).is_err());
    }

    #[test]
    fn what_is_under_way_is_waited_for_when_the_ring_goes() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut uring = Uring::new(4).unwrap();
        let file = Arc::new(OwnedFd::from(reader));
        uring.start(0, Io { file, kind: Kind::Read, offset: u64::MAX, memory: own(4) }).unwrap();
        uring.poll(&mut Vec::new()).unwrap();
        assert_eq!(uring.flying(), 1);
        writer.write_all(b"late").unwrap();
        drop(uring);
    }

    #[test]
    fn an_error_comes_back_with_its_memory() {
        let mut uring = Uring::new(4).unwrap();
        let file = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let kind = Kind::Read;
        uring.start(1, Io { file, kind, offset: 0, memory: own(3) }).unwrap();
        let (_, io, result) = done(&mut uring);
        assert!(result.is_err() && io.memory.is_some());
    }
}
