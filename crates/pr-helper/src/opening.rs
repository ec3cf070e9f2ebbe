//! What stands behind a descriptor that a client sent: whether it is a SCSI device, which logical unit it is, and through
//! which I_T nexus. The device itself is asked, because the descriptor is all there is to go by: a name would be stale after
//! a device was replaced; for a moment its answer is remembered (`cache`). Used by `service`; tests put a device server of
//! their own in its place.

mod cache;

pub use guard::{Identity, identify};

use crate::failure;
use cache::{Cache, Key, Seen, Watched};
use guard::host::{Host, SYS};
use nexus::Nexus;
use nexus::linux::SgDevice;
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use scsi::Completion;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A descriptor that can be used.
pub struct Opened {
    /// What it leads to; `None` for a device that has no name of its own, of which nothing can be recorded.
    pub identity: Option<Arc<Identity>>,
    /// The way to it.
    pub nexus: Box<dyn Nexus>,
    /// It is a dm-multipath map: a command goes to one of several nexuses, whichever the map likes.
    pub multipath: bool,
}

/// Opens descriptors.
pub trait OpenLun: Send + Sync {
    /// Looks at `fd`. `changes`: a PERSISTENT RESERVE OUT is to be sent.
    ///
    /// # Errors
    /// What the client is answered: not a device, or opened for reading only.
    fn open(&self, fd: OwnedFd, changes: bool) -> Result<Opened, Completion>;

    /// Whether `nexus` still leads where it did when it was identified, which may have been a moment ago: asked before anything
    /// is recorded or changed. Always so where each opening asks.
    ///
    /// # Errors
    /// What the client is answered: the device says nothing about it.
    fn confirm(&self, identity: &Identity, nexus: &mut dyn Nexus) -> Result<bool, Completion> {
        let _ = (identity, nexus);
        Ok(true)
    }
}

/// SCSI devices of Linux.
#[derive(Debug)]
pub struct LinuxDevices {
    sys: PathBuf,
    cache: Arc<Cache>,
}

impl Default for LinuxDevices {
    fn default() -> Self {
        Self { sys: PathBuf::from(SYS), cache: Arc::default() }
    }
}

impl OpenLun for LinuxDevices {
    fn open(&self, fd: OwnedFd, changes: bool) -> Result<Opened, Completion> {
        if changes && !is_writable(&fd) {
            return Err(failure::not_allowed());
        }
        let device = SgDevice::from_fd(fd).map_err(|_| failure::not_a_device())?;
        let host = Host { sys: &self.sys, number: device.number(), block: device.is_block() };
        let key = Key::of(&device, &self.sys);
        self.look(device, key, &host)
    }

    fn confirm(&self, identity: &Identity, nexus: &mut dyn Nexus) -> Result<bool, Completion> {
        guard::is_same(identity, nexus)
    }
}

impl LinuxDevices {
    /// `key` is older than what the device says: one that is replaced in between is asked again the next time.
    fn look<N: Nexus + 'static>(
        &self,
        mut nexus: N,
        key: Option<Key>,
        host: &Host<'_>,
    ) -> Result<Opened, Completion> {
        let Some(key) = key else { return Ok(ask(&mut nexus, host)?.opened(Box::new(nexus))) };
        let now = Instant::now();
        let mut nexus = Watched { nexus, key, cache: Arc::clone(&self.cache) };
        if let Some(seen) = self.cache.get(&key, now) {
            return Ok(seen.opened(Box::new(nexus)));
        }
        let seen = ask(&mut nexus, host)?;
        self.cache.put(key, now, seen.clone());
        Ok(seen.opened(Box::new(nexus)))
    }
}

/// The kernel's permissions did not allow whoever opened it for reading alone to change anything. Looked at before anything
/// else, as the incumbent does.
fn is_writable(fd: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.intersects(OFlags::WRONLY | OFlags::RDWR))
}

fn ask(nexus: &mut dyn Nexus, host: &Host<'_>) -> Result<Seen, Completion> {
    let identity = guard::identify_device(nexus, host)?;
    Ok(Seen { identity: identity.map(Arc::new), multipath: host.is_multipath() })
}

#[cfg(test)]
mod tests;
