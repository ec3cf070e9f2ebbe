//! One guest's device: its logical units, its limits and the threads that its queues share. Made once, it outlives
//! front ends that come and go, at one socket or at several (`front::serve`). Used by `tenure device`, which adds and removes logical units while it runs.

use crate::event::{Event, Events, Teller};
use crate::gate::{Gate, Patience};
use crate::memory::{self, Share};
use crate::queue::tasks::{Tasks, summary};
use crate::statistics::UnderWay;
use crate::target::{AttachError, Lun, Target};
use crate::unit::Unit;
use crate::workers::Workers;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

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
    /// Threads for commands that are no plain transfer. One logical unit may have half of them, and always one.
    pub workers: usize,
    /// How long a guest waits that runs already and is not let in yet.
    pub patience: Patience,
    /// How transfers are carried out.
    pub aio: Aio,
    /// How long a queue with nothing to do looks at its ring before it sleeps, at most; it finds out itself what is worth it.
    pub poll: Duration,
    /// Bytes of guest memory that a front end may share.
    pub most_memory: u64,
    /// Regions that this may be, no more than [`memory::REGIONS_MAX`].
    pub most_regions: usize,
}

/// How READ, WRITE and flushes of a medium are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aio {
    /// By io_uring, or by worker threads where the kernel or a seccomp profile does not let us.
    #[default]
    Auto,
    /// By io_uring.
    IoUring,
    /// By worker threads.
    Threads,
}

impl Aio {
    /// What `Auto` comes to here.
    fn chosen(self, device: &str) -> Self {
        if self != Self::Auto {
            return self;
        }
        match Self::probe() {
            Ok(()) => Self::IoUring,
            Err(error) => {
                tracing::warn!(
                    device,
                    %error,
                    "no io_uring (see kernel.io_uring_disabled, and the seccomp profile): worker threads read and write, more slowly"
                );
                Self::Threads
            }
        }
    }

    /// Whether the kernel has io_uring for this process, with all that is needed of it.
    ///
    /// # Errors
    /// Why not.
    pub fn probe() -> std::io::Result<()> {
        crate::queue::engine::probe()
    }
}

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No front end is connected.
    Idle,
    /// One is, and its guest's rings rest.
    Connected,
    /// Rings run.
    Running,
    /// A ring has to stop, and waits for commands that are under way.
    Draining,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_queues: 4,
            most_requests: 256,
            most_buffered: 64 << 20,
            most_data_out: 32 << 20,
            workers: 32,
            aio: Aio::Auto,
            poll: Duration::from_micros(32),
            most_memory: memory::BYTES_MAX,
            most_regions: memory::REGIONS_MAX,
            patience: Patience::default(),
        }
    }
}

/// Bytes of addresses that all devices of a process may use for guest memory together: x86-64 has 128 TiB for everything, and while
/// a table takes the place of another both are mapped.
const ALL_MEMORY: u64 = 48 << 40;

/// Mappings of a device beside its tables: dirty log and in-flight region, each with the one that takes its place.
const OTHER_MAPPINGS: usize = 4;

impl Settings {
    /// Limits of a device that is one of so many in its process: of what a process has only once, each device has its share, so that no
    /// front end can take another guest's.
    #[must_use]
    pub fn one_of(devices: usize) -> Self {
        let devices = devices.max(1);
        let regions = (memory::SLOTS / devices).saturating_sub(OTHER_MAPPINGS) / 2;
        let bytes = u64::try_from(devices).map_or(0, |devices| ALL_MEMORY / devices);
        Self {
            most_memory: bytes.min(memory::BYTES_MAX),
            most_regions: regions.clamp(8, memory::REGIONS_MAX),
            ..Self::default()
        }
    }

    /// The same, within what the code relies on.
    fn bounded(self) -> Self {
        Self {
            request_queues: self.request_queues.clamp(1, MOST_REQUEST_QUEUES),
            most_requests: self.most_requests.clamp(1, MOST_RING_SIZE),
            most_regions: self.most_regions.min(memory::REGIONS_MAX),
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
    gate: Arc<Gate>,
    events: Arc<Events>,
    workers: Workers,
    movers: Workers,
    managers: Workers,
    share: Arc<Share>,
    state: Option<Arc<dyn State>>,
    ids: AtomicU64,
    /// Commands under way, one for each request queue of each front end.
    tasks: Mutex<Vec<Weak<Tasks>>>,
    aio: Aio,
    connected: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    draining: Arc<AtomicUsize>,
}

/// Something that lasts as long as this is kept.
#[derive(Debug)]
pub(crate) struct Lasting(Arc<AtomicUsize>);

impl Lasting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Device {
    /// A device without logical units; `name` is for log lines.
    #[must_use]
    pub fn new(name: impl Into<String>, settings: Settings, state: Option<Arc<dyn State>>) -> Self {
        let (name, settings) = (name.into(), settings.bounded());
        Self {
            aio: settings.aio.chosen(&name),
            tasks: Mutex::default(),
            connected: Arc::default(),
            running: Arc::default(),
            draining: Arc::default(),
            name,
            target: Target::new(settings.request_queues),
            gate: Arc::new(Gate::new(settings.patience)),
            events: Arc::default(),
            workers: Workers::new("scsi-command", settings.workers),
            movers: Workers::new("scsi-transfer", settings.workers),
            managers: Workers::new("scsi-management", 4),
            share: Arc::new(Share::new(settings.most_memory, settings.most_regions)),
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

    /// Whether the guest runs here.
    #[must_use]
    pub const fn gate(&self) -> &Arc<Gate> {
        &self.gate
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

    /// Puts a logical unit in place that the guest knows; it hears of nothing.
    ///
    /// # Errors
    /// The number is taken.
    pub fn resume(&self, number: u8, unit: Arc<dyn Unit>, changed: bool) -> Result<(), AttachError> {
        unit.listen(Teller::new(Arc::clone(&self.events), number));
        self.target.resume(number, unit, changed)
    }

    /// Request queues, control queue and event queue.
    #[must_use]
    pub const fn queues(&self) -> u16 {
        self.settings.request_queues + 2
    }

    /// How transfers are carried out; never `Auto`.
    #[must_use]
    pub const fn aio(&self) -> Aio {
        self.aio
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let any = |count: &AtomicUsize| count.load(Ordering::Relaxed) > 0;
        match (any(&self.draining), any(&self.running), any(&self.connected)) {
            (true, ..) => Phase::Draining,
            (_, true, _) => Phase::Running,
            (.., true) => Phase::Connected,
            _ => Phase::Idle,
        }
    }

    /// Commands that have not ended, by logical unit.
    #[must_use]
    pub fn under_way(&self) -> Vec<UnderWay> {
        let tasks: Vec<_> = self.lock_tasks().iter().filter_map(Weak::upgrade).collect();
        summary(tasks.iter().flat_map(|tasks| tasks.under_way(|_| true)))
    }

    /// A front end has connected, whose commands under way these tell of.
    pub(crate) fn remember(&self, tasks: &[Arc<Tasks>]) {
        let mut known = self.lock_tasks();
        known.retain(|tasks| tasks.strong_count() > 0);
        known.extend(tasks.iter().map(Arc::downgrade));
    }

    fn lock_tasks(&self) -> MutexGuard<'_, Vec<Weak<Tasks>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A front end is connected while this is kept.
    pub(crate) fn connected(&self) -> Lasting {
        Lasting::new(&self.connected)
    }

    /// A request queue runs while this is kept.
    pub(crate) fn running(&self) -> Lasting {
        Lasting::new(&self.running)
    }

    /// A ring has to stop, and has not yet while this is kept.
    pub(crate) fn draining(&self) -> Lasting {
        Lasting::new(&self.draining)
    }

    pub(crate) const fn workers(&self) -> &Workers {
        &self.workers
    }

    /// For transfers, where there is no io_uring: they never wait for a command.
    pub(crate) const fn movers(&self) -> &Workers {
        &self.movers
    }

    pub(crate) const fn managers(&self) -> &Workers {
        &self.managers
    }

    /// What its front ends, however many there are at a time, may have mapped.
    pub(crate) const fn share(&self) -> &Arc<Share> {
        &self.share
    }

    pub(crate) const fn state(&self) -> Option<&Arc<dyn State>> {
        self.state.as_ref()
    }

    /// An id for a command, never used before.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of the addresses that a process has on x86-64 stay free for everything else, and of the slots none is promised twice.
    #[test]
    fn however_many_devices_there_are_each_has_its_share_of_the_process() {
        for devices in [1, 2, 3, 16, 52, 256, 600] {
            let one = Settings::one_of(devices);
            let slots = devices * (2 * one.most_regions + OTHER_MAPPINGS);
            assert!(slots <= memory::SLOTS, "{devices}: {slots}");
            assert!(2 * one.most_memory * devices as u64 <= 96 << 40, "{devices}: {}", one.most_memory);
            assert!(one.most_memory >= 64 << 30 && one.most_regions >= 8, "{devices}: too little");
        }
        assert_eq!(Settings::one_of(0), Settings::default());
    }
}
