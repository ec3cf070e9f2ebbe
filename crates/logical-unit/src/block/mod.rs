//! The block device server (SBC-4) over a store.

use crate::store::Store;
use crate::unit::OpenError;
use scsi::{AdditionalSense, Completion, Sense, SenseKey, opcode};

/// Bytes of a logical block.
pub(crate) const BLOCK: u64 = 512;

#[derive(Debug)]
pub(crate) struct Disk {
    store: Box<dyn Store>,
}

impl Disk {
    pub(crate) fn new(store: Box<dyn Store>) -> Result<Self, OpenError> {
        if store.size() < BLOCK {
            return Err(OpenError::TooSmall(store.size()));
        }
        Ok(Self { store })
    }

    const fn check(key: SenseKey, code: AdditionalSense) -> Sense {
        Sense::new(key, code)
    }

    pub(crate) fn execute(&self, cdb: &[u8], data_out: &[u8]) -> Completion {
        match cdb.first().copied().unwrap_or(0xFF) {
            opcode::TEST_UNIT_READY => Completion::good(Vec::new()),
            opcode::INQUIRY => inquiry(number(cdb, 3, 2)),
            opcode::READ_CAPACITY_10 => self.capacity_10(),
            opcode::READ_10 => self.read(number(cdb, 2, 4), number(cdb, 7, 2)),
            opcode::READ_16 => self.read(number(cdb, 2, 8), number(cdb, 10, 4)),
            opcode::WRITE_10 => self.write(number(cdb, 2, 4), number(cdb, 7, 2), data_out),
            opcode::WRITE_16 => self.write(number(cdb, 2, 8), number(cdb, 10, 4), data_out),
            opcode::SERVICE_ACTION_IN_16 => self.capacity_16(number(cdb, 10, 4)),
            _ => {
                let code = AdditionalSense::INVALID_COMMAND_OPERATION_CODE;
                Completion::check(&Self::check(SenseKey::ILLEGAL_REQUEST, code))
            }
        }
    }

    fn blocks(&self) -> u64 {
        self.store.size() / BLOCK
    }

    fn capacity_10(&self) -> Completion {
        let last = u32::try_from(self.blocks() - 1).unwrap_or(u32::MAX);
        Completion::good([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat())
    }

    fn capacity_16(&self, allocation: u64) -> Completion {
        let mut data = (self.blocks() - 1).to_be_bytes().to_vec();
        data.extend((BLOCK as u32).to_be_bytes());
        data.resize(32, 0);
        data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Completion::good(data)
    }

    fn range(&self, lba: u64, blocks: u64) -> Result<u64, Completion> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.blocks() => Ok(lba * BLOCK),
            _ => {
                let code = AdditionalSense::LBA_OUT_OF_RANGE;
                Err(Completion::check(&Self::check(SenseKey::ILLEGAL_REQUEST, code)))
            }
        }
    }

    fn read(&self, lba: u64, blocks: u64) -> Completion {
        let offset = match self.range(lba, blocks) {
            Ok(offset) => offset,
            Err(completion) => return completion,
        };
        let mut data = vec![0; usize::try_from(blocks * BLOCK).unwrap_or(0)];
        match self.store.read_at(offset, &mut data) {
            Ok(()) => Completion::good(data),
            Err(_) => {
                let code = AdditionalSense::UNRECOVERED_READ_ERROR;
                Completion::check(&Self::check(SenseKey::MEDIUM_ERROR, code))
            }
        }
    }

    fn write(&self, lba: u64, blocks: u64, data: &[u8]) -> Completion {
        let offset = match self.range(lba, blocks) {
            Ok(offset) => offset,
            Err(completion) => return completion,
        };
        let length = usize::try_from(blocks * BLOCK).unwrap_or(usize::MAX);
        match self.store.write_at(offset, data.get(..length).unwrap_or(data)) {
            Ok(()) => Completion::good(Vec::new()),
            Err(_) => Completion::check(&Self::check(SenseKey::MEDIUM_ERROR, AdditionalSense::WRITE_ERROR)),
        }
    }
}

fn inquiry(allocation: u64) -> Completion {
    let mut data = vec![0, 0, 6, 2, 31, 0, 0, 2];
    data.extend(b"TENURE  LOGICAL UNIT    0001");
    data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
    Completion::good(data)
}

fn number(cdb: &[u8], at: usize, length: usize) -> u64 {
    cdb.get(at..at + length).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}
