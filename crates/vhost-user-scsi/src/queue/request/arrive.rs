//! A request's way from the ring to its logical unit: what it says is parsed as far as a response needs it, the target answers what is
//! its own, the logical unit admits the rest. Used by [`super`].

use super::super::Format;
use super::super::ring::{Broken, Taken};
use super::super::tasks::Task;
use super::Server;
use super::place::{Request, State};
use crate::target::Lun;
use crate::unit::{Arrival, Ending};
use crate::wire;
use scsi::opcode;
use std::sync::Arc;
use std::time::Instant;

impl Server {
    /// A request: parsed as far as a response needs it.
    pub(super) fn arrive(&mut self, taken: Taken) -> Result<(), Broken> {
        let Taken { head, chain, walked, again } = taken;
        let began = Instant::now();
        self.tell_in_time(began)?;
        let Format { cdb, sense } = self.format;
        let response = wire::Response::LENGTH + sense;
        if chain.in_length() < response {
            self.ring.recycle(chain);
            return self.ring.give_back(head, 0);
        }
        let mut header = std::mem::take(&mut self.header);
        header.clear();
        header.resize(wire::RequestHeader::LENGTH + cdb, 0);
        let read = chain.read(self.ring.memory(), 0, &mut header);
        let understood = walked.is_ok() && read.is_ok_and(|read| read == header.len());
        let request = Request {
            head,
            began,
            lun: None,
            data_in: chain.in_length() - response,
            data_out: chain.out_length().saturating_sub(header.len()),
            wanted_out: 0,
            opcode: 0,
            again,
            buffered: 0,
            state: State::Idle,
            chain,
        };
        let Some(place) = self.places.put(request) else { return self.ring.give_back(head, 0) };
        let done = match wire::Request::parse(&header, u32::try_from(cdb).unwrap_or(u32::MAX)) {
            Ok(request) if understood => self.route(place, &request),
            _ => self.fail(place, wire::ResponseCode::FAILURE),
        };
        self.header = header;
        done
    }

    /// To its logical unit, or to the target itself.
    fn route(&mut self, place: u32, request: &wire::Request<'_>) -> Result<(), Broken> {
        if let Some(refusing) = self.connection.refusing.get() {
            return self.end(place, Ending::Status(refusing.completion()), 0);
        }
        let Some(number) = address(&request.header.lun) else {
            return self.fail(place, wire::ResponseCode::BAD_TARGET);
        };
        let table = self.view.table(self.connection.device.target());
        let lun = number.and_then(|number| table.get(number)).cloned();
        if let Some(completion) = table.answer(lun.as_ref(), request.cdb) {
            return self.end(place, Ending::Status(completion), 0);
        }
        match lun {
            Some(lun) => self.admit(place, &lun, request),
            None => self.fail(place, wire::ResponseCode::BAD_TARGET),
        }
    }

    fn admit(&mut self, place: u32, lun: &Arc<Lun>, request: &wire::Request<'_>) -> Result<(), Broken> {
        let id = self.connection.device.next_id();
        let Some(here) = self.places.at(place) else { return Ok(()) };
        here.lun = Some(Arc::clone(lun));
        here.opcode = request.cdb.first().copied().unwrap_or(0);
        let (data_out, data_in, code) = (here.data_out, here.data_in, here.opcode);
        if here.again && is_for_once(code) {
            return self.end(place, Ending::Lost, 0);
        }
        let wanted = lun.unit.data_out_length(request.cdb).unwrap_or(data_out as u64);
        let Some(wanted) = usize::try_from(wanted).ok().filter(|wanted| *wanted <= data_out) else {
            return self.fail(place, wire::ResponseCode::OVERRUN);
        };
        here.wanted_out = wanted;
        // Known to the control queue before the logical unit has it: who aborts it then waits for it.
        let task = Task { id, tag: request.header.id, lun: lun.number, opcode: code, began: here.began };
        self.tasks.enter(place as usize, &task);
        let admission = lun.unit.admit(&Arrival { id, cdb: request.cdb, data_out, data_in });
        self.go_on(place, admission)
    }
}

/// Whether a command must not be carried out twice: done again, it would say that it failed although it was done, or do something else.
/// Of one that a killed device had taken nobody knows whether it was done, and [`Ending::Lost`] says just that. For Linux that is
/// DID_TRANSPORT_DISRUPTED: sg_persist and whoever else passes commands through hears of it and asks what holds; a unit attention or
/// ABORTED COMMAND would have the kernel send the command again unasked, to the same false answer.
const fn is_for_once(code: u8) -> bool {
    matches!(
        code,
        opcode::PERSISTENT_RESERVE_OUT
            | opcode::RESERVE_6
            | opcode::RESERVE_10
            | opcode::RELEASE_6
            | opcode::RELEASE_10
            | opcode::COMPARE_AND_WRITE
            | opcode::THIRD_PARTY_COPY_OUT
            | opcode::SANITIZE
    )
}

/// The number that a LUN of this device's one target has: none in it where no logical unit has that number; none at all where it
/// names another target.
pub(crate) fn address(lun: &[u8; 8]) -> Option<Option<u8>> {
    match wire::Lun::parse(lun).ok()? {
        // It answers as any LUN does: REPORT LUNS is the target's.
        wire::Lun::ReportLuns => Some(None),
        wire::Lun::Unit { target: 0, address: wire::Address::Number(number) } => {
            Some(u8::try_from(number).ok())
        }
        wire::Lun::Unit { target: 0, address: wire::Address::WellKnown(1) } => Some(None),
        wire::Lun::Unit { .. } => None,
    }
}
