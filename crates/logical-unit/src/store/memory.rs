//! A store in memory. Chunks exist only once they are written; inside a chunk a bitmap says which pages
//! are mapped, so that UNMAP and GET LBA STATUS are exact to the page.

use super::{Run, Store};
use std::io;
use std::sync::{PoisonError, RwLock};

/// Bytes of one chunk; large enough that the allocator hands it out as untouched pages.
const CHUNK: u64 = 1 << 20;
/// Bytes of one page: what is mapped and given back.
const PAGE: usize = 4096;
const PAGES: usize = CHUNK as usize / PAGE;

/// Largest memory store: beyond it the table of chunks alone would be a burden.
pub(crate) const MAX_SIZE: u64 = 1 << 40;

/// A chunk that has been written.
#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    mapped: [u64; PAGES / 64],
}

impl Chunk {
    fn new() -> Self {
        Self { bytes: vec![0; CHUNK as usize].into_boxed_slice(), mapped: [0; PAGES / 64] }
    }

    fn write(&mut self, start: usize, data: &[u8]) {
        let end = start + data.len();
        self.bytes.get_mut(start..end).unwrap_or_default().copy_from_slice(data);
        self.mark(start / PAGE..end.div_ceil(PAGE), true);
    }

    /// Zeros the bytes; pages that lie wholly inside are no longer mapped.
    fn deallocate(&mut self, start: usize, end: usize) {
        self.bytes.get_mut(start..end).unwrap_or_default().fill(0);
        self.mark(start.div_ceil(PAGE)..end / PAGE, false);
    }

    fn mark(&mut self, pages: std::ops::Range<usize>, mapped: bool) {
        for page in pages {
            let Some(word) = self.mapped.get_mut(page / 64) else { return };
            let bit = 1 << (page % 64);
            *word = if mapped { *word | bit } else { *word & !bit };
        }
    }

    fn is_mapped(&self, page: usize) -> bool {
        self.mapped.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// The run of pages around byte `start`: where it ends in this chunk, and whether it is mapped.
    fn run(&self, start: usize) -> (usize, bool) {
        let first = start / PAGE;
        let mapped = self.is_mapped(first);
        let end = (first..PAGES).find(|page| self.is_mapped(*page) != mapped);
        (end.unwrap_or(PAGES) * PAGE, mapped)
    }

    fn is_empty(&self) -> bool {
        self.mapped.iter().all(|word| *word == 0)
    }
}

/// A chunk, once it has been written.
type Slot = RwLock<Option<Box<Chunk>>>;

/// Chunks by number, each with its own lock.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    size: u64,
    chunks: Vec<Slot>,
}

/// The part of a transfer that lies in one chunk.
struct Part<'a> {
    slot: &'a Slot,
    start: usize,
    length: usize,
}

impl MemoryStore {
    /// An empty store of `size` bytes, at most [`MAX_SIZE`].
    pub(crate) fn new(size: u64) -> Self {
        let size = size.min(MAX_SIZE);
        Self { size, chunks: (0..size.div_ceil(CHUNK)).map(|_| Slot::default()).collect() }
    }

    fn part(&self, offset: u64, remaining: u64) -> io::Result<Part<'_>> {
        let slot = usize::try_from(offset / CHUNK).ok().and_then(|number| self.chunks.get(number));
        let slot = slot.ok_or(io::ErrorKind::UnexpectedEof)?;
        let start = offset % CHUNK;
        let length = remaining.min(CHUNK - start);
        Ok(Part { slot, start: start as usize, length: length as usize })
    }
}

impl Store for MemoryStore {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut offset: u64, mut length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        while length > 0 {
            let part = self.part(offset, length as u64)?;
            match part.slot.read().unwrap_or_else(PoisonError::into_inner).as_deref() {
                Some(chunk) => {
                    let bytes = chunk.bytes.get(part.start..part.start + part.length);
                    out.extend_from_slice(bytes.unwrap_or_default());
                }
                None => out.resize(out.len() + part.length, 0),
            }
            offset += part.length as u64;
            length -= part.length;
        }
        Ok(())
    }

    fn write_at(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let part = self.part(offset, data.len() as u64)?;
            let (now, later) = data.split_at(part.length);
            let mut slot = part.slot.write().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert_with(|| Box::new(Chunk::new())).write(part.start, now);
            (offset, data) = (offset + part.length as u64, later);
        }
        Ok(())
    }

    fn deallocate(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let part = self.part(offset, length)?;
            let mut slot = part.slot.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(chunk) = slot.as_deref_mut() {
                chunk.deallocate(part.start, part.start + part.length);
            }
            if slot.as_deref().is_some_and(Chunk::is_empty) {
                *slot = None;
            }
            offset += part.length as u64;
            length -= part.length as u64;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        let mut run: Option<Run> = None;
        let mut at = offset;
        while at < self.size {
            let part = self.part(at, CHUNK)?;
            let here = part.slot.read().unwrap_or_else(PoisonError::into_inner);
            let (end, mapped) = here.as_deref().map_or((CHUNK as usize, false), |c| c.run(part.start));
            if run.is_some_and(|run| run.mapped != mapped) {
                break;
            }
            let end = at - part.start as u64 + end as u64;
            run = Some(Run { end: end.min(self.size), mapped });
            at = end;
        }
        run.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn has_volatile_cache(&self) -> bool {
        false
    }
}
