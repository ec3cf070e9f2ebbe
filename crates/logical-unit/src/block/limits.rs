//! How much one command may ask for: told in the Block Limits page, enforced by the commands.

use scsi::block::Operation;
use scsi::vpd::BlockLimits;

/// Logical blocks of one READ, WRITE, VERIFY: 32 MiB, which bounds the memory of a command.
const TRANSFER: u32 = 65_536;
/// Logical blocks of one COMPARE AND WRITE.
const COMPARE_AND_WRITE: u8 = 255;
/// Logical blocks of one WRITE SAME: 1 GiB.
const WRITE_SAME: u32 = 1 << 21;
/// Logical blocks of all descriptors of one UNMAP.
pub(super) const UNMAP: u32 = 1 << 20;
/// Descriptors of one UNMAP.
pub(super) const UNMAP_DESCRIPTORS: u32 = 256;
/// Logical blocks of one WRITE ATOMIC.
const ATOMIC: u32 = 2_048;
/// Logical blocks of what is given back as a whole.
const UNMAP_GRANULARITY: u32 = 8;

/// The Block Limits page.
pub(super) const PAGE: BlockLimits = BlockLimits {
    write_same_non_zero: true,
    compare_and_write: COMPARE_AND_WRITE,
    transfer_granularity: UNMAP_GRANULARITY as u16,
    transfer: TRANSFER,
    optimal_transfer: 2_048,
    prefetch: 0,
    unmap_blocks: UNMAP,
    unmap_descriptors: UNMAP_DESCRIPTORS,
    unmap_granularity: UNMAP_GRANULARITY,
    unmap_alignment: Some(0),
    write_same: WRITE_SAME as u64,
    atomic: ATOMIC,
    atomic_alignment: 0,
    atomic_granularity: 0,
    atomic_with_boundary: 0,
    atomic_boundary: 0,
};

/// Exponent of logical blocks per physical block.
pub(super) const PHYSICAL_EXPONENT: u8 = UNMAP_GRANULARITY.trailing_zeros() as u8;

/// Most logical blocks of one command.
pub(super) fn most_blocks(operation: Operation) -> u64 {
    match operation {
        Operation::CompareAndWrite => COMPARE_AND_WRITE.into(),
        Operation::WriteAtomic { .. } => ATOMIC.into(),
        Operation::WriteSame { .. } => WRITE_SAME.into(),
        Operation::PreFetch { .. } | Operation::SynchronizeCache { .. } => u64::MAX,
        _ => TRANSFER.into(),
    }
}
