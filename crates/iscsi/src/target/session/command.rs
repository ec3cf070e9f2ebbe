//! SCSI commands (RFC 7143 11.3): arrival, execution when data and simulated latency allow it, completion.
//!
//! A command whose data came with it and whose logical unit has no latency is executed on the spot, from
//! the receive buffer, and never enters the list of those under way.

use super::respond::Transfer;
use super::{MAX_IMMEDIATE, Out, Refusal, Session, size};
use crate::login::Parameters;
use crate::pdu::{CommandFlags, Lun, RejectReason, ScsiCommand};
use crate::target::connection::HIGH_WATER;
use logical_unit::{Aborted, Task};
use scsi::{Completion, FieldError, Status};
use std::collections::VecDeque;
use std::time::Instant;

/// Data-out that all commands of a session may have under way, in bytes.
const MAX_PROMISED: usize = 64 << 20;
/// AHSType of an extended CDB (RFC 7143 11.2.2.1).
const EXTENDED_CDB: u8 = 1;
/// Longest CDB (SPC-4 4.3.2).
const MAX_CDB: usize = 260;

/// A command under way.
pub(super) struct Pending {
    pub(super) tag: u32,
    pub(super) lun: Lun,
    /// Index of the logical unit and of its nexus.
    unit: usize,
    pub(super) task: Task,
    pub(super) immediate: bool,
    cdb: Vec<u8>,
    transfer: Transfer,
    due: Instant,
    /// Data-out received so far; data comes in order.
    pub(super) data: Vec<u8>,
    /// Data-out that the command needs.
    pub(super) wanted: usize,
    /// Unsolicited data is still to come: no F bit has been seen.
    pub(super) unsolicited: bool,
    /// Bytes asked for, or received unasked.
    pub(super) requested: usize,
    /// Open R2Ts in order: transfer tag, and where the burst ends.
    pub(super) bursts: VecDeque<(u32, usize)>,
    pub(super) r2t_sn: u32,
    /// DataSN of the next Data-Out of the burst under way.
    pub(super) data_sn: u32,
}

impl Pending {
    fn is_ready(&self, now: Instant) -> bool {
        self.has_data() && self.due <= now
    }

    /// Data-out that the initiator announced, in bytes.
    pub(super) const fn expected(&self) -> usize {
        self.transfer.expected()
    }

    const fn has_data(&self) -> bool {
        !self.unsolicited && self.data.len() >= self.wanted
    }
}

impl Session<'_> {
    pub(super) fn command(
        &mut self,
        command: &ScsiCommand,
        ahs: &[u8],
        data: &[u8],
        now: Instant,
        out: &mut Out,
    ) -> Result<(), Refusal> {
        self.check(command, data)?;
        let long;
        let cdb = if ahs.is_empty() {
            &command.cdb[..]
        } else {
            long = extended_cdb(command, ahs)?;
            &long
        };
        let tag = command.initiator_task_tag;
        let shared = self.shared;
        let found = command.lun.number().and_then(|number| {
            let index = usize::try_from(number).ok()?;
            Some((index, shared.device.units().get(index)?, self.nexuses.get(index)?))
        });
        let Some((index, unit, nexus)) = found else {
            let completion = shared.device.execute_missing(cdb);
            self.complete(tag, &Transfer::of(command, None), &completion, 0, out);
            return Ok(());
        };
        let transfer = Transfer::of(command, unit.data_out_length(cdb));
        let wanted = transfer.wanted().max(data.len());
        let unsolicited = !command.flags.has(CommandFlags::FINAL);
        let task = unit.begin(nexus, tag.into());
        if !unsolicited && wanted == data.len() && unit.delay().is_zero() {
            let completion = match self.outgoing.take(transfer.answer().min(MAX_PROMISED)) {
                true => shared.device.execute(unit, nexus, &task, cdb, data),
                false => Completion::status(Status::TASK_SET_FULL),
            };
            self.finish(tag, &task, &transfer, &completion, 0, out);
            return Ok(());
        }
        if let Some(completion) = self.no_room(wanted) {
            self.complete(tag, &transfer, &completion, 0, out);
            return Ok(());
        }
        let mut pending = Pending {
            tag,
            lun: command.lun,
            unit: index,
            task,
            immediate: command.immediate,
            cdb: cdb.to_vec(),
            transfer,
            due: now + unit.delay(),
            data: data.to_vec(),
            wanted,
            unsolicited,
            requested: data.len(),
            bursts: VecDeque::new(),
            r2t_sn: 0,
            data_sn: 0,
        };
        self.solicit(&mut pending, out);
        self.pending.push(pending);
        Ok(())
    }

    /// What the standard forbids about a command PDU.
    fn check(&self, command: &ScsiCommand, data: &[u8]) -> Result<(), Refusal> {
        let write = command.flags.has(CommandFlags::WRITE);
        let more = !command.flags.has(CommandFlags::FINAL);
        let Parameters { immediate_data, initial_r2t, first_burst, .. } = self.parameters;
        let expected = size(command.expected_data_transfer_length);
        if !data.is_empty()
            && (!write || !immediate_data || data.len() > size(first_burst) || data.len() > expected)
        {
            return Err(Refusal::Fatal(RejectReason::PROTOCOL_ERROR));
        }
        if more && (!write || initial_r2t) {
            return Err(Refusal::Fatal(RejectReason::INVALID_PDU_FIELD));
        }
        if self.pending.iter().any(|pending| pending.tag == command.initiator_task_tag) {
            return Err(Refusal::Reject(RejectReason::TASK_IN_PROGRESS));
        }
        let immediate = self.pending.iter().filter(|pending| pending.immediate).count();
        if command.immediate && immediate >= MAX_IMMEDIATE {
            return Err(Refusal::Reject(RejectReason::IMMEDIATE_COMMAND_REJECT));
        }
        Ok(())
    }

    /// Takes memory for a command's data, or tells the status of one that there is none for.
    fn no_room(&mut self, wanted: usize) -> Option<Completion> {
        if wanted > MAX_PROMISED {
            return Some(Completion::check(&FieldError::cdb(0).sense()));
        }
        let room = self.incoming.taken() + wanted <= MAX_PROMISED && self.incoming.take(wanted);
        (!room).then(|| Completion::status(Status::TASK_SET_FULL))
    }

    /// Executes every command whose data is there and whose time has come, in the order of arrival.
    pub(in crate::target) fn execute_due(&mut self, now: Instant, out: &mut Out) {
        while out.len() < HIGH_WATER {
            let Some(at) = self.pending.iter().position(|pending| pending.is_ready(now)) else { return };
            let pending = self.remove(at);
            let device = &self.shared.device;
            let (Some(unit), Some(nexus)) =
                (device.units().get(pending.unit), self.nexuses.get(pending.unit))
            else {
                return;
            };
            let completion = match self.outgoing.take(pending.transfer.answer().min(MAX_PROMISED)) {
                true => device.execute(unit, nexus, &pending.task, &pending.cdb, &pending.data),
                false => Completion::status(Status::TASK_SET_FULL),
            };
            self.finish(pending.tag, &pending.task, &pending.transfer, &completion, pending.r2t_sn, out);
        }
    }

    /// When the next command is due whose data is there.
    pub(in crate::target) fn next_due(&self) -> Option<Instant> {
        self.pending.iter().filter(|pending| pending.has_data()).map(|pending| pending.due).min()
    }

    /// Takes a command out of the list, and its place out of the budget.
    pub(super) fn remove(&mut self, at: usize) -> Pending {
        let pending = self.pending.remove(at);
        self.incoming.give(pending.wanted);
        pending
    }

    /// Sends what a command ended with, unless it was aborted meanwhile.
    fn finish(
        &mut self,
        tag: u32,
        task: &Task,
        transfer: &Transfer,
        completion: &Completion,
        r2ts: u32,
        out: &mut Out,
    ) {
        match task.is_aborted() {
            None => self.complete(tag, transfer, completion, r2ts, out),
            Some(Aborted::TaskAbortedStatus) => {
                self.complete(tag, transfer, &Completion::status(Status::TASK_ABORTED), r2ts, out);
            }
            Some(Aborted::Silently | Aborted::Reset) => {}
        }
        // What was taken for the answer is more than it needs, mostly.
        self.account(out.len());
    }

    /// Ends a command that has been taken out of the list without executing it.
    pub(super) fn fail(&mut self, pending: Pending, completion: &Completion, out: &mut Out) {
        let Pending { tag, task, transfer, r2t_sn, .. } = pending;
        self.finish(tag, &task, &transfer, completion, r2t_sn, out);
    }

    /// Forgets the commands that somebody has aborted.
    pub(super) fn sweep(&mut self, out: &mut Out) {
        while let Some(at) = self.pending.iter().position(|pending| pending.task.is_aborted().is_some()) {
            let pending = self.remove(at);
            self.fail(pending, &Completion::status(Status::TASK_ABORTED), out);
        }
    }
}

/// The whole CDB of a command whose rest stands in an additional header segment (RFC 7143 11.2.2.3).
fn extended_cdb(command: &ScsiCommand, ahs: &[u8]) -> Result<Vec<u8>, Refusal> {
    let invalid = Refusal::Reject(RejectReason::INVALID_PDU_FIELD);
    let mut cdb = command.cdb.to_vec();
    let mut rest = ahs;
    while let Some(([high, low, kind], body)) = rest.split_first_chunk() {
        // AHSLength counts the specific part, of which the first byte is reserved here.
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let specific = body.get(..length).ok_or(invalid)?;
        if *kind == EXTENDED_CDB {
            cdb.extend_from_slice(specific.get(1..).ok_or(invalid)?);
        }
        rest = body.get(padded(length)..).unwrap_or_default();
    }
    if cdb.len() > MAX_CDB { Err(invalid) } else { Ok(cdb) }
}

/// Each segment is padded so that it ends on a multiple of four bytes from its start, three bytes before its body.
const fn padded(length: usize) -> usize {
    (length + 3).next_multiple_of(4) - 3
}
