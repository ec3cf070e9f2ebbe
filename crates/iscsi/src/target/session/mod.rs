//! The full feature phase of one session, without I/O or clock: PDUs and the time in, PDUs out.
//!
//! [`command`] runs SCSI commands, [`data_out`] gathers their data, [`respond`] emits what comes of
//! them, [`management`] ends them early, [`text`] answers text requests. Used by [`super::connection`].

mod command;
mod data_out;
mod management;
mod respond;
mod text;

use super::budget::Share;
use super::registry::Ticket;
use super::{Shared, TARGET_PORT, WINDOW};
use crate::login::Parameters;
use crate::login::responder::Admitted;
use crate::pdu::frame::{Frame, Framing};
use crate::pdu::{
    AsyncEvent, AsyncMessage, Bhs, Header, LogoutReason, LogoutRequest, LogoutResponse, LogoutResult, Lun,
    NO_TAG, NopIn, NopOut, Opcode, Reject, RejectReason, ScsiCommand, serial_at_most,
};
use command::Pending;
use logical_unit::{ItNexus, NexusHandle};
use scsi::TransportId;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::Instant;

/// Immediate commands that may be under way beside the window (RFC 7143 4.2.2.1).
const MAX_IMMEDIATE: usize = 16;

/// What a held request takes beside its segments, in bytes.
const HEADER_LENGTH: usize = size_of::<Bhs>();

/// Bytes on their way to the initiator.
type Out = Vec<u8>;

/// One session in its full feature phase.
pub(super) struct Session<'a> {
    shared: &'a Shared,
    ticket: &'a Ticket,
    local: SocketAddr,
    discovery: bool,
    cid: u16,
    parameters: Parameters,
    /// In LUN order.
    nexuses: Vec<NexusHandle>,
    exp_cmd_sn: u32,
    stat_sn: u32,
    /// Commands under way, in the order of arrival.
    pending: Vec<Pending>,
    /// PDUs whose CmdSN is ahead of the expected one: header, additional segments, data.
    held: BTreeMap<u32, (Bhs, Vec<u8>, Vec<u8>)>,
    /// Room for data-out that the commands under way have been promised, and for what is held.
    incoming: Share<'a>,
    /// Room for answers on their way.
    outgoing: Share<'a>,
    next_transfer_tag: u32,
    text: crate::text::Collector,
    /// A ping is out and nothing was heard since.
    pinged: bool,
    closing: bool,
}

/// A PDU that cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is rejected; the session goes on.
    Reject(RejectReason),
    /// It is rejected, and as there is no recovery at error recovery level 0 the session ends.
    Fatal(RejectReason),
}

impl<'a> Session<'a> {
    /// Establishes the I_T nexus to every logical unit.
    pub(super) fn new(
        shared: &'a Shared,
        ticket: &'a Ticket,
        admitted: &Admitted,
        local: SocketAddr,
    ) -> Self {
        let initiator = TransportId::iscsi(admitted.initiator.clone(), admitted.isid);
        let nexus = ItNexus { initiator, target_port: TARGET_PORT };
        let nexuses = if admitted.discovery { Vec::new() } else { shared.device.attach(&nexus) };
        Self {
            shared,
            ticket,
            local,
            discovery: admitted.discovery,
            cid: admitted.cid,
            parameters: admitted.parameters,
            nexuses,
            exp_cmd_sn: admitted.exp_cmd_sn,
            stat_sn: admitted.stat_sn,
            pending: Vec::new(),
            held: BTreeMap::new(),
            incoming: shared.budget.share(),
            outgoing: shared.budget.share(),
            next_transfer_tag: 0,
            text: crate::text::Collector::default(),
            pinged: false,
            closing: false,
        }
    }

    /// How to read this session's PDUs.
    pub(super) fn framing(&self) -> Framing {
        Framing { digests: self.parameters.digests, max_data: size(self.parameters.max_recv) }
    }

    /// Whether the connection is to be closed once what is in `out` has been sent.
    pub(super) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Ends the session without a word: its byte stream cannot be followed any more.
    pub(super) const fn close(&mut self) {
        self.closing = true;
    }

    /// The I_T nexus is lost: its commands end, its registrations stay.
    pub(super) fn end(&mut self) {
        for (unit, nexus) in self.shared.device.units().iter().zip(&self.nexuses) {
            unit.nexus_lost(nexus);
        }
        self.pending.clear();
        self.held.clear();
        self.incoming.set(0);
    }

    /// So many bytes of answers wait for the peer.
    pub(super) fn account(&mut self, backlog: usize) {
        self.outgoing.set(backlog);
    }

    /// Handles one PDU.
    pub(super) fn receive(&mut self, frame: &Frame<'_>, now: Instant, out: &mut Out) {
        if !frame.data_intact && Opcode::of(frame.bhs) == Opcode::DATA_OUT {
            return self.damaged_data_out(frame.bhs, out);
        }
        let result = if frame.data_intact {
            self.in_order(frame.bhs, frame.ahs, frame.data, now, out)
        } else {
            // Its CmdSN would be missing for ever: there is no recovery at error recovery level 0.
            Err(Refusal::Fatal(RejectReason::DATA_DIGEST_ERROR))
        };
        if let Err(refusal) = result {
            self.reject(frame.bhs, refusal, out);
        }
    }

    /// Puts commands into CmdSN order (RFC 7143 4.2.2.1) before they are looked at.
    fn in_order(
        &mut self,
        bhs: &Bhs,
        ahs: &[u8],
        data: &[u8],
        now: Instant,
        out: &mut Out,
    ) -> Result<(), Refusal> {
        // Every request has the I bit and CmdSN in the same places; Data-Out and SNACK have no CmdSN.
        let request = ScsiCommand::parse(bhs);
        if matches!(Opcode::of(bhs), Opcode::DATA_OUT | Opcode::SNACK_REQUEST) || request.immediate {
            return self.dispatch(bhs, ahs, data, now, out);
        }
        let last = self.max_cmd_sn();
        if !serial_at_most(self.exp_cmd_sn, request.cmd_sn) || !serial_at_most(request.cmd_sn, last) {
            // Outside of the window: ignored silently, as the standard wants it.
            return Ok(());
        }
        if request.cmd_sn != self.exp_cmd_sn {
            return self.hold(request.cmd_sn, (*bhs, ahs.to_vec(), data.to_vec()));
        }
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        let mut result = self.dispatch(bhs, ahs, data, now, out);
        while let Some((bhs, ahs, data)) = self.held.remove(&self.exp_cmd_sn) {
            self.incoming.give(HEADER_LENGTH + ahs.len() + data.len());
            if let Err(refusal) = std::mem::replace(&mut result, Ok(())) {
                self.reject(&bhs, refusal, out);
            }
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
            result = self.dispatch(&bhs, &ahs, &data, now, out);
        }
        result
    }

    /// Keeps a request that came too early; one that is there already is the same again.
    fn hold(&mut self, cmd_sn: u32, request: (Bhs, Vec<u8>, Vec<u8>)) -> Result<(), Refusal> {
        if let Entry::Vacant(place) = self.held.entry(cmd_sn) {
            if !self.incoming.take(HEADER_LENGTH + request.1.len() + request.2.len()) {
                return Err(Refusal::Fatal(RejectReason::LONG_OPERATION_REJECT));
            }
            place.insert(request);
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        bhs: &Bhs,
        ahs: &[u8],
        data: &[u8],
        now: Instant,
        out: &mut Out,
    ) -> Result<(), Refusal> {
        match Opcode::of(bhs) {
            Opcode::NOP_OUT => self.nop_out(&NopOut::parse(bhs), data, out),
            Opcode::TEXT_REQUEST => return self.text_request(bhs, data, out),
            Opcode::LOGOUT_REQUEST => self.logout(&LogoutRequest::parse(bhs), out),
            _ if self.discovery => return Err(Refusal::Reject(RejectReason::PROTOCOL_ERROR)),
            Opcode::SCSI_COMMAND => return self.command(&ScsiCommand::parse(bhs), ahs, data, now, out),
            Opcode::DATA_OUT => return self.data_out(bhs, data, now, out),
            Opcode::TASK_MANAGEMENT_REQUEST => self.task_management(bhs, out),
            Opcode::SNACK_REQUEST => return Err(Refusal::Reject(RejectReason::SNACK_REJECT)),
            Opcode::LOGIN_REQUEST => return Err(Refusal::Fatal(RejectReason::PROTOCOL_ERROR)),
            _ => return Err(Refusal::Reject(RejectReason::COMMAND_NOT_SUPPORTED)),
        }
        Ok(())
    }

    /// The highest CmdSN that is accepted. It never goes back: each command in the window takes one
    /// place from it for as long as it is under way.
    fn max_cmd_sn(&self) -> u32 {
        let under_way = self.pending.iter().filter(|pending| !pending.immediate).count();
        let free = WINDOW.saturating_sub(u32::try_from(under_way).unwrap_or(WINDOW));
        self.exp_cmd_sn.wrapping_add(free).wrapping_sub(1)
    }

    fn take_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }

    fn emit(&self, header: &impl Header, data: &[u8], out: &mut Out) {
        crate::pdu::frame::encode(out, &header.emit(), data, self.parameters.digests);
    }

    fn reject(&mut self, bhs: &Bhs, refusal: Refusal, out: &mut Out) {
        let reason = match refusal {
            Refusal::Reject(reason) => reason,
            Refusal::Fatal(reason) => {
                self.closing = true;
                reason
            }
        };
        let reject = Reject {
            flags: 0x80,
            reason,
            initiator_task_tag: NO_TAG,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            data_sn: 0,
        };
        self.emit(&reject, bhs, out);
    }

    fn nop_out(&mut self, nop: &NopOut, data: &[u8], out: &mut Out) {
        if nop.initiator_task_tag == NO_TAG {
            return;
        }
        let answer = NopIn {
            flags: 0x80,
            lun: Lun::default(),
            initiator_task_tag: nop.initiator_task_tag,
            target_transfer_tag: NO_TAG,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
        };
        self.emit(&answer, data.get(..size(self.parameters.max_send)).unwrap_or(data), out);
    }

    /// Something was heard of the peer: no ping is due.
    pub(super) const fn heard(&mut self) {
        self.pinged = false;
    }

    /// Asks a silent peer whether it is there, once.
    pub(super) fn ping(&mut self, out: &mut Out) {
        if std::mem::replace(&mut self.pinged, true) {
            return;
        }
        let target_transfer_tag = self.transfer_tag();
        let nop = NopIn {
            flags: 0x80,
            lun: Lun::default(),
            initiator_task_tag: NO_TAG,
            target_transfer_tag,
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
        };
        self.emit(&nop, &[], out);
    }

    fn transfer_tag(&mut self) -> u32 {
        let tag = self.next_transfer_tag;
        self.next_transfer_tag = if tag == NO_TAG - 1 { 0 } else { tag + 1 };
        tag
    }

    fn logout(&mut self, request: &LogoutRequest, out: &mut Out) {
        let result = match request.reason.code() {
            LogoutReason::CLOSE_SESSION => LogoutResult::CLOSED,
            LogoutReason::CLOSE_CONNECTION if request.cid == self.cid => LogoutResult::CLOSED,
            LogoutReason::CLOSE_CONNECTION => LogoutResult::CID_NOT_FOUND,
            _ => LogoutResult::RECOVERY_NOT_SUPPORTED,
        };
        if result == LogoutResult::CLOSED {
            // The nexus is lost before the initiator is told so: what it then asks elsewhere finds it gone.
            self.end();
            self.closing = true;
        }
        let response = LogoutResponse {
            flags: 0x80,
            result,
            initiator_task_tag: request.initiator_task_tag,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            time2wait: 0,
            time2retain: 0,
        };
        self.emit(&response, &[], out);
    }

    /// Tells the initiator that the target drops the session: shutdown, reinstatement, cold reset.
    pub(super) fn say_goodbye(&mut self, out: &mut Out) {
        self.closing = true;
        let message = AsyncMessage {
            flags: 0x80,
            lun: Lun::default(),
            initiator_task_tag: NO_TAG,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            event: AsyncEvent::SESSION_DROPPED,
            vendor_code: 0,
            parameter1: 0,
            parameter2: u16::try_from(self.parameters.time2wait).unwrap_or(u16::MAX),
            parameter3: 0,
        };
        self.emit(&message, &[], out);
    }
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
