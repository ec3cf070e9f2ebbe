//! One ring as the front end describes it, message by message, and its running thread. Used by [`super::handler`].
//!
//! A ring runs while it is *started* (a kick came; until GET_VRING_BASE) and *enabled* (vhost-user: "Ring states"). It is described
//! before; while it runs only eventfds and the log's address change.

use super::Error;
use crate::inflight::Region;
use crate::memory::Memory;
use crate::queue::ring::{Addresses, Ring, Setup};
use crate::queue::{Change, Connection, Running, Start};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A ring.
#[derive(Debug)]
pub(super) struct Vring {
    index: u16,
    size: u16,
    addresses: Option<Addresses>,
    base: u16,
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<OwnedFd>>,
    error: Option<Arc<OwnedFd>>,
    pub(super) enabled: bool,
    running: Option<Running>,
}

/// What a ring needs of its device to run.
pub(super) struct Ground<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) memory: &'a Arc<Memory>,
    pub(super) inflight: Option<&'a Arc<Region>>,
    pub(super) event_idx: bool,
}

impl Vring {
    pub(super) fn new(index: u16) -> Self {
        Self {
            index,
            size: 0,
            addresses: None,
            base: 0,
            kick: None,
            call: None,
            error: None,
            enabled: false,
            running: None,
        }
    }

    /// SET_VRING_NUM.
    pub(super) fn set_size(&mut self, size: u32) -> Result<(), Error> {
        self.must_rest()?;
        let most = crate::device::MOST_RING_SIZE;
        let good = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= most);
        self.size = good.ok_or(Error::RingSize(size))?;
        Ok(())
    }

    /// SET_VRING_ADDR.
    pub(super) fn set_addresses(&mut self, addresses: Addresses) -> Result<(), Error> {
        if let (Some(running), Some(known)) = (&self.running, &mut self.addresses) {
            let same = Addresses { log: known.log, ..addresses.clone() } == *known;
            if !same {
                return Err(Error::Running);
            }
            running.change(Change::Log(addresses.log))?;
            known.log = addresses.log;
            return Ok(());
        }
        self.addresses = Some(addresses);
        Ok(())
    }

    /// SET_VRING_BASE.
    pub(super) fn set_base(&mut self, base: u32) -> Result<(), Error> {
        self.must_rest()?;
        self.base = u16::try_from(base).map_err(|_| Error::RingBase(base))?;
        Ok(())
    }

    /// SET_VRING_KICK: starts the ring, as far as that goes. A ring that runs gets the new kick by being stopped and started.
    pub(super) fn set_kick(&mut self, kick: Arc<OwnedFd>) -> Result<(), Error> {
        self.pause()?;
        self.kick = Some(kick);
        Ok(())
    }

    /// SET_VRING_CALL.
    pub(super) fn set_call(&mut self, call: Option<Arc<OwnedFd>>) -> Result<(), Error> {
        self.call.clone_from(&call);
        self.change(Change::Call(call))
    }

    /// SET_VRING_ERR; in force when the ring starts the next time.
    pub(super) fn set_error(&mut self, error: Option<Arc<OwnedFd>>) {
        self.error = error;
    }

    /// Another memory table.
    pub(super) fn set_memory(&self, memory: &Arc<Memory>) -> Result<(), Error> {
        self.change(Change::Memory(Arc::clone(memory)))
    }

    /// GET_VRING_BASE: stops the ring; everything that was taken is given back before this returns.
    pub(super) fn stop(&mut self) -> Result<u16, Error> {
        let paused = self.pause();
        self.kick = None;
        paused.map(|()| self.base)
    }

    /// Stops the thread, and keeps the ring as it is.
    fn pause(&mut self) -> Result<(), Error> {
        if let Some(running) = self.running.take() {
            self.base = running.stop()?;
        }
        Ok(())
    }

    /// As at the beginning.
    pub(super) fn reset(&mut self) {
        // Where it stood does not matter any more.
        let _ = self.pause();
        *self = Self::new(self.index);
    }

    /// Whether it is started, enabled and described: its driver wants it processed.
    pub(super) const fn is_wanted(&self) -> bool {
        self.enabled && self.kick.is_some() && self.addresses.is_some() && self.size != 0
    }

    /// Whether a thread serves it.
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Rests if it is not enabled.
    pub(super) fn rest(&mut self) -> Result<(), Error> {
        if self.enabled { Ok(()) } else { self.pause() }
    }

    /// Runs if it is wanted.
    pub(super) fn advance(&mut self, ground: &Ground<'_>) -> Result<(), Error> {
        let (true, None, Some(kick), Some(addresses)) =
            (self.is_wanted(), &self.running, &self.kick, &self.addresses)
        else {
            return Ok(());
        };
        let setup = Setup {
            size: self.size,
            addresses: addresses.clone(),
            base: self.base,
            event_idx: ground.event_idx,
        };
        let inflight = ground.inflight.map(|region| (Arc::clone(region), self.index));
        let ring = Ring::new(&setup, Arc::clone(ground.memory), inflight, self.call.clone())?;
        let start = Start {
            index: self.index,
            ring,
            kick: Arc::clone(kick),
            error: self.error.clone(),
            connection: Arc::clone(ground.connection),
        };
        self.running = Some(Running::new(start).map_err(Error::Thread)?);
        Ok(())
    }

    fn change(&self, change: Change) -> Result<(), Error> {
        self.running.as_ref().map_or(Ok(()), |running| Ok(running.change(change)?))
    }

    fn must_rest(&self) -> Result<(), Error> {
        if self.is_running() { Err(Error::Running) } else { Ok(()) }
    }
}
