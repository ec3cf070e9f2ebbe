//! The vhost-user back end (vhost-user protocol, "Back-end"): a front end connects, describes memory and rings, and starts them. Used
//! by `tenure device`, which gives [`serve`] a listening socket for each guest.
//!
//! Guarantees: one front end at a time; when it goes, or lies, everything under way is waited for, and the device is ready for the
//! next one. A front end that lies costs its connection and a log line, nothing else.

mod handler;
mod serve;
mod state;
mod vring;

#[cfg(test)]
mod tests;

pub use serve::{Stop, serve};

use crate::queue::Panicked;
use crate::queue::ring::Broken;
use crate::{inflight, memory, wire};
use thiserror::Error;

/// Why a message of the front end cannot be followed.
#[derive(Debug, Error)]
pub enum Error {
    /// Features that were not offered.
    #[error("features {0:#x} were not offered")]
    Features(u64),
    /// Something that cannot change while a ring runs.
    #[error("that cannot be changed while a ring runs")]
    Running,
    /// A ring that the device does not have.
    #[error("the device has no ring {0}")]
    NoRing(u32),
    /// A ring's size.
    #[error("a ring of {0} entries")]
    RingSize(u32),
    /// A ring's base.
    #[error("the available ring has no entry {0}")]
    RingBase(u32),
    /// A ring without kick, which would have to be polled.
    #[error("a ring without eventfd to kick it")]
    NoKick,
    /// Memory.
    #[error("memory: {0}")]
    Memory(#[from] memory::Error),
    /// The in-flight region.
    #[error("in-flight region: {0}")]
    Inflight(#[from] inflight::Error),
    /// A ring that cannot be used.
    #[error("ring: {0}")]
    Ring(#[from] Broken),
    /// A ring of which nobody knows where it stands.
    #[error("{0}")]
    Panicked(#[from] Panicked),
    /// The configuration space.
    #[error("configuration: {0}")]
    Config(#[from] wire::Error),
    /// A message of a feature that this device does not have.
    #[error("{0} was not offered")]
    Unsupported(&'static str),
    /// No thread is to be had.
    #[error("no thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The device's state.
    #[error("device state: {0}")]
    State(#[source] std::io::Error),
    /// A descriptor to kick or to be called by that may be anything.
    #[error("what is to be an eventfd is none")]
    NoEventfd,
    /// An eventfd cannot be used.
    #[error("eventfd: {0}")]
    Eventfd(#[source] std::io::Error),
}

impl From<Error> for vhost::vhost_user::Error {
    fn from(error: Error) -> Self {
        Self::ReqHandlerError(std::io::Error::other(error))
    }
}
