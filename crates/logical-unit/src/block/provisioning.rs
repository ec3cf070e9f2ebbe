//! Thin provisioning (SBC-4 4.7): WRITE SAME, UNMAP, GET LBA STATUS. Blocks that were given back read as
//! zeros (LBPRZ = 1); there is no anchored state.

use super::refusal::{Answer, Refusal, cut};
use super::transfer::short_data;
use super::{BLOCK, Disk, Sender, limits};
use scsi::block::{Access, GetLbaStatus, Unmap};
use scsi::lba_status::{LbaStatus, LbaStatusDescriptor, Provisioning};
use scsi::unmap::{UnmapDescriptor, UnmapList};
use scsi::{AdditionalSense, FieldError, SenseKey};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most descriptors of one GET LBA STATUS: bounds its duration and memory.
const MOST_RUNS: usize = 4096;
/// Bytes written at once by WRITE SAME, and between two looks for an abort.
const CHUNK: u64 = 1 << 20;
/// A block of zeros.
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// The bits of a WRITE SAME.
#[derive(Clone, Copy, Debug)]
pub(super) struct SameOptions {
    pub(super) anchor: bool,
    pub(super) unmap: bool,
    pub(super) no_data_out: bool,
}

impl Disk {
    /// WRITE SAME(10/16) (SBC-4 5.42, 5.43). A length of zero, which
    /// would mean all blocks to the last, is refused (WSNZ = 1); so is ANCHOR: there is nothing to anchor to.
    pub(super) fn write_same(
        &self,
        sender: Sender<'_>,
        access: &Access,
        options: SameOptions,
        data_out: &[u8],
    ) -> Answer {
        if options.anchor {
            return Err(FieldError::cdb_bit(1, 4).into());
        }
        let block = if options.no_data_out { &ZEROS } else { data_out };
        if block.len() as u64 != BLOCK {
            return Err(short_data());
        }
        if access.extent.blocks == 0 {
            return Err(FieldError::cdb(access.length_byte()).into());
        }
        let (lba, blocks) = (access.extent.lba, u64::from(access.extent.blocks));
        let _shared = self.share(lba, blocks)?;
        if block == ZEROS && (options.unmap || options.no_data_out) {
            self.give_back(lba, blocks)?;
            return self.settle();
        }
        self.repeat(sender.interrupted, lba, blocks, block)
    }

    /// Writes one block to all blocks, many at a time. Ends early if it is interrupted.
    pub(super) fn repeat(&self, interrupted: &AtomicBool, lba: u64, blocks: u64, block: &[u8]) -> Answer {
        let at_once = blocks.min(CHUNK / BLOCK);
        let data = block.repeat(usize::try_from(at_once).unwrap_or(0));
        let mut done = 0;
        while done < blocks {
            if interrupted.load(Ordering::Relaxed) {
                return Err(Refusal::new(SenseKey::ABORTED_COMMAND, AdditionalSense::NONE));
            }
            let now = (blocks - done).min(at_once);
            let bytes = data.get(..(now * BLOCK) as usize).unwrap_or(&data);
            self.write_blocks(lba + done, bytes, false)?;
            done += now;
        }
        Ok(Vec::new())
    }

    pub(super) fn give_back(&self, lba: u64, blocks: u64) -> Answer {
        let given = self.store.deallocate(lba * BLOCK, blocks * BLOCK);
        given.map(|()| Vec::new()).map_err(|error| self.unwritten(&error))
    }

    /// UNMAP (SBC-4 5.32). All descriptors are checked before the first takes effect.
    pub(super) fn unmap(&self, command: &Unmap, data_out: &[u8]) -> Answer {
        if command.anchor {
            return Err(FieldError::cdb_bit(1, 0).into());
        }
        if command.length == 0 {
            return Ok(Vec::new());
        }
        let list = data_out.get(..usize::from(command.length)).ok_or(FieldError::list_length())?;
        let list = UnmapList::parse(list)?;
        self.check_unmap(&list.descriptors)?;
        for descriptor in &list.descriptors {
            let (lba, blocks) = (descriptor.lba, u64::from(descriptor.blocks));
            let _shared = self.share(lba, blocks)?;
            self.give_back(lba, blocks)?;
        }
        self.settle()
    }

    /// Without a write cache (WCE = 0) what was given back must not come back with the power.
    fn settle(&self) -> Answer {
        if self.modes.write_through() { self.flush() } else { Ok(Vec::new()) }
    }

    fn check_unmap(&self, descriptors: &[UnmapDescriptor]) -> Result<(), Refusal> {
        let blocks: u64 = descriptors.iter().map(|descriptor| u64::from(descriptor.blocks)).sum();
        if descriptors.len() > limits::UNMAP_DESCRIPTORS as usize || blocks > limits::UNMAP.into() {
            return Err(FieldError::parameter(2).into());
        }
        let beyond = |descriptor: &UnmapDescriptor| {
            descriptor.lba.checked_add(descriptor.blocks.into()).is_none_or(|end| end > self.blocks())
        };
        if descriptors.iter().any(beyond) {
            return Err(Refusal::illegal(AdditionalSense::LBA_OUT_OF_RANGE));
        }
        Ok(())
    }

    /// GET LBA STATUS (SBC-4 5.6): as many runs as the allocation length has room for, at least one.
    pub(super) fn lba_status(&self, command: &GetLbaStatus) -> Answer {
        if command.report_type != 0 {
            return Err(FieldError::cdb(14).into());
        }
        if command.lba >= self.blocks() {
            return Err(Refusal::illegal(AdditionalSense::LBA_OUT_OF_RANGE));
        }
        let room = (command.allocation_length as usize).saturating_sub(LbaStatus::HEADER);
        let most = (room / LbaStatus::DESCRIPTOR).clamp(1, MOST_RUNS);
        let mut status = LbaStatus::default();
        let mut lba = command.lba;
        while lba < self.blocks() && status.descriptors.len() < most {
            let run = self.run_from(lba)?;
            lba += u64::from(run.blocks);
            status.descriptors.push(run);
        }
        cut(status.to_bytes(), command.allocation_length)
    }

    /// The run of blocks from `lba`. A block that is mapped in part counts as mapped.
    fn run_from(&self, lba: u64) -> Result<LbaStatusDescriptor, Refusal> {
        let start = self.store.run_at(lba * BLOCK).map_err(|error| self.unread(&error))?;
        let deallocated = !start.mapped && start.end >= (lba + 1) * BLOCK;
        let end = if deallocated { start.end / BLOCK } else { start.end.div_ceil(BLOCK) };
        let blocks = end.clamp(lba + 1, self.blocks()) - lba;
        let status = if deallocated { Provisioning::DEALLOCATED } else { Provisioning::MAPPED };
        Ok(LbaStatusDescriptor { lba, blocks: u32::try_from(blocks).unwrap_or(u32::MAX), status })
    }
}

#[cfg(test)]
mod tests;
