//! Mode pages (SPC-4 7.5, SBC-4 6.5): what an initiator may change, and what follows from it. The bits that
//! commands look at are mirrored in atomics, so that no READ or WRITE takes a lock for them.

use super::refusal::{Answer, Refusal, cut};
use scsi::block::{Form, ModeSelect, ModeSense, PageControl};
use scsi::mode::{self, Control, ModeParameters, Page, page};
use scsi::{AdditionalSense, FieldError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A page: its default body and the bits that MODE SELECT may change.
struct Definition {
    code: u8,
    body: &'static [u8],
    changeable: &'static [(usize, u8)],
}

/// WCE in the body of the Caching page.
const WCE: (usize, u8) = (0, 0x04);

const PAGES: [Definition; 4] = [
    // Everything is corrected below us: AWRE and ARRE are set, nothing can be changed.
    Definition {
        code: page::READ_WRITE_ERROR_RECOVERY,
        body: &[0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        changeable: &[],
    },
    Definition {
        code: page::CACHING,
        body: &[WCE.1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        changeable: &[WCE],
    },
    // QUEUE ALGORITHM MODIFIER 1: commands of all nexuses may be reordered. BUSY TIMEOUT PERIOD without limit.
    Definition {
        code: page::CONTROL,
        body: &[0, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0],
        changeable: &[Control::D_SENSE, Control::SWP, Control::TAS],
    },
    Definition {
        code: page::INFORMATIONAL_EXCEPTIONS,
        body: &[0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        changeable: &[],
    },
];

/// The pages of one logical unit.
#[derive(Debug)]
pub(crate) struct Modes {
    current: Mutex<Vec<Page>>,
    defaults: Vec<Page>,
    blocks: AtomicU64,
    block_length: u32,
    /// The medium is write protected, whatever an initiator does.
    read_only: bool,
    write_protect: AtomicBool,
    write_through: AtomicBool,
    descriptor_sense: AtomicBool,
    task_aborted_status: AtomicBool,
}

impl Modes {
    /// Defaults for a medium of `blocks` blocks, with or without a volatile write cache, write protected or not.
    pub(crate) fn new(blocks: u64, block_length: u32, volatile_cache: bool, read_only: bool) -> Self {
        let page = |definition: &Definition| {
            let mut body = definition.body.to_vec();
            if definition.code == page::CACHING && !volatile_cache {
                body.fill(0);
            }
            Page { saveable: false, code: definition.code, subpage: None, body }
        };
        let defaults: Vec<_> = PAGES.iter().map(page).collect();
        let modes = Self {
            current: Mutex::new(defaults.clone()),
            defaults,
            blocks: AtomicU64::new(blocks),
            block_length,
            read_only,
            write_protect: AtomicBool::default(),
            write_through: AtomicBool::default(),
            descriptor_sense: AtomicBool::default(),
            task_aborted_status: AtomicBool::default(),
        };
        modes.reset();
        modes
    }

    /// Nothing may be written to the medium, SWP or not.
    pub(crate) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The medium may have grown.
    pub(crate) fn set_blocks(&self, blocks: u64) {
        self.blocks.fetch_max(blocks, Ordering::AcqRel);
    }

    fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Acquire)
    }

    /// SWP: nothing may be written.
    pub(crate) fn write_protected(&self) -> bool {
        self.write_protect.load(Ordering::Acquire)
    }

    /// WP of the mode parameter header (SBC-4 6.5.1): either of them.
    fn is_protected(&self) -> bool {
        self.read_only || self.write_protected()
    }

    /// WCE = 0: every write is durable before its status.
    pub(crate) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Acquire)
    }

    /// D_SENSE.
    pub(crate) fn descriptor_sense(&self) -> bool {
        self.descriptor_sense.load(Ordering::Acquire)
    }

    /// TAS.
    pub(crate) fn task_aborted_status(&self) -> bool {
        self.task_aborted_status.load(Ordering::Acquire)
    }

    /// Back to the defaults, as after a reset: there are no saved pages.
    pub(crate) fn reset(&self) {
        let mut current = self.lock();
        current.clone_from(&self.defaults);
        self.mirror(&current);
    }

    /// Code and body of each page, as they are now.
    pub(crate) fn current(&self) -> Vec<(u8, Vec<u8>)> {
        self.lock().iter().map(|page| (page.code, page.body.clone())).collect()
    }

    /// Takes over the changeable bits of pages that another process had. `false`, and nothing of it, for a page or a length
    /// that this program does not know. Other bits follow from the medium here.
    pub(crate) fn restore(&self, pages: &[(u8, Vec<u8>)]) -> bool {
        let mut current = self.lock();
        let mut next = current.clone();
        for (code, body) in pages {
            let definition = PAGES.iter().find(|known| known.code == *code);
            let page = next.iter_mut().find(|page| page.code == *code && page.body.len() == body.len());
            let (Some(definition), Some(page)) = (definition, page) else { return false };
            let mask = changeable(definition).body;
            for ((here, there), mask) in page.body.iter_mut().zip(body).zip(mask) {
                *here = *here & !mask | there & mask;
            }
        }
        *current = next;
        self.mirror(&current);
        true
    }

    /// MODE SENSE (SPC-4 6.11).
    pub(crate) fn sense(&self, command: &ModeSense) -> Answer {
        let parameters = ModeParameters {
            medium_type: 0,
            device_specific: mode::DPO_FUA | if self.is_protected() { mode::WRITE_PROTECTED } else { 0 },
            long_lba: command.long_lba_accepted && !command.disable_block_descriptor,
            block_descriptor: self.block_descriptor(command),
            pages: self.wanted_pages(command)?,
        };
        cut(parameters.to_bytes(command.form), command.allocation_length)
    }

    fn wanted_pages(&self, command: &ModeSense) -> Result<Vec<Page>, Refusal> {
        let all = command.page == page::ALL;
        if command.subpage != 0 && command.subpage != page::ALL_SUBPAGES {
            return Err(FieldError::cdb(3).into());
        }
        let pages = match command.control {
            PageControl::Current => self.lock().clone(),
            PageControl::Default => self.defaults.clone(),
            PageControl::Changeable => PAGES.iter().map(changeable).collect(),
            PageControl::Saved => {
                return Err(Refusal::illegal(AdditionalSense::SAVING_PARAMETERS_NOT_SUPPORTED));
            }
        };
        let wanted: Vec<_> = pages.into_iter().filter(|page| all || page.code == command.page).collect();
        if wanted.is_empty() { Err(FieldError::cdb_bit(2, 5).into()) } else { Ok(wanted) }
    }

    fn block_descriptor(&self, command: &ModeSense) -> Vec<u8> {
        if command.disable_block_descriptor {
            return Vec::new();
        }
        if command.long_lba_accepted {
            let mut descriptor = self.blocks().to_be_bytes().to_vec();
            descriptor.extend([0; 4]);
            descriptor.extend(self.block_length.to_be_bytes());
            return descriptor;
        }
        let blocks = u32::try_from(self.blocks()).unwrap_or(u32::MAX);
        [blocks.to_be_bytes(), self.block_length.to_be_bytes()].concat()
    }

    /// MODE SELECT (SPC-4 6.9): all of the list or nothing. `true` if anything changed, so that the other
    /// nexuses must be told.
    pub(crate) fn select(&self, command: &ModeSelect, list: &[u8]) -> Result<bool, Refusal> {
        if !command.page_format {
            return Err(FieldError::cdb_bit(1, 4).into());
        }
        if command.save {
            return Err(FieldError::cdb_bit(1, 0).into());
        }
        let list = list.get(..usize::from(command.length)).ok_or(FieldError::list_length())?;
        if list.is_empty() {
            return Ok(false);
        }
        let parameters = ModeParameters::parse(list, command.form)?;
        self.check_block_descriptor(&parameters, command.form)?;
        self.apply(&parameters, command.form)
    }

    fn check_block_descriptor(&self, parameters: &ModeParameters, form: Form) -> Result<(), Refusal> {
        let descriptor = &parameters.block_descriptor;
        if descriptor.is_empty() {
            return Ok(());
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let (blocks, length) = descriptor.split_at(descriptor.len() / 2);
        let header = if form == Form::Six { 4 } else { 8 };
        let whole = if parameters.long_lba { self.blocks() } else { self.blocks().min(u32::MAX.into()) };
        let blocks = number(blocks);
        // A short descriptor has DENSITY CODE in the first byte of its length half.
        let length = number(length) & 0x00FF_FFFF;
        if blocks != 0 && blocks != whole {
            return Err(FieldError::parameter(header).into());
        }
        if length != u64::from(self.block_length) {
            return Err(FieldError::parameter(header + 5).into());
        }
        Ok(())
    }

    fn apply(&self, parameters: &ModeParameters, form: Form) -> Result<bool, Refusal> {
        let mut current = self.lock();
        let mut next = current.clone();
        let mut at = if form == Form::Six { 4 } else { 8 } + parameters.block_descriptor.len();
        for page in &parameters.pages {
            merge(&mut next, page, at)?;
            at += page.header_length() + page.body.len();
        }
        let changed = *current != next;
        *current = next;
        self.mirror(&current);
        Ok(changed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Page>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mirror(&self, pages: &[Page]) {
        let body = |code| pages.iter().find(|page| page.code == code).map_or(&[][..], |page| &page.body);
        let control = Control::parse(body(page::CONTROL));
        let cached = body(page::CACHING).first().is_some_and(|byte| byte & WCE.1 != 0);
        self.write_protect.store(control.write_protect, Ordering::Release);
        self.descriptor_sense.store(control.descriptor_sense, Ordering::Release);
        self.task_aborted_status.store(control.task_aborted_status, Ordering::Release);
        self.write_through.store(!cached, Ordering::Release);
    }
}

/// The mask of bits that MODE SELECT may change.
fn changeable(definition: &Definition) -> Page {
    let mut body = vec![0; definition.body.len()];
    for (at, bits) in definition.changeable {
        if let Some(byte) = body.get_mut(*at) {
            *byte |= bits;
        }
    }
    Page { saveable: false, code: definition.code, subpage: None, body }
}

/// Takes over the changeable bits of a page that starts at byte `at` of the list; a different value in any
/// other bit is refused with a pointer to it.
fn merge(pages: &mut [Page], new: &Page, at: usize) -> Result<(), Refusal> {
    let pointer = |offset: usize| FieldError::parameter(u16::try_from(at + offset).unwrap_or(u16::MAX));
    let definition = PAGES.iter().find(|known| known.code == new.code && new.subpage.is_none());
    let mask = definition.map(changeable).ok_or(pointer(0))?;
    let page = pages.iter_mut().find(|page| page.code == new.code).ok_or(pointer(0))?;
    if page.body.len() != new.body.len() {
        return Err(pointer(1).into());
    }
    for (offset, ((old, new), mask)) in page.body.iter_mut().zip(&new.body).zip(&mask.body).enumerate() {
        if (*old ^ new) & !mask != 0 {
            return Err(pointer(2 + offset).into());
        }
        *old = *new;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
