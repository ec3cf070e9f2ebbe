//! What each message of the front end does. Used by [`super::serve`]; the lower crate reads and checks the messages themselves.

use super::Error;
use super::state::Transit;
use super::vring::{Ground, Vring};
use crate::descriptor;
use crate::device::{Device, MOST_RING_SIZE};
use crate::gate::{Door, Pass};
use crate::inflight::Region;
use crate::log::DirtyLog;
use crate::memory::{Layout, Memory};
use crate::queue::ring::Addresses;
use crate::queue::{self, Connection, Format};
use crate::unit::Function;
use crate::wire::{self, Config};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error as VhostError, GpuBackend, Result as VhostResult, VhostUserBackendReqHandlerMut,
    VhostUserVirtioFeatures,
};

/// VIRTIO_F_NOTIFY_ON_EMPTY is not offered; these are (virtio 1.2 6).
const F_ANY_LAYOUT: u64 = 1 << 27;
const F_INDIRECT_DESC: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;
const F_LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
const F_PROTOCOL: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

const FEATURES: u64 = F_VERSION_1
    | F_EVENT_IDX
    | F_INDIRECT_DESC
    | F_ANY_LAYOUT
    | F_LOG_ALL
    | F_PROTOCOL
    | wire::F_HOTPLUG
    | wire::F_CHANGE;

/// One front end's device.
#[derive(Debug)]
pub(super) struct Handler {
    device: Arc<Device>,
    connection: Arc<Connection>,
    door: Door,
    /// When the gate says something else by itself.
    until: Option<Instant>,
    features: u64,
    log: Arc<DirtyLog>,
    memory: Arc<Memory>,
    inflight: Option<Arc<Region>>,
    vrings: Vec<Vring>,
    config: Config,
    transit: Option<Transit>,
}

impl Handler {
    /// A front end has connected; `socket` is shut down when a ring is broken.
    ///
    /// # Errors
    /// No eventfd is to be had.
    pub(super) fn new(device: Arc<Device>, socket: Option<UnixStream>) -> std::io::Result<Self> {
        let door = device.gate().door()?;
        let config = config(&device);
        let log = Arc::new(DirtyLog::default());
        let connection = Connection::new(Arc::clone(&device), format(&config), socket);
        Ok(Self {
            connection: Arc::new(connection),
            door,
            until: None,
            features: 0,
            memory: Arc::new(Memory::within(Arc::clone(device.share()), Arc::clone(&log))),
            log,
            inflight: None,
            vrings: (0..device.queues()).map(Vring::new).collect(),
            config,
            transit: None,
            device,
        })
    }

    /// The connection is over: waits for everything under way. That the front end has gone, and not this device, is the loss of its guest's
    /// I_T nexus (SAM-5 6.3.4), unless the guest has stopped and may go on elsewhere.
    pub(super) fn end(&mut self, has_gone: bool) {
        let ran = self.vrings.iter().any(Vring::is_running);
        self.vrings.iter_mut().for_each(Vring::reset);
        if has_gone && (ran || !self.door.may_hand_over()) && self.door.hold_nexus() {
            self.reset_nexus();
        }
        self.door.leave();
        self.log.forget();
        if let Some(transit) = self.transit.take()
            && let Err(error) = transit.join()
        {
            tracing::warn!(device = self.device.name(), %error, "device state");
        }
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, Error> {
        let found = usize::try_from(index).ok().and_then(|index| self.vrings.get_mut(index));
        found.ok_or(Error::NoRing(index))
    }

    /// Starts and stops rings as their states and the gate now say.
    ///
    /// # Errors
    /// A ring that cannot be used.
    pub(super) fn advance(&mut self) -> Result<(), Error> {
        self.until = None;
        self.vrings.iter_mut().try_for_each(Vring::rest)?;
        if !self.vrings.iter().any(Vring::is_wanted) {
            self.door.leave();
            return Ok(());
        }
        match self.door.enter() {
            Pass::Open => self.connection.refusing.set(None),
            Pass::Refuse(how) => self.connection.refusing.set(Some(how)),
            Pass::Wait(until) => {
                self.until = Some(until);
                return Ok(());
            }
        }
        self.start()
    }

    /// Starts the rings that are wanted. One that is refused hears of no events: they are for the guest that is let in.
    fn start(&mut self) -> Result<(), Error> {
        let refusing = self.connection.refusing.get().is_some();
        let ground = Ground {
            connection: &self.connection,
            memory: &self.memory,
            inflight: self.inflight.as_ref(),
            event_idx: self.features & F_EVENT_IDX != 0,
        };
        let all = (0..).zip(self.vrings.iter_mut());
        let mut some = all.filter(|(index, _)| !(refusing && *index == queue::EVENT));
        some.try_for_each(|(_, vring)| vring.advance(&ground))
    }

    fn set_memory(&mut self, memory: Memory) -> Result<(), Error> {
        self.memory = Arc::new(memory);
        self.vrings.iter().try_for_each(|vring| vring.set_memory(&self.memory))?;
        self.advance()
    }

    /// SET_FEATURES. While rings run only logging may change: that is how a live migration begins and ends.
    fn negotiate(&mut self, features: u64) -> Result<(), Error> {
        if features & !FEATURES != 0 {
            return Err(Error::Features(features & !FEATURES));
        }
        let running = self.vrings.iter().any(Vring::is_running);
        if running && (features ^ self.features) & !F_LOG_ALL != 0 {
            return Err(Error::Running);
        }
        self.features = features;
        self.connection.features.store(features, Ordering::SeqCst);
        self.log.turn(features & F_LOG_ALL != 0);
        if features & F_PROTOCOL == 0 {
            // Without that feature there is no message to enable a ring: it is from the beginning.
            self.vrings.iter_mut().for_each(|vring| vring.enabled = true);
        }
        self.advance()
    }

    /// When [`Self::advance`] is to be called at the latest.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What tells that the gate may say something else than before.
    pub(super) const fn door(&self) -> &Door {
        &self.door
    }

    /// RESET_DEVICE: as a new device, for this nexus alone; memory and connection stay.
    fn reset(&mut self) {
        // QEMU resets a device also where a guest is only expected: it then runs at another front end.
        let has_nexus = self.door.hold_nexus();
        self.vrings.iter_mut().for_each(Vring::reset);
        self.features = 0;
        self.connection.features.store(0, Ordering::SeqCst);
        self.log.turn(false);
        self.inflight = None;
        self.config = config(&self.device);
        self.connection.set_format(format(&self.config));
        if has_nexus {
            self.reset_nexus();
        }
        self.door.leave();
    }

    /// Its commands have ended; its SPC-2 reservations do, and it is told when it comes again.
    fn reset_nexus(&self) {
        for lun in self.device.target().table().luns() {
            let _ = lun.unit.manage(Function::NexusReset);
        }
    }

    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        let written = self.config.written(offset, bytes)?;
        if written != self.config && self.vrings.iter().any(Vring::is_running) {
            return Err(Error::Running);
        }
        self.config = written;
        self.connection.set_format(format(&written));
        Ok(())
    }

    fn transfer(&mut self, direction: VhostTransferStateDirection, pipe: File) -> Result<(), Error> {
        let state = self.device.state().ok_or(Error::Unsupported("DEVICE_STATE"))?;
        if self.vrings.iter().any(Vring::is_running) {
            return Err(Error::Running);
        }
        if let Some(before) = self.transit.take() {
            before.join().map_err(Error::State)?;
        }
        let state = Arc::clone(state);
        let transit = match direction {
            VhostTransferStateDirection::SAVE => Transit::save(state, pipe),
            VhostTransferStateDirection::LOAD => Transit::load(state, pipe),
        };
        self.transit = Some(transit.map_err(Error::State)?);
        Ok(())
    }
}

/// What the driver reads.
fn config(device: &Device) -> Config {
    Config {
        num_queues: device.settings().request_queues.into(),
        // Header and response have a descriptor each.
        seg_max: u32::from(MOST_RING_SIZE).min(128) - 2,
        max_sectors: 0xFFFF,
        cmd_per_lun: 128,
        event_info_size: u32::try_from(wire::Event::LENGTH).unwrap_or(16),
        sense_size: wire::SENSE_SIZE_DEFAULT,
        cdb_size: wire::CDB_SIZE_DEFAULT,
        max_channel: 0,
        max_target: 0,
        max_lun: 255,
    }
}

fn format(config: &Config) -> Format {
    Format { cdb: config.cdb_size as usize, sense: config.sense_size as usize }
}

fn layout(region: &VhostUserMemoryRegion) -> Layout {
    Layout {
        guest: region.guest_phys_addr,
        length: region.memory_size,
        user: region.user_addr,
        offset: region.mmap_offset,
    }
}

/// An eventfd of the front end, that we never wait on. Nothing else is taken: a file of somebody's own may wait for ever.
fn eventfd(file: File) -> Result<Arc<OwnedFd>, Error> {
    if !descriptor::is_eventfd(file.as_fd()) {
        descriptor::let_go(file);
        return Err(Error::NoEventfd);
    }
    let file = OwnedFd::from(file);
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| Error::Eventfd(error.into()))?;
    if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
        let flags = flags | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&file, flags).map_err(|error| Error::Eventfd(error.into()))?;
    }
    Ok(Arc::new(file))
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> VhostResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> VhostResult<()> {
        // Deprecated: back ends are to ignore it (vhost-user: VHOST_USER_RESET_OWNER).
        Ok(())
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> VhostResult<()> {
        Ok(self.negotiate(features)?)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> VhostResult<Option<Vec<VhostUserMemoryRegionBase>>> {
        let memory = self.memory.with_table(regions.iter().map(layout).zip(files)).map_err(Error::from)?;
        self.set_memory(memory)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> VhostResult<()> {
        self.vring(index)?.set_size(size)?;
        Ok(self.advance()?)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> VhostResult<()> {
        let log = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        self.vring(index)?.set_addresses(Addresses { descriptors, available, used, log })?;
        Ok(self.advance()?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        self.vring(index)?.set_base(base)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        let base = self.vring(index)?.stop()?;
        // The last ring that stops lets another front end in.
        self.advance()?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> VhostResult<()> {
        let kick = eventfd(file.ok_or(Error::NoKick)?)?;
        self.vring(index.into())?.set_kick(kick)?;
        Ok(self.advance()?)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> VhostResult<()> {
        let call = file.map(eventfd).transpose()?;
        Ok(self.vring(index.into())?.set_call(call)?)
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> VhostResult<()> {
        let error = file.map(eventfd).transpose()?;
        self.vring(index.into())?.set_error(error);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        let always = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        let state = VhostUserProtocolFeatures::DEVICE_STATE;
        Ok(if self.device.state().is_some() { always | state } else { always })
    }

    fn set_protocol_features(&mut self, features: u64) -> VhostResult<()> {
        let unknown = features & !self.get_protocol_features()?.bits();
        if unknown == 0 { Ok(()) } else { Err(Error::Features(unknown).into()) }
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        Ok(self.device.queues().into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> VhostResult<()> {
        self.vring(index)?.enabled = enable;
        Ok(self.advance()?)
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> VhostResult<Vec<u8>> {
        Ok(self.config.read(offset, size).map_err(Error::from)?)
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _: VhostUserConfigFlags) -> VhostResult<()> {
        Ok(self.write_config(offset, bytes)?)
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> VhostResult<()> {
        Err(Error::Unsupported("a GPU").into())
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> VhostResult<File> {
        Err(Error::Unsupported("SHARED_OBJECT").into())
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> VhostResult<(VhostUserInflight, File)> {
        let (queues, entries) = (wanted.num_queues, wanted.queue_size);
        let file = Region::create(queues, entries).map_err(Error::from)?;
        let mmap_size = Region::length(queues, entries).map_err(Error::from)?;
        Ok((VhostUserInflight { mmap_size, mmap_offset: 0, num_queues: queues, queue_size: entries }, file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> VhostResult<()> {
        if self.vrings.iter().any(Vring::is_running) {
            return Err(Error::Running.into());
        }
        let (queues, entries) = (given.num_queues, given.queue_size);
        let region = Region::accept(file, given.mmap_offset, given.mmap_size, queues, entries);
        self.inflight = Some(region.map_err(Error::from)?);
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        Ok(self.device.share().regions() as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _: Option<bool>,
    ) -> VhostResult<Option<VhostUserMemoryRegionBase>> {
        let memory = self.memory.with(layout(region), file).map_err(Error::from)?;
        self.set_memory(memory)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        let memory = self.memory.without(layout(region)).map_err(Error::from)?;
        Ok(self.set_memory(memory)?)
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        pipe: File,
    ) -> VhostResult<Option<File>> {
        self.transfer(direction, pipe)?;
        Ok(None)
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        let transit = self.transit.take().ok_or(Error::Unsupported("a check without device state"))?;
        Ok(transit.join().map_err(Error::State)?)
    }

    fn get_shmem_config(&mut self) -> VhostResult<VhostUserShMemConfig> {
        Err(VhostError::InvalidOperation("SHMEM was not offered"))
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> VhostResult<()> {
        Ok(self.log.set_base(file, log.mmap_offset, log.mmap_size).map_err(Error::from)?)
    }
}
