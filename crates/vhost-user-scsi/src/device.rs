//! One guest's device: its logical units, its limits and the threads that its queues share. Made once for a socket, it outlives
//! front ends that come and go (`front::serve`). Used by `tenure device`, which adds and removes logical units while it runs.

use crate::event::{Event, Events, Teller};
use crate::target::{AttachError, Lun, Target};
use crate::unit::Unit;
use crate::workers::Workers;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Limits of a device. All of them hold whatever guest and front end do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Request queues, 1 to 64.
    pub request_queues: u16,
    /// Commands that one request queue takes at once; the rest waits in the guest's ring.
    pub most_requests: u16,
    /// Bytes that one request queue buffers for commands (one command may exceed it when it is alone).
    pub most_buffered: usize,
    /// Bytes of data-out that one command that is no plain transfer may have.
    pub most_data_out: usize,
    /// Threads for commands that are no plain transfer.
    pub workers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_queues: 4,
            most_requests: 256,
            most_buffered: 64 << 20,
            most_data_out: 32 << 20,
            workers: 32,
        }
    }
}

impl Settings {
    /// The same, within what the code relies on.
    fn bounded(self) -> Self {
        Self {
            request_queues: self.request_queues.clamp(1, MOST_REQUEST_QUEUES),
            most_requests: self.most_requests.clamp(1, MOST_RING_SIZE),
            ..self
        }
    }
}

/// Request queues at most.
pub const MOST_REQUEST_QUEUES: u16 = 64;

/// The longest ring: what virtio allows is 32,768, what front ends offer 1,024.
pub const MOST_RING_SIZE: u16 = 1024;

/// Keeps a device's state for a front end that carries it (`VHOST_USER_PROTOCOL_F_DEVICE_STATE`).
pub trait State: Send + Sync + std::fmt::Debug {
    /// The state as bytes; the rings have stopped.
    ///
    /// # Errors
    /// It cannot be saved; the front end hears of it.
    fn save(&self) -> std::io::Result<Vec<u8>>;

    /// Takes over what [`State::save`] gave elsewhere, before the rings start.
    ///
    /// # Errors
    /// The state is unfit, newer than this program or for another device; the front end hears of it.
    fn load(&self, state: &[u8]) -> std::io::Result<()>;
}

/// A device.
#[derive(Debug)]
pub struct Device {
    name: String,
    settings: Settings,
    target: Target,
    events: Arc<Events>,
    workers: Workers,
    managers: Workers,
    state: Option<Arc<dyn State>>,
    ids: AtomicU64,
}

impl Device {
    /// A device without logical units; `name` is for log lines.
    #[must_use]
    pub fn new(name: impl Into<String>, settings: Settings, state: Option<Arc<dyn State>>) -> Self {
        let settings = settings.bounded();
        Self {
            name: name.into(),
            target: Target::new(settings.request_queues),
            events: Arc::default(),
            workers: Workers::new("scsi-command", settings.workers),
            managers: Workers::new("scsi-management", 4),
            state,
            // 0 names no command.
            ids: AtomicU64::new(1),
            settings,
        }
    }

    /// What log lines call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its limits.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its logical units.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// What the guest is to hear.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Adds a logical unit; a running guest hears of it.
    ///
    /// # Errors
    /// The number is taken.
    pub fn attach(&self, number: u8, unit: Arc<dyn Unit>) -> Result<(), AttachError> {
        unit.listen(Teller::new(Arc::clone(&self.events), number));
        self.target.attach(number, unit)?;
        self.events.push(Event::Added(number));
        Ok(())
    }

    /// Removes a logical unit; a running guest hears of it. Commands under way end as they do.
    pub fn detach(&self, number: u8) -> Option<Arc<Lun>> {
        let lun = self.target.detach(number)?;
        self.events.push(Event::Removed(number));
        Some(lun)
    }

    /// Request queues, control queue and event queue.
    #[must_use]
    pub const fn queues(&self) -> u16 {
        self.settings.request_queues + 2
    }

    pub(crate) const fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(crate) const fn managers(&self) -> &Workers {
        &self.managers
    }

    pub(crate) const fn state(&self) -> Option<&Arc<dyn State>> {
        self.state.as_ref()
    }

    /// An id for a command, never used before.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}
