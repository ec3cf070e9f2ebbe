//! What a queue's thread waits with and moves data by: io_uring, or, where that is not to be had, poll and worker threads
//! ([`Settings::aio`](crate::device::Settings)). Used by the three kinds of queues.

use super::sys::{Io, Uring};
use super::threads::Threads;
use crate::device::{Aio, Device};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Something that a wait ended with.
#[derive(Debug)]
pub(crate) enum Event {
    /// A watched descriptor may be readable: the token it was watched under.
    Readable(u32),
    /// An operation is over: its token, the operation, and bytes moved.
    Done(u32, Io, io::Result<usize>),
}

/// Waits, and carries operations out.
#[derive(Debug)]
pub(crate) enum Engine {
    Uring(Box<Uring>),
    Threads(Threads),
}

impl Engine {
    /// For so many operations at once (their tokens are below that), beside what is watched. To be used by the thread that makes it.
    pub(crate) fn new(operations: u16, device: &Arc<Device>) -> io::Result<Self> {
        Ok(match device.aio() {
            Aio::Threads => Self::Threads(Threads::new(Arc::clone(device))?),
            Aio::IoUring | Aio::Auto => Self::Uring(Box::new(Uring::new(operations)?)),
        })
    }

    /// Tells of every time that an eventfd becomes readable, also if nobody reads it.
    pub(crate) fn watch(&mut self, token: u32, descriptor: Arc<OwnedFd>) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.watch(token, descriptor),
            Self::Threads(threads) => {
                threads.watch(token, descriptor);
                Ok(())
            }
        }
    }

    /// Starts an operation of a logical unit. `token` is taken until its end is told.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start(&mut self, token: u32, lun: u8, io: Io) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.start(token, io),
            Self::Threads(threads) => threads.start(token, lun, io),
        }
    }

    /// Waits until something happened; appends that to `events`.
    pub(crate) fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.wait(events),
            Self::Threads(threads) => threads.wait(events),
        }
    }

    /// Appends what has happened already to `events`.
    pub(crate) fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.poll(events),
            Self::Threads(threads) => threads.poll(events),
        }
    }
}

/// Whether io_uring is to be had, with all that is needed of it.
pub(crate) fn probe() -> io::Result<()> {
    // A ring that goes interrupts system calls of the thread that made it.
    let probing = std::thread::Builder::new().name("probe".to_owned()).spawn(|| Uring::new(1).map(drop))?;
    probing.join().unwrap_or_else(|_| Err(io::Error::other("the probe's thread panicked")))
}
