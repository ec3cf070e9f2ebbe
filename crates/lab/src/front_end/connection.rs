//! A session with a back end: features agreed upon, memory shared, rings started and stopped, in the order in which QEMU does it.
//!
//! Used by [`super::FrontEnd`]; a test that wants another order says so itself over [`Connection::link`].

use crate::front_end::log::Log;
use crate::front_end::memory::{Memory, Region};
use crate::front_end::message::{Code, Link, payload};
use crate::front_end::ring::Ring;
use crate::process::{DEADLINE, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Bits of the virtio features (virtio 1.2, 6) and vhost's own.
pub mod feature {
    /// vhost: pages that are written are logged.
    pub const LOG_ALL: u64 = 1 << 26;
    /// How messages are cut into descriptors means nothing.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Descriptors may point to tables.
    pub const INDIRECT: u64 = 1 << 28;
    /// Both sides say from where on they want to be signalled.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user: there are protocol features.
    pub const PROTOCOL: u64 = 1 << 30;
    /// A device of virtio 1.0 and later.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Bits of the protocol features.
pub mod protocol {
    /// More than one request queue.
    pub const MQ: u64 = 1 << 0;
    /// The dirty log comes as a descriptor.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// Messages are acknowledged.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The config space is the device's.
    pub const CONFIG: u64 = 1 << 9;
    /// Requests under way are noted in shared memory.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// The device can be reset.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Regions of memory come and go one by one.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
}

/// What a front end can do; the back end may be able to do less.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Virtio features. [`feature::LOG_ALL`] is no wish: it is set while there is a log.
    pub features: u64,
    /// Protocol features.
    pub protocol: u64,
}

impl Default for Wishes {
    fn default() -> Self {
        use protocol::{CONFIG, INFLIGHT_SHMFD, LOG_SHMFD, MQ, REPLY_ACK};
        Self {
            features: feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT | feature::PROTOCOL,
            protocol: MQ | REPLY_ACK | CONFIG | INFLIGHT_SHMFD | LOG_SHMFD,
        }
    }
}

/// Memory of the back end's making in which it notes requests under way; it outlives the back end with its front end.
#[derive(Debug)]
pub struct Inflight {
    memory: OwnedFd,
    length: u64,
    offset: u64,
    rings: u16,
    size: u16,
}

/// A session.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    offered: u64,
    features: u64,
    protocol: u64,
}

impl Connection {
    /// Begins one, as soon as somebody listens there.
    ///
    /// # Errors
    /// If nobody does, or it does not know virtio 1.0.
    pub fn open(path: &Path, wishes: Wishes) -> Result<Self> {
        let stream = wait_for(DEADLINE, || UnixStream::connect(path).ok());
        let mut link = Link::new(stream.with_context(|| format!("{}: nobody listens", path.display()))?)?;
        let offered = link.ask(Code::GET_FEATURES, &[], &[])?.number()?;
        let features = offered & wishes.features;
        let mut agreed = 0;
        if features & feature::PROTOCOL != 0 {
            agreed = link.ask(Code::GET_PROTOCOL_FEATURES, &[], &[])?.number()? & wishes.protocol;
            link.tell(Code::SET_PROTOCOL_FEATURES, &agreed.to_ne_bytes(), &[])?;
            link.acknowledged = agreed & protocol::REPLY_ACK != 0;
        }
        link.tell(Code::SET_OWNER, &[], &[])?;
        link.tell(Code::SET_FEATURES, &features.to_ne_bytes(), &[])?;
        Ok(Self { link, offered, features, protocol: agreed })
    }

    /// What the back end offers, and what holds.
    #[must_use]
    pub const fn features(&self) -> [u64; 2] {
        [self.offered, self.features]
    }

    /// Whether a protocol feature holds.
    #[must_use]
    pub const fn has(&self, bit: u64) -> bool {
        self.protocol & bit != 0
    }

    /// The connection itself.
    pub const fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Another handle of the socket, which tells when the back end is gone.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn life(&self) -> Result<UnixStream> {
        Ok(self.link.stream().try_clone()?)
    }

    /// How many rings the device has at most.
    ///
    /// # Errors
    /// If it does not say.
    pub fn rings(&mut self) -> Result<u64> {
        self.link.ask(Code::GET_QUEUE_NUM, &[], &[])?.number()
    }

    /// Reads the config space.
    ///
    /// # Errors
    /// If the device does not give it.
    pub fn config(&mut self, offset: u32, length: u32) -> Result<Vec<u8>> {
        let mut question = payload(&[offset, length, 0], &[]);
        question.resize(12 + usize::try_from(length)?, 0);
        let reply = self.link.ask(Code::GET_CONFIG, &question, &[])?;
        ensure!(reply.payload.len() == question.len(), "{} bytes of config space", reply.payload.len());
        Ok(reply.payload.get(12..).unwrap_or_default().to_vec())
    }

    /// Writes the config space, as the driver does.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) -> Result<()> {
        let mut message = payload(&[offset, u32::try_from(bytes.len())?, 0], &[]);
        message.extend_from_slice(bytes);
        self.link.tell(Code::SET_CONFIG, &message, &[])
    }

    /// Shares all of the guest's memory.
    ///
    /// # Errors
    /// If the back end refuses.
    pub fn share(&mut self, memory: &Memory) -> Result<()> {
        let regions = memory.regions();
        let mut table = payload(&[u32::try_from(regions.len())?, 0], &[]);
        table.extend(regions.iter().flat_map(|region| words(*region)));
        let descriptors: Vec<_> = regions.iter().map(|_| memory.file().as_fd()).collect();
        self.link.tell(Code::SET_MEM_TABLE, &table, &descriptors)
    }

    /// Adds one region to what is shared.
    ///
    /// # Errors
    /// If the back end refuses.
    pub fn add(&mut self, memory: &Memory, region: Region) -> Result<()> {
        let message = [payload(&[], &[0]), words(region)].concat();
        self.link.tell(Code::ADD_MEM_REG, &message, &[memory.file().as_fd()])
    }

    /// Takes one away.
    ///
    /// # Errors
    /// If the back end refuses.
    pub fn remove(&mut self, region: Region) -> Result<()> {
        self.link.tell(Code::REM_MEM_REG, &[payload(&[], &[0]), words(region)].concat(), &[])
    }

    /// Has the back end make memory for requests under way.
    ///
    /// # Errors
    /// If it makes none.
    pub fn make_inflight(&mut self, rings: u16, size: u16) -> Result<Inflight> {
        let reply = self.link.ask(Code::GET_INFLIGHT_FD, &inflight(0, 0, rings, size), &[])?;
        let mut numbers = reply.payload.chunks_exact(8).filter_map(|bytes| bytes.first_chunk().copied());
        let mut next = || numbers.next().map(u64::from_ne_bytes).context("a short reply");
        let (length, offset) = (next()?, next()?);
        let memory = reply.descriptors.into_iter().next().context("no memory came")?;
        ensure!(length > 0, "no memory for requests under way");
        Ok(Inflight { memory, length, offset, rings, size })
    }

    /// Gives it back, to this back end or to one that follows it.
    ///
    /// # Errors
    /// If the back end refuses.
    pub fn set_inflight(&mut self, kept: &Inflight) -> Result<()> {
        let message = inflight(kept.length, kept.offset, kept.rings, kept.size);
        self.link.tell(Code::SET_INFLIGHT_FD, &message, &[kept.memory.as_fd()])
    }

    /// Starts a ring at `base` of its available ring.
    ///
    /// # Errors
    /// If the back end refuses.
    pub fn start(&mut self, ring: &Ring, base: u16) -> Result<()> {
        let number = u32::from(ring.number());
        let [kick, call, error] = ring.events();
        let say = payload(&[], &[u64::from(number)]);
        self.link.tell(Code::SET_VRING_NUM, &payload(&[number, ring.shape().size.into()], &[]), &[])?;
        self.link.tell(Code::SET_VRING_BASE, &payload(&[number, base.into()], &[]), &[])?;
        self.place(ring)?;
        self.link.tell(Code::SET_VRING_ERR, &say, &[error])?;
        self.link.tell(Code::SET_VRING_CALL, &say, &[call])?;
        self.link.tell(Code::SET_VRING_KICK, &say, &[kick])?;
        self.enable(ring.number(), true)
    }

    /// Says where a ring is, and whether what is written to it is logged.
    fn place(&mut self, ring: &Ring) -> Result<()> {
        let memory = ring.memory();
        let [descriptors, available, used] = ring.places();
        let logged = self.features & feature::LOG_ALL != 0;
        let own = [descriptors, used, available].map(|place| memory.own(place));
        let log = if logged { memory.guest(used) } else { 0 };
        let mut message = payload(&[ring.number().into(), u32::from(logged)], &own);
        message.extend(log.to_ne_bytes());
        self.link.tell(Code::SET_VRING_ADDR, &message, &[])
    }

    /// Lets a ring that was started run, or not; without protocol features it always does.
    ///
    /// # Errors
    /// If the back end refuses.
    pub fn enable(&mut self, ring: u16, is_on: bool) -> Result<()> {
        if self.features & feature::PROTOCOL == 0 {
            return Ok(());
        }
        self.link.tell(Code::SET_VRING_ENABLE, &payload(&[ring.into(), is_on.into()], &[]), &[])
    }

    /// Stops a ring, and gives its base; nothing of it is under way then.
    ///
    /// # Errors
    /// If the back end does not answer.
    pub fn stop(&mut self, ring: u16) -> Result<u16> {
        let reply = self.link.ask(Code::GET_VRING_BASE, &payload(&[ring.into(), 0], &[]), &[])?;
        Ok(u16::try_from(
            reply.number()?.to_ne_bytes().last_chunk().map_or(0, |word| u32::from_ne_bytes(*word)),
        )?)
    }

    /// From now on pages that are written are marked in `log`; without one, no longer.
    ///
    /// # Errors
    /// If the back end refuses, or cannot do so.
    pub fn log(&mut self, log: Option<&Log>, rings: &[Ring]) -> Result<()> {
        self.features &= !feature::LOG_ALL;
        if let Some(log) = log {
            ensure!(self.offered & feature::LOG_ALL != 0, "the device cannot log");
            ensure!(self.has(protocol::LOG_SHMFD), "the device takes no log");
            let message = payload(&[], &[log.length(), 0]);
            self.link.ask(Code::SET_LOG_BASE, &message, &[log.file().as_fd()])?;
            self.features |= feature::LOG_ALL;
        }
        self.link.tell(Code::SET_FEATURES, &self.features.to_ne_bytes(), &[])?;
        rings.iter().try_for_each(|ring| self.place(ring))
    }
}

fn words(region: Region) -> Vec<u8> {
    payload(&[], &[region.guest, region.length, region.own, region.place])
}

/// The payload is as long as C makes it: a multiple of eight bytes. Two short numbers make one word where the machine is little-endian.
fn inflight(length: u64, offset: u64, rings: u16, size: u16) -> Vec<u8> {
    let both = u32::from(rings) | u32::from(size) << 16;
    [payload(&[], &[length, offset]), payload(&[both, 0], &[])].concat()
}
