//! A logical unit as one guest's I_T nexus reaches it: what the queues call, and the logical units implement.
//!
//! A queue's thread must never wait, so a command is first *admitted* ([`Unit::admit`], which does not block): it has ended already,
//! or is a plain transfer that the queue's io_uring carries out between the medium and the guest's memory, or is [`Work`] for a
//! thread that may wait.

pub mod emulated;
pub mod iscsi;
pub mod keep;
pub mod passthrough;
mod remote;

use crate::event::Teller;
use scsi::Completion;
use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A command as it came from the ring; its data-out is still in the guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Names the command while it is under way: unique in the device, never the guest's word.
    pub id: u64,
    /// The CDB, as long as the device's `cdb_size`.
    pub cdb: &'a [u8],
    /// Bytes of data-out that the guest provides.
    pub data_out: usize,
    /// Room for data-in that the guest provides, in bytes.
    pub data_in: usize,
}

/// How a command goes on.
#[derive(Debug)]
pub enum Admission {
    /// It has ended.
    Ended(Ending),
    /// The queue moves the data itself.
    Transfer(Transfer),
    /// A thread that may wait has to run it.
    Work(Box<dyn Work>),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a status; the transport reports residuals.
    Status(Completion),
    /// Somebody aborted it, and it ends without a status (SAM-5 5.3.1): `VIRTIO_SCSI_S_ABORTED`.
    Aborted,
    /// A reset ended it: `VIRTIO_SCSI_S_RESET`.
    Reset,
    /// The way to the logical unit is lost, and nobody knows the outcome: `VIRTIO_SCSI_S_TRANSPORT_FAILURE`.
    Lost,
}

/// READ, WRITE or a flush of a medium that has a descriptor. Dropped without [`Transfer::end`] it counts as failed.
#[derive(Debug)]
pub struct Transfer {
    /// The medium.
    pub medium: Arc<OwnedFd>,
    /// What to do.
    pub operation: Operation,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes; the guest's buffers are at least as long. 0 for a flush.
    pub length: usize,
    /// What addresses and lengths in memory must be multiples of (direct I/O); 1 where it does not matter.
    pub alignment: usize,
    /// Hears how it went, exactly once, on the queue's thread.
    pub finish: Box<dyn Finish>,
}

/// What a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the medium into the guest.
    Read,
    /// From the guest into the medium.
    Write {
        /// It survives power loss when it has ended (FUA, or no write cache).
        durable: bool,
    },
    /// Everything written survives power loss.
    Flush,
}

/// The end of a transfer. Does not block.
pub trait Finish: Send + Debug {
    /// `result`: all of it happened, or the first error; a short transfer is an error.
    fn finish(self: Box<Self>, result: io::Result<()>) -> Finished;
}

/// What comes of a transfer.
#[derive(Debug)]
pub enum Finished {
    /// The command has ended.
    Ended(Ending),
    /// It has to be done again another way, which finds out the exact status.
    Work(Box<dyn Work>),
}

/// A command for a thread that may wait.
pub trait Work: Send + Debug {
    /// Carries it out. `data_out` is all that the guest sent, up to what [`Work::data_out`] said.
    fn run(self: Box<Self>, data_out: &[u8]) -> Ending;

    /// How many bytes of data-out it takes at most.
    fn data_out(&self) -> usize;

    /// How many bytes of data-in it may hold at most, where that can be more or less than the guest has room for.
    fn data_in(&self) -> Option<usize> {
        None
    }
}

/// A task management function on one logical unit (SAM-5 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// ABORT TASK, by [`Arrival::id`].
    AbortTask(u64),
    /// ABORT TASK SET.
    AbortTaskSet,
    /// CLEAR TASK SET.
    ClearTaskSet,
    /// LOGICAL UNIT RESET.
    LogicalUnitReset,
    /// I_T NEXUS RESET.
    NexusReset,
}

/// What came of a task management function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Managed {
    /// FUNCTION COMPLETE: what it ends has ended, or ends without touching the medium any more.
    Complete,
    /// FUNCTION REJECTED: this logical unit does not do that.
    Rejected,
    /// The way to the logical unit is lost.
    Lost,
    /// It did not succeed in time: something is still under way.
    Failed,
}

/// A logical unit, attached to one guest's I_T nexus.
pub trait Unit: Send + Sync + Debug {
    /// A command has arrived. Never waits.
    fn admit(&self, command: &Arrival<'_>) -> Admission;

    /// A task management function; may wait for commands to leave the medium.
    fn manage(&self, function: Function) -> Managed;

    /// Bytes of data-out that the CDB names, where the logical unit knows: what is not moved is the residual.
    fn data_out_length(&self, cdb: &[u8]) -> Option<u64>;

    /// Where to say that parameters changed (capacity, mode pages), for a logical unit that hears of it.
    fn listen(&self, teller: Teller) {
        let _ = teller;
    }
}
