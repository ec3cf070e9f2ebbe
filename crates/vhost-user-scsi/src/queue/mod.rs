//! The queues of a device: a thread for each ring that runs (virtio 1.2 5.6.2: control, event, request queues). Used by `front`, which
//! starts and stops them as the front end says.
//!
//! Guarantees: a thread that is stopped has given back everything that it took; one whose ring is broken ends by itself, tells the
//! front end by the ring's error eventfd and ends the connection. Nothing here waits for the guest.

pub(crate) mod engine;
pub(crate) mod inbox;
mod poll;
pub(crate) mod request;
pub(crate) mod ring;
mod sys;
pub(crate) mod tasks;
mod threads;
mod transfer;

pub(crate) use engine::{Engine, Event};

use crate::device::Device;
use crate::gate::Refusing;
use crate::memory::Memory;
use crate::statistics::Waits;
use crate::unit::Ending;
use inbox::Inbox;
use ring::{Broken, Ring};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tasks::Tasks;
use thiserror::Error;

/// The control queue's index.
pub(crate) const CONTROL: u16 = 0;
/// The event queue's index.
pub(crate) const EVENT: u16 = 1;
/// The first request queue's index.
pub(crate) const REQUEST: u16 = 2;

/// What a queue's thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Something is exchanged while it runs; the answer comes when it is in force.
    Change(Change, SyncSender<Result<(), Broken>>),
    /// Take what the guest has offered, as far as limits allow, and say whether that reaches as far as it was said to: no index for what
    /// is offered now.
    Look(Option<u16>, SyncSender<Seen>),
    /// Take nothing more, end when all is given back.
    Stop,
    /// The command in a place has ended.
    Ended(u32, Ending),
    /// A control request has its answer.
    Managed(u32, Vec<u8>),
}

/// What a request queue has seen of its ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Up to where it was asked for.
    pub(crate) until: u16,
    /// All of that was taken.
    pub(crate) all: bool,
}

/// How far each request queue has to have looked; none for one that does not run.
pub(crate) type Marks = Vec<Option<u16>>;

/// What can be exchanged while a ring runs.
#[derive(Debug)]
pub(crate) enum Change {
    /// The memory table.
    Memory(Arc<Memory>),
    /// The eventfd that interrupts the guest.
    Call(Option<Arc<OwnedFd>>),
    /// Where the used ring is logged.
    Log(Option<u64>),
}

impl Change {
    /// Carries it out.
    pub(crate) fn apply(self, ring: &mut Ring) -> Result<(), Broken> {
        match self {
            Self::Memory(memory) => ring.set_memory(memory)?,
            Self::Call(call) => ring.set_call(call),
            Self::Log(log) => ring.set_log(log),
        }
        Ok(())
    }
}

/// Lengths that the guest chose in the configuration space (virtio 1.2 5.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Bytes of a request's CDB.
    pub(crate) cdb: usize,
    /// Bytes of a response's sense data.
    pub(crate) sense: usize,
}

/// One connection of a front end, as the threads of its queues know it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) device: Arc<Device>,
    /// Negotiated virtio features.
    pub(crate) features: AtomicU64,
    /// What every command gets while the guest is not let in.
    pub(crate) refusing: Refusing,
    format: Mutex<Format>,
    /// One for each request queue.
    pub(crate) tasks: Vec<Arc<Tasks>>,
    /// Those of the running request queues.
    inboxes: Mutex<Vec<Option<Arc<Inbox<Order>>>>>,
    socket: Option<UnixStream>,
}

impl Connection {
    /// A connection; `socket` is shut down when a queue cannot go on.
    pub(crate) fn new(device: Arc<Device>, format: Format, socket: Option<UnixStream>) -> Self {
        let settings = device.settings();
        let places = usize::from(settings.most_requests);
        let queues = usize::from(settings.request_queues);
        let tasks: Vec<_> = std::iter::repeat_with(|| Arc::new(Tasks::new(places))).take(queues).collect();
        device.remember(&tasks);
        Self {
            features: AtomicU64::new(0),
            refusing: Refusing::default(),
            format: Mutex::new(format),
            tasks,
            inboxes: Mutex::new(vec![None; queues]),
            socket,
            device,
        }
    }

    /// What a queue's commands under way are.
    fn under_way_on(&self, index: u16) -> Waits {
        let queue = index.checked_sub(REQUEST).and_then(|queue| self.tasks.get(usize::from(queue)));
        Waits(tasks::summary(queue.into_iter().flat_map(|tasks| tasks.under_way(|_| true))))
    }

    /// Whether a virtio feature was negotiated.
    pub(crate) fn has(&self, feature: u64) -> bool {
        self.features.load(Ordering::SeqCst) & feature != 0
    }

    pub(crate) fn format(&self) -> Format {
        *self.format.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_format(&self, format: Format) {
        *self.format.lock().unwrap_or_else(PoisonError::into_inner) = format;
    }

    /// Has every running request queue take what the guest had offered when `marks` were made, or now where there are none; whether all
    /// of it was taken. A queue that ends meanwhile takes nothing any more.
    pub(crate) fn look(&self, marks: &mut Marks) -> bool {
        let inboxes = self.lock_inboxes().clone();
        marks.resize(inboxes.len(), None);
        let ask = |(inbox, mark): (&Option<Arc<Inbox<Order>>>, &Option<u16>)| {
            let (sender, receiver) = sync_channel(1);
            inbox.iter().for_each(|inbox| inbox.post(Order::Look(*mark, sender.clone())));
            receiver
        };
        // All of them first: they look side by side.
        let asked: Vec<Receiver<Seen>> = inboxes.iter().zip(marks.iter()).map(ask).collect();
        let mut all = true;
        for (mark, asked) in marks.iter_mut().zip(asked) {
            if let Ok(seen) = asked.recv() {
                *mark = Some(seen.until);
                all &= seen.all;
            }
        }
        all
    }

    /// A queue cannot go on: the connection ends.
    fn hang_up(&self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    fn lock_inboxes(&self) -> MutexGuard<'_, Vec<Option<Arc<Inbox<Order>>>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, index: u16, inbox: Option<Arc<Inbox<Order>>>) {
        let mut inboxes = self.lock_inboxes();
        let place = index.checked_sub(REQUEST).and_then(|queue| inboxes.get_mut(usize::from(queue)));
        if let Some(place) = place {
            *place = inbox;
        }
    }
}

/// What a queue's thread starts with.
#[derive(Debug)]
pub(crate) struct Start {
    /// Which queue it is, control queue first.
    pub(crate) index: u16,
    pub(crate) ring: Ring,
    /// Counted up by the guest when it has offered something.
    pub(crate) kick: Arc<OwnedFd>,
    /// Counted up by us when the ring is broken.
    pub(crate) error: Option<Arc<OwnedFd>>,
    pub(crate) connection: Arc<Connection>,
}

/// A queue's thread ended in the middle: where its ring stands nobody knows.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the thread of queue {0} panicked")]
pub struct Panicked(u16);

/// A ring that runs.
#[derive(Debug)]
pub(crate) struct Running {
    index: u16,
    inbox: Arc<Inbox<Order>>,
    thread: JoinHandle<u16>,
    /// What the guest and the front end are told by. They are the front end's, which may make a write to them wait.
    call: Mutex<Option<Arc<OwnedFd>>>,
    error: Option<Arc<OwnedFd>>,
    /// Its other end goes with the thread.
    ended: Receiver<()>,
    connection: Arc<Connection>,
}

/// After how long it is said what a ring that has to stop waits for; then after twice as long, and so on, up to the other.
const SILENCE: Duration = Duration::from_secs(5);
const LONGEST_SILENCE: Duration = Duration::from_secs(300);
/// After how long a thread that does not answer may be one that the front end holds up.
const BLINK: Duration = Duration::from_millis(500);

impl Running {
    /// Starts a queue's thread.
    ///
    /// # Errors
    /// No thread or eventfd is to be had.
    pub(crate) fn new(start: Start) -> std::io::Result<Self> {
        let inbox = Arc::new(Inbox::new()?);
        if start.index == EVENT && start.ring.base() == 0 {
            // A driver that has just begun looks for everything anyway. Here and not in the thread: from now on everything is told.
            start.connection.device.events().forget();
            start.connection.device.target().forget();
        }
        let (index, connection) = (start.index, Arc::clone(&start.connection));
        connection.register(index, Some(Arc::clone(&inbox)));
        let inside = Arc::clone(&inbox);
        let (call, error) = (Mutex::new(start.ring.call()), start.error.clone());
        let (end, ended) = sync_channel(0);
        let spawned = std::thread::Builder::new().name(format!("queue-{index}")).spawn(move || {
            let _end: SyncSender<()> = end;
            let _running = (start.index >= REQUEST).then(|| start.connection.device.running());
            live(start, &inside)
        });
        match spawned {
            Ok(thread) => Ok(Self { index, inbox, thread, call, error, ended, connection }),
            Err(error) => {
                connection.register(index, None);
                // Whoever found it there is not to wait for an answer.
                inbox.close();
                Err(error)
            }
        }
    }

    /// Exchanges something, and waits until that is in force.
    ///
    /// # Errors
    /// The ring cannot be used with it. A ring that is broken already is no error here.
    pub(crate) fn change(&self, change: Change) -> Result<(), Broken> {
        let call = if let Change::Call(call) = &change { Some(call.clone()) } else { None };
        let (sender, receiver) = sync_channel(1);
        self.inbox.post(Order::Change(change, sender));
        let answer = loop {
            match receiver.recv_timeout(BLINK) {
                Err(RecvTimeoutError::Timeout) => self.let_write(call.as_ref().and_then(Option::as_deref)),
                answer => break answer,
            }
        };
        if let Some(call) = call {
            *self.lock_call() = call;
        }
        answer.unwrap_or(Ok(()))
    }

    /// A front end that has made an eventfd wait for its reader, and filled it, holds the thread up and nobody else.
    fn let_write(&self, next: Option<&OwnedFd>) {
        let call = self.lock_call().clone();
        [self.error.as_deref(), call.as_deref(), next].into_iter().flatten().for_each(ring::let_write);
    }

    fn lock_call(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops it: waits until everything that was taken is given back, however long that takes, and says what it waits for. The next
    /// entry of the available ring.
    ///
    /// # Errors
    /// Where the ring stands is not known: its thread panicked. The connection is ended already.
    pub(crate) fn stop(self) -> Result<u16, Panicked> {
        self.inbox.post(Order::Stop);
        let draining = self.connection.device.draining();
        let (begun, mut silence) = (Instant::now(), SILENCE);
        while self.ended.recv_timeout(BLINK) == Err(RecvTimeoutError::Timeout) {
            self.let_write(None);
            if begun.elapsed() >= silence {
                silence = silence.saturating_add(silence.min(LONGEST_SILENCE));
                let waits = self.connection.under_way_on(self.index);
                let device = self.connection.device.name();
                tracing::warn!(device, queue = self.index, %waits, "a ring has to stop, and cannot yet");
            }
        }
        drop(draining);
        let base = self.thread.join().map_err(|_| Panicked(self.index));
        self.connection.register(self.index, None);
        base
    }
}

/// Closes the inbox when the thread ends, however that is; if that is by a panic, the connection ends too: nobody knows where the ring
/// stands, and whoever went on with it elsewhere would write old data.
struct Closing<'a>(&'a Inbox<Order>, &'a Connection);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
        if std::thread::panicking() {
            tracing::error!(device = self.1.device.name(), "a queue's thread panicked; the connection ends");
            self.1.hang_up();
        }
    }
}

/// A queue's thread.
fn live(start: Start, inbox: &Arc<Inbox<Order>>) -> u16 {
    let (index, error, connection) = (start.index, start.error.clone(), Arc::clone(&start.connection));
    // Also if this thread panicked: nobody is to wait for it.
    let closing = Closing(inbox, &connection);
    let (base, result) = match index {
        CONTROL => crate::control::serve(start, inbox),
        EVENT => crate::event::serve(start, inbox),
        _ => request::serve(start, inbox),
    };
    drop(closing);
    if let Err(broken) = result {
        tracing::warn!(device = connection.device.name(), queue = index, %broken, "the connection ends");
        ring::signal(error.as_deref());
        connection.hang_up();
    }
    base
}

/// What a thread waits on: its kick and its inbox, together with its transfers.
pub(crate) const KICK: u32 = u32::MAX;
/// See [`KICK`].
pub(crate) const INBOX: u32 = u32::MAX - 1;

/// What waits for both, and for so many operations at once.
pub(crate) fn watching(operations: u16, start: &Start, inbox: &Inbox<Order>) -> std::io::Result<Engine> {
    let mut engine = Engine::new(operations, &start.connection.device)?;
    engine.watch(KICK, Arc::clone(&start.kick))?;
    engine.watch(INBOX, inbox.descriptor())?;
    Ok(engine)
}
