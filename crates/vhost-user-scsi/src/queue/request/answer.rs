//! The end of a command: status, sense, data-in and residual go to the guest, or why there is no status (virtio 1.2 5.6.6.1.1); then it
//! leaves its place. Used by [`super`].

use super::super::ring::Broken;
use super::Server;
use super::place::Request;
use crate::statistics::Sample;
use crate::unit::Ending;
use crate::wire;
use scsi::Completion;

impl Server {
    /// The command has ended; `moved` bytes of data-in are in the guest already.
    pub(super) fn end(&mut self, place: u32, ending: Ending, moved: usize) -> Result<(), Broken> {
        match ending {
            Ending::Status(completion) => self.complete(place, &completion, moved),
            Ending::Aborted => self.fail(place, wire::ResponseCode::ABORTED),
            Ending::Reset => self.fail(place, wire::ResponseCode::RESET),
            Ending::Lost => self.fail(place, wire::ResponseCode::TRANSPORT_FAILURE),
        }
    }

    /// With a status.
    fn complete(&mut self, place: u32, completion: &Completion, moved: usize) -> Result<(), Broken> {
        let format = self.format;
        let Some(here) = self.places.at(place) else { return Ok(()) };
        let data = completion.data.get(..completion.data.len().min(here.data_in)).unwrap_or_default();
        let code = if data.len() < completion.data.len() {
            wire::ResponseCode::OVERRUN
        } else {
            wire::ResponseCode::OK
        };
        let moved_in = moved.max(data.len());
        let moved_out = if completion.status.is_good() { here.wanted_out } else { 0 };
        let all = here.data_in.saturating_add(here.data_out);
        let residual = all.saturating_sub(moved_in).saturating_sub(moved_out);
        let sense = completion.sense.get(..completion.sense.len().min(format.sense)).unwrap_or_default();
        let response = wire::Response {
            sense_length: u32::try_from(sense.len()).unwrap_or(0),
            residual: u32::try_from(residual).unwrap_or(u32::MAX),
            status_qualifier: 0,
            status: completion.status.0,
            response: code,
        };
        let sample = Sample {
            opcode: here.opcode,
            data_in: moved_in as u64,
            data_out: moved_out as u64,
            took: here.began.elapsed(),
            failed: !completion.status.is_good(),
        };
        if !data.is_empty() && self.ring.memory().scatter(here.segments(true, format), data).is_err() {
            return self.fail(place, wire::ResponseCode::FAILURE);
        }
        self.leave(place, &response, sense, moved_in, &sample)
    }

    /// Without a status.
    pub(super) fn fail(&mut self, place: u32, code: wire::ResponseCode) -> Result<(), Broken> {
        let Some(here) = self.places.at(place) else { return Ok(()) };
        let all = here.data_in.saturating_add(here.data_out);
        let residual = u32::try_from(all).unwrap_or(u32::MAX);
        let response = wire::Response { residual, response: code, ..wire::Response::default() };
        let took = here.began.elapsed();
        let sample = Sample { opcode: here.opcode, data_in: 0, data_out: 0, took, failed: true };
        self.leave(place, &response, &[], 0, &sample)
    }

    /// Gives the request back, with this response and sense data; empty where they cannot be written.
    fn leave(
        &mut self,
        place: u32,
        response: &wire::Response,
        sense: &[u8],
        moved_in: usize,
        sample: &Sample,
    ) -> Result<(), Broken> {
        self.give_up_buffers(place);
        let Some(here) = self.places.take(place) else { return Ok(()) };
        if let Some(counters) = here.lun.as_ref().and_then(|lun| lun.counters(self.queue)) {
            counters.record(sample);
        }
        let result = if self.broken { Ok(()) } else { self.give_back(&here, response, sense, moved_in) };
        self.tasks.leave(place as usize);
        self.ring.recycle(here.chain);
        result
    }

    fn give_back(
        &mut self,
        here: &Request,
        response: &wire::Response,
        sense: &[u8],
        moved_in: usize,
    ) -> Result<(), Broken> {
        let (memory, bytes) = (self.ring.memory(), &mut self.response);
        bytes.clear();
        bytes.extend_from_slice(&response.to_bytes());
        bytes.extend_from_slice(sense);
        // What is said to be written is written.
        bytes.resize(wire::Response::LENGTH + self.format.sense, 0);
        let all = bytes.len().saturating_add(moved_in);
        let told = here.chain.write(memory, 0, bytes).is_ok();
        self.ring.give_back(here.head, if told { u32::try_from(all).unwrap_or(u32::MAX) } else { 0 })
    }
}
