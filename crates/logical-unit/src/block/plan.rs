//! What a caller may carry out itself: a READ, WRITE or SYNCHRONIZE CACHE that this device server would execute
//! exactly so. Whatever is refused, needs other data than was announced, or would have to wait is not planned; then
//! [`Disk::execute`] finds out the status. Used by [`crate::Transfer`].

use super::locks::ExtentGuard;
use super::{BLOCK, Disk, parse};
use crate::store::Descriptor;
use scsi::block::{Access, Command, Operation};

/// What a transfer does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// From the medium.
    Read,
    /// To the medium.
    Write {
        /// It survives power loss when it has ended (FUA, or no write cache).
        durable: bool,
    },
    /// Everything written so far survives power loss.
    Flush,
}

/// The room that came with a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes of data-out that the initiator has.
    pub data_out: usize,
    /// Bytes of data-in that it takes.
    pub data_in: usize,
}

/// A transfer that may begin, and what it holds until it has ended.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) descriptor: Descriptor,
    pub(crate) action: Move,
    /// In bytes.
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) length: usize,
    /// The blocks, kept until the end; none for a flush.
    #[expect(dead_code, reason = "held for its drop alone")]
    pub(crate) extent: Option<ExtentGuard>,
}

impl Disk {
    /// Never waits.
    pub(crate) fn plan(&self, cdb: &[u8], room: Room) -> Option<Plan> {
        let descriptor = self.store.descriptor()?;
        let command = parse(cdb).ok()?;
        self.ready_for(&command).ok()?;
        let Command::Access(access) = command else { return None };
        self.check(&access).ok()?;
        let action = self.action(&access)?;
        if action == Move::Flush {
            if self.has_lost() {
                return None;
            }
            return Some(Plan { descriptor, action, offset: 0, length: 0, extent: None });
        }
        let (lba, blocks) = (access.extent.lba, u64::from(access.extent.blocks));
        let length = usize::try_from(blocks * BLOCK).ok()?;
        let enough = if action == Move::Read { room.data_in } else { room.data_out };
        if length == 0 || length > enough {
            return None;
        }
        let extent = Some(self.locks.try_share(lba, blocks)?);
        // As [`Disk::share`] does: a sanitize may have begun since.
        self.sanitizing.check().ok()?;
        Some(Plan { descriptor, action, offset: lba * BLOCK, length, extent })
    }

    /// A READ with FUA is two operations on the medium, so it is not one of these.
    fn action(&self, access: &Access) -> Option<Move> {
        match access.operation {
            Operation::Read if !access.fua => Some(Move::Read),
            Operation::Write => Some(Move::Write { durable: access.fua || self.modes.write_through() }),
            Operation::SynchronizeCache { .. } => Some(Move::Flush),
            _ => None,
        }
    }
}
