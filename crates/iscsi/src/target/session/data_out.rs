//! Data-out that does not come with its command: unsolicited Data-Out, R2Ts and the bursts they ask for
//! (RFC 7143 11.7, 11.8).

use super::command::Pending;
use super::{Out, Refusal, Session, size};
use crate::pdu::{Bhs, DataFlags, DataOut, Header, NO_TAG, R2t, RejectReason};
use scsi::{AdditionalSense, Completion, Sense, SenseKey};
use std::time::Instant;

/// Data came that the protocol does not allow: there is no recovery at error recovery level 0.
const VIOLATION: Refusal = Refusal::Fatal(RejectReason::PROTOCOL_ERROR);

impl Session<'_> {
    pub(super) fn data_out(
        &mut self,
        bhs: &Bhs,
        data: &[u8],
        now: Instant,
        out: &mut Out,
    ) -> Result<(), Refusal> {
        let header = DataOut::parse(bhs);
        let tag = header.initiator_task_tag;
        let first_burst = size(self.parameters.first_burst);
        // The command may have ended before its data came: refused, or aborted. The rest is dropped.
        let Some(at) = self.pending.iter().position(|pending| pending.tag == tag) else { return Ok(()) };
        let Some(pending) = self.pending.get_mut(at) else { return Ok(()) };
        if !pending.is_next(&header) {
            self.damaged(at, out);
            return Ok(());
        }
        pending.take(&header, data, first_burst)?;
        if pending.data.len() > pending.wanted {
            // At most the first burst, and it is here already.
            self.incoming.set(self.incoming.taken() + pending.data.len() - pending.wanted);
            pending.wanted = pending.data.len();
        }
        // Taken out for a moment, as asking for more needs the session too.
        let mut pending = self.pending.remove(at);
        self.solicit(&mut pending, out);
        self.pending.insert(at, pending);
        self.execute_due(now, out);
        Ok(())
    }

    /// A Data-Out whose data digest is wrong: the PDU is rejected, its command fails.
    pub(super) fn damaged_data_out(&mut self, bhs: &Bhs, out: &mut Out) {
        self.reject(bhs, Refusal::Reject(RejectReason::DATA_DIGEST_ERROR), out);
        let tag = DataOut::parse(bhs).initiator_task_tag;
        if let Some(at) = self.pending.iter().position(|pending| pending.tag == tag) {
            self.damaged(at, out);
        }
    }

    /// Fails a command whose data did not arrive whole (RFC 7143 7.8, 7.9): without recovery it cannot be
    /// asked for again. What still comes of it is dropped, as its command is gone.
    fn damaged(&mut self, at: usize, out: &mut Out) {
        let pending = self.remove(at);
        let sense = Sense::new(SenseKey::ABORTED_COMMAND, AdditionalSense::PROTOCOL_SERVICE_CRC_ERROR);
        self.fail(pending, &Completion::check(&sense), out);
    }

    /// Asks for as much of the missing data as the initiator lets be asked for at a time.
    pub(super) fn solicit(&mut self, pending: &mut Pending, out: &mut Out) {
        let burst = size(self.parameters.max_burst);
        while !pending.unsolicited
            && pending.requested < pending.wanted
            && pending.bursts.len() < size(self.parameters.max_outstanding_r2t)
        {
            let length = burst.min(pending.wanted - pending.requested);
            let target_transfer_tag = self.transfer_tag();
            let r2t = R2t {
                flags: 0x80,
                lun: pending.lun,
                initiator_task_tag: pending.tag,
                target_transfer_tag,
                stat_sn: self.stat_sn,
                exp_cmd_sn: self.exp_cmd_sn,
                max_cmd_sn: self.max_cmd_sn(),
                r2t_sn: pending.r2t_sn,
                buffer_offset: u32::try_from(pending.requested).unwrap_or(u32::MAX),
                desired_length: u32::try_from(length).unwrap_or(u32::MAX),
            };
            self.emit(&r2t, &[], out);
            pending.r2t_sn += 1;
            pending.requested += length;
            pending.bursts.push_back((target_transfer_tag, pending.requested));
        }
    }
}

impl Pending {
    /// Whether this Data-Out follows the one before; if not, one in between was lost or damaged.
    fn is_next(&self, header: &DataOut) -> bool {
        size(header.buffer_offset) == self.data.len() && header.data_sn == self.data_sn
    }

    /// Takes one Data-Out; data comes in order, within what was asked for or may come unasked.
    fn take(&mut self, header: &DataOut, data: &[u8], first_burst: usize) -> Result<(), Refusal> {
        let last = header.flags.has(DataFlags::FINAL);
        let end = self.data.len() + data.len();
        self.data_sn = if last { 0 } else { self.data_sn.wrapping_add(1) };
        if header.target_transfer_tag == NO_TAG {
            if !self.unsolicited || end > first_burst.min(self.expected()) {
                return Err(VIOLATION);
            }
            self.unsolicited = !last;
            self.requested = end;
        } else {
            let (tag, burst_end) = *self.bursts.front().ok_or(VIOLATION)?;
            if tag != header.target_transfer_tag || end > burst_end || last != (end == burst_end) {
                return Err(VIOLATION);
            }
            if last {
                self.bursts.pop_front();
            }
        }
        self.data.extend_from_slice(data);
        Ok(())
    }
}
