//! A logical unit that Tenure itself is ([`LogicalUnit`]): a file, a block device or memory with complete persistent
//! reservations. Several guests attach to one, each as an I_T nexus of its own, and are to each other what hosts at
//! one array are (SAM-5 4.7).
//!
//! READ, WRITE and SYNCHRONIZE CACHE that need no waiting are carried out by the queue; everything else is [`Work`]. Whoever
//! aborts commands, another guest's PREEMPT AND ABORT for one, waits for transfers under way, which their queue's thread ends.
//! Used by `tenure device`.

use super::{
    Admission, Arrival, Ending, Finish, Finished, Function, Managed, Operation, Transfer, Unit, Work,
};
use logical_unit::{
    Aborted, Admission as Admitted, Caching, ItNexus, LogicalUnit, LunSpec, Medium, Move, NexusHandle,
    OpenError, Room, Task,
};
use scsi::{Completion, IscsiName, Isid, Status, TransportId};
use std::io;
use std::sync::Arc;
use std::thread;

/// The most data-out that any command of this device server takes: one WRITE. What names more is refused before its data
/// is looked at.
const MOST_DATA_OUT: usize = 32 << 20;

/// The target port of a device is its only one.
const TARGET_PORT: u16 = 1;

/// Opens a logical unit for guests: with direct I/O where the medium can have it, unless `spec` says otherwise. The log says how it
/// is reached.
///
/// # Errors
/// [`OpenError`] before anything is served.
pub fn open(spec: &LunSpec) -> Result<Arc<LogicalUnit>, OpenError> {
    let spec = LunSpec { direct: spec.direct.or(Some(true)), ..spec.clone() };
    let unit = LogicalUnit::open(&spec)?;
    match (unit.caching(), &spec.medium) {
        (Caching::Memory, _) | (_, Medium::Memory { .. }) => {}
        (Caching::Direct { alignment }, Medium::File { path, .. } | Medium::Block { path, .. }) => {
            tracing::info!(medium = %path.display(), alignment, "direct I/O");
        }
        (Caching::Buffered(why), Medium::File { path, .. } | Medium::Block { path, .. }) => {
            tracing::info!(medium = %path.display(), why, "buffered I/O");
        }
    }
    Ok(unit)
}

/// One guest's way to a logical unit. The nexus is lost with it, which waits for its transfers under way: it must not be
/// dropped by a thread that has to end some.
#[derive(Debug)]
pub struct Emulated {
    unit: Arc<LogicalUnit>,
    nexus: NexusHandle,
}

impl Emulated {
    /// Establishes the I_T nexus of the guest whose initiator port is `initiator`.
    #[must_use]
    pub fn attach(unit: &Arc<LogicalUnit>, initiator: TransportId) -> Self {
        let nexus = unit.attach(&ItNexus { initiator, target_port: TARGET_PORT });
        Self { unit: Arc::clone(unit), nexus }
    }

    /// The logical unit, which other guests may share.
    #[must_use]
    pub const fn logical_unit(&self) -> &Arc<LogicalUnit> {
        &self.unit
    }

    fn work(&self, task: Task, command: &Arrival<'_>) -> Box<Execution> {
        let named = self.unit.data_out_length(command.cdb).unwrap_or(0);
        let data_out = usize::try_from(named).unwrap_or(usize::MAX).min(command.data_out).min(MOST_DATA_OUT);
        let (unit, nexus) = (Arc::clone(&self.unit), self.nexus.clone());
        let read = self.unit.read_length(command.cdb).map(|read| usize::try_from(read).unwrap_or(usize::MAX));
        Box::new(Execution { unit, nexus, task, cdb: command.cdb.to_vec(), data_out, read })
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        self.unit.nexus_lost(&self.nexus);
    }
}

impl Unit for Emulated {
    fn admit(&self, command: &Arrival<'_>) -> Admission {
        let task = self.unit.begin(&self.nexus, command.id);
        if !self.unit.delay().is_zero() {
            return Admission::Work(self.work(task, command));
        }
        let room = Room { data_out: command.data_out, data_in: command.data_in };
        match self.unit.admit(&self.nexus, task, command.cdb, room) {
            Admitted::Ended(completion) => Admission::Ended(Ending::Status(completion)),
            Admitted::Execute(task) => Admission::Work(self.work(task, command)),
            Admitted::Transfer(transfer) => Admission::Transfer(of_queue(transfer)),
        }
    }

    fn manage(&self, function: Function) -> Managed {
        match function {
            // A command that is not there has ended already, which is what was asked for (SAM-5 7.2).
            Function::AbortTask(id) => {
                let _ = self.unit.abort_task(&self.nexus, id);
            }
            Function::AbortTaskSet => self.unit.abort_task_set(&self.nexus),
            Function::ClearTaskSet => self.unit.clear_task_set(&self.nexus),
            Function::LogicalUnitReset => self.unit.reset(),
            Function::NexusReset => self.unit.reset_nexus(&self.nexus),
        }
        Managed::Complete
    }

    fn data_out_length(&self, cdb: &[u8]) -> Option<u64> {
        self.unit.data_out_length(cdb)
    }
}

/// The transfer in the words of the queue.
fn of_queue(transfer: logical_unit::Transfer) -> Transfer {
    Transfer {
        medium: Arc::clone(transfer.medium()),
        operation: match transfer.action() {
            Move::Read => Operation::Read,
            Move::Write { durable } => Operation::Write { durable },
            Move::Flush => Operation::Flush,
        },
        offset: transfer.offset(),
        length: transfer.length(),
        alignment: transfer.alignment(),
        finish: Box::new(Moving(transfer)),
    }
}

#[derive(Debug)]
struct Moving(logical_unit::Transfer);

impl Finish for Moving {
    fn finish(self: Box<Self>, result: io::Result<()>) -> Finished {
        Finished::Ended(Ending::Status(self.0.end(&result)))
    }
}

/// A command for a thread that may wait.
#[derive(Debug)]
struct Execution {
    unit: Arc<LogicalUnit>,
    nexus: NexusHandle,
    task: Task,
    cdb: Vec<u8>,
    data_out: usize,
    /// Bytes of data-in, where that is more than the guest may have room for.
    read: Option<usize>,
}

impl Work for Execution {
    fn run(self: Box<Self>, data_out: &[u8]) -> Ending {
        if !self.unit.delay().is_zero() {
            thread::sleep(self.unit.delay());
        }
        let completion = self.unit.execute(&self.nexus, &self.task, &self.cdb, data_out);
        match self.task.is_aborted() {
            None => Ending::Status(completion),
            Some(Aborted::TaskAbortedStatus) => Ending::Status(Completion::status(Status::TASK_ABORTED)),
            Some(Aborted::Silently) => Ending::Aborted,
            Some(Aborted::Reset) => Ending::Reset,
        }
    }

    fn data_out(&self) -> usize {
        self.data_out
    }

    fn data_in(&self) -> Option<usize> {
        self.read
    }
}

/// The initiator port of a guest: an iSCSI name made of the VM's name, and ISID `0x80` followed by zeros.
///
/// A TransportID of this form has room for a name of any length, is taken by every tool, and is the same on every host, so
/// that a guest that moves stays the same initiator. Characters that an iSCSI name cannot have (RFC 7143 4.2.7.2) become `-`; then, and
/// when the name is long, a number made of the whole name keeps two VMs apart. Whoever wants another names it himself.
#[must_use]
pub fn initiator_port(vm: &str) -> Option<TransportId> {
    const PREFIX: &str = "iqn.2026-01.invalid.tenure:vm:";
    const MOST: usize = 160;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let lower = vm.chars().take(MOST).map(|c| c.to_ascii_lowercase());
    let mut name: String = lower.map(|c| if fits(c) { c } else { '-' }).collect();
    if name != vm {
        name.push_str(&format!(":{:016x}", number(vm)));
    }
    let name = IscsiName::new(&format!("{PREFIX}{name}")).ok().filter(|_| !vm.is_empty())?;
    Some(TransportId::iscsi(name, Isid([0x80, 0, 0, 0, 0, 0])))
}

/// FNV-1a, 64 bits: the same for ever.
fn number(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests;
