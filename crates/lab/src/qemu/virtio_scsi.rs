//! A driver for QEMU's virtio-scsi-pci in its legacy form (virtio 1.1, 5.6 and the legacy interfaces of 4.1.5),
//! from outside the guest: a [`Nexus`] to the disk that the guest would see at target 0, LUN 0, and [to those](VirtioScsi::disk)
//! at other targets.
//!
//! One request at a time, on the first request queue. While QEMU says that the guest is stopped nothing is
//! submitted; a request under way is waited for. The driver moves with the guest: what the guest's memory holds of it is
//! on the destination after a migration, and [`Rings`] are the rest.

use crate::qemu::qmp::Gate;
use crate::qemu::qtest::Qtest;
use anyhow::{Context, Result, ensure};
use nexus::{Nexus, TransportError};
use scsi::{Completion, DataPhase, Request, Status};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Where the device's ports are put.
const PORTS: u16 = 0xC000;
/// Guest memory for the queues and buffers; the guest itself runs nothing.
const QUEUES: u32 = 0x10_0000;
const REQUEST: u32 = 0x40_0000;
const RESPONSE: u32 = 0x60_0000;
/// PCI device and vendor of a transitional virtio-scsi.
const VIRTIO_SCSI: u32 = 0x1004_1AF4;
/// Header and payload may share a descriptor.
const ANY_LAYOUT: u32 = 1 << 27;
const REQUEST_QUEUE: u32 = 2;
const CDB_SIZE: usize = 32;
const SENSE_SIZE: usize = 96;
const RESPONSE_SIZE: usize = 12 + SENSE_SIZE;
/// How long a guest may be stopped.
const PAUSE: Duration = Duration::from_secs(600);
/// How long a command may take, five attempts to reach a helper included.
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver past its initialisation.
#[derive(Debug)]
pub struct VirtioScsi {
    qtest: Qtest,
    gate: Arc<Gate>,
    rings: Rings,
}

/// What a driver knows of its request queue, beside what is in the guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    descriptors: u32,
    queue_size: u16,
    submitted: u16,
}

/// The disk at one target.
#[derive(Debug)]
pub struct Disk<'a> {
    driver: &'a mut VirtioScsi,
    target: u8,
}

impl Rings {
    const fn available(self) -> u32 {
        self.descriptors + 16 * self.queue_size as u32
    }
}

impl VirtioScsi {
    /// Finds the device, resets it and hands it its queues.
    ///
    /// # Errors
    /// If there is none, or QEMU is gone.
    pub fn new(mut qtest: Qtest, gate: Arc<Gate>) -> Result<Self> {
        find(&mut qtest)?;
        for status in [0, 1, 3] {
            qtest.output('b', PORTS + 0x12, status)?;
        }
        let offered = qtest.input('l', PORTS)?;
        qtest.output('l', PORTS + 4, offered & ANY_LAYOUT)?;
        for (queue, place) in (0..).zip(places(&mut qtest)?) {
            qtest.output('w', PORTS + 0xE, queue)?;
            qtest.output('l', PORTS + 8, place.descriptors >> 12)?;
        }
        qtest.output('b', PORTS + 0x12, 7)?;
        Self::at(qtest, gate)
    }

    /// Goes on where the driver of the QEMU that this guest came from stopped: everything it knew is in the guest's memory. A
    /// request that was put into the queue there is carried out here.
    ///
    /// # Errors
    /// If no guest with such a driver came, or QEMU is gone.
    pub fn adopt(qtest: Qtest, gate: Arc<Gate>) -> Result<Self> {
        let mut driver = Self::at(qtest, gate)?;
        let index = driver.qtest.read(driver.rings.available() + 2, 2)?;
        driver.rings.submitted = u16::from_le_bytes(index.first_chunk().copied().context("available index")?);
        if !driver.is_done()? {
            driver.kick()?;
            driver.wait()?;
        }
        Ok(driver)
    }

    fn at(mut qtest: Qtest, gate: Arc<Gate>) -> Result<Self> {
        let [.., requests] = places(&mut qtest)?;
        ensure!(requests.size > 1, "the request queue has no room");
        let rings = Rings { descriptors: requests.descriptors, queue_size: requests.size, submitted: 0 };
        Ok(Self { qtest, gate, rings })
    }

    /// The guest's memory, which moves with it. The first 8 MiB are the driver's.
    pub const fn memory(&mut self) -> &mut Qtest {
        &mut self.qtest
    }

    /// The driver of a migrated guest, on the destination.
    #[must_use]
    pub const fn arrived(qtest: Qtest, gate: Arc<Gate>, rings: Rings) -> Self {
        Self { qtest, gate, rings }
    }

    /// What moves with the guest.
    #[must_use]
    pub const fn rings(&self) -> Rings {
        self.rings
    }

    /// The disk at `target`, LUN 0.
    pub const fn disk(&mut self, target: u8) -> Disk<'_> {
        Disk { driver: self, target }
    }

    fn transfer(&mut self, target: u8, request: &Request) -> Result<Completion> {
        let (data_out, room): (&[u8], usize) = match &request.data {
            DataPhase::None => (&[], 0),
            DataPhase::In(length) => (&[], *length),
            DataPhase::Out(data) => (data, 0),
        };
        let header = header(target, &request.cdb, self.rings.submitted)?;
        self.gate.pass(PAUSE)?;
        self.submit(&[&header, data_out].concat(), RESPONSE_SIZE + room)?;
        // A guest that is stopped here goes on with this on its destination.
        self.gate.pass(PAUSE)?;
        self.kick()?;
        self.wait()?;
        completion(&self.qtest.read(RESPONSE, RESPONSE_SIZE + room)?)
    }

    /// One chain of two descriptors: what the device reads, and what it writes.
    fn submit(&mut self, out: &[u8], room: usize) -> Result<()> {
        self.qtest.write(REQUEST, out)?;
        let chain = chain(u32::try_from(out.len())?, u32::try_from(room)?);
        let Rings { descriptors, queue_size, submitted } = self.rings;
        self.qtest.write(descriptors, &chain)?;
        let available = self.rings.available();
        let slot = u32::from(submitted % queue_size);
        self.qtest.write(available + 4 + 2 * slot, &0u16.to_le_bytes())?;
        self.rings.submitted = submitted.wrapping_add(1);
        self.qtest.write(available + 2, &self.rings.submitted.to_le_bytes())
    }

    fn kick(&mut self) -> Result<()> {
        self.qtest.output('w', PORTS + 0x10, REQUEST_QUEUE)
    }

    fn is_done(&mut self) -> Result<bool> {
        let index = used_ring(self.rings.descriptors, self.rings.queue_size) + 2;
        Ok(self.qtest.read(index, 2)? == self.rings.submitted.to_le_bytes())
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.is_done()? {
            ensure!(Instant::now() < end, "the device does not answer");
            // To be asked costs QEMU time that the command needs.
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Nexus for VirtioScsi {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.disk(0).execute(request)
    }
}

impl Nexus for Disk<'_> {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.driver
            .transfer(self.target, request)
            .map_err(|error| TransportError::OutcomeUnknown(std::io::Error::other(format!("{error:#}"))))
    }
}

/// Looks through the PCI bus; gives the device its ports, and the right to reach memory.
fn find(qtest: &mut Qtest) -> Result<()> {
    for slot in 0..32u32 {
        let address = 0x8000_0000 | slot << 11;
        qtest.output('l', 0xCF8, address)?;
        if qtest.input('l', 0xCFC)? == VIRTIO_SCSI {
            for (register, value) in [(0x10, u32::from(PORTS) | 1), (4, 7)] {
                qtest.output('l', 0xCF8, address | register)?;
                qtest.output('l', 0xCFC, value)?;
            }
            return Ok(());
        }
    }
    anyhow::bail!("QEMU has no transitional virtio-scsi-pci")
}

/// Where a queue is, and how many descriptors it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    descriptors: u32,
    size: u16,
}

/// The places of control, event and request queue: one after another, of the sizes that the device has.
fn places(qtest: &mut Qtest) -> Result<[Place; 3]> {
    let mut next = QUEUES;
    let mut places = [Place { descriptors: 0, size: 0 }; 3];
    for (queue, place) in (0..=REQUEST_QUEUE).zip(&mut places) {
        qtest.output('w', PORTS + 0xE, queue)?;
        *place = Place { descriptors: next, size: u16::try_from(qtest.input('w', PORTS + 0xC)?)? };
        next = (used_ring(next, place.size) + 6 + 8 * u32::from(place.size)).next_multiple_of(4096);
    }
    Ok(places)
}

/// The used ring begins on the page after the descriptors and the available ring.
fn used_ring(descriptors: u32, size: u16) -> u32 {
    (descriptors + 16 * u32::from(size) + 6 + 2 * u32::from(size)).next_multiple_of(4096)
}

/// The header before the data: target, LUN 0, an identifier, a simple task, and the CDB.
fn header(target: u8, cdb: &[u8], id: u16) -> Result<Vec<u8>> {
    ensure!(cdb.len() <= CDB_SIZE, "a CDB of {} bytes", cdb.len());
    let mut header = vec![1, target, 0x40, 0, 0, 0, 0, 0];
    header.extend(u64::from(id).to_le_bytes());
    header.extend([0; 3]);
    header.extend(cdb);
    header.resize(19 + CDB_SIZE, 0);
    Ok(header)
}

fn chain(out: u32, room: u32) -> Vec<u8> {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    let descriptor = |address: u32, length: u32, flags: u16, next: u16| {
        let mut bytes = u64::from(address).to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        bytes
    };
    [descriptor(REQUEST, out, NEXT, 1), descriptor(RESPONSE, room, WRITE, 0)].concat()
}

/// Response header (sense length, residual, status qualifier, status, response), sense, data-in.
fn completion(bytes: &[u8]) -> Result<Completion> {
    let (header, data) = bytes.split_at_checked(RESPONSE_SIZE).context("a short response")?;
    let word =
        |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let sense_length = usize::try_from(word(0).context("sense length")?)?.min(SENSE_SIZE);
    let residual = usize::try_from(word(4).context("residual")?)?.min(data.len());
    let &[status, response] = header.get(10..12).and_then(|pair| pair.first_chunk()).context("status")?;
    ensure!(response == 0, "virtio-scsi response {response}");
    let sense = header.get(12..12 + sense_length).unwrap_or_default().to_vec();
    let data = data.get(..data.len() - residual).unwrap_or_default().to_vec();
    // Data that came with anything but GOOD means nothing.
    let data = if status == Status::GOOD.0 { data } else { Vec::new() };
    Ok(Completion { status: Status(status), sense, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(sense_length: u8, residual: u8, status: u8, response: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![sense_length, 0, 0, 0, residual, 0, 0, 0, 0, 0, status, response];
        bytes.extend([0x70; SENSE_SIZE]);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn data_is_cut_by_the_residual_and_sense_by_its_length() {
        let good = completion(&response(0, 2, 0, 0, &[1, 2, 3, 4])).unwrap();
        assert_eq!(good, Completion::good(vec![1, 2]));
        let check = completion(&response(18, 0, 2, 0, &[1, 2])).unwrap();
        assert_eq!((check.sense.len(), check.data.len()), (18, 0));
    }

    #[test]
    fn lengths_beyond_the_buffers_and_a_failed_response_do_no_harm() {
        assert!(completion(&response(255, 255, 0, 0, &[1])).unwrap().data.is_empty());
        assert!(completion(&response(0, 0, 0, 3, &[])).is_err());
        assert!(completion(&[0; 40]).is_err());
    }

    #[test]
    fn the_header_is_padded_to_its_size_and_a_longer_cdb_is_refused() {
        let header = header(3, &[0x5E, 1], 7).unwrap();
        assert_eq!(header.len(), 51);
        assert_eq!(header[..3], [1, 3, 0x40]);
        assert_eq!(header[8], 7);
        assert_eq!(header[19..22], [0x5E, 1, 0]);
        assert!(super::header(0, &[0; 33], 0).is_err());
    }

    #[test]
    fn the_used_ring_is_on_the_next_page() {
        assert_eq!(used_ring(0x10_0000, 128), 0x10_1000);
        assert_eq!(used_ring(0x10_0000, 256), 0x10_2000);
    }
}
