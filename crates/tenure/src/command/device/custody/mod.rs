//! Who has a guest, where several device processes may have it: one after the other, never two (DESIGN P4, P5).
//!
//! Nobody leads. The guest's rings say where it runs: when they start at a device that has it not, that device fetches it from the
//! other one, whose rings must have stopped. What is done when is decided in [`standing`], which is pure; here that is carried out: the
//! record, the logical units, the gate, the questions to other devices and the answers to theirs.
//!
//! Guarantees: one thing at a time; what a front end's thread or the control socket wants to know never waits for a file or a peer.

mod again;
mod peers;
mod place;
mod record;
mod standing;

pub(super) use peers::{Asked, Peering};
pub(super) use record::{Entry, Place, RecordFile, State};

use super::handed::HandError;
use super::host::{Host, MoveError};
use again::Again;
use ledger::HandoverId;
use logical_unit::snapshot;
use peer::listener::LinkEnd;
use peer::message::{Device as Question, DeviceState, DeviceStep, Id};
use peer::{HostName, Refusal, Reply, Request};
use standing::{Act, Answer, Call, Event, Gift, No, Step};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vhost_user_scsi::device::Device;
use vhost_user_scsi::gate::Keeper;
use vhost_user_scsi::saved;

/// Between two attempts, at first and at most.
const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(1);

/// From host to host, to find who has a guest.
const MOST_HOPS: usize = 4;

/// The newest format of all that a state is made of.
const FORMAT: u16 = 1;
const _: () =
    assert!(saved::VERSION == 1 && snapshot::VERSION == 1, "another format of a part is another FORMAT");

type Standing = standing::Standing<HostName, State>;

/// One guest's.
#[derive(Debug)]
pub(super) struct Custody {
    guest: String,
    device: Arc<Device>,
    host: Arc<Host>,
    peering: Arc<Peering>,
    record: RecordFile,
    began: Instant,
    /// Held while something is done.
    standing: Mutex<Standing>,
    /// What others may know and tell at any time.
    seen: Mutex<Seen>,
    /// When registrations of another host's nexus are asked for again.
    again: Mutex<Again>,
    told: Condvar,
}

#[derive(Debug)]
struct Seen {
    place: Place,
    /// Whom to ask for the guest, where it is elsewhere.
    source: Option<HostName>,
    /// Why the guest waits, if it does.
    trouble: Option<String>,
    /// A front end has been here.
    met: bool,
    /// Something has happened that may need a step.
    stirred: bool,
    over: bool,
}

impl Custody {
    /// The custody of `device`'s guest, by its record; the gate is shut. `incoming` is where the operator says that the guest is.
    pub(super) fn new(
        guest: &str,
        device: &Arc<Device>,
        host: &Arc<Host>,
        peering: &Arc<Peering>,
        (record, entry, incoming): (RecordFile, Entry, Option<HostName>),
    ) -> Arc<Self> {
        let standing = Standing::new(entry, incoming);
        let (place, source) = (standing.entry().place.clone(), standing.source().cloned());
        host.freeze(standing.has_state());
        let seen = Seen { place, source, trouble: None, met: false, stirred: true, over: false };
        Arc::new(Self {
            guest: guest.to_owned(),
            device: Arc::clone(device),
            host: Arc::clone(host),
            peering: Arc::clone(peering),
            record,
            began: Instant::now(),
            standing: Mutex::new(standing),
            seen: Mutex::new(seen),
            again: Mutex::default(),
            told: Condvar::new(),
        })
    }

    /// The guest's name.
    pub(super) fn guest(&self) -> &str {
        &self.guest
    }

    /// Where the guest is, and why it waits if it does.
    pub(super) fn status(&self) -> (Place, Option<String>) {
        let left = self.again().left(Instant::now());
        let seen = self.seen();
        let again = |why: String| match left {
            Some(left) => format!("{why} (tried again in {} s)", left.as_secs().saturating_add(1)),
            None => why,
        };
        (seen.place.clone(), seen.trouble.clone().map(again))
    }

    /// Something has changed by which what failed may succeed.
    pub(super) fn try_again(&self) {
        self.again().reset();
        self.stir();
    }

    /// Does what is to be done, on a thread of its own, until [`Custody::end`].
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let own = Arc::clone(self);
        thread::Builder::new().name("custody".into()).spawn(move || {
            // What became of it is in the log, and the process ends.
            let _ = super::or_end(&own.guest, "nobody has custody of the guest any more", || {
                own.run();
                Ok(())
            });
        })
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.seen().over = true;
        self.told.notify_all();
    }

    fn run(&self) {
        let mut pause = None;
        while self.wait(pause) {
            let longer = pause.map_or(SHORT, |pause| LONG.min(pause.saturating_mul(2)));
            pause = (!self.advance()).then_some(longer);
        }
    }

    /// Until something happens, or it is time to try again; `false` when it is over.
    fn wait(&self, pause: Option<Duration>) -> bool {
        let mut seen = self.seen();
        if let Some(pause) = pause {
            // Something that happens now does not make it more urgent: the other side is not to be flooded.
            let waited = self.told.wait_timeout_while(seen, pause, |seen| !seen.over);
            (seen, _) = waited.unwrap_or_else(PoisonError::into_inner);
        } else {
            let idle = |seen: &mut Seen| !seen.stirred && !seen.over;
            seen = self.told.wait_while(seen, idle).unwrap_or_else(PoisonError::into_inner);
        }
        seen.stirred = false;
        !seen.over
    }

    fn stir(&self) {
        self.seen().stirred = true;
        self.told.notify_all();
    }

    fn note_trouble(&self, why: &str) {
        let mut seen = self.seen();
        if seen.trouble.as_deref() != Some(why) {
            tracing::warn!(guest = self.guest, why, "the guest waits");
            seen.trouble = Some(why.to_owned());
        }
    }

    /// All that can be done now; `false` if something has to be tried again.
    fn advance(&self) -> bool {
        self.lock().on(Event::Retry);
        loop {
            let call = self.work(&mut self.lock(), true).0;
            let Some(call) = call else { return !self.lock().is_paused() };
            let answer = self.call(&call);
            self.lock().on(Event::Answered(call, answer));
        }
    }

    /// Carries out what is to be done: until there is nothing more, or another device has to be asked. And why something was not done.
    fn work(&self, standing: &mut Standing, calls: bool) -> (Option<Call<HostName>>, Option<String>) {
        let mut why = None;
        let call = loop {
            standing.on(Event::Rings(self.is_awaited()));
            let fresh = match fresh_id() {
                Ok(fresh) => fresh,
                Err(error) => {
                    why = Some(format!("random numbers: {error}"));
                    break None;
                }
            };
            match standing.act(fresh, calls) {
                None => break None,
                Some(Act::Call(call)) => break Some(call),
                Some(act) => {
                    let (event, failed) = self.carry_out(act, standing);
                    standing.on(event);
                    why = failed.or(why);
                }
            }
        };
        self.show(standing, why.as_deref());
        (call, why)
    }

    fn show(&self, standing: &Standing, why: Option<&str>) {
        // What another device is just about to give has been compared with them.
        if standing.has_state() || !standing.is_calling() {
            self.host.freeze(standing.has_state());
        }
        let mut seen = self.seen();
        (seen.place, seen.source) = (standing.entry().place.clone(), standing.source().cloned());
        if standing.is_paused() {
            drop(seen);
            why.into_iter().for_each(|why| self.note_trouble(why));
        } else if !standing.is_calling() {
            seen.trouble = None;
        }
    }

    /// How an act ended, and why if not well.
    fn carry_out(
        &self,
        act: Act<HostName, State>,
        standing: &Standing,
    ) -> (Event<HostName, State>, Option<String>) {
        let (done, event): (Result<(), String>, fn(bool) -> _) = match act {
            Act::Write(entry) => (self.write(&entry, standing), Event::Wrote),
            Act::Shut => (self.device.gate().shut().map_err(|error| error.to_string()), Event::Shut),
            Act::Close => (told(self.host.close()), Event::Closed),
            Act::Open(Some(state)) => (told(self.host.resume(&state)), Event::Opened),
            Act::Open(None) => (self.reopen(), Event::Opened),
            Act::Publish => (self.publish(standing), Event::Published),
            Act::Serve => (self.serve(), Event::Served),
            Act::Save(id) => {
                return match self.host.give(id.0) {
                    Ok(state) => (Event::Saved(Some((id, state.into()))), None),
                    Err(error) => (Event::Saved(None), Some(error.to_string())),
                };
            }
            // Who calls asks for the answer himself.
            Act::Call(call) => return (Event::Answered(call, Answer::Lost), None),
        };
        (event(done.is_ok()), done.err())
    }

    fn write(&self, entry: &Entry, standing: &Standing) -> Result<(), String> {
        let (before, now) = (standing.entry().place.word(), entry.place.word());
        self.record.write(entry).map_err(|error| format!("its record cannot be written: {error}"))?;
        tracing::info!(guest = self.guest, before, now, epoch = entry.epoch, "custody");
        Ok(())
    }

    /// By the operator's word, without a state.
    fn reopen(&self) -> Result<(), String> {
        told(self.host.end_alone(self.peering.own()))?;
        told(self.host.reopen())
    }

    /// The registrations that are at other hosts' nexuses are brought here first: until then the guest waits.
    fn publish(&self, standing: &Standing) -> Result<(), String> {
        told(self.host.publish())?;
        let Some(state) = standing.entry().place.state() else { return Ok(()) };
        if let Some(why) = self.again().waits(Instant::now()) {
            return Err(why);
        }
        let brought = self.host.bring_registrations(state, &self.peering, standing.is_claiming());
        brought.inspect(|()| self.again().reset()).map_err(|error| self.failed(&error))
    }

    /// Registrations did not come.
    fn failed(&self, error: &MoveError) -> String {
        let heard = !matches!(error, MoveError::Handed(HandError::Lost { .. }));
        let why = error.to_string();
        let pause = self.again().failed(Instant::now(), &why, heard);
        tracing::warn!(
            guest = self.guest,
            why,
            seconds = pause.as_secs(),
            "its registrations did not come; tried again later"
        );
        why
    }

    fn serve(&self) -> Result<(), String> {
        told(self.host.begin())?;
        self.device.gate().open();
        tracing::info!(guest = self.guest, "the guest is here");
        Ok(())
    }

    /// Whether the guest runs here and waits.
    fn is_awaited(&self) -> bool {
        self.device.gate().is_shut() && self.device.gate().is_awaited()
    }

    /// Asks another device.
    fn call(&self, call: &Call<HostName>) -> Answer<HostName, State> {
        let step = match call.step {
            Step::Give => DeviceStep::Give,
            Step::Check => DeviceStep::Check,
            Step::Commit => DeviceStep::Commit,
        };
        let (answer, why) = match self.ask(&call.to, step, call.id) {
            Ok(told) if call.step == Step::Give => self.given(&call.to, told),
            Ok(_) => (Answer::Yes, None),
            Err(Asked::Refused(refusal)) if refusal.class == UNKNOWN => {
                (Answer::Unknown, Some(format!("{}: {refusal}", call.to)))
            }
            Err(asked) => (Answer::Lost, Some(format!("{}: {asked}", call.to))),
        };
        why.iter().for_each(|why| self.note_trouble(why));
        answer
    }

    /// What another device gave, and why that is nothing if it is.
    fn given(&self, from: &HostName, told: DeviceState) -> (Answer<HostName, State>, Option<String>) {
        if let Some(there) = told.elsewhere {
            let why = format!("{from} does not have it: it is at {there}");
            let peer = there.parse().ok().filter(|there| self.peering.knows(there));
            return (Answer::Elsewhere(peer), Some(why));
        }
        let Some(id) = told.handover else {
            return (Answer::Lost, Some(format!("{from} gave no handover")));
        };
        let own = self.lock().entry().epoch;
        if told.epoch < own {
            let why = format!(
                "the record at {from} is old: by it the guest has changed hands {} times, by the one here {own} times",
                told.epoch
            );
            return (Answer::Lost, Some(why));
        }
        if told.state.0.starts_with(&[0; 16]) {
            return (Answer::Lost, Some(format!("{from} gave a state that nothing ties to its files")));
        }
        self.host.freeze(true);
        let known = self.host.bearers_are_known(&told.state.0, &self.peering);
        match self.host.check(&told.state.0).and(known) {
            Ok(()) => (Answer::Given(Gift { id, epoch: told.epoch, state: told.state.0.into() }), None),
            Err(error) => (Answer::Lost, Some(format!("what {from} gave does not fit: {error}"))),
        }
    }

    fn ask(&self, host: &HostName, step: DeviceStep, handover: Id) -> Result<DeviceState, Asked> {
        let question = Question { handover, guest: self.guest.clone(), step, format: FORMAT };
        self.peering.ask(host, question)
    }

    /// The operator says that the guest is this host's, whatever the other one says; `without` a state that nobody has any more.
    ///
    /// # Errors
    /// It is here already, or its LUNs cannot be opened; or its record could not be written, and will be as soon as that is possible.
    pub(super) fn claim(&self, without: bool) -> Result<(), Refusal> {
        let refused = |why: &str| Refusal::new("Refused", format!("guest {}: {why}", self.guest));
        let mut standing = self.lock();
        self.again().reset();
        standing.claim(without).map_err(refused)?;
        let (_, why) = self.work(&mut standing, false);
        let (is_here, in_doubt) = (standing.entry().place == Place::Here, standing.is_in_doubt());
        drop(standing);
        // The rest is the thread's: to write what is in doubt, to close what was opened in vain.
        self.stir();
        let why = why.as_deref().unwrap_or("not now");
        if in_doubt {
            return Err(refused(&format!("in doubt: it is claimed as soon as that can be done: {why}")));
        }
        if !is_here {
            return Err(refused(why));
        }
        tracing::warn!(guest = self.guest, without, "claimed for this host by the operator");
        Ok(())
    }

    /// Answers another device.
    ///
    /// # Errors
    /// What it is told. Only `UnknownHandover` says anything about what was done.
    pub(super) fn answer(&self, from: &HostName, question: &Question) -> Result<DeviceState, Refusal> {
        if question.format < FORMAT {
            let why = format!(
                "the device at {from} reads format {} at most, and this one writes {FORMAT}: update it",
                question.format
            );
            return Err(Refusal::new("Version", why));
        }
        let step = match question.step {
            // Its VMM begins something there.
            DeviceStep::Look => {
                let seen = self.look(from);
                self.try_again();
                return seen;
            }
            DeviceStep::Give => Step::Give,
            DeviceStep::Check => Step::Check,
            DeviceStep::Commit => Step::Commit,
        };
        let call = Call { to: self.peering.own().clone(), step, id: question.handover };
        let answered = self.answer_call(from, &call);
        // There may be more to do for the thread.
        self.stir();
        answered
    }

    fn answer_call(&self, from: &HostName, call: &Call<HostName>) -> Result<DeviceState, Refusal> {
        let mut standing = self.lock();
        standing.on(Event::Rings(self.is_awaited()));
        let is_ours = matches!(standing.entry().place, Place::Here | Place::Owned { .. });
        if call.step == Step::Give && is_ours && self.may_come_back() {
            return Err(self.running("its device was just started, and its VMM may come back"));
        }
        if call.step == Step::Give
            && let Place::Owned { state } = &standing.entry().place
            && let Err(why) = self.host.may_give_back(state, &self.peering)
        {
            return Err(Refusal::new("InDoubt", format!("guest {}: {why}", self.guest)));
        }
        let (told, why) = match standing.asked(from, call) {
            Ok(()) => {
                let (_, why) = self.work(&mut standing, false);
                (standing.answer(from, call), why)
            }
            Err(no) => (Err(no), None),
        };
        match told {
            Ok(Some(Gift { id, epoch, state })) => Ok(DeviceState {
                state: peer::message::Bytes(state.to_vec()),
                handover: Some(id),
                epoch,
                ..DeviceState::default()
            }),
            Ok(None) => Ok(DeviceState::default()),
            Err(No::Elsewhere(Some(there))) if there != *from => {
                Ok(DeviceState { elsewhere: Some(there.to_string()), ..DeviceState::default() })
            }
            Err(no) => Err(self.refusal(&no, &standing, why.as_deref())),
        }
    }

    /// Follows a device that leads a handover of registrations which this host's nexuses have kept for this ticket: that is for the ledger
    /// to say, and not for the place, which may be that of another handover since, in which the guest nearly came back.
    ///
    /// # Errors
    /// What it is told.
    pub(super) fn follow(
        &self,
        (from, link): (&HostName, &LinkEnd),
        ticket: HandoverId,
        request: &Request,
        turn: &mut Option<u64>,
    ) -> Result<Reply, Refusal> {
        let to = self.must_be_elsewhere()?;
        if let Request::Open(_) | Request::Recover(_) = request {
            self.must_have_it(from, to)?;
        }
        let still = || {
            if link.has_gone() {
                return Err(Refusal::new("Stopped", "nobody waits for the answer"));
            }
            self.must_be_elsewhere().map(drop)
        };
        self.host.follow(ticket.0, [self.peering.own(), from], (request, &still), turn)
    }

    /// The link of whoever was followed in this turn is no more.
    pub(super) fn stop_following(&self, turn: u64) {
        self.host.guests().iter().for_each(|hosted| hosted.real.stop_following(turn));
    }

    /// The host that has the guest, as far as this one knows, which has no right to it. Not the standing is asked: this host may be asking
    /// that device just now.
    fn must_be_elsewhere(&self) -> Result<HostName, Refusal> {
        match self.seen().place.clone() {
            Place::Away { to: other, .. }
            | Place::Expected { from: other }
            | Place::Taking { from: other, .. } => Ok(other),
            _ => Err(Refusal::new("NotHere", "the guest is not away, or its registration would go with it")),
        }
    }

    /// Only the host that has the guest is followed: the one that this host knows of, or is told of by the operator, or to which the guest
    /// went on from there. Where nobody can say the ticket is believed, which only hosts know that were given the guest.
    fn must_have_it(&self, from: &HostName, to: HostName) -> Result<(), Refusal> {
        let told = self.seen().source.clone();
        let mut at = to;
        for _ in 0..MOST_HOPS {
            if at == *from || told.as_ref() == Some(from) {
                return Ok(());
            }
            at = match self.ask(&at, DeviceStep::Look, Id(0)) {
                Ok(DeviceState { elsewhere: Some(there), .. }) => {
                    let there = there.parse().ok().filter(|there| self.peering.knows(there));
                    there.ok_or_else(|| Refusal::new("NotHere", "the guest is at a host that is no peer"))?
                }
                Err(asked) if asked.knows_nothing() => {
                    let why = asked.to_string();
                    tracing::warn!(guest = self.guest, host = %at, why, follows = %from, "not asked where the guest is");
                    return Ok(());
                }
                Ok(_) | Err(_) => break,
            };
        }
        Err(Refusal::new("NotHere", format!("guest {}: by all that is known it is at {at}", self.guest)))
    }

    /// Nobody has connected since the start, and not for long: the guest may be in a VMM that has not noticed.
    fn may_come_back(&self) -> bool {
        !self.seen().met && self.began.elapsed() < self.device.settings().patience.wait
    }

    fn refusal(&self, no: &No<HostName>, standing: &Standing, why: Option<&str>) -> Refusal {
        let desc = |what: &str| format!("guest {}: {}", self.guest, why.unwrap_or(what));
        match no {
            No::Running => Refusal::new("StillRunning", desc("its rings run here")),
            No::InDoubt => Refusal::new("InDoubt", desc("its record is being written")),
            No::Unknown => Refusal::new(UNKNOWN, desc("that handover is not under way: the guest stayed")),
            No::Elsewhere(_) => {
                Refusal::new("NotHere", desc(&format!("it is {} here", standing.entry().place.word())))
            }
        }
    }

    fn running(&self, why: &str) -> Refusal {
        Refusal::new("StillRunning", format!("guest {}: {why}", self.guest))
    }

    /// Whether the guest could be given to `from`: the state that it would have got now.
    fn look(&self, from: &HostName) -> Result<DeviceState, Refusal> {
        let standing = self.lock();
        let entry = standing.entry();
        let state = match &entry.place {
            _ if standing.is_in_doubt() => return Err(self.refusal(&No::InDoubt, &standing, None)),
            Place::Here => self.host.save().map_err(|error| Refusal::new("Refused", error.to_string()))?,
            Place::Giving { state, .. } | Place::Owned { state } => without_stamp(state),
            // What is on its way to who asks has been looked at.
            place if place.other() == Some(from) => Vec::new(),
            place => {
                let there = place.other().map(|there| there.to_string());
                return Ok(DeviceState { elsewhere: there, ..DeviceState::default() });
            }
        };
        let state = peer::message::Bytes(state);
        Ok(DeviceState { state, epoch: entry.epoch, ..DeviceState::default() })
    }

    /// What would keep the guest from coming, as far as that can be known before it has stopped where it is.
    fn obstacle(&self, place: &Place, source: &HostName) -> Option<String> {
        let told = match self.ask(source, DeviceStep::Look, Id(0)) {
            Ok(DeviceState { elsewhere: Some(there), .. }) => {
                let there: HostName = there.parse().ok().filter(|there| self.peering.knows(there))?;
                self.ask(&there, DeviceStep::Look, Id(0))
            }
            told => told,
        };
        match told {
            Ok(told) if told.state.is_empty() => None,
            Ok(told) => {
                let known = self.host.bearers_are_known(&told.state.0, &self.peering);
                known.and_then(|()| self.host.look_at(&told.state.0)).err().map(|error| error.to_string())
            }
            // The VMM that the guest was in may be the one that comes back.
            Err(Asked::Lost(_)) if matches!(place, Place::Away { .. }) => None,
            Err(asked) => Some(asked.to_string()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn again(&self) -> MutexGuard<'_, Again> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state for who only looks at it: whoever has its stamp may ask for what goes with the guest.
fn without_stamp(state: &[u8]) -> Vec<u8> {
    let mut shown = state.to_vec();
    shown.iter_mut().take(16).for_each(|byte| *byte = 0);
    shown
}

/// The one refusal that says for certain that a handover was never committed.
const UNKNOWN: &str = "UnknownHandover";

fn told(done: Result<(), super::host::MoveError>) -> Result<(), String> {
    done.map_err(|error| error.to_string())
}

impl Keeper for Custody {
    /// A front end that connects where the guest is not belongs to a VMM that waits for the guest, which still runs: what would keep it
    /// from being taken is to be known now.
    fn turns_away(&self) -> Option<String> {
        let (place, source) = {
            let mut seen = self.seen();
            seen.met = true;
            (seen.place.clone(), seen.source.clone()?)
        };
        let why = self.obstacle(&place, &source)?;
        Some(format!("guest {} could not come from {source}: {why}", self.guest))
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
