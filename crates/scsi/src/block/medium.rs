//! Commands that read, write, compare or provision logical blocks (SBC-4 5): one struct for the fields
//! they share, one for the variants' own bits. Which combinations are legal is the device server's decision.

use super::extent::{Extent, Form};
use crate::bytes::{be16, u8_at};
use crate::opcode;

/// What a command does with its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// READ(6/10/12/16).
    Read,
    /// WRITE(6/10/12/16).
    Write,
    /// ORWRITE(16).
    OrWrite,
    /// WRITE ATOMIC(16) with its ATOMIC BOUNDARY in blocks.
    WriteAtomic {
        /// ATOMIC BOUNDARY.
        boundary: u16,
    },
    /// COMPARE AND WRITE.
    CompareAndWrite,
    /// WRITE AND VERIFY(10/12/16).
    WriteAndVerify {
        /// BYTCHK, 2 bits.
        byte_check: u8,
    },
    /// VERIFY(10/12/16).
    Verify {
        /// BYTCHK, 2 bits.
        byte_check: u8,
    },
    /// PRE-FETCH(10/16).
    PreFetch {
        /// IMMED.
        immediate: bool,
    },
    /// SYNCHRONIZE CACHE(10/16).
    SynchronizeCache {
        /// IMMED.
        immediate: bool,
    },
    /// WRITE SAME(10/16).
    WriteSame {
        /// ANCHOR.
        anchor: bool,
        /// UNMAP.
        unmap: bool,
        /// NDOB: no data-out; zeros are written.
        no_data_out: bool,
    },
}

/// A medium access command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What it does.
    pub operation: Operation,
    /// On which blocks.
    pub extent: Extent,
    /// RDPROTECT, WRPROTECT, VRPROTECT or ORPROTECT, 3 bits.
    pub protect: u8,
    /// DPO: the blocks need not stay in a cache.
    pub dpo: bool,
    /// FUA: the medium, not a volatile cache.
    pub fua: bool,
}

const PROTECT: u8 = 0xE0;
const DPO: u8 = 0x10;
const FUA: u8 = 0x08;
const IMMED: u8 = 0x02;
/// Only WRITE SAME(16) has it; no 10-byte command has anything else there.
const NDOB: u8 = 0x01;

impl Access {
    /// A command on `blocks` blocks from `lba` without any flag.
    #[must_use]
    pub const fn new(operation: Operation, form: Form, lba: u64, blocks: u32) -> Self {
        let extent = Extent { form, lba, blocks, group: 0 };
        Self { operation, extent, protect: 0, dpo: false, fua: false }
    }

    /// Reads the CDB of a medium access command. The outer `None`: it is another command; the inner: cut.
    pub(crate) fn parse(cdb: &[u8]) -> Option<Option<Self>> {
        let flags = u8_at(cdb, 1).unwrap_or(0);
        let (operation, form) = Self::operation(u8_at(cdb, 0)?, flags)?;
        Some(Self::parse_fields(cdb, operation, form, flags))
    }

    fn operation(code: u8, flags: u8) -> Option<(Operation, Form)> {
        use Form::{Six, Sixteen, Ten, Twelve};
        use opcode as op;
        let byte_check = flags >> 1 & 0x03;
        let immediate = flags & IMMED != 0;
        let (anchor, unmap) = (flags & 0x10 != 0, flags & 0x08 != 0);
        Some(match code {
            op::READ_6 => (Operation::Read, Six),
            op::READ_10 => (Operation::Read, Ten),
            op::READ_12 => (Operation::Read, Twelve),
            op::READ_16 => (Operation::Read, Sixteen),
            op::WRITE_6 => (Operation::Write, Six),
            op::WRITE_10 => (Operation::Write, Ten),
            op::WRITE_12 => (Operation::Write, Twelve),
            op::WRITE_16 => (Operation::Write, Sixteen),
            op::ORWRITE_16 => (Operation::OrWrite, Sixteen),
            op::WRITE_ATOMIC_16 => (Operation::WriteAtomic { boundary: 0 }, Sixteen),
            op::COMPARE_AND_WRITE => (Operation::CompareAndWrite, Sixteen),
            op::WRITE_AND_VERIFY_10 => (Operation::WriteAndVerify { byte_check }, Ten),
            op::WRITE_AND_VERIFY_12 => (Operation::WriteAndVerify { byte_check }, Twelve),
            op::WRITE_AND_VERIFY_16 => (Operation::WriteAndVerify { byte_check }, Sixteen),
            op::VERIFY_10 => (Operation::Verify { byte_check }, Ten),
            op::VERIFY_12 => (Operation::Verify { byte_check }, Twelve),
            op::VERIFY_16 => (Operation::Verify { byte_check }, Sixteen),
            op::PRE_FETCH_10 => (Operation::PreFetch { immediate }, Ten),
            op::PRE_FETCH_16 => (Operation::PreFetch { immediate }, Sixteen),
            op::SYNCHRONIZE_CACHE_10 => (Operation::SynchronizeCache { immediate }, Ten),
            op::SYNCHRONIZE_CACHE_16 => (Operation::SynchronizeCache { immediate }, Sixteen),
            op::WRITE_SAME_10 => (Operation::WriteSame { anchor, unmap, no_data_out: false }, Ten),
            op::WRITE_SAME_16 => {
                (Operation::WriteSame { anchor, unmap, no_data_out: flags & NDOB != 0 }, Sixteen)
            }
            _ => return None,
        })
    }

    fn parse_fields(cdb: &[u8], operation: Operation, form: Form, flags: u8) -> Option<Self> {
        let (mut operation, mut extent) = (operation, Extent::parse(cdb, form)?);
        match &mut operation {
            Operation::WriteAtomic { boundary } => {
                *boundary = be16(cdb, 10)?;
                extent.blocks = u32::from(be16(cdb, 12)?);
            }
            Operation::CompareAndWrite => extent.blocks = u32::from(u8_at(cdb, 13)?),
            _ => {}
        }
        let flags = if form == Form::Six { 0 } else { flags };
        Some(Self {
            operation,
            extent,
            protect: if operation.has_protect() { (flags & PROTECT) >> 5 } else { 0 },
            dpo: operation.has_dpo() && flags & DPO != 0,
            fua: operation.has_fua() && flags & FUA != 0,
        })
    }

    /// The bytes of this command. Flags that the command does not have are left out.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let extent = Extent { form: Form::of(self.opcode()), ..self.extent };
        let mut flags = self.operation.flags();
        if self.operation.has_protect() {
            flags |= self.protect << 5;
        }
        flags |= if self.dpo && self.operation.has_dpo() { DPO } else { 0 };
        flags |= if self.fua && self.operation.has_fua() { FUA } else { 0 };
        let flags = match extent.form {
            Form::Six => 0,
            Form::Ten => flags & !NDOB,
            _ => flags,
        };
        let mut cdb = extent.emit(self.opcode(), flags);
        let [_, _, high, low] = extent.blocks.to_be_bytes();
        match self.operation {
            Operation::WriteAtomic { boundary } => {
                let [b0, b1] = boundary.to_be_bytes();
                cdb.splice(10..14, [b0, b1, high, low]);
            }
            Operation::CompareAndWrite => drop(cdb.splice(10..14, [0, 0, 0, low])),
            _ => {}
        }
        cdb
    }

    /// Operation code; a shape that the operation does not have gives the widest it has.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        use Form::{Six, Ten, Twelve};
        use opcode as op;
        match (self.operation, self.extent.form) {
            (Operation::Read, Six) => op::READ_6,
            (Operation::Read, Ten) => op::READ_10,
            (Operation::Read, Twelve) => op::READ_12,
            (Operation::Read, _) => op::READ_16,
            (Operation::Write, Six) => op::WRITE_6,
            (Operation::Write, Ten) => op::WRITE_10,
            (Operation::Write, Twelve) => op::WRITE_12,
            (Operation::Write, _) => op::WRITE_16,
            (Operation::OrWrite, _) => op::ORWRITE_16,
            (Operation::WriteAtomic { .. }, _) => op::WRITE_ATOMIC_16,
            (Operation::CompareAndWrite, _) => op::COMPARE_AND_WRITE,
            (Operation::WriteAndVerify { .. }, Ten) => op::WRITE_AND_VERIFY_10,
            (Operation::WriteAndVerify { .. }, Twelve) => op::WRITE_AND_VERIFY_12,
            (Operation::WriteAndVerify { .. }, _) => op::WRITE_AND_VERIFY_16,
            (Operation::Verify { .. }, Ten) => op::VERIFY_10,
            (Operation::Verify { .. }, Twelve) => op::VERIFY_12,
            (Operation::Verify { .. }, _) => op::VERIFY_16,
            (Operation::PreFetch { .. }, Ten) => op::PRE_FETCH_10,
            (Operation::PreFetch { .. }, _) => op::PRE_FETCH_16,
            (Operation::SynchronizeCache { .. }, Ten) => op::SYNCHRONIZE_CACHE_10,
            (Operation::SynchronizeCache { .. }, _) => op::SYNCHRONIZE_CACHE_16,
            (Operation::WriteSame { .. }, Ten) => op::WRITE_SAME_10,
            (Operation::WriteSame { .. }, _) => op::WRITE_SAME_16,
        }
    }

    /// Where the number of blocks stands in this CDB, for field pointers.
    #[must_use]
    pub const fn length_byte(&self) -> u16 {
        match self.operation {
            Operation::WriteAtomic { .. } => 12,
            Operation::CompareAndWrite => 13,
            _ => self.extent.form.length_byte(),
        }
    }
}

impl Operation {
    const fn has_protect(self) -> bool {
        !matches!(self, Self::PreFetch { .. } | Self::SynchronizeCache { .. })
    }

    const fn has_dpo(self) -> bool {
        self.has_protect() && !matches!(self, Self::WriteSame { .. })
    }

    const fn has_fua(self) -> bool {
        matches!(
            self,
            Self::Read | Self::Write | Self::OrWrite | Self::WriteAtomic { .. } | Self::CompareAndWrite
        )
    }

    /// The bits of byte 1 that this operation alone has.
    const fn flags(self) -> u8 {
        match self {
            Self::WriteAndVerify { byte_check } | Self::Verify { byte_check } => (byte_check & 0x03) << 1,
            Self::PreFetch { immediate: true } | Self::SynchronizeCache { immediate: true } => IMMED,
            Self::WriteSame { anchor, unmap, no_data_out } => {
                (anchor as u8) << 4 | (unmap as u8) << 3 | no_data_out as u8
            }
            _ => 0,
        }
    }
}
