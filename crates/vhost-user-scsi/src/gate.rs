//! Where a guest is, as its rings say it (DESIGN P4): one device may be reached by several front ends, one for each VMM that the guest runs in
//! before and after a migration, and it may be in another process at the time. Every front end is a *door*; one door at most has the
//! *turn*, which means that its rings are processed.
//!
//! A door wants the turn from its first ring that is started and enabled until its last one has stopped, with everything taken given
//! back. QEMU starts a destination's rings only after the source's have stopped, so handing the turn on needs nobody to say anything.
//! While the gate is *shut* the guest is elsewhere, and nobody has the turn; who opens it (the [`Keeper`]) has made sure that
//! nobody else serves the guest.
//!
//! Guarantees: never two doors with the turn; a door without it processes nothing, or, when it has waited for too long, answers every
//! command without looking at a logical unit. Used by `front` and by `tenure device`.

use rustix::event::{EventfdFlags, eventfd};
use scsi::{AdditionalSense, Completion, Sense, SenseKey, Status};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use thiserror::Error;

/// LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED (SPC-4 annex F).
const MANUAL_INTERVENTION: AdditionalSense = AdditionalSense { asc: 0x04, ascq: 0x03 };

/// What a guest's commands get when they have waited for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// BUSY: its driver tries again.
    #[default]
    Busy,
    /// NOT READY, MANUAL INTERVENTION REQUIRED: its driver gives up.
    Sense,
}

impl OnError {
    /// The answer.
    #[must_use]
    pub fn completion(self) -> Completion {
        match self {
            Self::Busy => Completion::status(Status::BUSY),
            Self::Sense => Completion::check(&Sense::new(SenseKey::NOT_READY, MANUAL_INTERVENTION)),
        }
    }
}

/// What holds for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// So long a guest's commands stay in its rings.
    pub wait: Duration,
    /// What they get then.
    pub on_error: OnError,
}

impl Default for Patience {
    fn default() -> Self {
        Self { wait: Duration::from_secs(30), on_error: OnError::Busy }
    }
}

/// Who knows why the gate is shut, and opens it. None of this blocks for long, but for [`Keeper::admits`].
pub trait Keeper: Send + Sync + std::fmt::Debug {
    /// A front end has connected; it is served if this is none, else disconnected, with this reason in the log. May wait.
    fn turns_away(&self) -> Option<String>;

    /// The guest runs here, and the gate is shut.
    fn arrived(&self);

    /// A guest that waited at the shut gate does not any more.
    fn left(&self);
}

/// The gate cannot be shut: rings are processed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the guest's rings run here")]
pub struct Running;

/// The gate of one guest's device.
#[derive(Debug)]
pub struct Gate {
    patience: Patience,
    state: Mutex<State>,
    keeper: OnceLock<Weak<dyn Keeper>>,
}

#[derive(Debug, Default)]
struct State {
    shut: bool,
    /// The door that has it.
    turn: Option<u64>,
    /// The door that had it last.
    last: Option<u64>,
    doors: Vec<Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// Since when it wants the turn, if it does.
    wants: Option<Instant>,
    wake: Arc<OwnedFd>,
}

/// What a door may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Process its rings.
    Open,
    /// Nothing, until then.
    Wait(Instant),
    /// Process them and answer everything with this.
    Refuse(OnError),
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self { patience, state: Mutex::default(), keeper: OnceLock::new() }
    }

    /// Who is asked and told from now on, as long as there is somebody; the first one stays.
    pub fn set_keeper(&self, keeper: Weak<dyn Keeper>) {
        let _ = self.keeper.set(keeper);
    }

    /// The guest may run here.
    pub fn open(&self) {
        let mut state = self.lock();
        state.shut = false;
        state.grant();
        state.wake_all();
    }

    /// The guest is elsewhere, or on its way.
    ///
    /// # Errors
    /// A door has the turn; nothing has changed then.
    pub fn shut(&self) -> Result<(), Running> {
        let mut state = self.lock();
        if state.turn.is_some() {
            return Err(Running);
        }
        state.shut = true;
        Ok(())
    }

    /// Whether the gate is shut.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.lock().shut
    }

    /// Whether rings are processed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock().turn.is_some()
    }

    /// Whether a door wants the turn and has it not.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let state = self.lock();
        state.doors.iter().any(|door| door.wants.is_some() && state.turn != Some(door.id))
    }

    /// Front ends that are connected.
    #[must_use]
    pub fn doors(&self) -> usize {
        self.lock().doors.len()
    }

    /// Why a front end is not served, if it is not.
    pub(crate) fn turns_away(&self) -> Option<String> {
        self.keeper().and_then(|keeper| keeper.turns_away())
    }

    fn keeper(&self) -> Option<Arc<dyn Keeper>> {
        self.keeper.get().and_then(Weak::upgrade)
    }

    /// A front end has connected.
    pub(crate) fn door(self: &Arc<Self>) -> io::Result<Door> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut state = self.lock();
        let id = state.next;
        state.next = id.wrapping_add(1);
        state.doors.push(Entry { id, wants: None, wake: Arc::clone(&wake) });
        drop(state);
        Ok(Door { gate: Arc::clone(self), id, wake })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives the turn to who has waited longest, if anybody may have it.
    fn grant(&mut self) {
        if self.shut || self.turn.is_some() {
            return;
        }
        let waiting = self.doors.iter().filter_map(|door| Some((door.wants?, door.id)));
        self.turn = waiting.min().map(|(_, id)| id);
        self.last = self.turn.or(self.last);
    }

    fn wake_all(&self) {
        for door in &self.doors {
            // It fails only where the counter is full, and then the door is woken anyway.
            let _ = rustix::io::write(&door.wake, &1_u64.to_ne_bytes());
        }
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.doors.iter_mut().find(|door| door.id == id)
    }

    fn has_nexus(&self, id: u64) -> bool {
        let had_it = || self.last == Some(id) || self.doors.len() == 1;
        self.turn.map_or_else(|| !self.shut && had_it(), |turn| turn == id)
    }

    /// Whether a door that had the turn or waited for it is gone.
    fn leave(&mut self, id: u64) -> bool {
        let wanted = self.entry(id).is_some_and(|door| door.wants.take().is_some());
        if self.turn == Some(id) {
            self.turn = None;
            self.grant();
            self.wake_all();
        }
        wanted && self.shut
    }
}

/// A front end's place at the gate. It leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Door {
    gate: Arc<Gate>,
    id: u64,
    wake: Arc<OwnedFd>,
}

impl Door {
    /// It has rings that are started and enabled: what it may do with them.
    pub(crate) fn enter(&self) -> Pass {
        let mut state = self.gate.lock();
        let now = Instant::now();
        let Some(door) = state.entry(self.id) else { return Pass::Refuse(self.gate.patience.on_error) };
        let first = door.wants.is_none();
        let since = *door.wants.get_or_insert(now);
        state.grant();
        if state.turn == Some(self.id) {
            return Pass::Open;
        }
        let arrived = first && state.shut;
        drop(state);
        if let Some(keeper) = self.gate.keeper().filter(|_| arrived) {
            keeper.arrived();
        }
        let Patience { wait, on_error } = self.gate.patience;
        match since.checked_add(wait).filter(|until| now < *until) {
            Some(until) => Pass::Wait(until),
            None => Pass::Refuse(on_error),
        }
    }

    /// It has no ring any more.
    pub(crate) fn leave(&self) {
        let waited = self.gate.lock().leave(self.id);
        if let Some(keeper) = self.gate.keeper().filter(|_| waited) {
            keeper.left();
        }
    }

    /// Whether the guest's nexus is this door's to reset: it has the turn; or nobody has it, the guest is here, and this door had it last or
    /// is the only one. A guest that is paused runs nowhere, and the front end that it is to move to is not the one it is at.
    #[cfg(test)]
    pub(crate) fn has_nexus(&self) -> bool {
        self.gate.lock().has_nexus(self.id)
    }

    /// Whether it is; then the guest stays here until this door [leaves](Self::leave), so that what is done to its nexus is done before
    /// anybody saves its state.
    pub(crate) fn hold_nexus(&self) -> bool {
        let mut state = self.gate.lock();
        let has = state.has_nexus(self.id);
        if has {
            state.turn = Some(self.id);
        }
        has
    }

    /// Whether the guest, stopped as it is, may be on its way to somebody else.
    pub(crate) fn may_hand_over(&self) -> bool {
        self.gate.keeper().is_some() || self.gate.lock().doors.len() > 1
    }

    /// Readable when [`Door::enter`] may say something else than before.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }

    /// The descriptor is quiet again until the next change.
    pub(crate) fn hear(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.leave();
        self.gate.lock().doors.retain(|door| door.id != self.id);
    }
}

/// What the queues of one connection answer instead of serving; shared by their threads.
#[derive(Debug, Default)]
pub(crate) struct Refusing(AtomicU8);

impl Refusing {
    pub(crate) fn set(&self, refusing: Option<OnError>) {
        let code = match refusing {
            None => 0,
            Some(OnError::Busy) => 1,
            Some(OnError::Sense) => 2,
        };
        self.0.store(code, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> Option<OnError> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(OnError::Busy),
            _ => Some(OnError::Sense),
        }
    }
}

#[cfg(test)]
mod tests;
