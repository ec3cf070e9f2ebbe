//! Who has a guest, where two device processes may have it: one after the other, never both (DESIGN P4, P5).
//!
//! Nobody leads. The guest's rings say where it runs: when they start at a device that has it not, that device fetches it from the
//! other one, whose rings must have stopped. In order, each step durable before the next:
//! 1. the source shuts its gate, records *giving* with the device's state, lets the LUNs go and answers with the state;
//! 2. the destination checks the state, records *taking* with it, opens the LUNs and compares them with it;
//! 3. it asks for the commit: the source records *away*, and does not serve the guest again unless it is given back;
//! 4. the destination records *here* and opens its gate.
//!
//! Until 3 the source may go on by itself, when the guest's rings start there again: it records *here*, and what the destination asks
//! for is refused. After 3 it fetches the guest back in the same way. An answer that is lost is asked for again; nobody opens a gate
//! for want of one.

mod peers;
mod record;

pub(super) use peers::{Asked, Peering};
pub(super) use record::{Place, RecordFile};

use super::host::Host;
use peer::message::{Device as Question, DeviceState, DeviceStep, Id};
use peer::{HostName, Refusal};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vhost_user_scsi::device::Device;
use vhost_user_scsi::gate::Keeper;
use vhost_user_scsi::saved;

/// Between two attempts, at first and at most.
const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(1);

/// One guest's.
#[derive(Debug)]
pub(super) struct Custody {
    guest: String,
    device: Arc<Device>,
    host: Arc<Host>,
    peering: Arc<Peering>,
    record: RecordFile,
    inner: Mutex<Inner>,
    told: Condvar,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    /// Why the guest waits, if it does.
    trouble: Option<String>,
    /// Something has happened that may need a step.
    stirred: bool,
    over: bool,
}

/// What a step has come to.
enum Step {
    /// There is nothing to do.
    Rest,
    /// There is more to do.
    Next,
    /// It has to be tried again.
    Stuck(String),
}

impl Custody {
    /// The custody of `device`'s guest, which is at `place`.
    pub(super) fn new(
        guest: &str,
        device: &Arc<Device>,
        host: &Arc<Host>,
        peering: &Arc<Peering>,
        (record, place): (RecordFile, Place),
    ) -> Arc<Self> {
        let inner = Inner { place, trouble: None, stirred: true, over: false };
        Arc::new(Self {
            guest: guest.to_owned(),
            device: Arc::clone(device),
            host: Arc::clone(host),
            peering: Arc::clone(peering),
            record,
            inner: Mutex::new(inner),
            told: Condvar::new(),
        })
    }

    /// The guest's name.
    pub(super) fn guest(&self) -> &str {
        &self.guest
    }

    /// Where the guest is, and why it waits if it does.
    pub(super) fn status(&self) -> (Place, Option<String>) {
        let inner = self.lock();
        (inner.place.clone(), inner.trouble.clone())
    }

    /// Does what is to be done, on a thread of its own, until [`Custody::end`].
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let own = Arc::clone(self);
        thread::Builder::new().name("custody".into()).spawn(move || own.run())
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.lock().over = true;
        self.told.notify_all();
    }

    fn run(&self) {
        let mut pause = SHORT;
        while self.wait(pause) {
            pause = match self.step() {
                Step::Rest | Step::Next => SHORT,
                Step::Stuck(why) => {
                    self.note_trouble(why);
                    pause.saturating_mul(2).min(LONG)
                }
            };
        }
    }

    /// Until something happens, or it is time to try again; `false` when it is over.
    fn wait(&self, pause: Duration) -> bool {
        let mut inner = self.lock();
        if inner.trouble.is_some() {
            // Something that happens now does not make it more urgent: the other side is not to be flooded.
            let (after, _) = self
                .told
                .wait_timeout_while(inner, pause, |inner| !inner.over)
                .unwrap_or_else(PoisonError::into_inner);
            inner = after;
        } else {
            let idle = |inner: &mut Inner| !inner.stirred && !inner.over;
            inner = self.told.wait_while(inner, idle).unwrap_or_else(PoisonError::into_inner);
        }
        inner.stirred = false;
        !inner.over
    }

    fn stir(&self) {
        self.lock().stirred = true;
        self.told.notify_all();
    }

    fn note_trouble(&self, why: String) {
        let mut inner = self.lock();
        if inner.trouble.as_ref() != Some(&why) {
            tracing::warn!(guest = self.guest, why, "the guest waits");
            inner.trouble = Some(why);
        }
    }

    /// One step towards where the guest is to be.
    fn step(&self) -> Step {
        let place = self.lock().place.clone();
        let awaited = self.is_awaited();
        let step = match &place {
            Place::Here { state } if !state.is_empty() => self.go_on(&place, state),
            Place::Giving { state, .. } if awaited => {
                tracing::info!(guest = self.guest, "it runs here again before it was taken: it stays");
                self.change(&place, Place::Here { state: state.clone() })
            }
            Place::Expected { from } | Place::Away { to: from, .. } if awaited => self.fetch(&place, from),
            Place::Taking { id, from, state } if awaited => self.take(&place, *id, from, state),
            Place::Taking { .. } => self.let_go(),
            _ => Step::Rest,
        };
        if matches!(step, Step::Rest) {
            self.lock().trouble = None;
        }
        if matches!(step, Step::Next) {
            self.lock().stirred = true;
        }
        step
    }

    /// Whether the guest runs here and waits.
    fn is_awaited(&self) -> bool {
        self.device.gate().is_shut() && self.device.gate().is_awaited()
    }

    /// Records `next`, if the place is still `before`.
    fn change(&self, before: &Place, next: Place) -> Step {
        let mut inner = self.lock();
        if inner.place != *before {
            return Step::Next;
        }
        match self.put(&mut inner, next) {
            Ok(()) => Step::Next,
            Err(refusal) => Step::Stuck(refusal.desc),
        }
    }

    fn put(&self, inner: &mut Inner, next: Place) -> Result<(), Refusal> {
        self.record.write(&next).map_err(|error| {
            Refusal::new(
                "JournalFailed",
                format!("guest {}: its record cannot be written: {error}", self.guest),
            )
        })?;
        tracing::info!(guest = self.guest, before = inner.place.word(), now = next.word(), "custody");
        inner.place = next;
        Ok(())
    }

    /// The guest is here, and its LUNs are to be opened with the state that they had.
    fn go_on(&self, place: &Place, state: &[u8]) -> Step {
        let mut inner = self.lock();
        if inner.place != *place {
            return Step::Next;
        }
        if let Err(error) = self.host.resume(state) {
            return Step::Stuck(error.to_string());
        }
        // The LUNs are open and this host's; that they are is all that the record would add.
        if let Err(refusal) = self.put(&mut inner, Place::HERE) {
            return Step::Stuck(refusal.desc);
        }
        self.device.gate().open();
        Step::Next
    }

    /// The guest runs here, and another host has it.
    fn fetch(&self, place: &Place, from: &HostName) -> Step {
        let id = match fresh_id() {
            Ok(id) => id,
            Err(error) => return Step::Stuck(format!("random numbers: {error}")),
        };
        let state = match self.ask(from, DeviceStep::Give, id) {
            Ok(state) => state,
            Err(asked) => return Step::Stuck(format!("{from} does not give it: {asked}")),
        };
        if let Err(error) = self.host.check(&state) {
            return Step::Stuck(format!("what {from} gave does not fit: {error}"));
        }
        self.change(place, Place::Taking { id, from: from.clone(), state })
    }

    /// The state is here: the LUNs are opened and compared, then the other host gives the guest up.
    fn take(&self, place: &Place, id: Id, from: &HostName, state: &[u8]) -> Step {
        if let Some(step) = self.may_not_open(place, id, from) {
            return step;
        }
        match self.open_for(place, state) {
            Step::Rest => {}
            other => return other,
        }
        match self.ask(from, DeviceStep::Commit, id) {
            Ok(_) => self.arrive(place),
            Err(Asked::Refused(refusal)) => {
                tracing::warn!(guest = self.guest, why = refusal.desc, "not taken");
                self.let_go();
                self.change(place, Place::Expected { from: from.clone() })
            }
            Err(asked) => {
                // Whether it is ours is not known. Should it not be, the other host must be able to open the LUNs.
                self.let_go();
                Step::Stuck(format!("whether {from} has given it up is not known: {asked}"))
            }
        }
    }

    /// Before LUNs are opened: with those at a target that would take the session from the other host, which may have kept the guest
    /// since it gave the state.
    fn may_not_open(&self, place: &Place, id: Id, from: &HostName) -> Option<Step> {
        if self.host.is_open() {
            return None;
        }
        match self.ask(from, DeviceStep::Check, id) {
            Ok(_) => None,
            Err(Asked::Refused(_)) => Some(self.change(place, Place::Expected { from: from.clone() })),
            Err(asked) => Some(Step::Stuck(format!("whether {from} still gives it is not known: {asked}"))),
        }
    }

    /// Opens the LUNs, if the place is still `place`; nothing else changes it meanwhile.
    fn open_for(&self, place: &Place, state: &[u8]) -> Step {
        let inner = self.lock();
        if inner.place != *place {
            return Step::Next;
        }
        match self.host.resume(state) {
            Ok(()) => Step::Rest,
            Err(error) => Step::Stuck(error.to_string()),
        }
    }

    /// The other host has given the guest up.
    fn arrive(&self, place: &Place) -> Step {
        let mut inner = self.lock();
        if inner.place != *place || !self.host.is_open() {
            return Step::Next;
        }
        if let Err(refusal) = self.put(&mut inner, Place::HERE) {
            return Step::Stuck(refusal.desc);
        }
        inner.trouble = None;
        self.device.gate().open();
        tracing::info!(guest = self.guest, "the guest is here");
        Step::Rest
    }

    /// The guest does not run here, or not yet: its LUNs are free for who has it.
    fn let_go(&self) -> Step {
        match self.host.close() {
            Ok(()) => Step::Rest,
            Err(error) => Step::Stuck(error.to_string()),
        }
    }

    fn ask(&self, host: &HostName, step: DeviceStep, handover: Id) -> Result<Vec<u8>, Asked> {
        let question = Question { handover, guest: self.guest.clone(), step, format: saved::VERSION };
        self.peering.ask(host, question)
    }

    /// The operator says that the guest is this host's, whatever the other one says.
    ///
    /// # Errors
    /// It is here already, or its LUNs cannot be opened.
    pub(super) fn claim(&self) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let state = match &inner.place {
            Place::Here { state } if state.is_empty() => {
                return Err(Refusal::new("Refused", format!("guest {} is here", self.guest)));
            }
            place => place.state().to_vec(),
        };
        let resumed = if state.is_empty() { Err(()) } else { self.host.resume(&state).map_err(drop) };
        let opened = resumed.or_else(|()| self.host.reopen());
        opened.map_err(|error| Refusal::new("Refused", error.to_string()))?;
        self.put(&mut inner, Place::HERE)?;
        inner.trouble = None;
        self.device.gate().open();
        tracing::warn!(guest = self.guest, "claimed for this host by the operator");
        Ok(())
    }

    /// Answers another host.
    ///
    /// # Errors
    /// What it is told; nothing has changed then.
    pub(super) fn answer(&self, from: &HostName, question: &Question) -> Result<DeviceState, Refusal> {
        if question.format < saved::VERSION {
            let why = format!(
                "the device at {from} reads format {} at most, and this one writes {}: update it",
                question.format,
                saved::VERSION
            );
            return Err(Refusal::new("Version", why));
        }
        let state = match question.step {
            DeviceStep::Look => self.look(from),
            DeviceStep::Give => self.give(from, question.handover),
            DeviceStep::Check => self.check(question.handover).map(|()| Vec::new()),
            DeviceStep::Commit => self.commit(from, question.handover).map(|()| Vec::new()),
        };
        Ok(DeviceState { state: peer::message::Bytes(state?) })
    }

    /// Whether the guest could be given to `from`: the state that it would have got now.
    fn look(&self, from: &HostName) -> Result<Vec<u8>, Refusal> {
        match &self.lock().place {
            Place::Here { state } if state.is_empty() => {
                self.host.save().map_err(|error| Refusal::new("Refused", error.to_string()))
            }
            place @ (Place::Giving { .. } | Place::Away { .. }) if place.other() == Some(from) => {
                Ok(place.state().to_vec())
            }
            place => Err(self.elsewhere(place)),
        }
    }

    fn give(&self, to: &HostName, id: Id) -> Result<Vec<u8>, Refusal> {
        let mut inner = self.lock();
        let place = inner.place.clone();
        match &place {
            Place::Here { state } if state.is_empty() => self.put_down(&mut inner, to, id),
            Place::Here { state } | Place::Giving { state, .. } | Place::Taking { state, .. } => {
                if self.device.gate().is_awaited() {
                    return Err(self.still_running());
                }
                if place.other().is_some_and(|other| other != to) {
                    return Err(self.elsewhere(&place));
                }
                self.host.close().map_err(|error| Refusal::new("Refused", error.to_string()))?;
                self.put(&mut inner, Place::Giving { id, to: to.clone(), state: state.clone() })?;
                Ok(state.clone())
            }
            Place::Expected { .. } | Place::Away { .. } => Err(self.elsewhere(&place)),
        }
    }

    /// The guest is here and has stopped: its state, and its LUNs are free.
    fn put_down(&self, inner: &mut Inner, to: &HostName, id: Id) -> Result<Vec<u8>, Refusal> {
        self.device.gate().shut().map_err(|_| self.still_running())?;
        let given = self.put_down_shut(inner, to, id);
        if given.is_err() {
            self.device.gate().open();
        }
        given
    }

    fn put_down_shut(&self, inner: &mut Inner, to: &HostName, id: Id) -> Result<Vec<u8>, Refusal> {
        let refused = |error: super::host::MoveError| Refusal::new("Refused", error.to_string());
        let state = self.host.save().map_err(refused)?;
        self.put(inner, Place::Giving { id, to: to.clone(), state: state.clone() })?;
        if let Err(error) = self.host.close() {
            self.put(inner, Place::HERE)?;
            return Err(refused(error));
        }
        Ok(state)
    }

    /// Whether the handover is under way, or over with the guest given.
    fn check(&self, id: Id) -> Result<(), Refusal> {
        match &self.lock().place {
            Place::Giving { id: ours, .. } | Place::Away { id: ours, .. } if *ours == id => Ok(()),
            _ => Err(self.over(id)),
        }
    }

    fn commit(&self, to: &HostName, id: Id) -> Result<(), Refusal> {
        let mut inner = self.lock();
        match &inner.place {
            Place::Away { id: ours, .. } if *ours == id => Ok(()),
            Place::Giving { id: ours, to: other, .. } if *ours == id && other == to => {
                if self.device.gate().is_awaited() {
                    return Err(self.still_running());
                }
                self.put(&mut inner, Place::Away { id, to: to.clone() })
            }
            _ => Err(self.over(id)),
        }
    }

    fn still_running(&self) -> Refusal {
        Refusal::new("StillRunning", format!("guest {}: its rings run here", self.guest))
    }

    fn elsewhere(&self, place: &Place) -> Refusal {
        let other = place.other().map_or("this host", HostName::as_str);
        Refusal::new("NotHere", format!("guest {} is {} here ({other})", self.guest, place.word()))
    }

    fn over(&self, id: Id) -> Refusal {
        let desc =
            format!("guest {}: handover {} is not under way: the guest stayed", self.guest, String::from(id));
        Refusal::new("UnknownHandover", desc)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Custody {
    /// A front end that connects where the guest is only expected belongs to a VMM that waits for the guest, which still runs: what
    /// would keep it from being taken is to be known now.
    fn turns_away(&self) -> Option<String> {
        let Place::Expected { from } = self.lock().place.clone() else { return None };
        let why = match self.ask(&from, DeviceStep::Look, Id(0)) {
            Ok(state) if state.is_empty() => return None,
            Ok(state) => self.host.check(&state).err()?.to_string(),
            Err(asked) => asked.to_string(),
        };
        Some(format!("guest {} could not come from {from}: {why}", self.guest))
    }

    fn arrived(&self) {
        self.stir();
    }

    fn left(&self) {
        self.stir();
    }
}

fn fresh_id() -> std::io::Result<Id> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got == bytes.len() {
        Ok(Id(u128::from_ne_bytes(bytes)))
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests;
