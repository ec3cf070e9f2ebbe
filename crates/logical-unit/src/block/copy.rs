//! EXTENDED COPY(LID1) within this logical unit and RECEIVE COPY RESULTS (SPC-4 6.4, 6.17 to 6.19). A copy
//! is done when its status says so; how it ended is kept, for a bounded number of copies, until it is read.

use super::refusal::{Answer, Refusal, cut};
use super::{BLOCK, Disk, Sender};
use crate::ItNexus;
use scsi::block::{ExtendedCopy, ReceiveCopyResults, service_action};
use scsi::copy::{CopyLimits, CopyList, CopySegment, CopyStatus, CopyTarget, SEGMENT_LENGTH, TARGET_LENGTH};
use scsi::vpd::{Association, DesignatorType};
use scsi::{AdditionalSense, FieldError, SenseKey};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

const TARGETS: u16 = 4;
const SEGMENTS: u16 = 8;
/// Most copies, of all nexuses together, whose status is kept.
const HELD: usize = 64;

const LIMITS: CopyLimits = CopyLimits {
    targets: TARGETS,
    segments: SEGMENTS,
    descriptors: TARGETS as u32 * TARGET_LENGTH as u32 + SEGMENTS as u32 * SEGMENT_LENGTH as u32,
    segment: u16::MAX as u32 * BLOCK as u32,
    held: 1,
};

/// LIST ID USAGE: no status is kept.
const NO_STATUS: u8 = 3;

/// How the latest copies ended, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Copies(Mutex<VecDeque<(ItNexus, u8, CopyStatus)>>);

impl Copies {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(ItNexus, u8, CopyStatus)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, nexus: &ItNexus, list: u8, status: CopyStatus) {
        let mut held = self.lock();
        held.retain(|(owner, id, _)| (owner, *id) != (nexus, list));
        while held.len() >= HELD {
            held.pop_front();
        }
        held.push_back((nexus.clone(), list, status));
    }

    fn take(&self, nexus: &ItNexus, list: u8) -> Option<CopyStatus> {
        let mut held = self.lock();
        let at = held.iter().position(|(owner, id, _)| (owner, *id) == (nexus, list))?;
        held.remove(at).map(|(.., status)| status)
    }

    pub(super) fn forget(&self) {
        self.lock().clear();
    }
}

/// The body of VPD page 8Fh.
pub(super) fn third_party_copy_page() -> Vec<u8> {
    LIMITS.third_party_copy_page()
}

impl Disk {
    pub(super) fn extended_copy(
        &self,
        sender: Sender<'_>,
        command: &ExtendedCopy,
        data_out: &[u8],
    ) -> Answer {
        if command.length == 0 {
            return Ok(Vec::new());
        }
        let list = data_out.get(..command.length as usize).ok_or(FieldError::list_length())?;
        let list = CopyList::parse(list, &LIMITS)?;
        self.check_targets(sender, &list.targets)?;
        let mut progress = CopyStatus { status: CopyStatus::COMPLETED, segments: 0, blocks: 0 };
        let ended = list.segments.iter().try_for_each(|segment| {
            self.copy_segment(segment, list.targets.len())?;
            progress.segments += 1;
            progress.blocks += u32::from(segment.blocks);
            Ok(())
        });
        if ended.is_err() {
            progress.status = CopyStatus::FAILED;
        }
        if list.usage != NO_STATUS {
            self.copies.keep(sender.nexus, list.list, progress);
        }
        ended.map(|()| Vec::new())
    }

    /// Every target must be this logical unit: others cannot be reached from here.
    fn check_targets(&self, sender: Sender<'_>, targets: &[CopyTarget]) -> Result<(), Refusal> {
        let names = self.identity.designators(self.profile.product.vendor, sender.target, sender.nexus);
        for target in targets {
            let named = names.designators.iter().any(|name| {
                name.association == Association::LOGICAL_UNIT && is_same(name.kind, &name.bytes, target)
            });
            if !named {
                return Err(unreachable_target());
            }
        }
        Ok(())
    }

    /// Copies one segment as if it were read whole before it is written, so that it may overlap itself.
    fn copy_segment(&self, segment: &CopySegment, targets: usize) -> Result<(), Refusal> {
        if usize::from(segment.source.max(segment.destination)) >= targets {
            return Err(unreachable_target());
        }
        let blocks = u64::from(segment.blocks);
        let inside = |lba: u64| lba.checked_add(blocks).is_some_and(|end| end <= self.blocks());
        if !inside(segment.source_lba) || !inside(segment.destination_lba) {
            return Err(Refusal::new(SenseKey::COPY_ABORTED, AdditionalSense::NONE));
        }
        let data = {
            let _shared = self.share(segment.source_lba, blocks)?;
            self.read_blocks(segment.source_lba, blocks)?
        };
        let _shared = self.share(segment.destination_lba, blocks)?;
        self.write_blocks(segment.destination_lba, &data, false).map(drop)
    }

    pub(super) fn receive_copy_results(&self, sender: Sender<'_>, command: &ReceiveCopyResults) -> Answer {
        let data = match command.action {
            service_action::COPY_STATUS_LID1 => {
                let status = self.copies.take(sender.nexus, command.list);
                status.ok_or(FieldError::cdb(2))?.to_bytes()
            }
            service_action::OPERATING_PARAMETERS => LIMITS.operating_parameters(),
            _ => return Err(FieldError::cdb_bit(1, 4).into()),
        };
        cut(data, command.allocation_length)
    }
}

/// A descriptor has room for 20 bytes of a name; the rest of a longer one cannot be compared.
fn is_same(kind: DesignatorType, name: &[u8], target: &CopyTarget) -> bool {
    let given = &target.designator.bytes;
    kind == target.designator.kind && name.get(..20).unwrap_or(name) == given.as_slice()
}

const fn unreachable_target() -> Refusal {
    Refusal::new(SenseKey::COPY_ABORTED, AdditionalSense::COPY_TARGET_UNREACHABLE)
}
