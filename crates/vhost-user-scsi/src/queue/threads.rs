//! Without io_uring: a queue's thread polls its descriptors, and the device's workers read and write. Slower, and as right. Used by
//! [`super::engine`].
//!
//! Guarantees: operations have workers of their own, as commands that other workers carry out may be waiting for these; those of one
//! logical unit take no more than its share; their memory belongs to the job until it is over; when
//! this is dropped nothing is under way any more.

use super::engine::Event;
use super::inbox::Inbox;
use super::sys::Io;
use crate::device::Device;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Polls, and has workers carry operations out.
#[derive(Debug)]
pub(crate) struct Threads {
    device: Arc<Device>,
    done: Arc<Inbox<Done>>,
    watched: Vec<(u32, Arc<OwnedFd>)>,
    under_way: usize,
}

/// The end of an operation.
#[derive(Debug)]
struct Done {
    token: u32,
    io: Io,
    result: io::Result<usize>,
}

/// An operation with a worker; its end is told also where the worker's thread is not to be had.
struct Job {
    inbox: Arc<Inbox<Done>>,
    done: Option<Done>,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            self.inbox.post(done);
        }
    }
}

impl Threads {
    pub(super) fn new(device: Arc<Device>) -> io::Result<Self> {
        Ok(Self { device, done: Arc::new(Inbox::new()?), watched: Vec::new(), under_way: 0 })
    }

    pub(super) fn watch(&mut self, token: u32, descriptor: Arc<OwnedFd>) {
        self.watched.push((token, descriptor));
    }

    pub(super) fn start(&mut self, token: u32, lun: u8, io: Io) -> io::Result<()> {
        let result = Err(io::ErrorKind::Interrupted.into());
        let mut job = Job { inbox: Arc::clone(&self.done), done: Some(Done { token, io, result }) };
        self.under_way += 1;
        let work = move || {
            if let Some(done) = &mut job.done {
                done.result = done.io.carry_out();
            }
        };
        // Where that fails, the job was dropped, and has told so.
        if let Err(error) = self.device.movers().hand(lun, Box::new(work)) {
            tracing::error!(%error, "no thread for a transfer");
        }
        Ok(())
    }

    pub(super) fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.look(events, None)
    }

    pub(super) fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.look(events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    fn look(&mut self, events: &mut Vec<Event>, timeout: Option<&Timespec>) -> io::Result<()> {
        let done = self.done.descriptor();
        let descriptors = self.watched.iter().map(|(_, descriptor)| descriptor).chain([&done]);
        let mut polled: Vec<_> = descriptors.map(|one| PollFd::new(one, PollFlags::IN)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let told: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        self.take_done(events);
        self.watched.iter().zip(told).try_for_each(|(watched, told)| hear(watched, told, events))
    }

    fn take_done(&mut self, events: &mut Vec<Event>) {
        for Done { token, io, result } in self.done.take() {
            self.under_way = self.under_way.saturating_sub(1);
            events.push(Event::Done(token, io, result));
        }
    }
}

/// What was told of a descriptor.
fn hear(
    (token, descriptor): &(u32, Arc<OwnedFd>),
    told: PollFlags,
    events: &mut Vec<Event>,
) -> io::Result<()> {
    // Nobody will ever write to it again: to wait on would be to spin.
    if told.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    if told.contains(PollFlags::IN) {
        events.push(Event::Readable(*token));
        // So that the next time is one; whoever else reads it may have been first.
        match rustix::io::read(&**descriptor, &mut [0_u8; 8]) {
            Ok(8) | Err(Errno::AGAIN | Errno::INTR) => {}
            // No eventfd: it would be readable for ever.
            Ok(_) => return Err(io::ErrorKind::InvalidInput.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.watched.clear();
        let mut events = Vec::new();
        while self.under_way > 0 {
            if let Err(error) = self.wait(&mut events) {
                tracing::error!(%error, "transfers cannot be waited for");
                return;
            }
            events.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sys::{Aligned, Kind, Pinned};
    use super::*;
    use crate::device::{Aio, Settings};
    use rustix::event::{EventfdFlags, eventfd};
    use std::io::Write;

    fn threads() -> Threads {
        let settings = Settings { aio: Aio::Threads, ..Settings::default() };
        Threads::new(Arc::new(Device::new("test", settings, None))).unwrap()
    }

    fn done(threads: &mut Threads) -> (u32, Io, io::Result<usize>) {
        let mut events = Vec::new();
        while events.is_empty() {
            threads.wait(&mut events).unwrap();
        }
        match events.remove(0) {
            Event::Done(token, io, result) => (token, io, result),
            Event::Readable(_) => panic!("nothing is watched"),
        }
    }

    #[test]
    fn what_is_written_reaches_the_file_and_is_read_again() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let file = Arc::new(OwnedFd::from(named.reopen().unwrap()));
        let mut threads = threads();
        let mut memory = Aligned::new(3, 1).unwrap();
        memory.copy_from_slice(b"abc");
        let kind = Kind::Write { durable: true };
        let io = Io { file: Arc::clone(&file), kind, offset: 1, memory: Some(Pinned::Own(memory)) };
        threads.start(3, 0, io).unwrap();
        let (token, _, result) = done(&mut threads);
        assert_eq!((token, result.unwrap()), (3, 3));
        threads
            .start(0, 0, Io { file: Arc::clone(&file), kind: Kind::Flush, offset: 0, memory: None })
            .unwrap();
        assert_eq!(done(&mut threads).2.unwrap(), 0);
        let memory = Aligned::new(8, 1).map(Pinned::Own);
        threads.start(1, 0, Io { file, kind: Kind::Read, offset: 0, memory }).unwrap();
        let (_, io, result) = done(&mut threads);
        assert_eq!(result.unwrap(), 4);
        let Some(Pinned::Own(memory)) = io.memory else { panic!("another memory") };
        assert_eq!(memory[..4], *b"\0abc");
    }

    #[test]
    fn an_error_comes_back_with_its_memory() {
        let file = Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
        let mut threads = threads();
        let memory = Aligned::new(3, 1).map(Pinned::Own);
        threads.start(1, 0, Io { file, kind: Kind::Read, offset: 0, memory }).unwrap();
        let (_, io, result) = done(&mut threads);
        assert!(result.is_err() && io.memory.is_some());
    }

    #[test]
    fn every_kick_is_told_though_nobody_else_reads_the_eventfd() {
        let kick = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let mut threads = threads();
        threads.watch(9, Arc::clone(&kick));
        let mut events = Vec::new();
        threads.poll(&mut events).unwrap();
        assert!(events.is_empty());
        for _ in 0..3 {
            rustix::io::write(&*kick, &1_u64.to_ne_bytes()).unwrap();
            threads.wait(&mut events).unwrap();
            assert!(matches!(events[..], [Event::Readable(9)]), "{events:?}");
            events.clear();
            threads.poll(&mut events).unwrap();
            assert!(events.is_empty(), "told once");
        }
    }

    #[test]
    fn a_kick_that_is_none_or_can_never_come_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let regular = tempfile::tempfile().unwrap();
        for kick in [OwnedFd::from(reader), OwnedFd::from(regular)] {
            let mut threads = threads();
            threads.watch(9, Arc::new(kick));
            assert!(threads.wait(&mut Vec::new()).is_err());
        }
    }

    #[test]
    fn what_is_under_way_is_waited_for_when_the_engine_goes() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut threads = threads();
        let memory = Aligned::new(4, 1).map(Pinned::Own);
        let file = Arc::new(OwnedFd::from(reader));
        let weak = Arc::downgrade(&file);
        threads.start(0, 0, Io { file, kind: Kind::Read, offset: u64::MAX, memory }).unwrap();
        threads.poll(&mut Vec::new()).unwrap();
        assert_eq!(threads.under_way, 1);
        writer.write_all(b"late").unwrap();
        drop(threads);
        assert!(weak.upgrade().is_none());
    }
}
