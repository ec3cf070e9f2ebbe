//! A store in memory, in chunks that exist only once they are written.

use super::Store;
use std::io;
use std::sync::{PoisonError, RwLock};

/// Bytes of one chunk.
const CHUNK: u64 = 64 << 10;

/// Bytes of a chunk, once there are any.
type Chunk = RwLock<Option<Box<[u8]>>>;

/// Chunks by number, each with its own lock.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    size: u64,
    chunks: Vec<Chunk>,
}

impl MemoryStore {
    pub(crate) fn new(size: u64) -> Self {
        let chunks = size.div_ceil(CHUNK);
        Self { size, chunks: (0..chunks).map(|_| RwLock::new(None)).collect() }
    }

    fn chunk(&self, offset: u64) -> io::Result<(&Chunk, usize)> {
        let number = usize::try_from(offset / CHUNK).unwrap_or(usize::MAX);
        let chunk = self.chunks.get(number).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((chunk, usize::try_from(offset % CHUNK).unwrap_or(0)))
    }
}

impl Store for MemoryStore {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let (chunk, start) = self.chunk(offset)?;
            let length = buffer.len().min(CHUNK as usize - start);
            let (now, later) = buffer.split_at_mut(length);
            match chunk.read().unwrap_or_else(PoisonError::into_inner).as_deref() {
                Some(bytes) => now.copy_from_slice(bytes.get(start..start + length).unwrap_or_default()),
                None => now.fill(0),
            }
            (offset, buffer) = (offset + length as u64, later);
        }
        Ok(())
    }

    fn write_at(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let (chunk, start) = self.chunk(offset)?;
            let length = data.len().min(CHUNK as usize - start);
            let (now, later) = data.split_at(length);
            let mut chunk = chunk.write().unwrap_or_else(PoisonError::into_inner);
            let bytes = chunk.get_or_insert_with(|| vec![0; CHUNK as usize].into_boxed_slice());
            bytes.get_mut(start..start + length).unwrap_or_default().copy_from_slice(now);
            (offset, data) = (offset + length as u64, later);
        }
        Ok(())
    }
}
