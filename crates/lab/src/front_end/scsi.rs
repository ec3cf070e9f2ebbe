//! A driver for virtio-scsi (virtio 1.2, 5.6) over a [`FrontEnd`]: a [`Nexus`] to each logical unit, task management, events, and
//! [reads and writes at depth](super::load::Dialect).
//!
//! By hand, like all of the front end, and not with the device's own encoders.

use crate::front_end::load::{Dialect, Io, Kind, Verdict};
use crate::front_end::ring::{Part, Ring};
use crate::front_end::{FrontEnd, Gone, Setting, Shape, Wishes};
use anyhow::{Context, Result, ensure};
use nexus::{Nexus, TransportError};
use scsi::{Completion, DataPhase, Request, Sense, SenseKey, Status, opcode};
use std::path::Path;
use std::time::{Duration, Instant};

/// Sizes that hold until a driver changes them in the config space.
const CDB_SIZE: usize = 32;
const SENSE_SIZE: usize = 96;
/// Header of a command, without its CDB; and of a response, without its sense data.
const HEADER: usize = 19;
const RESPONSE: usize = 12;
const CONTROL: usize = 0;
const EVENT: usize = 1;
/// The number of the first request queue.
pub const REQUESTS: usize = 2;
/// Bytes of an event.
const EVENT_SIZE: usize = 16;
/// The event queue has missed events, said beside the event's reason.
pub const MISSED: u32 = 1 << 31;
/// `VIRTIO_SCSI_S_OK`.
const OK: u8 = 0;
/// How many unit attentions may be pending.
const ATTENTIONS: usize = 8;
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Features of virtio-scsi.
pub mod feature {
    /// Logical units come and go.
    pub const HOTPLUG: u64 = 1 << 1;
    /// What a logical unit is may change.
    pub const CHANGE: u64 = 1 << 2;
}

/// Task management functions (`VIRTIO_SCSI_T_TMF_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(pub u32);

impl Function {
    /// ABORT TASK, by its tag.
    pub const ABORT_TASK: Self = Self(0);
    /// ABORT TASK SET.
    pub const ABORT_TASK_SET: Self = Self(1);
    /// CLEAR ACA.
    pub const CLEAR_ACA: Self = Self(2);
    /// CLEAR TASK SET.
    pub const CLEAR_TASK_SET: Self = Self(3);
    /// I_T NEXUS RESET.
    pub const NEXUS_RESET: Self = Self(4);
    /// LOGICAL UNIT RESET.
    pub const UNIT_RESET: Self = Self(5);
    /// QUERY TASK, by its tag.
    pub const QUERY_TASK: Self = Self(6);
    /// QUERY TASK SET.
    pub const QUERY_TASK_SET: Self = Self(7);
}

/// A logical unit as virtio-scsi addresses it.
pub type Address = [u8; 8];

/// Target 0's logical unit of this number, flat addressing: as Linux's driver does it.
#[must_use]
pub const fn flat(lun: u16) -> Address {
    let [high, low] = lun.to_be_bytes();
    [1, 0, 0x40 | high, low, 0, 0, 0, 0]
}

/// What the device answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `VIRTIO_SCSI_S_…`; all else means something only with 0.
    pub response: u8,
    /// The SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Vec<u8>,
    /// Bytes of data that were not transferred.
    pub residual: u32,
    /// The data-in buffer, all of it.
    pub data: Vec<u8>,
    /// Bytes that the device says to have written into the guest's memory.
    pub written: u32,
}

impl Answer {
    /// What a SCSI initiator makes of it.
    ///
    /// # Errors
    /// If the command did not end with a status, or the numbers do not fit together.
    pub fn completion(mut self) -> Result<Completion> {
        ensure!(self.response == OK, "virtio-scsi response {}", self.response);
        let moved = self.data.len().checked_sub(usize::try_from(self.residual)?);
        if !self.data.is_empty() {
            self.data.truncate(moved.context("more residual than data")?);
        }
        Ok(Completion { status: Status(self.status), sense: self.sense, data: self.data })
    }
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `VIRTIO_SCSI_T_…`, perhaps with [`MISSED`].
    pub event: u32,
    /// The logical unit.
    pub unit: Address,
    /// Why.
    pub reason: u32,
}

/// A driver past its initialisation.
#[derive(Debug)]
pub struct VirtioScsi {
    /// What it drives the device with.
    pub front: FrontEnd,
    tag: u64,
}

/// A driver's setting: so many request queues of this shape.
#[must_use]
pub fn setting(queues: usize, shape: Shape) -> Setting {
    let wishes = Wishes::default();
    let features = wishes.features | feature::HOTPLUG | feature::CHANGE;
    let small = Shape { room: 64, requests: 8, ..shape };
    let mut rings = vec![small, small];
    rings.extend(vec![shape; queues]);
    Setting { rings, wishes: Wishes { features, ..wishes }, regions: 2 }
}

impl VirtioScsi {
    /// Connects to the device and gives it room for events.
    ///
    /// # Errors
    /// If nobody listens, or the device refuses.
    pub fn connect(path: &Path, setting: &Setting) -> Result<Self> {
        let mut front = FrontEnd::connect(path, setting)?;
        let events = front.ring(EVENT)?;
        while let Some(slot) = events.take() {
            offer_event(events, slot)?;
        }
        events.publish()?;
        Ok(Self { front, tag: 0 })
    }

    /// Sends one command on the request queue of this number, and waits for its answer.
    ///
    /// # Errors
    /// If the device is gone, or says what cannot be.
    pub fn execute(&mut self, queue: usize, unit: Address, request: &Request) -> Result<Answer> {
        self.tag += 1;
        let head = header(unit, self.tag, &request.cdb)?;
        let (out, room): (&[u8], usize) = match &request.data {
            DataPhase::None => (&[], 0),
            DataPhase::In(room) => (&[], *room),
            DataPhase::Out(data) => (data, 0),
        };
        let ring = self.front.ring(REQUESTS + queue)?;
        let slot = send(ring, &head, out, RESPONSE + SENSE_SIZE, room)?;
        let (response, data, written) = receive(ring, slot, RESPONSE + SENSE_SIZE, room)?;
        answer(&response, data, written)
    }

    /// The logical unit of this number.
    pub const fn disk(&mut self, lun: u16) -> Disk<'_> {
        Disk { driver: self, queue: 0, unit: flat(lun) }
    }

    /// Has tasks managed, and waits for the answer; `tag` where the function names a task.
    ///
    /// # Errors
    /// If the device is gone, or says what cannot be.
    pub fn manage(&mut self, function: Function, unit: Address, tag: u64) -> Result<u8> {
        let request = [&[0; 4][..], &function.0.to_le_bytes(), &unit, &tag.to_le_bytes()].concat();
        let ring = self.front.ring(CONTROL)?;
        let slot = send(ring, &request, &[], 1, 0)?;
        let (response, ..) = receive(ring, slot, 1, 0)?;
        response.first().copied().context("no response")
    }

    /// The next event, if one comes before the deadline.
    ///
    /// # Errors
    /// If the device is gone, or says what cannot be.
    pub fn event(&mut self, deadline: Instant) -> Result<Option<Event>> {
        let ring = self.front.ring(EVENT)?;
        let mut done = ring.collect()?;
        if done.is_none() {
            match ring.wait(deadline) {
                Err(error) if error.is::<Gone>() => return Err(error),
                _ => done = ring.collect()?,
            }
        }
        let Some(done) = done else { return Ok(None) };
        let [_, place, _] = ring.layout(done.slot)?;
        let mut bytes = [0; EVENT_SIZE];
        ring.memory().read(place, &mut bytes)?;
        ensure!(usize::try_from(done.length)? == EVENT_SIZE, "an event of {} bytes", done.length);
        ring.take();
        offer_event(ring, done.slot)?;
        ring.publish()?;
        let [event, _, _, reason] = little(bytes);
        let unit = bytes.get(4..12).and_then(|bytes| bytes.first_chunk().copied()).context("no unit")?;
        Ok(Some(Event { event, unit, reason }))
    }

    /// Reads and writes of this logical unit at depth, on any request queue.
    ///
    /// # Errors
    /// If the logical unit is not ready, or does not say how long its blocks are.
    pub fn dialect(&mut self, lun: u16) -> Result<Scsi> {
        let mut disk = self.disk(lun);
        let capacity = Request {
            cdb: vec![opcode::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            data: DataPhase::In(8),
        };
        // Everybody new is owed a unit attention or two.
        let ended = nexus::retry_unit_attention(&mut disk, &capacity, ATTENTIONS)?.completion;
        ensure!(ended.status == Status::GOOD, "READ CAPACITY: {ended:?}");
        let number = |at: usize| {
            let bytes = ended.data.get(at..at + 4).and_then(|bytes| bytes.first_chunk().copied());
            bytes.map(u32::from_be_bytes).context("a short READ CAPACITY")
        };
        Ok(Scsi { unit: flat(lun), block: number(4)?, blocks: u64::from(number(0)?) + 1 })
    }
}

/// One logical unit, on one request queue.
#[derive(Debug)]
pub struct Disk<'a> {
    driver: &'a mut VirtioScsi,
    queue: usize,
    unit: Address,
}

impl Disk<'_> {
    /// The same through another request queue.
    #[must_use]
    pub fn on(self, queue: usize) -> Self {
        Self { queue, ..self }
    }
}

impl Nexus for Disk<'_> {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let answer = self.driver.execute(self.queue, self.unit, request);
        answer
            .and_then(Answer::completion)
            .map_err(|error| TransportError::OutcomeUnknown(std::io::Error::other(format!("{error:#}"))))
    }
}

/// Reads and writes of one logical unit.
#[derive(Clone, Copy, Debug)]
pub struct Scsi {
    unit: Address,
    /// Bytes of a block.
    pub block: u32,
    /// How many there are.
    pub blocks: u64,
}

impl Dialect for Scsi {
    fn header(&self, io: Io, tag: u64, bytes: &mut Vec<u8>) {
        let block = io.offset / u64::from(self.block);
        let count = io.length / self.block;
        let [long, short] = match io.kind {
            Kind::Read => [opcode::READ_16, opcode::READ_10],
            Kind::Write => [opcode::WRITE_16, opcode::WRITE_10],
            Kind::Flush => [opcode::SYNCHRONIZE_CACHE_16, opcode::SYNCHRONIZE_CACHE_10],
        };
        let mut cdb = [0; CDB_SIZE];
        match (u32::try_from(block), u16::try_from(count)) {
            (Ok(block), Ok(count)) => {
                let ([a, b, c, d], [high, low]) = (block.to_be_bytes(), count.to_be_bytes());
                cdb[..9].copy_from_slice(&[short, 0, a, b, c, d, 0, high, low]);
            }
            _ => {
                cdb[0] = long;
                cdb[2..10].copy_from_slice(&block.to_be_bytes());
                cdb[10..14].copy_from_slice(&count.to_be_bytes());
            }
        }
        bytes.extend_from_slice(&self.unit);
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&[0; 3]);
        bytes.extend_from_slice(&cdb);
    }

    fn response(&self) -> u32 {
        (RESPONSE + SENSE_SIZE) as u32
    }

    fn data_in_is_last(&self) -> bool {
        true
    }

    fn judge(&self, response: &[u8]) -> Result<Verdict> {
        let answer = answer(response, Vec::new(), 0)?;
        ensure!(answer.response == OK, "virtio-scsi response {}", answer.response);
        let key = Sense::parse(&answer.sense).map(|sense| sense.key);
        match Status(answer.status) {
            Status::GOOD => {
                ensure!(answer.residual == 0, "{} bytes were not transferred", answer.residual);
                Ok(Verdict::Good)
            }
            Status::BUSY | Status::TASK_SET_FULL => Ok(Verdict::Again),
            Status::CHECK_CONDITION if key == Some(SenseKey::UNIT_ATTENTION) => Ok(Verdict::Again),
            status => anyhow::bail!("{status:?}, sense {:02x?}", answer.sense),
        }
    }
}

/// The header of a command; the CDB is filled up with zeros.
///
/// # Errors
/// If the CDB is longer than the device takes.
pub fn header(unit: Address, tag: u64, cdb: &[u8]) -> Result<Vec<u8>> {
    ensure!(cdb.len() <= CDB_SIZE, "a CDB of {} bytes", cdb.len());
    let mut bytes = [&unit[..], &tag.to_le_bytes(), &[0; 3], cdb].concat();
    bytes.resize(HEADER + CDB_SIZE, 0);
    Ok(bytes)
}

fn answer(response: &[u8], data: Vec<u8>, written: u32) -> Result<Answer> {
    let (head, sense) = response.split_first_chunk::<RESPONSE>().context("a short response")?;
    let [length, residual, last] = [0, 4, 8].map(|at| head.get(at..at + 4).unwrap_or_default()).map(number);
    let [_, _, status, response] = last.to_le_bytes();
    let sense = sense.get(..usize::try_from(length)?).context("more sense data than there was room for")?;
    Ok(Answer { response, status, sense: sense.to_vec(), residual, data, written })
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().copied().map_or(0, u32::from_le_bytes)
}

fn little(bytes: [u8; EVENT_SIZE]) -> [u32; 4] {
    let mut numbers = [0; 4];
    numbers.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(place, bytes)| *place = number(bytes));
    numbers
}

fn offer_event(ring: &mut Ring, slot: u16) -> Result<()> {
    let [_, place, _] = ring.layout(slot)?;
    ring.submit(slot, &[Part { place, length: EVENT_SIZE as u32, writable: true }])
}

/// Makes a request of what the device reads, and of room for response and data.
fn send(ring: &mut Ring, header: &[u8], out: &[u8], response: usize, room: usize) -> Result<u16> {
    let slot = ring.take().context("the ring is full")?;
    let [head, answer, buffer] = ring.layout(slot)?;
    ring.memory().write(head, header)?;
    // What the device does not write must be seen.
    ring.memory().write(answer, &vec![0xEE; response])?;
    let longest = usize::try_from(ring.shape().room)?;
    ensure!(out.len().max(room) <= longest, "more data than a request of this ring has room for");
    ring.memory().write(buffer, out)?;
    let part = |place, length: usize, writable| Part { place, length: length as u32, writable };
    let parts = [
        part(head, header.len(), false),
        part(buffer, out.len(), false),
        part(answer, response, true),
        part(buffer, room, true),
    ];
    ring.submit(slot, &parts)?;
    ring.publish()?;
    Ok(slot)
}

fn receive(ring: &mut Ring, slot: u16, response: usize, room: usize) -> Result<(Vec<u8>, Vec<u8>, u32)> {
    let end = Instant::now() + PATIENCE;
    let done = loop {
        match ring.collect()? {
            Some(done) => break done,
            None => ring.wait(end)?,
        }
    };
    ensure!(done.slot == slot, "the device gives another request back");
    let [_, answer, buffer] = ring.layout(slot)?;
    let (mut head, mut data) = (vec![0; response], vec![0; room]);
    ring.memory().read(answer, &mut head)?;
    ring.memory().read(buffer, &mut data)?;
    Ok((head, data, done.length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_unit_tag_three_bytes_and_cdb() {
        let bytes = header(flat(0x123), 7, &[0x12, 0, 0, 0, 36, 0]).unwrap();
        assert_eq!(bytes.len(), 51);
        assert_eq!(bytes[..8], [1, 0, 0x41, 0x23, 0, 0, 0, 0]);
        assert_eq!((bytes[8], bytes[19], bytes[23]), (7, 0x12, 36));
        assert!(header(flat(0), 0, &[0; 33]).is_err());
    }

    #[test]
    fn reads_and_writes_are_short_commands_where_these_can_say_it() {
        let dialect = Scsi { unit: flat(0), block: 512, blocks: 1 << 40 };
        let cdb = |io| {
            let mut bytes = Vec::new();
            dialect.header(io, 1, &mut bytes);
            assert_eq!(bytes.len(), 51);
            bytes[19..35].to_vec()
        };
        let short = cdb(Io { kind: Kind::Write, offset: 4096, length: 4096 });
        assert_eq!(short[..9], [0x2A, 0, 0, 0, 0, 8, 0, 0, 8]);
        let long = cdb(Io { kind: Kind::Read, offset: 512 << 32, length: 512 });
        assert_eq!(long, [0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    fn response(sense: &[u8], residual: u32, status: u8, response: u8) -> Vec<u8> {
        let mut bytes = [(sense.len() as u32).to_le_bytes(), residual.to_le_bytes()].concat();
        bytes.extend([0, 0, status, response]);
        bytes.extend(sense);
        bytes.resize(RESPONSE + SENSE_SIZE, 0);
        bytes
    }

    #[test]
    fn an_answer_has_status_sense_and_what_was_transferred() {
        let bytes = response(&[0x70, 0, 5], 6, 2, 0);
        let ended = answer(&bytes, vec![1; 10], 0).unwrap().completion().unwrap();
        assert_eq!((ended.status.0, ended.sense, ended.data), (2, vec![0x70, 0, 5], vec![1; 4]));
        assert!(answer(&bytes, vec![1; 5], 0).unwrap().completion().is_err(), "more residual than data");
        assert!(answer(&response(&[], 0, 0, 3), vec![], 0).unwrap().completion().is_err(), "BAD TARGET");
        let mut lying = bytes;
        lying[0] = 97;
        assert!(answer(&lying, vec![], 0).is_err());
    }

    #[test]
    fn a_unit_attention_is_no_failure_of_a_write_and_a_conflict_is_one() {
        let dialect = Scsi { unit: flat(0), block: 512, blocks: 1 };
        let attention = response(&[0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0], 0, 2, 0);
        assert_eq!(dialect.judge(&attention).unwrap(), Verdict::Again);
        assert_eq!(dialect.judge(&response(&[], 0, 0, 0)).unwrap(), Verdict::Good);
        for bad in [response(&[], 0, 0x18, 0), response(&[], 512, 0, 0), response(&[], 0, 0, 9)] {
            assert!(dialect.judge(&bad).is_err());
        }
    }
}
