//! A guest's PERSISTENT RESERVE commands, in the order that makes every reply one that the record knows.
//!
//! PERSISTENT RESERVE OUT: a handover is waited for and then kept out by a shared lock (BUSY after [`Guard::WAIT`]); a guest that
//! moved away gets RESERVATION CONFLICT; record and device are made to agree if a crash, an error or a restart left that open; a unit
//! attention that own questions took is given first; what can change the registration is written ahead, sent, observed and committed;
//! then the reply goes out. An intent that cannot be written is answered with HARDWARE ERROR, and nothing is sent. A commit that fails
//! after GOOD does not make it less GOOD: the intent stays open, and nothing that changes anything passes until the device has been
//! asked.
//!
//! PERSISTENT RESERVE IN waits for nobody (but to note a unit attention that it brings) and needs no record; it works with
//! a broken state directory. Where its reply says that the guest's registration is not what is recorded, the device is
//! asked.

use crate::book::Book;
use crate::complaint::Complaints;
use crate::evidence::Contradiction;
use crate::order::Order;
use crate::run::{Known, Refused, Run};
use crate::{Identity, failure};
use ledger::{Error, HandoverId, Lock, LunId, PathId, Record, State};
use nexus::{Nexus, TransportError, unit_attention};
use scsi::pr::InAction;
use scsi::{Completion, DataPhase, Request, Status, opcode};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// SIP_C and ATP_C in byte 2 of REPORT CAPABILITIES (SPC-4 6.15.4).
const REGISTERS_OTHERS: u8 = 0x0C;

/// Between two looks at a record that says that a handover is under way.
const PAUSE: Duration = Duration::from_millis(5);

/// Nexuses of which this process knows something beside the record.
const MOST_NEXUSES: usize = 4096;

/// Between two questions that a guest's conflicts raise.
const SUSPICION: Duration = Duration::from_secs(1);

type Nexuses = BTreeMap<(LunId, PathId), Arc<Mutex<Known>>>;
/// Held while a command that may change a logical unit is under way: what it removes may be another nexus's.
type Units = BTreeMap<LunId, Arc<Mutex<()>>>;

/// Whether a nexus still leads where it did when it was identified, asked before anything is recorded or changed.
pub(crate) type Confirm<'a> = &'a dyn Fn(&Identity, &mut dyn Nexus) -> Result<bool, Completion>;

/// A logical unit as one nexus reaches it, for the length of a command.
pub struct Way<'a> {
    /// Which logical unit and which nexus.
    pub identity: &'a Identity,
    /// The nexus.
    pub nexus: &'a mut dyn Nexus,
    /// Whether `nexus` still leads where it did when it was identified, which may have been a moment ago.
    pub confirm: &'a dyn Fn(&Identity, &mut dyn Nexus) -> Result<bool, Completion>,
}

/// A command of a handover's own, which was judged, and when it came.
#[derive(Clone, Debug)]
pub struct Task {
    /// The handover.
    pub handover: HandoverId,
    /// It can change what is registered.
    pub changes: bool,
    /// The command.
    pub request: Request,
    /// Of two that change something the later one has the word.
    pub begun: Instant,
}

/// Why a command of a handover was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The record has no room for it.
    Refused(String),
    /// The device did not say that it is still the same; what it answered instead.
    Disturbed(Completion),
}

/// Keeps the records of one guest.
pub struct Guard {
    book: Box<dyn Book>,
    complaints: Complaints,
    /// One entry for each device that the guest was given.
    nexuses: Mutex<Nexuses>,
    units: Mutex<Units>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Guard {
    /// How long a PERSISTENT RESERVE OUT waits for a handover before BUSY.
    pub const WAIT: Duration = Duration::from_secs(1);

    /// For the guest whose records `book` has.
    #[must_use]
    pub fn new(book: Box<dyn Book>) -> Self {
        Self { book, complaints: Complaints::new(), nexuses: Mutex::default(), units: Mutex::default() }
    }

    /// A PERSISTENT RESERVE IN of the guest: a unit attention that the guest is owed, or the device's answer. Nobody waits for the
    /// device but who asked.
    pub fn read(&self, way: &mut Way<'_>, request: &Request) -> Completion {
        let known = self.known(way.identity);
        let record = match self.attention(way, &known) {
            Ok(record) => record,
            Err(owed) => return owed,
        };
        let ended = way.nexus.execute(request).unwrap_or_else(|error| failure::answer(&error));
        self.learn(way, &known, &record, request, &ended);
        ended
    }

    /// A PERSISTENT RESERVE OUT of the guest.
    ///
    /// # Errors
    /// It did not reach the device; what the guest is answered, and why.
    pub fn out(&self, way: &mut Way<'_>, order: &Order) -> Result<Completion, Refused> {
        let _shared = self.admit(way.identity)?;
        let (unit, known) = (self.unit(way.identity), self.known(way.identity));
        let _unit = lock(&unit);
        let mut known = lock(&known);
        let record = self.guard(way.identity)?;
        self.run(way, record, &mut known).out(order)
    }

    /// Makes record and device agree, if the guest has a record of this nexus and is here. What fails is made up for before the
    /// guest's next PERSISTENT RESERVE OUT.
    ///
    /// # Errors
    /// The device could not be asked, a handover is under way, or the ledger cannot be used.
    pub fn settle(&self, way: &mut Way<'_>) -> Result<(), Refused> {
        let shared = self.book.share(&way.identity.lun, Duration::ZERO);
        let _shared = shared.map_err(|error| self.unshared(way.identity, &error))?;
        let (unit, known) = (self.unit(way.identity), self.known(way.identity));
        let _unit = lock(&unit);
        let mut known = lock(&known);
        let record = self.guard(way.identity)?;
        let asked = "the device could not be asked what the guest has";
        self.run(way, record, &mut known).settle().map_err(|ended| Refused::new(ended, asked))
    }

    /// The way to the device was lost for a while, or somebody else used it: the device is asked before the guest's next
    /// PERSISTENT RESERVE OUT. `false`: a command is under way on the nexus, to be told again.
    #[must_use]
    pub fn doubt(&self, identity: &Identity) -> bool {
        let known = self.known(identity);
        try_lock(&known).map(|mut known| known.unsettle()).is_some()
    }

    /// A unit attention that own questions took, if the guest is owed one: whatever command it sends gets it, and is not sent.
    pub fn owed(&self, way: &mut Way<'_>) -> Option<Completion> {
        let known = self.known(way.identity);
        self.attention(way, &known).err()
    }

    /// Sense data that somebody else's commands on this nexus took from the guest: it is owed to the guest, and what it tells of is asked.
    ///
    /// # Errors
    /// It could not be recorded; this process gives it to the guest all the same.
    pub fn take(&self, way: &mut Way<'_>, taken: Vec<Vec<u8>>) -> Result<(), Refused> {
        let known = self.known(way.identity);
        let mut known = lock(&known);
        let ready = Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None };
        for sense in &taken {
            let told = Completion { status: Status::CHECK_CONDITION, sense: sense.clone(), data: Vec::new() };
            known.tracker.observe(&ready, &told);
        }
        let record = self.record(way.identity);
        let owed = self.run(way, record, &mut known).owe(taken);
        owed.map_err(|error| {
            let why = format!("what the guest is owed cannot be recorded: {error}");
            Refused::new(failure::not_recorded(), why)
        })
    }

    /// A command of the guest other than PERSISTENT RESERVE ended: a unit attention may tell of a change, and so may a conflict that
    /// a registrant should not have got. The device is asked then.
    pub fn told(&self, way: &mut Way<'_>, request: &Request, ended: &Completion) {
        let conflict = ended.status == Status::RESERVATION_CONFLICT;
        if !conflict && unit_attention(ended).is_none() {
            return;
        }
        let (known, record) = (self.known(way.identity), self.record(way.identity));
        if !conflict {
            return self.learn(way, &known, &record, request, ended);
        }
        let registered = record.path(&way.identity.path).is_some_and(|path| path.tracked.key.is_some());
        if registered && try_lock(&known).is_some_and(|mut known| known.suspects_again(SUSPICION)) {
            self.settle_aside(way, &known, Some(Contradiction::Reservation));
        }
    }

    /// A handover's own command on the guest's nexus. One that changes something passes while the record says that this handover is
    /// under way; a question passes also while none is. No lock is taken: whoever hands over holds the freeze lock alone. A unit
    /// attention goes to the handover. What this process knew of the nexus is in doubt after a change.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn hand_over(
        &self,
        way: &mut Way<'_>,
        task: &Task,
    ) -> Result<Result<Completion, TransportError>, Unsent> {
        let known = self.known(way.identity);
        let mut held = lock(&known);
        self.belongs(way.identity, task).map_err(Unsent::Refused)?;
        let overtaken = held.is_overtaken(task.begun);
        if task.changes {
            return change(way, task, overtaken, &mut held);
        }
        drop(held);
        let result = way.nexus.execute(&task.request);
        if let Ok(ended) = &result {
            lock(&known).tracker.observe(&task.request, ended);
        }
        Ok(result)
    }

    /// What the operator has to mend, or should know of; a guest that causes it cannot flood the log.
    pub fn complain(&self, lun: Option<&LunId>, what: impl fmt::Display) {
        self.complaints.say(lun, what);
    }

    /// What is forgotten here is read or asked again.
    fn known(&self, identity: &Identity) -> Arc<Mutex<Known>> {
        entry(&self.nexuses, (identity.lun.clone(), identity.path.clone()))
    }

    /// Locked before the nexus.
    fn unit(&self, identity: &Identity) -> Arc<Mutex<()>> {
        entry(&self.units, identity.lun.clone())
    }

    /// Takes what a reply tells of a change for a reason to ask.
    fn learn(
        &self,
        way: &mut Way<'_>,
        known: &Mutex<Known>,
        record: &Record,
        request: &Request,
        ended: &Completion,
    ) {
        let told = unit_attention(ended).is_some() && {
            let mut known = lock(known);
            known.tracker.observe(request, ended);
            !known.tracker.wants().nothing()
        };
        let recorded = record.path(&way.identity.path).map(|path| path.tracked);
        let contradiction =
            recorded.and_then(|path| Contradiction::of(path, record.reservation, request, ended));
        if told || contradiction.is_some() {
            self.settle_aside(way, known, contradiction);
        }
    }

    /// The record, unless the guest is owed a unit attention. If another command is under way on the nexus, the next one
    /// gives it.
    fn attention(&self, way: &mut Way<'_>, known: &Mutex<Known>) -> Result<Arc<Record>, Completion> {
        // Read with the nexus held, so that no attention is given twice.
        let known = try_lock(known);
        let record = self.record(way.identity);
        let owed =
            known.and_then(|mut known| self.run(way, Arc::clone(&record), &mut known).give_attention());
        owed.map_or(Ok(record), Err)
    }

    /// The record as it is; an empty one where there is none, or none that can be read.
    fn record(&self, identity: &Identity) -> Arc<Record> {
        let record = self.book.read(&identity.lun).ok().flatten();
        record.unwrap_or_else(|| new_record(identity))
    }

    fn run<'a>(&'a self, way: &'a mut Way<'_>, record: Arc<Record>, known: &'a mut Known) -> Run<'a> {
        let (book, complaints) = (&*self.book, &self.complaints);
        let Way { identity, nexus, confirm } = way;
        Run {
            confirm: *confirm,
            book,
            complaints,
            identity,
            record,
            known,
            nexus: &mut **nexus,
            confirmed: false,
        }
    }

    /// After a reply that told of a change. It stays as it is: what fails here is made up for before the next PERSISTENT RESERVE
    /// OUT.
    fn settle_aside(&self, way: &mut Way<'_>, known: &Mutex<Known>, contradiction: Option<Contradiction>) {
        // A handover may have begun, and ended, since the record was read.
        let Ok(_shared) = self.book.share(&way.identity.lun, Duration::ZERO) else { return };
        let unit = self.unit(way.identity);
        let (Some(_unit), Some(mut known)) = (try_lock(&unit), try_lock(known)) else { return };
        let record = self.record(way.identity);
        if !record.state.is_away() {
            let mut run = self.run(way, record, &mut known);
            run.doubt(contradiction);
            let _ = run.settle();
        }
    }

    /// Keeps handovers out. One that has recorded its beginning is waited for without the lock, which it is about to take
    /// for itself.
    fn admit(&self, identity: &Identity) -> Result<Lock, Refused> {
        let deadline = Instant::now() + Self::WAIT;
        while let Err(refused) = self.guard(identity) {
            if refused.completion.status != Status::BUSY || Instant::now() >= deadline {
                return Err(refused);
            }
            std::thread::sleep(PAUSE);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        self.book.share(&identity.lun, left).map_err(|error| self.unshared(identity, &error))
    }

    /// The record of a logical unit that the guest may use here and now.
    fn guard(&self, identity: &Identity) -> Result<Arc<Record>, Refused> {
        let record = self.book.read(&identity.lun).map_err(|error| self.unrecorded(identity, &error))?;
        let record = record.unwrap_or_else(|| new_record(identity));
        match record.state {
            State::Moved => {
                let conflict = Completion::status(Status::RESERVATION_CONFLICT);
                Err(Refused::new(conflict, "the guest moved to another host"))
            }
            State::Handover => Err(Refused::new(Completion::status(Status::BUSY), "a handover is under way")),
            _ => Ok(record),
        }
    }

    fn unshared(&self, identity: &Identity, error: &Error) -> Refused {
        match error {
            Error::Locked(_) => Refused::new(Completion::status(Status::BUSY), "a handover is under way"),
            _ => self.unrecorded(identity, error),
        }
    }

    fn unrecorded(&self, identity: &Identity, error: &Error) -> Refused {
        let why = format!("the ledger cannot be used: {error}");
        self.complaints.say(Some(&identity.lun), format_args!("PERSISTENT RESERVE OUT was refused: {why}"));
        Refused::new(failure::not_recorded(), why)
    }

    /// Whether the record, as all processes left it, has room for this command.
    fn belongs(&self, identity: &Identity, task: &Task) -> Result<(), String> {
        let unusable = |error| format!("the ledger cannot be used: {error}");
        let record = self.book.read(&identity.lun).map_err(unusable)?;
        let Some(record) = record else {
            return Err(format!("the guest has no record of {}", identity.lun.0));
        };
        let under_way = record.handover.filter(|_| record.state == State::Handover);
        match under_way {
            Some(id) if id == task.handover => Ok(()),
            Some(id) => Err(format!("handover {id} is under way, not {}", task.handover)),
            None if !task.changes => Ok(()),
            None => Err(format!("no handover is under way: the record says {}", record.state)),
        }
    }
}

fn change(
    way: &mut Way<'_>,
    task: &Task,
    overtaken: bool,
    known: &mut Known,
) -> Result<Result<Completion, TransportError>, Unsent> {
    let refused = |why: &str| Err(Unsent::Refused(why.to_owned()));
    if overtaken {
        return refused("a later command overtook this one, which must have been given up");
    }
    match (way.confirm)(way.identity, &mut *way.nexus) {
        Ok(true) => {}
        Ok(false) => return refused("another logical unit is behind the device by now"),
        Err(ended) => return Err(Unsent::Disturbed(ended)),
    }
    known.unsettle();
    Ok(way.nexus.execute(&task.request))
}

/// The reply to PERSISTENT RESERVE IN for a guest whose registration is carried along when it migrates: REPORT CAPABILITIES does not
/// offer what would register others, whom no handover could carry along.
#[must_use]
pub fn masked(action: InAction, mut ended: Completion) -> Completion {
    let told = action == InAction::REPORT_CAPABILITIES && ended.status.is_good();
    if let Some(byte) = ended.data.get_mut(2).filter(|_| told) {
        *byte &= !REGISTERS_OTHERS;
    }
    ended
}

/// The entry of a map that is bounded: those that nobody uses make room.
fn entry<K: Ord, V: Default>(map: &Mutex<BTreeMap<K, Arc<V>>>, key: K) -> Arc<V> {
    let mut map = lock(map);
    if map.len() >= MOST_NEXUSES && !map.contains_key(&key) {
        map.retain(|_, value| Arc::strong_count(value) > 1);
    }
    Arc::clone(map.entry(key).or_default())
}

/// A map or a nexus stays usable after a thread died holding it: the record, not the memory, is what counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn new_record(identity: &Identity) -> Arc<Record> {
    Arc::new(Record::new(identity.lun.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use handover::Port;
    use ledger::Change;
    use scsi::{AdditionalSense, Sense};

    /// Has nothing recorded, and records nothing.
    struct Blank;

    impl Book for Blank {
        fn share(&self, _: &LunId, _: Duration) -> Result<Lock, Error> {
            Err(Error::ReadOnly("blank".into()))
        }
        fn read(&self, _: &LunId) -> Result<Option<Arc<Record>>, Error> {
            Ok(None)
        }
        fn append(&self, _: &[(LunId, Change)]) -> Result<(), Error> {
            Err(Error::ReadOnly("blank".into()))
        }
    }

    fn identity(number: usize) -> Identity {
        let (lun, path) = (LunId(number.to_string()), PathId("p".into()));
        Identity { lun, path, node: "n".into(), port: Port::default() }
    }

    /// Not to be asked.
    struct Silent;

    impl Nexus for Silent {
        fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
            panic!("{request:?}")
        }
    }

    #[test]
    fn what_somebody_else_took_from_the_guest_is_given_to_it_and_what_it_tells_of_is_asked() {
        let (guard, identity) = (Guard::new(Box::new(Blank)), identity(0));
        let known = guard.known(&identity);
        assert!(lock(&known).tracker.wants().nothing());
        let mut way = Way { identity: &identity, nexus: &mut Silent, confirm: &|_, _| Ok(true) };
        let told = Sense::unit_attention(AdditionalSense::REGISTRATIONS_PREEMPTED).to_fixed();
        assert!(guard.take(&mut way, vec![told.clone()]).is_err(), "it cannot be recorded");
        assert!(!lock(&known).tracker.wants().nothing());
        assert_eq!(guard.owed(&mut way).map(|ended| ended.sense), Some(told));
        assert!(guard.owed(&mut way).is_none());
    }

    #[test]
    fn a_device_that_changes_its_name_takes_bounded_memory() {
        let guard = Guard::new(Box::new(Blank));
        let kept = guard.known(&identity(0));
        (0..2 * MOST_NEXUSES).for_each(|number| drop(guard.known(&identity(number))));
        assert!(lock(&guard.nexuses).len() <= MOST_NEXUSES);
        assert!(Arc::ptr_eq(&kept, &guard.known(&identity(0))), "one in use is kept");
    }

    #[test]
    fn what_registers_others_is_masked_in_a_good_reply_and_nowhere_else() {
        let told = || Completion::good(vec![0, 8, 0xFF, 0xFF, 0, 0, 0, 0]);
        assert_eq!(masked(InAction::REPORT_CAPABILITIES, told()).data, [0, 8, 0xF3, 0xFF, 0, 0, 0, 0]);
        assert_eq!(masked(InAction::READ_KEYS, told()), told());
        assert_eq!(masked(InAction::REPORT_CAPABILITIES, Completion::good(vec![0, 8])).data, [0, 8]);
        let busy = Completion { status: Status::BUSY, ..told() };
        assert_eq!(masked(InAction::REPORT_CAPABILITIES, busy.clone()), busy);
    }
}
