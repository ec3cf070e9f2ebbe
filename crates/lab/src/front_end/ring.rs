//! The driver's side of a split virtqueue (virtio 1.2, 2.7), with event indices and indirect descriptors where they were agreed upon.
//!
//! Requests have slots of their own in the guest's memory: a page for header, response and indirect table, and a buffer. Whatever the device
//! says that cannot be is an error: a head that is not under way, more bytes than there was room for. Used by `scsi`, `block` and `load`.

use crate::front_end::memory::{Layout, Memory, PAGE, Place};
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_NOTIFY: u16 = 1;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Where in a slot's page the response and the indirect table are.
const RESPONSE: u64 = 512;
const TABLE: u64 = 1024;
/// The longest header, and the longest response.
pub(super) const HEADER_ROOM: u64 = RESPONSE;
pub(super) const RESPONSE_ROOM: u64 = TABLE - RESPONSE;

/// What a ring looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Descriptors; a power of two.
    pub size: u16,
    /// The most requests at once; 0 for as many as there are descriptors for.
    pub requests: u16,
    /// Bytes of data that a request may have.
    pub room: u32,
    /// The most bytes of a descriptor; longer data has several.
    pub segment: u32,
    /// A request takes one descriptor, that points to a table.
    pub indirect: bool,
    /// Both sides say from where on they want to be signalled.
    pub event_idx: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { size: 128, requests: 0, room: 1 << 20, segment: 1 << 20, indirect: true, event_idx: true }
    }
}

impl Shape {
    /// Descriptors of the ring that a request takes.
    fn descriptors(&self) -> u16 {
        let segments = self.room.div_ceil(self.segment.max(1));
        if self.indirect { 1 } else { u16::try_from(segments + 2).unwrap_or(u16::MAX) }
    }
}

/// Memory that the device reads, or that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where.
    pub place: Place,
    /// How much, in bytes.
    pub length: u32,
    /// The device writes it.
    pub writable: bool,
}

/// A request's place in the guest's memory.
#[derive(Clone, Copy, Debug)]
struct Slot {
    page: Place,
    buffer: Place,
    /// Room for the device; nothing while the slot is free.
    under_way: Option<u32>,
}

/// A request that the device has given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its slot, which is free again.
    pub slot: u16,
    /// Bytes that the device says to have written.
    pub length: u32,
}

/// A ring of the driver.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<Memory>,
    number: u16,
    shape: Shape,
    descriptors: Place,
    available: Place,
    used: Place,
    submitted: u16,
    published: u16,
    seen: u16,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// How often the device was signalled, and signalled.
    pub(super) kicks: u64,
    /// How often this side slept until the device signalled.
    pub(super) waits: u64,
    kick: OwnedFd,
    call: OwnedFd,
    error: OwnedFd,
    alive: Option<UnixStream>,
}

impl Ring {
    /// An empty ring, not known to any device.
    ///
    /// # Errors
    /// If the memory has no room for it.
    pub fn new(memory: &Arc<Memory>, layout: &mut Layout, number: u16, shape: Shape) -> Result<Self> {
        ensure!(shape.size.is_power_of_two() && shape.segment > 0, "no ring has that shape");
        let size = u64::from(shape.size);
        let (descriptors, available) = (layout.take(size * DESCRIPTOR, 16)?, layout.take(6 + 2 * size, 2)?);
        let used = layout.take(6 + 8 * size, 4)?;
        let most = shape.size / shape.descriptors();
        let count = if shape.requests == 0 { most } else { most.min(shape.requests) };
        ensure!(count > 0, "no request fits into the ring");
        let mut slots = Vec::new();
        for _ in 0..count {
            let buffer = layout.take(u64::from(shape.room.max(1)), PAGE)?;
            slots.push(Slot { page: layout.take(PAGE, PAGE)?, buffer, under_way: None });
        }
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self {
            memory: Arc::clone(memory),
            number,
            shape,
            descriptors,
            available,
            used,
            submitted: 0,
            published: 0,
            seen: 0,
            slots,
            free: (0..count).rev().collect(),
            kicks: 0,
            waits: 0,
            kick: event()?,
            call: event()?,
            error: event()?,
            alive: None,
        })
    }

    /// Its number in the device.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// How it was made.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Descriptor table, available and used ring.
    #[must_use]
    pub const fn places(&self) -> [Place; 3] {
        [self.descriptors, self.available, self.used]
    }

    /// What signals the device, what it signals by, and what it signals errors by.
    #[must_use]
    pub fn events(&self) -> [BorrowedFd<'_>; 3] {
        [self.kick.as_fd(), self.call.as_fd(), self.error.as_fd()]
    }

    /// The memory it is in.
    #[must_use]
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// From now on its device is the one at the other end of `link`, and its memory a copy of what it was.
    pub(super) fn attach(&mut self, link: UnixStream, memory: &Arc<Memory>) {
        (self.alive, self.memory) = (Some(link), Arc::clone(memory));
    }

    /// Requests that may be made now.
    #[must_use]
    pub const fn free(&self) -> usize {
        self.free.len()
    }

    /// Requests under way.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A slot for a request.
    pub fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Gives back a slot whose request was not submitted.
    pub fn give_back(&mut self, slot: u16) {
        self.free.push(slot);
    }

    fn slot(&self, slot: u16) -> Result<Slot> {
        self.slots.get(usize::from(slot)).copied().context("no such slot")
    }

    /// A slot's places: header, response, data.
    ///
    /// # Errors
    /// If there is no such slot.
    pub fn layout(&self, slot: u16) -> Result<[Place; 3]> {
        let Slot { page, buffer, .. } = self.slot(slot)?;
        Ok([page, page + RESPONSE, buffer])
    }

    /// Puts a request into the ring; the device does not know it before [`Self::publish`].
    ///
    /// # Errors
    /// If it has more parts than there are descriptors.
    pub fn submit(&mut self, slot: u16, parts: &[Part]) -> Result<()> {
        let mut chain = Vec::new();
        let mut room = 0u32;
        for part in parts {
            room = room.saturating_add(if part.writable { part.length } else { 0 });
            self.cut(*part, &mut chain);
        }
        self.submit_chain(slot, &chain, room)
    }

    /// Parts no longer than a segment.
    fn cut(&self, part: Part, chain: &mut Vec<Part>) {
        let (mut place, mut left) = (part.place, part.length);
        while left > 0 {
            let length = left.min(self.shape.segment);
            chain.push(Part { place, length, ..part });
            (place, left) = (place + u64::from(length), left - length);
        }
    }

    fn submit_chain(&mut self, slot: u16, chain: &[Part], room: u32) -> Result<()> {
        let page = self.slot(slot)?.page;
        let head = slot * self.shape.descriptors();
        let count = u16::try_from(chain.len())?;
        if self.shape.indirect {
            ensure!(TABLE + u64::from(count) * DESCRIPTOR <= PAGE, "{count} descriptors in a table");
            self.memory.write(page + TABLE, &table(&self.memory, chain, 0))?;
            let table = self.memory.guest(page + TABLE);
            let length = u32::from(count) * 16;
            let only = descriptor(table, length, INDIRECT, 0);
            self.memory.write(self.descriptors + u64::from(head) * DESCRIPTOR, &only)?;
        } else {
            ensure!(count <= self.shape.descriptors(), "{count} descriptors of a request");
            let place = self.descriptors + u64::from(head) * DESCRIPTOR;
            self.memory.write(place, &table(&self.memory, chain, head))?;
        }
        self.offer(head)?;
        let slot = self.slots.get_mut(usize::from(slot)).context("no such slot")?;
        slot.under_way = Some(room);
        Ok(())
    }

    /// Puts any head into the available ring.
    pub(super) fn offer(&mut self, head: u16) -> Result<()> {
        let at = u64::from(self.submitted % self.shape.size);
        self.memory.store(self.available + 4 + 2 * at, head)?;
        self.submitted = self.submitted.wrapping_add(1);
        Ok(())
    }

    /// Lets the device know what was submitted, and signals it if it wants that.
    ///
    /// # Errors
    /// If the ring is not in memory.
    pub fn publish(&mut self) -> Result<()> {
        let (old, new) = (self.published, self.submitted);
        self.memory.store(self.available + 2, new)?;
        self.published = new;
        fence(Ordering::SeqCst);
        let wanted = if self.shape.event_idx {
            let event = self.memory.load(self.used + 4 + 8 * u64::from(self.shape.size))?;
            is_wanted(event, old, new)
        } else {
            old != new && self.memory.load(self.used)? & NO_NOTIFY == 0
        };
        if wanted { self.kick() } else { Ok(()) }
    }

    /// Signals the device, whether it wants that or not.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kick(&mut self) -> Result<()> {
        self.kicks += 1;
        Ok(rustix::io::write(&self.kick, &1u64.to_ne_bytes()).map(drop)?)
    }

    /// The next request that the device has given back.
    ///
    /// # Errors
    /// If it says what cannot be.
    pub fn collect(&mut self) -> Result<Option<Done>> {
        if self.memory.load(self.used + 2)? == self.seen {
            return Ok(None);
        }
        let place = self.used + 4 + 8 * u64::from(self.seen % self.shape.size);
        let mut element = [0; 8];
        self.memory.read(place, &mut element)?;
        self.seen = self.seen.wrapping_add(1);
        let [head, length] = pair(element);
        let step = u32::from(self.shape.descriptors());
        ensure!(head % step == 0, "the device gives back descriptor {head}, which heads no request");
        let slot = u16::try_from(head / step).context("a head that is none")?;
        let kept = self.slots.get_mut(usize::from(slot)).context("the device gives back an unknown head")?;
        let Some(room) = kept.under_way.take() else { bail!("the device gives back {head} twice") };
        ensure!(length <= room, "the device wrote {length} bytes where {room} had room");
        self.free.push(slot);
        Ok(Some(Done { slot, length }))
    }

    /// Sleeps until the device has given something back.
    ///
    /// # Errors
    /// If it has not, or has not told, before the deadline; if it is gone.
    pub fn wait(&mut self, deadline: Instant) -> Result<()> {
        self.want_signal()?;
        while self.memory.load(self.used + 2)? == self.seen {
            self.waits += 1;
            let is_told = self.sleep(deadline)?;
            self.must_be_told(is_told)?;
            // The counter is emptied, so that the next sleep is one.
            let _ = rustix::io::read(&self.call, &mut [0u8; 8]);
        }
        Ok(())
    }

    /// What is there without a signal would be found by luck.
    fn must_be_told(&self, is_told: bool) -> Result<()> {
        let is_there = self.memory.load(self.used + 2)? != self.seen;
        ensure!(is_told || !is_there, "ring {}: the device gave back and did not signal", self.number);
        Ok(())
    }

    /// Asks to be signalled with the next request that is given back.
    fn want_signal(&self) -> Result<()> {
        if self.shape.event_idx {
            self.memory.store(self.available + 4 + 2 * u64::from(self.shape.size), self.seen)?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Whether it was woken before the deadline.
    fn sleep(&self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "ring {}: the device gives nothing back", self.number);
        let alive = self.alive.as_ref().context("no device")?;
        // A closed connection is told without being asked for.
        let mut wait = [PollFd::new(&self.call, PollFlags::IN), PollFd::new(alive, PollFlags::empty())];
        let left = left.min(Duration::from_secs(3600));
        let woken = poll(&mut wait, Some(&Timespec::try_from(left)?))?;
        if wait.iter().any(|entry| entry.revents().intersects(PollFlags::HUP | PollFlags::ERR)) {
            bail!(Gone);
        }
        Ok(woken > 0)
    }

    /// Where a device that knows nothing of this ring has to begin.
    ///
    /// # Errors
    /// If the ring is not in memory.
    pub fn base(&self) -> Result<u16> {
        self.memory.load(self.used + 2)
    }
}

/// The device has closed its connection, or its process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device is gone")
    }
}

impl std::error::Error for Gone {}

/// Whether a side that wants to hear from `event` on wants to hear now (virtio 1.2, 2.7.7.2 and 2.7.10).
const fn is_wanted(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (first, rest) = bytes.split_at_mut(8);
    first.copy_from_slice(&address.to_le_bytes());
    let numbers = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
    rest.copy_from_slice(&numbers.to_le_bytes());
    bytes
}

/// A chain of descriptors one after another, the first of them with this number.
fn table(memory: &Memory, chain: &[Part], first: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chain.len() * 16);
    for (number, part) in (first..).zip(chain) {
        let is_last = usize::from(number - first) + 1 == chain.len();
        let flags = if part.writable { WRITE } else { 0 } | if is_last { 0 } else { NEXT };
        let next = if is_last { 0 } else { number + 1 };
        bytes.extend(descriptor(memory.guest(part.place), part.length, flags, next));
    }
    bytes
}

fn pair(element: [u8; 8]) -> [u32; 2] {
    let both = u64::from_le_bytes(element);
    [both as u32, (both >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(shape: Shape) -> Ring {
        let memory = Arc::new(Memory::new(1 << 20, 2).unwrap());
        Ring::new(&memory, &mut Layout::new(&memory), 2, shape).unwrap()
    }

    const SMALL: Shape =
        Shape { size: 8, requests: 2, room: 8192, segment: 4096, indirect: false, event_idx: false };

    /// What a device does that has carried out everything.
    fn give_back(ring: &Ring, index: u16, head: u32, length: u32) {
        let place = ring.used + 4 + 8 * u64::from(index % ring.shape.size);
        let element = u64::from(head) | u64::from(length) << 32;
        ring.memory.write(place, &element.to_le_bytes()).unwrap();
        ring.memory.store(ring.used + 2, index.wrapping_add(1)).unwrap();
    }

    fn parts(ring: &Ring, slot: u16) -> [Part; 2] {
        let [header, _, data] = ring.layout(slot).unwrap();
        [
            Part { place: header, length: 51, writable: false },
            Part { place: data, length: 8192, writable: true },
        ]
    }

    #[test]
    fn a_request_is_a_chain_in_the_order_of_its_parts_cut_into_segments() {
        let mut ring = ring(SMALL);
        let slot = ring.take().unwrap();
        let parts = parts(&ring, slot);
        ring.submit(slot, &parts).unwrap();
        let mut bytes = [0; 48];
        ring.memory.read(ring.descriptors, &mut bytes).unwrap();
        let [header, data] = [parts[0].place, parts[1].place].map(|place| ring.memory.guest(place));
        let expected = [
            descriptor(header, 51, NEXT, 1),
            descriptor(data, 4096, WRITE | NEXT, 2),
            descriptor(data + 4096, 4096, WRITE, 0),
        ];
        assert_eq!(bytes.as_slice(), expected.concat());
    }

    #[test]
    fn an_indirect_request_takes_one_descriptor_and_its_table_has_the_same_chain() {
        let mut ring = ring(Shape { indirect: true, ..SMALL });
        let slot = ring.take().unwrap();
        ring.submit(slot, &parts(&ring, slot)).unwrap();
        let (mut only, mut last) = ([0; 16], [0; 16]);
        ring.memory.read(ring.descriptors + 16 * u64::from(slot), &mut only).unwrap();
        let table = ring.slot(slot).unwrap().page + TABLE;
        assert_eq!(only, descriptor(ring.memory.guest(table), 48, INDIRECT, 0));
        ring.memory.read(table + 32, &mut last).unwrap();
        let data = ring.memory.guest(ring.slot(slot).unwrap().buffer);
        assert_eq!(last, descriptor(data + 4096, 4096, WRITE, 0));
    }

    #[test]
    fn what_a_device_gives_back_must_be_under_way_and_fit() {
        let mut ring = ring(SMALL);
        let slot = ring.take().unwrap();
        ring.submit(slot, &parts(&ring, slot)).unwrap();
        ring.publish().unwrap();
        assert_eq!(ring.collect().unwrap(), None);
        give_back(&ring, 0, 0, 8192);
        assert_eq!(ring.collect().unwrap(), Some(Done { slot, length: 8192 }));
        for (index, head) in [(1, 0), (2, 1), (3, 4), (4, 0x10000)] {
            give_back(&ring, index, head, 0);
            assert!(ring.collect().is_err(), "{head}");
        }
        let slot = ring.take().unwrap();
        ring.submit(slot, &parts(&ring, slot)).unwrap();
        give_back(&ring, 5, 0, 8193);
        assert!(ring.collect().unwrap_err().to_string().contains("8193"));
    }

    #[test]
    fn indices_wrap() {
        let mut ring = ring(SMALL);
        for index in 0..=u16::MAX {
            let slot = ring.take().unwrap();
            ring.submit(slot, &[]).unwrap();
            ring.publish().unwrap();
            give_back(&ring, index, 4 * u32::from(slot), 0);
            assert!(ring.collect().unwrap().is_some());
            // The kernel's counter has its own bound.
            let _ = rustix::io::read(&ring.kick, &mut [0u8; 8]);
        }
        assert_eq!((ring.submitted, ring.seen, ring.base().unwrap()), (0, 0, 0));
    }

    #[test]
    fn the_device_is_signalled_exactly_when_it_wants_to_be() {
        assert!(is_wanted(0, 0, 1) && is_wanted(3, 2, 9) && is_wanted(u16::MAX, u16::MAX, 0));
        assert!(!is_wanted(5, 0, 1) && !is_wanted(0, 1, 3) && !is_wanted(7, 7, 7));
        let mut ring = ring(SMALL);
        ring.memory.store(ring.used, NO_NOTIFY).unwrap();
        ring.submit(0, &[]).unwrap();
        ring.publish().unwrap();
        assert_eq!(ring.kicks, 0);
        ring.memory.store(ring.used, 0).unwrap();
        ring.submit(1, &[]).unwrap();
        ring.publish().unwrap();
        assert_eq!(ring.kicks, 1);
    }

    #[test]
    fn a_device_that_is_gone_is_not_waited_for() {
        let mut ring = ring(SMALL);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let memory = Arc::clone(&ring.memory);
        ring.attach(ours, &memory);
        assert!(ring.wait(Instant::now()).unwrap_err().to_string().contains("nothing back"));
        drop(theirs);
        let error = ring.wait(Instant::now() + Duration::from_secs(60)).unwrap_err();
        assert!(error.is::<Gone>());
    }

    #[test]
    fn a_device_that_gives_back_and_does_not_signal_is_found() {
        let mut ring = ring(SMALL);
        let slot = ring.take().unwrap();
        ring.submit(slot, &parts(&ring, slot)).unwrap();
        ring.must_be_told(false).unwrap();
        give_back(&ring, 0, 0, 0);
        ring.must_be_told(true).unwrap();
        assert!(ring.must_be_told(false).unwrap_err().to_string().contains("not signal"));
    }
}
