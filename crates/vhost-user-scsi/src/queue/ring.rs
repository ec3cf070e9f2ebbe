//! One split virtqueue as the device sees it (virtio 1.2 2.7): taking what the guest offers, giving it back, telling it. Used by the
//! threads of all three kinds of queue. `virtio-queue` keeps the indices; this adds what vhost-user asks for: addresses of the front
//! end, the in-flight region, the guest's wish not to be interrupted where EVENT_IDX is not negotiated.
//!
//! Guarantees: a chain that was taken is in the in-flight region until it was given back; the dirty log has what was written before
//! the guest is told of it (every write goes through [`Memory`], which marks it); nothing is given back when the guest's memory was
//! found torn. An error means that the ring cannot be used any more.

use crate::chain::{Chain, Table};
use crate::inflight::{self, Queue as Inflight, Region};
use crate::memory::{self, Memory};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// Why a ring cannot be used.
#[derive(Debug, Error)]
pub enum Broken {
    /// An index or address in it makes no sense.
    #[error("the ring makes no sense: {0}")]
    Queue(#[from] virtio_queue::Error),
    /// It is not in the guest's memory.
    #[error("the ring is not in memory: {0}")]
    Memory(#[from] memory::Error),
    /// The in-flight region makes no sense.
    #[error("the in-flight region: {0}")]
    Inflight(#[from] inflight::Error),
    /// The guest's memory, the dirty log or the in-flight region was truncated.
    #[error("shared memory was truncated under us")]
    Torn,
    /// A page was written that the dirty log has no bit for: a migration would lose it.
    #[error("the dirty log has no bit for guest address {0:#x}")]
    Unlogged(u64),
    /// A head that is no descriptor.
    #[error("descriptor {0} is not in the table")]
    Head(u16),
    /// io_uring or an eventfd failed.
    #[error("cannot wait: {0}")]
    Wait(#[from] std::io::Error),
}

/// Where a ring is, as the front end says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The descriptor table, at an address of the front end's.
    pub(crate) descriptors: u64,
    /// The available ring, likewise.
    pub(crate) available: u64,
    /// The used ring, likewise.
    pub(crate) used: u64,
    /// The used ring's guest-physical address for the dirty log, where the front end wants it logged.
    pub(crate) log: Option<u64>,
}

/// How a ring starts.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Its length.
    pub(crate) size: u16,
    /// Where it is.
    pub(crate) addresses: Addresses,
    /// The next entry of the available ring.
    pub(crate) base: u16,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub(crate) event_idx: bool,
}

/// A chain that was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What it is given back by.
    pub(crate) head: u16,
    /// Its buffers, as far as they make sense.
    pub(crate) chain: Chain,
    /// Whether all of it makes sense.
    pub(crate) walked: Result<(), crate::chain::Error>,
    /// A device that was killed had taken it before: what it asks for may have been done.
    pub(crate) again: bool,
}

/// A virtqueue.
#[derive(Debug)]
pub(crate) struct Ring {
    queue: Queue,
    memory: Arc<Memory>,
    addresses: Addresses,
    inflight: Option<Inflight>,
    region: Option<Arc<Region>>,
    /// Chains of requests that have ended, for their room.
    spare: Vec<Chain>,
    call: Option<Arc<OwnedFd>>,
    /// Taken by a device that was killed, to be done again first.
    again: VecDeque<u16>,
    /// How many were given back since the guest was told.
    untold: u16,
    /// How far the guest had offered when that was looked at.
    seen: u16,
}

impl Ring {
    /// A ring as the front end described it. With an in-flight region, what was under way when another process had the ring is
    /// taken again, in the order in which it was taken then.
    ///
    /// # Errors
    /// It is not in the guest's memory, or the in-flight region makes no sense.
    pub(crate) fn new(
        setup: &Setup,
        memory: Arc<Memory>,
        inflight: Option<(Arc<Region>, u16)>,
        call: Option<Arc<OwnedFd>>,
    ) -> Result<Self, Broken> {
        let mut queue = Queue::new(setup.size)?;
        place(&mut queue, &setup.addresses, &memory)?;
        queue.set_event_idx(setup.event_idx);
        queue.set_ready(true);
        let used = queue.used_idx(&*memory, Ordering::Acquire)?.0;
        queue.set_next_used(used);
        queue.set_next_avail(setup.base);
        let mut again = VecDeque::new();
        let (region, index) = inflight.unzip();
        let part = region.as_ref().zip(index).map(|(region, index)| region.queue(index));
        let mut inflight = part.transpose()?;
        if let Some(part) = &mut inflight {
            let recovered = part.recover(used, setup.size)?;
            // Where the device before us was killed, the front end knows only what is in the used ring.
            queue.set_next_avail(recovered.next_avail);
            again.extend(recovered.heads);
        }
        let addresses = setup.addresses.clone();
        if used != 0 {
            // The one before us may have been killed between giving back and telling.
            signal(call.as_deref());
        }
        let (spare, untold, seen) = (Vec::new(), 0, queue.next_avail());
        let ring = Self { queue, memory, addresses, inflight, region, spare, call, again, untold, seen };
        // What was read of a file that is gone is zeros: nothing under way, it would seem.
        ring.check_region()?;
        Ok(ring)
    }

    /// The next chain that the guest offers, if there is one.
    ///
    /// # Errors
    /// The ring is broken.
    pub(crate) fn take(&mut self) -> Result<Option<Taken>, Broken> {
        let again = self.again.pop_front();
        let head = match again {
            Some(head) => head,
            None => match self.next_head()? {
                Some(head) => {
                    if let Some(inflight) = &mut self.inflight {
                        inflight.take(head)?;
                    }
                    head
                }
                None => return Ok(None),
            },
        };
        let table = Table { address: self.queue.desc_table(), size: self.queue.size() };
        let mut chain = self.spare.pop().unwrap_or_default();
        let walked = chain.walk(&self.memory, table, head);
        Ok(Some(Taken { head, chain, walked, again: again.is_some() }))
    }

    /// The next entry of the available ring. The guest's index is looked at again only when all up to where it was are taken.
    fn next_head(&mut self) -> Result<Option<u16>, Broken> {
        let (next, size) = (self.queue.next_avail(), self.queue.size());
        if next == self.seen {
            let offered = self.offered()?;
            if offered.wrapping_sub(next) > size {
                return Err(virtio_queue::Error::InvalidAvailRingIndex.into());
            }
            self.seen = offered;
            if offered == next {
                return Ok(None);
            }
        }
        let entry = self.queue.avail_ring().saturating_add(4 + 2 * u64::from(next % size));
        let mut head = [0; 2];
        self.memory.read(entry, &mut head)?;
        let head = u16::from_le_bytes(head);
        if head >= size {
            return Err(Broken::Head(head));
        }
        self.queue.set_next_avail(next.wrapping_add(1));
        Ok(Some(head))
    }

    /// Takes a chain's room back, for another.
    pub(crate) fn recycle(&mut self, chain: Chain) {
        if self.spare.len() < usize::from(self.queue.size()) {
            self.spare.push(chain);
        }
    }

    /// Whether there are chains that a device that was killed had taken, and that were not taken again yet.
    #[must_use]
    pub(crate) fn owes(&self) -> bool {
        !self.again.is_empty()
    }

    /// Gives a chain back, of which `written` bytes were written. The guest may see it from here on; [`Ring::tell`] interrupts it.
    ///
    /// # Errors
    /// The ring is broken; the chain is not given back.
    pub(crate) fn give_back(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        if self.memory.is_torn() {
            return Err(Broken::Torn);
        }
        let slot = self.queue.next_used() % self.queue.size();
        let (queue, memory) = (&mut self.queue, &self.memory);
        match &mut self.inflight {
            Some(inflight) => inflight.complete(&[head], |_| publish(queue, memory, head, written))?,
            None => drop(publish(queue, memory, head, written)?),
        }
        self.log_used(slot);
        self.untold = self.untold.saturating_add(1);
        Ok(())
    }

    /// Marks what `give_back` wrote at the address that the front end gave for it. It is the same memory as the used ring, which is
    /// marked already where its addresses agree.
    fn log_used(&self, slot: u16) {
        let Some(log) = self.log_elsewhere() else { return };
        self.memory.log().mark(log, 4);
        self.memory.log().mark(log.saturating_add(4 + 8 * u64::from(slot)), 8);
    }

    /// The same for what asks for kicks, or for none: the flags, or the event index behind the ring.
    fn log_wish(&self) {
        let Some(log) = self.log_elsewhere() else { return };
        let event = log.saturating_add(4 + 8 * u64::from(self.queue.size()));
        self.memory.log().mark(if self.queue.event_idx_enabled() { event } else { log }, 2);
    }

    fn log_elsewhere(&self) -> Option<u64> {
        self.addresses.log.filter(|log| *log != self.queue.used_ring())
    }

    /// Whether something was given back that the guest was not told of.
    #[must_use]
    pub(crate) const fn has_to_tell(&self) -> bool {
        self.untold > 0
    }

    /// Interrupts the guest if something was given back and it wants to know.
    ///
    /// # Errors
    /// The ring is broken.
    pub(crate) fn tell(&mut self) -> Result<(), Broken> {
        let untold = std::mem::take(&mut self.untold);
        if untold == 0 {
            return Ok(());
        }
        self.check_region()?;
        self.check_log()?;
        if self.wants_interrupt(untold)? {
            signal(self.call.as_deref());
        }
        Ok(())
    }

    /// What is under way has to be known to whoever comes after us.
    fn check_region(&self) -> Result<(), Broken> {
        let torn = self.region.as_ref().is_some_and(|region| region.is_torn());
        if torn { Err(Broken::Torn) } else { Ok(()) }
    }

    /// While a migration logs what we write, all of it has to be there.
    fn check_log(&self) -> Result<(), Broken> {
        let log = self.memory.log();
        if !log.is_on() {
            return Ok(());
        }
        if log.is_torn() {
            return Err(Broken::Torn);
        }
        log.take_missed().map_or(Ok(()), |address| Err(Broken::Unlogged(address)))
    }

    /// Whether the guest wants to hear of the last `untold` entries of the used ring: its event index is among them (virtio 1.2 2.7.7.2);
    /// where EVENT_IDX is not negotiated VRING_AVAIL_F_NO_INTERRUPT counts.
    fn wants_interrupt(&self, untold: u16) -> Result<bool, Broken> {
        // What was given back is there before this is read: a guest that asks now looks at the used ring afterwards.
        fence(Ordering::SeqCst);
        let (available, size) = (self.queue.avail_ring(), u64::from(self.queue.size()));
        let word = |at: u64| -> Result<u16, Broken> {
            let word = self.memory.load(GuestAddress(available.saturating_add(at)), Ordering::Relaxed);
            Ok(u16::from_le(word.map_err(virtio_queue::Error::GuestMemory)?))
        };
        if !self.queue.event_idx_enabled() {
            return Ok(word(0)? & 1 == 0);
        }
        let after = self.queue.next_used().wrapping_sub(word(4 + 2 * size)?);
        Ok((1..=untold).contains(&after))
    }

    /// Whether there is something to take.
    ///
    /// # Errors
    /// The ring is broken.
    pub(crate) fn offers(&self) -> Result<bool, Broken> {
        let available = self.queue.avail_idx(&*self.memory, Ordering::Acquire)?;
        Ok(available.0 != self.queue.next_avail() || self.owes())
    }

    /// How much the guest has offered: the index that the entry after the last one will have.
    ///
    /// # Errors
    /// The ring is broken.
    pub(crate) fn offered(&self) -> Result<u16, Broken> {
        Ok(self.queue.avail_idx(&*self.memory, Ordering::Acquire)?.0)
    }

    /// Whether everything before this index was taken, also what a device that was killed had.
    #[must_use]
    pub(crate) fn has_taken(&self, until: u16) -> bool {
        let left = until.wrapping_sub(self.queue.next_avail());
        !self.owes() && (left == 0 || left > self.queue.size())
    }

    /// Asks for kicks, as everything offered was taken; whether something was offered meanwhile.
    ///
    /// # Errors
    /// The ring is broken.
    pub(crate) fn want_kicks(&mut self) -> Result<bool, Broken> {
        let more = self.queue.enable_notification(&*self.memory)?;
        self.log_wish();
        Ok(more)
    }

    /// Asks for no kicks while what was offered is being taken.
    ///
    /// # Errors
    /// The ring is broken.
    pub(crate) fn want_no_kicks(&mut self) -> Result<(), Broken> {
        self.queue.disable_notification(&*self.memory)?;
        if !self.queue.event_idx_enabled() {
            self.log_wish();
        }
        Ok(())
    }

    /// Another memory table. Where the ring is not in it, or not where a ring may be, everything stays as it was until a table comes that has
    /// it: a front end may take the ring's memory away and give it again.
    ///
    /// # Errors
    /// The ring cannot be used any more.
    pub(crate) fn set_memory(&mut self, memory: Arc<Memory>) -> Result<(), Broken> {
        let before = (self.queue.desc_table(), self.queue.avail_ring(), self.queue.used_ring());
        if let Err(why) = place(&mut self.queue, &self.addresses, &memory) {
            tracing::warn!(%why, "a ring keeps memory that its front end has taken away");
            // Some of the new addresses may be in force.
            return put(&mut self.queue, before);
        }
        self.memory = memory;
        Ok(())
    }

    /// Another eventfd, or none, to interrupt the guest by. As an interrupt may just have got lost in the old one, it begins with one.
    pub(crate) fn set_call(&mut self, call: Option<Arc<OwnedFd>>) {
        self.call = call;
        signal(self.call.as_deref());
    }

    /// What interrupts the guest.
    pub(crate) fn call(&self) -> Option<Arc<OwnedFd>> {
        self.call.clone()
    }

    /// Another address for the dirty log.
    pub(crate) fn set_log(&mut self, log: Option<u64>) {
        self.addresses.log = log;
    }

    /// The next entry of the available ring: where the next one who has this ring goes on.
    #[must_use]
    pub(crate) fn base(&self) -> u16 {
        let again = u16::try_from(self.again.len()).unwrap_or(0);
        self.queue.next_avail().wrapping_sub(again)
    }

    /// How many entries it has.
    #[must_use]
    pub(crate) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The guest's memory.
    #[must_use]
    pub(crate) const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

/// Writes an entry of the used ring, and the index behind it; what that is now.
fn publish(queue: &mut Queue, memory: &Memory, head: u16, written: u32) -> Result<u16, Broken> {
    let (next, used) = (queue.next_used(), queue.used_ring());
    let entry = u64::from(head) | u64::from(written) << 32;
    let at = used.saturating_add(4 + 8 * u64::from(next % queue.size()));
    memory.write(at, &entry.to_le_bytes())?;
    let next = next.wrapping_add(1);
    memory.publish(used.saturating_add(2), next)?;
    queue.set_next_used(next);
    Ok(next)
}

/// Translates the front end's addresses; all three parts have to be in memory.
fn place(queue: &mut Queue, addresses: &Addresses, memory: &Memory) -> Result<(), Broken> {
    let size = u64::from(queue.size());
    let descriptors = memory.guest_address(addresses.descriptors, 16 * size)?;
    let available = memory.guest_address(addresses.available, 6 + 2 * size)?;
    let used = memory.guest_address(addresses.used, 6 + 8 * size)?;
    put(queue, (descriptors, available, used))
}

/// Descriptor table, available ring and used ring, at the guest's addresses.
fn put(queue: &mut Queue, (descriptors, available, used): (u64, u64, u64)) -> Result<(), Broken> {
    queue.try_set_desc_table_address(GuestAddress(descriptors))?;
    queue.try_set_avail_ring_address(GuestAddress(available))?;
    queue.try_set_used_ring_address(GuestAddress(used))?;
    Ok(())
}

/// Has a write to an eventfd that waits for a reader go on, if one does: only a full one can make it wait, and what that says is
/// still said afterwards. We never wait on such writes by ourselves, but the front end can take back that they do not wait.
pub(crate) fn let_write(eventfd: &OwnedFd) {
    let mut polled = [PollFd::new(eventfd, PollFlags::OUT)];
    if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0) {
        return;
    }
    tracing::warn!("a front end has an eventfd that is full and waits for its reader");
    let quick = fcntl_getfl(eventfd).and_then(|flags| fcntl_setfl(eventfd, flags | OFlags::NONBLOCK));
    if quick.is_ok() {
        let _ = rustix::io::read(eventfd, &mut [0; 8]);
        signal(Some(eventfd));
    }
}

/// Counts an eventfd up. A full one (nobody reads it) needs no more.
pub(crate) fn signal(eventfd: Option<&OwnedFd>) {
    let Some(eventfd) = eventfd else { return };
    match rustix::io::write(eventfd, &1_u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
        Err(error) => tracing::debug!(%error, "the guest cannot be interrupted"),
    }
}
