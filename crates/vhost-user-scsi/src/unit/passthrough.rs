//! A SCSI disk of this host, as QEMU's `scsi-block` is: `/dev/sdX` or `/dev/sgN`. Plain READs and WRITEs go through the block
//! node by the queue's io_uring with direct I/O; all else, and every transfer that failed, goes through SG_IO, so that the guest
//! gets the exact status and sense data of the logical unit.
//!
//! The kernel keeps the node from being mounted meanwhile (O_EXCL). A logical unit whose device disappears is not ready; the device is
//! looked for again with the commands that come, and taken back when it names the same logical unit in VPD page 83h: the guest then
//! hears of it by a unit attention. Used by `tenure device`.

pub mod linux;

use super::keep::Keeper;
use super::remote::{self, MOST_DATA, Names, Order};
use super::{
    Admission, Arrival, Ending, Finish, Finished, Function, Managed, Operation, Transfer, Unit, Work,
};
use crate::event::Teller;
use guard::host::{Host, SYS};
use guard::{Identity, identify, identify_device};
use logical_unit::{Aborted, Executing, Task, TaskSet};
use nexus::{Nexus, TransportError};
use scsi::vpd::page;
use scsi::{AdditionalSense, Completion, Request, Sense, SenseKey, Status, block, opcode};
use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a command may take, and how long one that works on the whole medium.
const TIMEOUT: Duration = Duration::from_secs(30);
const LONG_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// SYNCHRONIZE CACHE: as long as Linux gives it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a task management function waits for what is under way: longer than any command but those that work on the whole medium.
const PATIENCE: Duration = Duration::from_secs(70);
/// A command that is none of ours, so it has no name elsewhere.
const FORMAT_UNIT: u8 = 0x04;
/// Between two looks for a device that is gone.
const PAUSE: Duration = Duration::from_secs(1);

/// A SCSI device as the kernel gives it.
pub trait Device: Send + Sync + Debug {
    /// Sends one command; several threads may.
    ///
    /// # Errors
    /// [`TransportError`] if no completion arrived.
    fn send(&self, request: &Request, timeout: Duration) -> Result<Completion, TransportError>;

    /// LOGICAL UNIT RESET, and nothing that reaches further.
    ///
    /// # Errors
    /// The kernel's.
    fn reset(&self) -> io::Result<()>;

    /// The block node, for a disk.
    fn disk(&self) -> Option<&Disk>;

    /// Number of the node, and whether it is a block device, for one of this host's: the kernel knows its initiator port.
    fn number(&self) -> Option<(u64, bool)> {
        None
    }
}

/// The block node of a device.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Open for direct I/O.
    pub medium: Arc<OwnedFd>,
    /// Bytes of a logical block.
    pub block: u32,
    /// What lengths and addresses in memory must be multiples of.
    pub alignment: usize,
    /// The most bytes that one SG_IO moves.
    pub most: u32,
}

/// Opens devices.
pub trait Open: Send + Sync + Debug {
    /// Opens the device at `path`.
    ///
    /// # Errors
    /// What is wrong, in words for the operator.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Device>>;
}

/// Why a device cannot be passed through.
#[derive(Debug, thiserror::Error)]
pub enum PassthroughError {
    /// It cannot be opened.
    #[error("cannot pass {} through", path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It does not say which logical unit it is.
    #[error("{} does not answer INQUIRY with its names", .0.display())]
    Nameless(PathBuf),
}

/// A SCSI disk of this host.
#[derive(Debug)]
pub struct Passthrough(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    opener: Box<dyn Open>,
    names: Names,
    keeper: OnceLock<Keeper>,
    teller: OnceLock<Teller>,
    place: Mutex<Place>,
    tasks: Arc<TaskSet>,
    resets: AtomicU64,
}

#[derive(Debug)]
enum Place {
    Here(Arc<Way>),
    Gone {
        /// No look before this.
        again: Instant,
        /// What the log knows already.
        told: &'static str,
    },
}

/// An open device.
#[derive(Debug)]
struct Way {
    device: Box<dyn Device>,
    /// The guest is to hear that the device was away.
    returned: AtomicBool,
}

impl Passthrough {
    /// Opens the device at `path`. PERSISTENT RESERVE commands pass it like others until somebody keeps account ([`Self::keep`]).
    ///
    /// # Errors
    /// [`PassthroughError`]
    pub fn open(path: &Path) -> Result<Self, PassthroughError> {
        Self::open_with(path, Box::new(linux::Linux))
    }

    /// As [`Passthrough::open`], with devices of whatever kind.
    ///
    /// # Errors
    /// [`PassthroughError`]
    pub fn open_with(path: &Path, opener: Box<dyn Open>) -> Result<Self, PassthroughError> {
        let device =
            opener.open(path).map_err(|source| PassthroughError::Open { path: path.to_owned(), source })?;
        let names = names_of(&*device).ok_or_else(|| PassthroughError::Nameless(path.to_owned()))?;
        let place = Place::Here(Arc::new(Way { device, returned: AtomicBool::new(false) }));
        let (path, place, tasks) = (path.to_owned(), Mutex::new(place), Arc::default());
        let (keeper, teller) = (OnceLock::new(), OnceLock::new());
        Ok(Self(Arc::new(Inner {
            path,
            opener,
            names,
            keeper,
            teller,
            place,
            tasks,
            resets: AtomicU64::new(0),
        })))
    }

    /// Which logical unit this is, and which nexus of this host leads to it; none for one without a name.
    ///
    /// # Errors
    /// What the device answered instead.
    pub fn identify(&self) -> Result<Option<Identity>, Completion> {
        let Some(way) = self.0.way() else { return Ok(None) };
        let (number, node) = (way.device.number(), self.0.path.display().to_string());
        let mut line = Line { unit: Arc::clone(&self.0), way };
        match number {
            Some((number, block)) => identify_device(&mut line, &Host { sys: Path::new(SYS), number, block }),
            None => identify(&mut line, node),
        }
    }

    /// From now on `keeper` keeps account of the guest's registrations; the first one that is given does.
    pub fn keep(&self, keeper: Keeper) {
        let _ = self.0.keeper.set(keeper);
    }

    /// Who keeps account.
    #[must_use]
    pub fn keeper(&self) -> Option<&Keeper> {
        self.0.keeper.get()
    }

    /// The guest's nexus, for commands that are none of the guest's own; none while the device is gone.
    #[must_use]
    pub fn nexus(&self) -> Option<Box<dyn Nexus>> {
        let way = self.0.way()?;
        Some(Box::new(Line { unit: Arc::clone(&self.0), way }))
    }

    /// The device is there, as far as is known.
    #[must_use]
    pub fn is_here(&self) -> bool {
        matches!(&*self.0.lock(), Place::Here(_))
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        self.0.tasks.close();
    }
}

impl Unit for Passthrough {
    fn admit(&self, command: &Arrival<'_>) -> Admission {
        let order = match Order::of(command) {
            Ok(order) => order,
            Err(completion) => return Admission::Ended(Ending::Status(completion)),
        };
        let task = self.0.tasks.begin(command.id);
        match self.0.transfer(&order) {
            Some(transfer) => self.0.begin(task, order, transfer),
            None => Admission::Work(Box::new(Sending { unit: Arc::clone(&self.0), task, order })),
        }
    }

    /// Linux has no way to abort a command of another program: one that is under way is waited for, which its timeout bounds.
    fn manage(&self, function: Function) -> Managed {
        let unit = &self.0;
        match function {
            Function::AbortTask(id) => unit.end(Some(id), Aborted::Silently),
            Function::AbortTaskSet => unit.end(None, Aborted::Silently),
            Function::LogicalUnitReset => unit.reset(),
            Function::ClearTaskSet | Function::NexusReset => Managed::Rejected,
        }
    }

    /// Of blocks the logical unit alone knows how long they are.
    fn data_out_length(&self, cdb: &[u8]) -> Option<u64> {
        remote::list_length(cdb)
    }

    fn listen(&self, teller: Teller) {
        let _ = self.0.teller.set(teller);
    }
}

/// A plain READ or WRITE in bytes of the block node.
struct Plain {
    disk: Disk,
    operation: Operation,
    offset: u64,
    length: usize,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the block node can do as well, if it is there. A unit attention that the guest is owed comes by SG_IO.
    fn transfer(&self, order: &Order) -> Option<Plain> {
        let access = remote::plain_access(&order.cdb)?;
        if self.keeper.get().is_some_and(Keeper::owes) {
            return None;
        }
        let way = match &*self.lock() {
            Place::Here(way) if !way.returned.load(Ordering::Acquire) => Arc::clone(way),
            _ => return None,
        };
        let disk = way.device.disk()?.clone();
        let length = usize::try_from(u64::from(access.extent.blocks) * u64::from(disk.block)).ok()?;
        let offset = access.extent.lba.checked_mul(disk.block.into())?;
        let (operation, room) = match access.operation {
            block::Operation::Read => (Operation::Read, order.data_in),
            _ => (Operation::Write { durable: false }, order.data_out),
        };
        let within = i64::try_from(offset.checked_add(length as u64)?).is_ok();
        (within && length <= room && length <= MOST_DATA).then_some(Plain { disk, operation, offset, length })
    }

    fn begin(self: &Arc<Self>, task: Task, order: Order, plain: Plain) -> Admission {
        let executing = match task.enter() {
            Ok(executing) => executing,
            Err(how) => return Admission::Ended(remote::ended(how)),
        };
        let Plain { disk, operation, offset, length } = plain;
        let resets = self.resets.load(Ordering::Acquire);
        let sending = Sending { unit: Arc::clone(self), task, order };
        let finish = Box::new(Moving { executing, sending, resets });
        let Disk { medium, alignment, .. } = disk;
        Admission::Transfer(Transfer { medium, operation, offset, length, alignment, finish })
    }

    /// The device, looked for if it is gone and it is time for that.
    fn way(&self) -> Option<Arc<Way>> {
        let mut place = self.lock();
        let (again, told) = match &*place {
            Place::Here(way) => return Some(Arc::clone(way)),
            Place::Gone { again, told } => (*again, *told),
        };
        if Instant::now() < again {
            return None;
        }
        // Others find it gone until this look is over.
        *place = Place::Gone { again: Instant::now() + LONG_TIMEOUT, told };
        drop(place);
        let found = self.look();
        let mut place = self.lock();
        match found {
            Ok(way) => {
                tracing::info!(device = %self.path.display(), "the device is back");
                *place = Place::Here(Arc::clone(&way));
                drop(place);
                // Nobody heard what the device said meanwhile.
                self.keeper.get().into_iter().for_each(Keeper::doubt);
                Some(way)
            }
            Err(what) => {
                if what != told {
                    tracing::warn!(device = %self.path.display(), "{what}");
                }
                *place = Place::Gone { again: Instant::now() + PAUSE, told: what };
                None
            }
        }
    }

    fn look(&self) -> Result<Arc<Way>, &'static str> {
        let device = self.opener.open(&self.path).map_err(|_| GONE)?;
        match names_of(&*device) {
            Some(names) if names == self.names => {
                Ok(Arc::new(Way { device, returned: AtomicBool::new(true) }))
            }
            Some(_) => Err("another logical unit stands where the device was; it is left alone"),
            None => Err(GONE),
        }
    }

    /// What a guest is told of a command without completion.
    fn without_completion(error: &TransportError) -> Ending {
        match error {
            TransportError::OutcomeUnknown(_) => Ending::Lost,
            TransportError::NotSent(source) if is_gone(source) => remote::not_ready(),
            TransportError::NotSent(source) => not_taken(source),
        }
    }

    fn gone(&self, way: &Arc<Way>, error: &io::Error) {
        let mut place = self.lock();
        if matches!(&*place, Place::Here(present) if Arc::ptr_eq(present, way)) {
            tracing::warn!(device = %self.path.display(), %error, "{GONE}");
            *place = Place::Gone { again: Instant::now(), told: GONE };
        }
    }

    fn end(&self, id: Option<u64>, how: Aborted) -> Managed {
        let ended = self.tasks.abort_before(id, how, Instant::now() + PATIENCE);
        if ended { Managed::Complete } else { Managed::Failed }
    }

    fn reset(&self) -> Managed {
        let Some(way) = self.way() else { return Managed::Lost };
        match way.device.reset() {
            Ok(()) => {
                self.resets.fetch_add(1, Ordering::AcqRel);
                self.end(None, Aborted::Reset)
            }
            Err(error) if is_gone(&error) => Managed::Lost,
            Err(error) => {
                tracing::warn!(device = %self.path.display(), %error, "the kernel does not reset the logical unit");
                Managed::Rejected
            }
        }
    }

    /// What the guest must not take at its word: how much SG_IO moves at once is less than the logical unit takes.
    fn adapted(way: &Way, order: &Order, completion: Completion) -> Completion {
        match way.device.disk() {
            Some(disk) => limited(&order.cdb, completion, disk.most / disk.block.max(1)),
            None => completion,
        }
    }
}

const GONE: &str = "the device is gone; commands are answered with NOT READY until it is back";

fn names_of(device: &dyn Device) -> Option<Names> {
    remote::names(&device.send(&remote::names_request(), TIMEOUT).ok()?)
}

/// The kernel has no such device any more, or no connection to it.
fn is_gone(error: &io::Error) -> bool {
    let gone = [rustix::io::Errno::NXIO, rustix::io::Errno::NODEV, rustix::io::Errno::NOENT];
    error.kind() == io::ErrorKind::NotConnected
        || error.raw_os_error().is_some_and(|code| gone.iter().any(|errno| errno.raw_os_error() == code))
}

/// The kernel did not take the command: too much data, or not allowed to this program.
fn not_taken(error: &io::Error) -> Ending {
    let illegal = |code| Ending::Status(remote::check(SenseKey::ILLEGAL_REQUEST, code));
    match error.kind() {
        io::ErrorKind::PermissionDenied => illegal(AdditionalSense::INVALID_COMMAND_OPERATION_CODE),
        io::ErrorKind::InvalidInput => illegal(AdditionalSense::INVALID_FIELD_IN_CDB),
        io::ErrorKind::ResourceBusy | io::ErrorKind::OutOfMemory => {
            Ending::Status(Completion::status(Status::BUSY))
        }
        _ => remote::failed(),
    }
}

/// Block Limits (VPD page B0h) with a MAXIMUM and an OPTIMAL TRANSFER LENGTH of at most `most` blocks.
fn limited(cdb: &[u8], mut completion: Completion, most: u32) -> Completion {
    let asked = matches!(cdb, [opcode::INQUIRY, flags, page::BLOCK_LIMITS, ..] if flags & 1 != 0);
    if !asked || !completion.status.is_good() {
        return completion;
    }
    for (at, unlimited) in [(8, true), (12, false)] {
        let field = completion.data.get_mut(at..at + 4);
        if let Some(field) = field.and_then(|field| <&mut [u8; 4]>::try_from(field).ok()) {
            let told = u32::from_be_bytes(*field);
            let told = if told == 0 && unlimited { most } else { told.min(most) };
            *field = told.to_be_bytes();
        }
    }
    completion
}

/// The way as a nexus, which takes note of a device that has gone.
#[derive(Debug)]
struct Line {
    unit: Arc<Inner>,
    way: Arc<Way>,
}

impl Line {
    fn send(&self, request: &Request, timeout: Duration) -> Result<Completion, TransportError> {
        let result = self.way.device.send(request, timeout);
        match &result {
            Ok(completion) => {
                let changed = remote::parameters_changed(completion);
                changed.zip(self.unit.teller.get()).into_iter().for_each(|(code, to)| to.changed(code));
            }
            Err(TransportError::NotSent(source) | TransportError::OutcomeUnknown(source)) => {
                if is_gone(source) {
                    self.unit.gone(&self.way, source);
                }
            }
        }
        result
    }
}

impl Nexus for Line {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.send(request, TIMEOUT)
    }
}

/// A command for a thread that may wait.
#[derive(Debug)]
struct Sending {
    unit: Arc<Inner>,
    task: Task,
    order: Order,
}

impl Sending {
    fn timeout(&self) -> Duration {
        const LONG: [u8; 6] = [
            FORMAT_UNIT,
            opcode::SANITIZE,
            opcode::SEND_DIAGNOSTIC,
            opcode::WRITE_SAME_10,
            opcode::WRITE_SAME_16,
            opcode::THIRD_PARTY_COPY_OUT,
        ];
        match self.order.cdb.first() {
            Some(code) if LONG.contains(code) => LONG_TIMEOUT,
            Some(&(opcode::SYNCHRONIZE_CACHE_10 | opcode::SYNCHRONIZE_CACHE_16)) => FLUSH_TIMEOUT,
            _ => TIMEOUT,
        }
    }

    fn send(&self, line: &mut Line, data_out: &[u8]) -> Ending {
        let (keeper, request) = (self.unit.keeper.get(), self.order.request(data_out));
        if let Some(keeper) = keeper {
            if let Some(ended) = keeper.execute(line, &request) {
                return Ending::Status(ended);
            }
            if let Some(owed) = if self.order.is_exempt() { None } else { keeper.owed(line) } {
                return Ending::Status(owed);
            }
        }
        match line.send(&request, self.timeout()) {
            Ok(completion) => {
                keeper.into_iter().for_each(|keeper| keeper.told(line, &request, &completion));
                Ending::Status(Inner::adapted(&line.way, &self.order, completion))
            }
            Err(error) => Inner::without_completion(&error),
        }
    }
}

impl Work for Sending {
    fn run(self: Box<Self>, data_out: &[u8]) -> Ending {
        let executing = match self.task.enter() {
            Ok(executing) => executing,
            Err(how) => return remote::ended(how),
        };
        let Some(way) = self.unit.way() else { return remote::not_ready() };
        if !self.order.is_exempt() && way.returned.swap(false, Ordering::AcqRel) {
            let sense = Sense::unit_attention(AdditionalSense::POWER_ON_OR_RESET);
            return Ending::Status(Completion::check(&sense));
        }
        let ending = self.send(&mut Line { unit: Arc::clone(&self.unit), way }, data_out);
        drop(executing);
        ending
    }

    fn data_out(&self) -> usize {
        self.order.data_out
    }
}

/// A transfer of the queue.
#[derive(Debug)]
struct Moving {
    executing: Executing,
    sending: Sending,
    resets: u64,
}

impl Finish for Moving {
    /// The kernel's error is not the logical unit's status: SG_IO finds that out.
    fn finish(self: Box<Self>, result: io::Result<()>) -> Finished {
        match result {
            Ok(()) => Finished::Ended(Ending::Status(Completion::good(Vec::new()))),
            Err(_) => {
                let Self { executing, sending, resets } = *self;
                Finished::Work(Box::new(Again { sending, executing, resets }))
            }
        }
    }
}

/// A transfer that failed, still in the task set as one that is under way: an abort waits for it.
#[derive(Debug)]
struct Again {
    sending: Sending,
    executing: Executing,
    /// Resets before it began.
    resets: u64,
}

impl Work for Again {
    fn run(self: Box<Self>, data_out: &[u8]) -> Ending {
        let Self { sending, executing, resets } = *self;
        // An abort that waits meanwhile must find it under way until the end.
        if executing.is_interrupted() {
            let was_reset = sending.unit.resets.load(Ordering::Acquire) != resets;
            return if was_reset { Ending::Reset } else { Ending::Aborted };
        }
        let ending = Box::new(sending).run(data_out);
        drop(executing);
        ending
    }

    fn data_out(&self) -> usize {
        self.sending.order.data_out
    }
}

#[cfg(test)]
mod tests;
