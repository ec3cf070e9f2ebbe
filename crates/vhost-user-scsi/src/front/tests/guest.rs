//! A guest with its front end, for tests: memory in a memfd, split rings in it, and the handler called as the lower crate calls it.

use super::super::handler::Handler;
use crate::device::{Device, Settings};
use crate::fake::FakeUnit;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{
    VhostUserMemoryRegion, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags,
};

/// Entries of each ring.
pub(super) const SIZE: u16 = 16;
/// The front end's address of guest address 0.
const USER: u64 = 0x7F00_0000_0000;
const MEMORY: u64 = 1 << 20;
/// Buffers begin here; each descriptor of each ring has one of its own.
const BUFFERS: u64 = 0x4_0000;
const BUFFER: u64 = 0x2000;

pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const EVENT_IDX: u64 = 1 << 29;
pub(super) const PROTOCOL: u64 = 1 << 30;
pub(super) const LOG_ALL: u64 = 1 << 26;
pub(super) const HOTPLUG: u64 = 1 << 1;
pub(super) const CHANGE: u64 = 1 << 2;

pub(super) struct Guest {
    pub(super) handler: Handler,
    pub(super) device: Arc<Device>,
    pub(super) unit: Arc<FakeUnit>,
    pub(super) memory: File,
    rings: Vec<Driver>,
    /// The other end of the connection's socket.
    peer: UnixStream,
}

/// The driver's side of a ring.
struct Driver {
    base: u64,
    offered: u16,
    seen: u16,
    next: u16,
    kick: OwnedFd,
    call: OwnedFd,
    error: OwnedFd,
}

/// An answered request: descriptor written into, and how many bytes.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) head: u16,
    pub(super) length: u32,
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

pub(super) fn readable(fd: &OwnedFd, patience: Duration) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let timeout =
        Timespec { tv_sec: patience.as_secs().try_into().unwrap(), tv_nsec: patience.subsec_nanos().into() };
    poll(&mut polled, Some(&timeout)).unwrap() > 0
}

impl Guest {
    /// A device with one fake logical unit at LUN 0, one request queue, nothing negotiated.
    pub(super) fn new() -> Self {
        Self::with(Settings { request_queues: 1, ..Settings::default() }, FakeUnit::new())
    }

    pub(super) fn with(settings: Settings, unit: Arc<FakeUnit>) -> Self {
        let device = Arc::new(Device::new("test", settings, None));
        device.attach(0, unit.clone()).unwrap();
        let memory = crate::memory::tests::memfd(MEMORY);
        Self::on(device, unit, memory)
    }

    /// A new connection of the same guest.
    pub(super) fn on(device: Arc<Device>, unit: Arc<FakeUnit>, memory: File) -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        let handler = Handler::new(Arc::clone(&device), Some(ours)).unwrap();
        let rings = (0..u64::from(device.queues())).map(Driver::new).collect();
        let mut guest = Self { handler, device, unit, memory, rings, peer };
        guest.share_memory();
        guest
    }

    pub(super) fn share_memory(&mut self) {
        let region = VhostUserMemoryRegion::new(0, MEMORY, USER, 0);
        self.handler.set_mem_table(&[region], vec![self.memory.try_clone().unwrap()], None).unwrap();
    }

    /// Its memory, as ADD_MEM_REG and REM_MEM_REG have it.
    pub(super) fn region(&self) -> VhostUserSingleMemoryRegion {
        VhostUserSingleMemoryRegion::new(0, MEMORY, USER, 0)
    }

    /// Negotiates, describes and starts all rings.
    pub(super) fn start(features: u64) -> Self {
        let mut guest = Self::new();
        guest.run(features);
        guest
    }

    pub(super) fn run(&mut self, features: u64) {
        self.handler.set_features(features | VERSION_1).unwrap();
        (0..self.rings.len()).for_each(|ring| self.describe(ring, 0));
        for ring in 0..self.rings.len() {
            self.kick_fd(ring);
            if features & PROTOCOL != 0 {
                self.handler.set_vring_enable(ring.try_into().unwrap(), true).unwrap();
            }
        }
    }

    pub(super) fn describe(&mut self, ring: usize, base: u32) {
        let driver = &self.rings[ring];
        let index = u32::try_from(ring).unwrap();
        let at = USER + driver.base;
        let (call, error) = (driver.call.try_clone().unwrap(), driver.error.try_clone().unwrap());
        self.handler.set_vring_num(index, SIZE.into()).unwrap();
        self.handler.set_vring_base(index, base).unwrap();
        let (none, used) = (VhostUserVringAddrFlags::empty(), at + 0x2000);
        self.handler.set_vring_addr(index, none, at, used, at + 0x1000, 0).unwrap();
        self.handler.set_vring_call(ring.try_into().unwrap(), Some(call.into())).unwrap();
        self.handler.set_vring_err(ring.try_into().unwrap(), Some(error.into())).unwrap();
    }

    pub(super) fn kick_fd(&mut self, ring: usize) {
        let kick = self.rings[ring].kick.try_clone().unwrap();
        self.handler.set_vring_kick(ring.try_into().unwrap(), Some(kick.into())).unwrap();
    }

    /// Offers a request: what the device reads, and how much room it has. The head.
    pub(super) fn offer(&mut self, ring: usize, out: &[&[u8]], room: &[u32]) -> u16 {
        let head = self.prepare(ring, out, room);
        self.publish(ring, head);
        self.kick(ring);
        head
    }

    /// Writes the descriptors of a request.
    pub(super) fn prepare(&mut self, ring: usize, out: &[&[u8]], room: &[u32]) -> u16 {
        let driver = &mut self.rings[ring];
        let head = driver.next;
        let count = u16::try_from(out.len() + room.len()).unwrap();
        driver.next = (head + count) % SIZE;
        for number in 0..count {
            let index = (head + number) % SIZE;
            let address = buffer(ring, index);
            let (length, write) = match out.get(usize::from(number)) {
                Some(bytes) => {
                    self.memory.write_all_at(bytes, address).unwrap();
                    (u32::try_from(bytes.len()).unwrap(), 0)
                }
                None => (room[usize::from(number) - out.len()], 2_u16),
            };
            let more = u16::from(number + 1 < count);
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
            descriptor[8..12].copy_from_slice(&length.to_le_bytes());
            descriptor[12..14].copy_from_slice(&(write | more).to_le_bytes());
            descriptor[14..].copy_from_slice(&((index + 1) % SIZE).to_le_bytes());
            self.memory.write_all_at(&descriptor, driver.base + 16 * u64::from(index)).unwrap();
        }
        head
    }

    pub(super) fn publish(&mut self, ring: usize, head: u16) {
        let driver = &mut self.rings[ring];
        let avail = driver.base + 0x1000;
        let slot = u64::from(driver.offered % SIZE);
        self.memory.write_all_at(&head.to_le_bytes(), avail + 4 + 2 * slot).unwrap();
        driver.offered = driver.offered.wrapping_add(1);
        self.memory.write_all_at(&driver.offered.to_le_bytes(), avail + 2).unwrap();
    }

    /// Says something else about how many entries were offered.
    pub(super) fn lie_about_available(&mut self, ring: usize, index: u16) {
        self.memory.write_all_at(&index.to_le_bytes(), self.rings[ring].base + 0x1002).unwrap();
        self.kick(ring);
    }

    pub(super) fn kick(&self, ring: usize) {
        rustix::io::write(&self.rings[ring].kick, &1_u64.to_ne_bytes()).unwrap();
    }

    pub(super) fn used_index(&self, ring: usize) -> u16 {
        let mut index = [0; 2];
        self.memory.read_exact_at(&mut index, self.rings[ring].base + 0x2002).unwrap();
        u16::from_le_bytes(index)
    }

    /// Waits for the next used entry, interrupted as a driver is.
    pub(super) fn wait(&mut self, ring: usize) -> Used {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.used_index(ring) == self.rings[ring].seen {
            let left =
                deadline.checked_duration_since(Instant::now()).expect("nothing was given back in time");
            assert!(readable(&self.rings[ring].call, left), "no interrupt");
            let _ = rustix::io::read(&self.rings[ring].call, &mut [0; 8]);
        }
        let driver = &mut self.rings[ring];
        let slot = u64::from(driver.seen % SIZE);
        driver.seen = driver.seen.wrapping_add(1);
        let mut entry = [0; 8];
        self.memory.read_exact_at(&mut entry, driver.base + 0x2004 + 8 * slot).unwrap();
        // used_event: interrupt for the next one.
        self.memory
            .write_all_at(&driver.seen.to_le_bytes(), driver.base + 0x1004 + 2 * u64::from(SIZE))
            .unwrap();
        let field = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        Used { head: u16::try_from(field(0)).unwrap(), length: field(4) }
    }

    /// What is in the buffer of a descriptor.
    pub(super) fn buffer(&self, ring: usize, descriptor: u16, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_exact_at(&mut bytes, buffer(ring, descriptor % SIZE)).unwrap();
        bytes
    }

    /// Whether the device has hung up, within a minute.
    pub(super) fn is_hung_up(&mut self) -> bool {
        self.peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        matches!(self.peer.read(&mut [0]), Ok(0))
    }

    pub(super) fn call_fd(&self, ring: usize) -> &OwnedFd {
        &self.rings[ring].call
    }

    pub(super) fn error_fd(&self, ring: usize) -> &OwnedFd {
        &self.rings[ring].error
    }

    /// GET_VRING_BASE.
    pub(super) fn stop(&mut self, ring: u32) -> u32 {
        self.handler.get_vring_base(ring).unwrap().num
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.unit.release();
        self.handler.end(true);
    }
}

impl Driver {
    fn new(number: u64) -> Self {
        Self {
            base: number * 0x4000,
            offered: 0,
            seen: 0,
            next: 0,
            kick: new_eventfd(),
            call: new_eventfd(),
            error: new_eventfd(),
        }
    }
}

pub(super) fn buffer(ring: usize, descriptor: u16) -> u64 {
    BUFFERS + BUFFER * (u64::from(SIZE) * u64::try_from(ring).unwrap() + u64::from(descriptor))
}
