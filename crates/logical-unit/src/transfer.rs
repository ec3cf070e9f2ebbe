//! Commands that the caller carries out itself, so that its io_uring moves data between the medium and the
//! initiator's memory without a copy. The device server decides as for [`LogicalUnit::execute`]; the command
//! stands in the task set and has its blocks until [`Transfer::end`], however long that takes and on whatever thread.
//! Used by vhost-user-scsi.

use crate::access::Decision;
use crate::block::{Move, Plan, Room};
use crate::task_set::Executing;
use crate::{LogicalUnit, NexusHandle, Task};
use scsi::{Completion, Status};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How a command that has arrived goes on.
#[derive(Debug)]
pub enum Admission {
    /// It has ended with this status.
    Ended(Completion),
    /// The caller moves the data.
    Transfer(Transfer),
    /// [`LogicalUnit::execute`], on a thread that may wait.
    Execute(Task),
}

/// A READ, WRITE or SYNCHRONIZE CACHE under way. An abort and a reset wait for its end; dropped without
/// [`Transfer::end`] it has ended without a status.
#[derive(Debug)]
pub struct Transfer {
    unit: Arc<LogicalUnit>,
    // In this order: the blocks are free before whoever aborts goes on, and only then the command leaves the task set.
    plan: Plan,
    executing: Executing,
    task: Task,
}

impl Transfer {
    /// The medium, open for reading and writing.
    #[must_use]
    pub const fn medium(&self) -> &Arc<OwnedFd> {
        &self.plan.descriptor.file
    }

    /// What addresses and lengths in memory must be multiples of; 1 where it does not matter.
    #[must_use]
    pub const fn alignment(&self) -> usize {
        self.plan.descriptor.alignment
    }

    /// What to do.
    #[must_use]
    pub const fn action(&self) -> Move {
        self.plan.action
    }

    /// Where, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.plan.offset
    }

    /// How much, in bytes; 0 for a flush.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.plan.length
    }

    /// The data has moved, all of it, or an error ended that. Does not wait.
    #[must_use]
    pub fn end(self, result: &io::Result<()>) -> Completion {
        let Self { unit, plan, executing, task } = self;
        let completion = unit.disk.completion(plan.action, result);
        drop(plan);
        drop(executing);
        drop(task);
        unit.in_chosen_format(completion)
    }
}

impl LogicalUnit {
    /// Decides about a command without executing it and without waiting. The decision is that of
    /// [`LogicalUnit::execute`], which has to take every command that is more than a plain transfer.
    #[must_use]
    pub fn admit(self: &Arc<Self>, nexus: &NexusHandle, task: Task, cdb: &[u8], room: Room) -> Admission {
        match self.decide(nexus, cdb) {
            Decision::Conflict => Admission::Ended(Completion::status(Status::RESERVATION_CONFLICT)),
            Decision::Consult => Admission::Execute(task),
            Decision::Execute => self.begin_transfer(task, cdb, room),
        }
    }

    /// The blocks come first: a command that has entered has executed, for whoever aborts it.
    fn begin_transfer(self: &Arc<Self>, task: Task, cdb: &[u8], room: Room) -> Admission {
        let Some(plan) = self.plan(cdb, room) else { return Admission::Execute(task) };
        match task.enter() {
            Ok(executing) => Admission::Transfer(Transfer { unit: Arc::clone(self), plan, executing, task }),
            Err(_) => Admission::Execute(task),
        }
    }
}
