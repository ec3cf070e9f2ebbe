//! The block device server (SPC-4, SBC-4) over a store: every command but those of reservations, which
//! [`PrUnit`](crate::PrUnit) has admitted before they come here.
//!
//! One file for each group of commands. Nothing here takes a lock that is common to all blocks; answers
//! are data or a [`Refusal`](refusal::Refusal), made a completion in one place.

mod control;
mod copy;
mod inquiry;
mod limits;
mod locks;
mod modes;
mod plan;
mod provisioning;
mod refusal;
mod sanitize;
mod supported;
mod transfer;
mod trouble;

pub(crate) use plan::Plan;
pub use plan::{Move, Room};
pub(crate) use transfer::{data_out_length, read_length};

use crate::identity::Identity;
use crate::presentation::Presentation;
use crate::store::{Caching, Store};
use crate::{ItNexus, Profile};
use copy::Copies;
use locks::{ExtentGuard, ExtentLocks};
use modes::Modes;
use refusal::{Answer, Refusal, cut};
use sanitize::Sanitizing;
use scsi::block::{Command, Form, Operation, RequestSense};
use scsi::capacity::{Capacity10, Capacity16};
use scsi::{AdditionalSense, Completion, FieldError, Sense, SenseKey};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use trouble::Trouble;

/// Bytes of a logical block.
pub(crate) const BLOCK: u64 = 512;

/// A direct access block device.
#[derive(Debug)]
pub(crate) struct Disk {
    store: Box<dyn Store>,
    /// Changes when the medium has grown.
    blocks: AtomicU64,
    identity: Identity,
    profile: &'static Profile,
    locks: ExtentLocks,
    modes: Modes,
    copies: Copies,
    sanitizing: Sanitizing,
    stopped: AtomicBool,
    trouble: Trouble,
}

/// Who sent a command and which names it reaches: what INQUIRY tells beside the logical unit itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// The I_T nexus.
    pub(crate) nexus: &'a ItNexus,
    /// Name of the target device, if the transport has one.
    pub(crate) target: Option<&'a str>,
    /// Set when somebody aborts the command while it executes.
    pub(crate) interrupted: &'a AtomicBool,
}

impl Sender<'_> {
    /// Whether a long command should give up.
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// A command's end, and what other nexuses must be told of it.
#[derive(Debug)]
pub(crate) struct Executed {
    /// What the initiator gets.
    pub(crate) completion: Completion,
    /// MODE PARAMETERS CHANGED for every other nexus.
    pub(crate) modes_changed: bool,
}

impl Disk {
    /// A device over `store`, which must hold at least one block.
    pub(crate) fn new(store: Box<dyn Store>, identity: Identity, profile: &'static Profile) -> Self {
        let blocks = store.size() / BLOCK;
        let modes =
            Modes::new(blocks, BLOCK as u32, store.has_volatile_cache(), identity.presentation().read_only);
        Self {
            store,
            blocks: AtomicU64::new(blocks),
            identity,
            profile,
            locks: ExtentLocks::default(),
            modes,
            copies: Copies::default(),
            sanitizing: Sanitizing::default(),
            stopped: AtomicBool::new(false),
            trouble: Trouble::default(),
        }
    }

    /// How the operator wants it presented.
    pub(crate) const fn presentation(&self) -> &Presentation {
        self.identity.presentation()
    }

    /// TAS of the Control page.
    pub(crate) fn task_aborted_status(&self) -> bool {
        self.modes.task_aborted_status()
    }

    /// D_SENSE of the Control page.
    pub(crate) fn descriptor_sense(&self) -> bool {
        self.modes.descriptor_sense()
    }

    /// Logical blocks of the medium, at least one.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Acquire)
    }

    /// Looks at the size of the medium anew. `true` if it has grown; a capacity never shrinks, for commands under way
    /// have been checked against it.
    pub(crate) fn measure(&self) -> io::Result<bool> {
        let blocks = self.store.measure()? / BLOCK;
        self.modes.set_blocks(blocks);
        let before = self.blocks.fetch_max(blocks, Ordering::AcqRel);
        if blocks < before {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the medium is smaller than it was"));
        }
        Ok(blocks > before)
    }

    /// The NAA name of page 83h.
    pub(crate) fn naa(&self) -> u64 {
        self.identity.naa()
    }

    /// Whether START STOP UNIT has stopped it.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether a sanitize is under way, or failed.
    pub(crate) fn is_sanitizing(&self) -> bool {
        self.sanitizing.check().is_err()
    }

    /// Code and body of each mode page.
    pub(crate) fn mode_pages(&self) -> Vec<(u8, Vec<u8>)> {
        self.modes.current()
    }

    /// Takes over what another process had; `false`, and nothing of it, if the pages are not those of this program.
    pub(crate) fn restore(&self, stopped: bool, pages: &[(u8, Vec<u8>)]) -> bool {
        let fits = self.modes.restore(pages);
        if fits {
            self.stopped.store(stopped, Ordering::Release);
        }
        fits
    }

    /// How the medium is reached.
    pub(crate) fn caching(&self) -> Caching {
        self.store.caching()
    }

    /// Any reset: mode pages to their saved values, which are the defaults; the unit is started.
    pub(crate) fn reset(&self) {
        self.modes.reset();
        self.copies.forget();
        self.stopped.store(false, Ordering::Release);
    }

    /// Executes a command that was admitted. `data_out` is all that the initiator sent.
    pub(crate) fn execute(self: &Arc<Self>, sender: Sender<'_>, cdb: &[u8], data_out: &[u8]) -> Executed {
        let mut modes_changed = false;
        let answer = self.admit(cdb).and_then(|command| match command {
            Command::ModeSelect(command) => {
                let was_cached = !self.modes.write_through();
                modes_changed = self.modes.select(&command, data_out)?;
                // Without WCE everything that was written is durable, also what was written before (SBC-4 6.5.6).
                if was_cached && self.modes.write_through() { self.flush() } else { Ok(Vec::new()) }
            }
            other => self.run(sender, &other, data_out),
        });
        let completion = answer.map_or_else(|refusal| refusal.completion(), Completion::good);
        Executed { completion, modes_changed }
    }

    fn admit(&self, cdb: &[u8]) -> Result<Command, Refusal> {
        let command = parse(cdb)?;
        self.ready_for(&command)?;
        Ok(command)
    }

    /// What keeps a command from touching the medium: a sanitize, a stopped unit, a write protected one.
    /// A sanitize may follow one that failed.
    fn ready_for(&self, command: &Command) -> Result<(), Refusal> {
        if awaits_sanitize(command) {
            self.sanitizing.check()?;
        }
        let stopped = self.stopped.load(Ordering::Acquire);
        if stopped && (touches_medium(command) || *command == Command::TestUnitReady) {
            let code = AdditionalSense::INITIALIZING_COMMAND_REQUIRED;
            return Err(Refusal::new(SenseKey::NOT_READY, code));
        }
        if writes_medium(command) && (self.modes.is_read_only() || self.modes.write_protected()) {
            let hard = self.modes.is_read_only();
            let code = if hard {
                AdditionalSense::WRITE_PROTECTED
            } else {
                AdditionalSense::SOFTWARE_WRITE_PROTECTED
            };
            return Err(Refusal::new(SenseKey::DATA_PROTECT, code));
        }
        Ok(())
    }

    /// The blocks for a command that may run beside others on them, but not beside an atomic one. A sanitize
    /// that began after the command was admitted keeps it from them.
    fn share(&self, lba: u64, blocks: u64) -> Result<ExtentGuard, Refusal> {
        let guard = self.locks.share(lba, blocks);
        self.sanitizing.check().map(|()| guard)
    }

    /// The blocks for a command that no other may see half done, unless a sanitize began meanwhile.
    fn exclude(&self, lba: u64, blocks: u64) -> Result<ExtentGuard, Refusal> {
        let guard = self.locks.exclude(lba, blocks);
        self.sanitizing.check().map(|()| guard)
    }

    fn run(self: &Arc<Self>, sender: Sender<'_>, command: &Command, data_out: &[u8]) -> Answer {
        match command {
            Command::Access(access) => self.access(sender, access, data_out),
            Command::TestUnitReady => Ok(Vec::new()),
            Command::RequestSense(command) => self.request_sense(command),
            Command::Inquiry(command) => self.inquiry(sender, command),
            Command::ModeSense(command) => self.modes.sense(command),
            Command::ModeSelect(command) => self.modes.select(command, data_out).map(|_| Vec::new()),
            Command::StartStop(command) => self.start_stop(command),
            Command::PreventAllow(command) => self.prevent_allow(command),
            Command::SendDiagnostic(command) => self.send_diagnostic(command),
            Command::ReadCapacity10 => Ok(self.capacity_10()),
            Command::ReadCapacity16(command) => cut(self.capacity_16(), command.allocation_length),
            Command::GetLbaStatus(command) => self.lba_status(command),
            Command::ReadDefectData(command) => self.read_defect_data(command),
            Command::SupportedOperations(command) => supported::operations(self.profile, command),
            Command::SupportedFunctions(command) => supported::functions(command),
            Command::Unmap(command) => self.unmap(command, data_out),
            Command::Sanitize(command) => self.sanitize(sender, command, data_out),
            Command::ExtendedCopy(command) => self.extended_copy(sender, command, data_out),
            Command::ReceiveCopyResults(command) => self.receive_copy_results(sender, command),
            // The device knows the other logical units; a lone one reports itself.
            Command::ReportLuns(command) => {
                cut(vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], command.allocation_length)
            }
        }
    }

    /// REQUEST SENSE without a unit attention: the state of the unit as data (SPC-4 6.39).
    fn request_sense(&self, command: &RequestSense) -> Answer {
        let sense = if self.stopped.load(Ordering::Acquire) {
            Sense::new(SenseKey::NOT_READY, AdditionalSense::INITIALIZING_COMMAND_REQUIRED)
        } else {
            Sense::new(SenseKey::NO_SENSE, AdditionalSense::NONE)
        };
        cut(
            if command.descriptor { sense.to_descriptor() } else { sense.to_fixed() },
            command.allocation_length,
        )
    }

    fn capacity_10(&self) -> Vec<u8> {
        let last_lba = u32::try_from(self.blocks() - 1).unwrap_or(u32::MAX);
        Capacity10 { last_lba, block_length: BLOCK as u32 }.to_bytes()
    }

    fn capacity_16(&self) -> Vec<u8> {
        let capacity = Capacity16 {
            last_lba: self.blocks() - 1,
            block_length: BLOCK as u32,
            physical_exponent: limits::PHYSICAL_EXPONENT,
            provisioning: true,
            read_zeros: true,
            ..Capacity16::default()
        };
        capacity.to_bytes()
    }
}

/// Reads a CDB; NACA is refused, for there is no ACA (SAM-5 5.2).
fn parse(cdb: &[u8]) -> Result<Command, Refusal> {
    let command = Command::parse(cdb)?;
    let control = Form::of(cdb.first().copied().unwrap_or(0)).length() - 1;
    if cdb.get(control).is_some_and(|byte| byte & 0x04 != 0) {
        return Err(FieldError::cdb_bit(control as u16, 2).into());
    }
    Ok(command)
}

/// Commands that a sanitize under way, or one that failed, keeps from running (SBC-4 4.11.3).
const fn awaits_sanitize(command: &Command) -> bool {
    let touches = touches_medium(command) && !matches!(command, Command::Sanitize(_));
    touches
        || matches!(
            command,
            Command::TestUnitReady
                | Command::StartStop(_)
                | Command::ModeSelect(_)
                | Command::SendDiagnostic(_)
        )
}

const fn touches_medium(command: &Command) -> bool {
    matches!(
        command,
        Command::Access(_)
            | Command::Unmap(_)
            | Command::GetLbaStatus(_)
            | Command::Sanitize(_)
            | Command::ExtendedCopy(_)
    )
}

const fn writes_medium(command: &Command) -> bool {
    match command {
        Command::Access(access) => !matches!(
            access.operation,
            Operation::Read
                | Operation::Verify { .. }
                | Operation::PreFetch { .. }
                | Operation::SynchronizeCache { .. }
        ),
        Command::Unmap(_) | Command::Sanitize(_) | Command::ExtendedCopy(_) => true,
        _ => false,
    }
}
