//! A transfer between a medium and the guest's memory, step by step: straight where the medium takes the guest's addresses, by a
//! buffer in between where it does not (direct I/O of memory that is not aligned, more pieces than the kernel takes). Used by
//! [`super::request`], which hands each step to its io_uring.
//!
//! Guarantees: a short step is continued, a transfer that stays short is an error; what was written to the guest is marked in the
//! dirty log before its end is told; the buffer is never longer than [`Moving::buffer`].

use super::sys::{Aligned, Io, Kind, Pinned};
use crate::memory::{Memory, Segment, Vectors};
use crate::unit::{Finish, Operation, Transfer};
use std::io;
use std::sync::Arc;

/// Bytes of a buffer in between, at most.
const CHUNK: usize = 1 << 20;
/// The same where there is no room for that.
const SMALL_CHUNK: usize = 64 << 10;

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Moving {
    transfer: Transfer,
    memory: Arc<Memory>,
    /// Where the data is in the guest.
    segments: Vec<Segment>,
    done: usize,
    /// The guest's memory for the kernel, until it begins.
    straight: Option<Vectors>,
    by_buffer: bool,
    /// The longest buffer.
    chunk: usize,
}

/// How a transfer goes on.
#[derive(Debug)]
pub(super) enum Step {
    /// The next operation.
    Go(Io),
    /// It is over.
    Over(Box<dyn Finish>, io::Result<()>),
}

impl Moving {
    /// A transfer from or to `segments`.
    pub(super) fn new(
        transfer: Transfer,
        memory: &Arc<Memory>,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Self {
        let segments: Vec<Segment> = cut(segments, 0, transfer.length).collect();
        let vectors = Vectors::new(Arc::clone(memory), segments.iter().copied());
        let straight = vectors.ok().filter(|vectors| vectors.is_aligned(transfer.alignment));
        let by_buffer = straight.is_none() && transfer.operation != Operation::Flush;
        Self { transfer, memory: Arc::clone(memory), segments, done: 0, straight, by_buffer, chunk: CHUNK }
    }

    /// Bytes of the buffer that it needs; 0 where it goes straight.
    pub(super) fn buffer(&self) -> usize {
        if self.by_buffer { self.transfer.length.min(self.chunk) } else { 0 }
    }

    /// Makes do with a small buffer.
    pub(super) const fn shrink(&mut self) {
        self.chunk = SMALL_CHUNK;
    }

    /// Whether memory that it read from or wrote to was pulled away.
    pub(super) fn is_torn(&self) -> bool {
        self.memory.is_torn()
    }

    /// Bytes of data-in that it has moved when it ended well.
    pub(super) fn data_in(&self) -> usize {
        if self.transfer.operation == Operation::Read { self.transfer.length } else { 0 }
    }

    /// How it begins.
    pub(super) fn begin(&mut self) -> Step {
        if self.transfer.operation == Operation::Flush {
            return Step::Go(self.io(None));
        }
        let room: usize = self.segments.iter().map(|segment| segment.length as usize).sum();
        match self.straight.take() {
            // The logical unit was told how much there is; a CDB that wants more is an error of its.
            _ if room < self.transfer.length => self.over(Err(io::ErrorKind::InvalidInput.into())),
            Some(vectors) => Step::Go(self.io(Some(Pinned::Guest(vectors)))),
            None => self.next_chunk(),
        }
    }

    /// An operation is over, with that result.
    pub(super) fn next(&mut self, io: Io, result: io::Result<usize>) -> Step {
        match result {
            Err(error) => self.over(Err(error)),
            Ok(_) if self.transfer.operation == Operation::Flush => self.over(Ok(())),
            Ok(0) => self.over(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(moved) => self.moved(io, moved),
        }
    }

    fn moved(&mut self, mut io: Io, moved: usize) -> Step {
        if self.by_buffer
            && let Err(error) = self.deliver(&io, moved)
        {
            return self.over(Err(error));
        }
        self.done = self.done.saturating_add(moved);
        if self.done >= self.transfer.length {
            return self.over(Ok(()));
        }
        if self.by_buffer {
            return self.next_chunk();
        }
        if let Some(memory) = &mut io.memory {
            memory.advance(moved);
        }
        io.offset = self.offset();
        Step::Go(io)
    }

    /// The next part by a buffer; what is to be written is in it.
    fn next_chunk(&mut self) -> Step {
        let length = (self.transfer.length - self.done).min(self.chunk);
        let Some(mut buffer) = Aligned::new(length, self.transfer.alignment) else {
            return self.over(Err(io::ErrorKind::OutOfMemory.into()));
        };
        if matches!(self.transfer.operation, Operation::Write { .. }) {
            let here = cut(self.segments.iter().copied(), self.done, length);
            match self.memory.gather(here, &mut buffer) {
                Ok(copied) if copied == length => {}
                Ok(_) => return self.over(Err(io::ErrorKind::InvalidInput.into())),
                Err(error) => return self.over(Err(io::Error::other(error))),
            }
        }
        Step::Go(self.io(Some(Pinned::Own(buffer))))
    }

    /// What was read into the buffer goes to the guest.
    fn deliver(&self, io: &Io, moved: usize) -> io::Result<()> {
        let (Operation::Read, Some(Pinned::Own(buffer))) = (self.transfer.operation, &io.memory) else {
            return Ok(());
        };
        let bytes = buffer.get(..moved).ok_or(io::ErrorKind::InvalidData)?;
        let here = cut(self.segments.iter().copied(), self.done, moved);
        self.memory.scatter(here, bytes).map_err(io::Error::other)?;
        Ok(())
    }

    fn io(&self, memory: Option<Pinned>) -> Io {
        let kind = match self.transfer.operation {
            Operation::Read => Kind::Read,
            Operation::Write { durable } => Kind::Write { durable },
            Operation::Flush => Kind::Flush,
        };
        Io { file: Arc::clone(&self.transfer.medium), kind, offset: self.offset(), memory }
    }

    fn offset(&self) -> u64 {
        self.transfer.offset.saturating_add(self.done as u64)
    }

    /// The end. Also what failed may have written something.
    pub(super) fn over(&mut self, result: io::Result<()>) -> Step {
        if self.transfer.operation == Operation::Read {
            self.memory.mark(self.segments.iter().copied());
        }
        let finish = std::mem::replace(&mut self.transfer.finish, Box::new(Told));
        Step::Over(finish, result)
    }
}

/// Stands where a transfer's end was told already.
#[derive(Debug)]
struct Told;

impl Finish for Told {
    fn finish(self: Box<Self>, _: io::Result<()>) -> crate::unit::Finished {
        crate::unit::Finished::Ended(crate::unit::Ending::Lost)
    }
}

/// `length` bytes of `segments`, after `skip` bytes of them.
pub(super) fn cut(
    segments: impl IntoIterator<Item = Segment>,
    mut skip: usize,
    mut length: usize,
) -> impl Iterator<Item = Segment> {
    segments.into_iter().filter_map(move |segment| {
        let passed = skip.min(segment.length as usize);
        skip -= passed;
        let size = (segment.length as usize - passed).min(length);
        length -= size;
        let address = segment.address.saturating_add(passed as u64);
        let length = u32::try_from(size).ok().filter(|length| *length > 0)?;
        Some(Segment { address, length })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeUnit;
    use crate::unit::{Admission, Arrival, Ending, Finished, Unit};

    fn segment(address: u64, length: u32) -> Segment {
        Segment { address, length }
    }

    #[test]
    fn a_cut_begins_and_ends_within_segments() {
        let segments = [segment(0, 10), segment(100, 0), segment(200, 10), segment(300, 10)];
        let all: Vec<_> = cut(segments, 5, 10).collect();
        assert_eq!(all, [segment(5, 5), segment(200, 5)]);
        assert_eq!(cut(segments, 10, 10).collect::<Vec<_>>(), [segment(200, 10)]);
        assert_eq!(cut(segments, 0, 1000).map(|segment| segment.length).sum::<u32>(), 30);
        assert_eq!(cut(segments, 1000, 1000).count(), 0);
    }

    fn transfer(unit: &FakeUnit, code: u8, blocks: u8) -> Transfer {
        let cdb = [code, 0, 0, 0, 0, 2, 0, 0, blocks, 0, 0, 0, 0, 0, 0, 0];
        match unit.admit(&Arrival { id: 1, cdb: &cdb, data_out: 0, data_in: 0 }) {
            Admission::Transfer(transfer) => transfer,
            other => panic!("{other:?}"),
        }
    }

    /// Carries a transfer out; how many steps, and how it went.
    fn run(transfer: Transfer, memory: &Arc<Memory>, segments: &[Segment]) -> (usize, io::Result<()>) {
        let mut uring = super::super::sys::Uring::new(1).unwrap();
        let mut moving = Moving::new(transfer, memory, segments.to_vec());
        let mut step = moving.begin();
        let (mut steps, mut events) = (0, Vec::new());
        loop {
            match step {
                Step::Over(_, result) => return (steps, result),
                Step::Go(io) => uring.start(0, io).unwrap(),
            }
            steps += 1;
            while events.is_empty() {
                uring.wait(&mut events).unwrap();
            }
            let super::super::engine::Event::Done(_, io, result) = events.remove(0) else { panic!("a kick") };
            step = moving.next(io, result);
        }
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|byte| (byte % 251) as u8).collect()
    }

    #[test]
    fn memory_that_the_medium_does_not_take_goes_by_a_buffer() {
        let (memory, _file) = crate::memory::tests::memory_of(0x10000);
        let unit = FakeUnit::aligned(512);
        unit.put(1024, &pattern(1024));
        // Neither address nor length is aligned.
        let segments = [segment(0x1003, 100), segment(0x3001, 924)];
        let (_, result) = run(transfer(&unit, 0x28, 2), &memory, &segments);
        result.unwrap();
        let mut bytes = vec![0; 1024];
        memory.gather(segments, &mut bytes).unwrap();
        assert_eq!(bytes, pattern(1024));
        unit.put(1024, &[0; 1024]);
        run(transfer(&unit, 0x2A, 2), &memory, &segments).1.unwrap();
        assert_eq!(unit.get(1024, 1024), pattern(1024));
    }

    #[test]
    fn a_small_buffer_does_as_well() {
        let (memory, _file) = crate::memory::tests::memory_of(0x80000);
        let unit = FakeUnit::aligned(512);
        let mut moving = Moving::new(transfer(&unit, 0x28, 255), &memory, [segment(0x1003, 255 * 512)]);
        assert_eq!(moving.buffer(), 255 * 512);
        moving.shrink();
        assert_eq!(moving.buffer(), SMALL_CHUNK);
        unit.put(1024, &pattern(255 * 512));
        let (mut step, mut steps) = (moving.begin(), 0);
        while let Step::Go(io) = step {
            let result = io.carry_out();
            (step, steps) = (moving.next(io, result), steps + 1);
        }
        let mut bytes = vec![0; 255 * 512];
        memory.gather([segment(0x1003, 255 * 512)], &mut bytes).unwrap();
        assert_eq!((bytes, steps), (pattern(255 * 512), 2));
    }

    #[test]
    fn aligned_memory_goes_straight_and_is_cut_to_the_transfer() {
        let (memory, _file) = crate::memory::tests::memory_of(0x10000);
        let unit = FakeUnit::aligned(512);
        unit.put(1024, &pattern(1024));
        let segments = [segment(0x1000, 512), segment(0x3000, 4096)];
        let (steps, result) = run(transfer(&unit, 0x28, 2), &memory, &segments);
        result.unwrap();
        assert_eq!(steps, 1);
        let mut bytes = vec![0xFF; 4096];
        memory.read(0x3000, &mut bytes).unwrap();
        assert_eq!(bytes[..512], pattern(1024)[512..]);
        assert_eq!(bytes[512..], [0; 3584]);
    }

    #[test]
    fn a_transfer_that_is_longer_than_the_guests_buffers_is_an_error() {
        let (memory, _file) = crate::memory::tests::memory_of(0x10000);
        let unit = FakeUnit::new();
        let (steps, result) = run(transfer(&unit, 0x28, 2), &memory, &[segment(0, 1023)]);
        assert_eq!(steps, 0);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_transfer_beyond_the_end_of_the_medium_is_an_error_not_a_short_answer() {
        let (memory, _file) = crate::memory::tests::memory_of(0x10000);
        let unit = FakeUnit::new();
        let mut transfer = transfer(&unit, 0x28, 2);
        transfer.offset = (1 << 20) - 512;
        let (steps, result) = run(transfer, &memory, &[segment(0, 1024)]);
        assert_eq!(steps, 2);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn more_pieces_than_the_kernel_takes_go_by_a_buffer() {
        let (memory, _file) = crate::memory::tests::memory_of(0x10000);
        let unit = FakeUnit::new();
        unit.put(1024, &pattern(4096));
        let segments: Vec<_> = (0..4096).map(|byte| segment(0x8000 - byte, 1)).collect();
        run(transfer(&unit, 0x28, 8), &memory, &segments).1.unwrap();
        let mut bytes = vec![0; 4096];
        memory.gather(segments, &mut bytes).unwrap();
        assert_eq!(bytes, pattern(4096));
    }

    #[test]
    fn what_was_read_is_marked_as_dirty() {
        let (memory, _file) = crate::memory::tests::memory_of(0x10000);
        let log = crate::memory::tests::memfd(4096);
        memory.log().set_base(log, 0, 4096).unwrap();
        memory.log().turn(true);
        let unit = FakeUnit::new();
        run(transfer(&unit, 0x28, 2), &memory, &[segment(0x5000, 1024)]).1.unwrap();
        assert!(memory.log().is_marked(0x5000));
        assert!(!memory.log().is_marked(0x6000));
    }

    #[test]
    fn an_end_is_told_once() {
        let (memory, _file) = crate::memory::tests::memory_of(0x1000);
        let unit = FakeUnit::new();
        let mut moving = Moving::new(transfer(&unit, 0x28, 1), &memory, vec![segment(0, 512)]);
        let Step::Over(finish, _) = moving.over(Ok(())) else { panic!() };
        assert!(matches!(finish.finish(Ok(())), Finished::Ended(Ending::Status(_))));
        let Step::Over(finish, _) = moving.over(Ok(())) else { panic!() };
        assert!(matches!(finish.finish(Ok(())), Finished::Ended(Ending::Lost)));
    }
}
