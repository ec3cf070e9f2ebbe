//! Carries out what arrives: policy, guard, record and device, in the order that makes every reply one that the record
//! knows.
//!
//! PERSISTENT RESERVE OUT: the descriptor is looked at; policy is asked; a handover is waited for and then kept out by a
//! shared lock (BUSY after [`Service::WAIT`]); a guest that moved away gets RESERVATION CONFLICT; record and device are
//! made to agree if a crash, an error or a restart left that open; a unit attention that own questions took is given first;
//! what can change the registration is written ahead, sent, observed and committed; then the reply goes out. An intent that
//! cannot be written is answered with HARDWARE ERROR, and nothing is sent. A commit that fails after GOOD does not make it
//! less GOOD: the intent stays open, and nothing that changes anything passes until the device has been asked.
//!
//! PERSISTENT RESERVE IN waits for nobody (but to note a unit attention that it brings) and needs no record; it works with
//! a broken state directory. Where its reply says that the guest's registration is not what is recorded, the device is
//! asked.

mod attend;
mod book;
mod complaint;
mod evidence;
mod order;
pub mod question;
mod run;
#[cfg(test)]
mod tests;

pub use book::Book;

use crate::opening::{Identity, OpenLun, Opened};
use crate::policy::{Rules, Ruling};
use crate::{Caller, Command, Observer, PrOutEvent, RequestEvent, Serve, failure};
use complaint::Complaints;
use evidence::Contradiction;
use ledger::{Error, Lock, LunId, PathId, Record, State};
use nexus::{Nexus, unit_attention};
use order::Order;
use run::{Known, Refused, Run};
use rustix::fd::OwnedFd;
use scsi::pr::{InAction, PrInCdb, PrOutCdb, request};
use scsi::{Completion, Status};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// SIP_C and ATP_C in byte 2 of REPORT CAPABILITIES (SPC-4 6.15.4).
const REGISTERS_OTHERS: u8 = 0x0C;

/// The CDB of QEMU's own command, which has nothing but its operation code.
const CLEANUP: [u8; 16] = [0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Between two looks at a record that says that a handover is under way.
const PAUSE: Duration = Duration::from_millis(5);

/// Nexuses of which this process knows something beside the record.
const MOST_NEXUSES: usize = 4096;

type Nexuses = BTreeMap<(LunId, PathId), Arc<Mutex<Known>>>;
/// Held while a command that may change a logical unit is under way: what it removes may be another nexus's.
type Units = BTreeMap<LunId, Arc<Mutex<()>>>;

/// Serves one guest.
pub struct Service {
    vm: String,
    rules: Rules,
    devices: Box<dyn OpenLun>,
    book: Box<dyn Book>,
    observer: Box<dyn Observer>,
    complaints: Complaints,
    /// One entry for each device that the guest was given.
    nexuses: Mutex<Nexuses>,
    units: Mutex<Units>,
}

impl Service {
    /// How long a PERSISTENT RESERVE OUT waits for a handover before BUSY.
    pub const WAIT: Duration = Duration::from_secs(1);

    /// `vm`: whose records `book` has, as policy and audit call it.
    #[must_use]
    pub fn new(
        vm: impl Into<String>,
        rules: Rules,
        devices: Box<dyn OpenLun>,
        book: Box<dyn Book>,
        observer: Box<dyn Observer>,
    ) -> Self {
        let complaints = Complaints::new();
        Self {
            vm: vm.into(),
            rules,
            devices,
            book,
            observer,
            complaints,
            nexuses: Mutex::default(),
            units: Mutex::default(),
        }
    }

    /// What is forgotten here is read or asked again.
    fn known(&self, identity: &Identity) -> Arc<Mutex<Known>> {
        entry(&self.nexuses, (identity.lun.clone(), identity.path.clone()))
    }

    /// Locked before the nexus.
    fn unit(&self, identity: &Identity) -> Arc<Mutex<()>> {
        entry(&self.units, identity.lun.clone())
    }

    fn read_in(&self, cdb: PrInCdb, raw: [u8; 16], fd: OwnedFd) -> Result<Completion, Refused> {
        let order = request::read(cdb.action, cdb.allocation_length);
        let request = scsi::Request { cdb: raw.to_vec(), ..order };
        let Opened { identity, mut nexus, multipath } = self.open(fd, false)?;
        let ruling = self.ruling(identity.as_deref());
        ruling.judge_in().map_err(|refusal| Refused::new(refusal.completion(), refusal.to_string()))?;
        let ended = match identity.as_deref().filter(|_| !multipath) {
            Some(identity) => self.read_recorded(identity, &mut *nexus, &request),
            None => nexus.execute(&request).unwrap_or_else(|error| failure::answer(&error)),
        };
        Ok(if ruling.migrate() && cdb.action == InAction::REPORT_CAPABILITIES {
            masked(ended)
        } else {
            ended
        })
    }

    /// A unit attention that the guest is owed, or the device's answer. Nobody waits for the device but who asked.
    fn read_recorded(
        &self,
        identity: &Identity,
        nexus: &mut dyn Nexus,
        request: &scsi::Request,
    ) -> Completion {
        let known = self.known(identity);
        let record = match self.attention(identity, &known, nexus) {
            Ok(record) => record,
            Err(owed) => return owed,
        };
        let ended = nexus.execute(request).unwrap_or_else(|error| failure::answer(&error));
        let told = unit_attention(&ended).is_some() && {
            let mut known = lock(&known);
            known.tracker.observe(request, &ended);
            !known.tracker.wants().nothing()
        };
        let recorded = record.path(&identity.path).map(|path| path.tracked);
        let contradiction =
            recorded.and_then(|path| Contradiction::of(path, record.reservation, request, &ended));
        if told || contradiction.is_some() {
            self.settle_aside(identity, &known, nexus, contradiction);
        }
        ended
    }

    /// The record, unless the guest is owed a unit attention. If another command is under way on the nexus, the next one
    /// gives it.
    fn attention(
        &self,
        identity: &Identity,
        known: &Mutex<Known>,
        nexus: &mut dyn Nexus,
    ) -> Result<Arc<Record>, Completion> {
        // Read with the nexus held, so that no attention is given twice.
        let known = try_lock(known);
        let record = self.record(identity);
        let owed = known.and_then(|mut known| {
            self.run(identity, Arc::clone(&record), &mut known, nexus).give_attention()
        });
        owed.map_or(Ok(record), Err)
    }

    /// What policy says; a device without a name is one that no rule names.
    fn ruling(&self, identity: Option<&Identity>) -> Ruling<'_> {
        match identity {
            Some(identity) => self.rules.of(&self.vm, &identity.lun, &identity.node),
            None => self.rules.of(&self.vm, &LunId(String::new()), ""),
        }
    }

    /// The record as it is; an empty one where there is none, or none that can be read.
    fn record(&self, identity: &Identity) -> Arc<Record> {
        let record = self.book.read(&identity.lun).ok().flatten();
        record.unwrap_or_else(|| new_record(identity))
    }

    fn run<'a>(
        &'a self,
        identity: &'a Identity,
        record: Arc<Record>,
        known: &'a mut Known,
        nexus: &'a mut dyn Nexus,
    ) -> Run<'a> {
        let (devices, book, complaints) = (&*self.devices, &*self.book, &self.complaints);
        Run { devices, book, complaints, identity, record, known, nexus, confirmed: false }
    }

    /// After a PERSISTENT RESERVE IN that told of a change. Its reply stays as it is: what fails here is made up for before
    /// the next PERSISTENT RESERVE OUT.
    fn settle_aside(
        &self,
        identity: &Identity,
        known: &Mutex<Known>,
        nexus: &mut dyn Nexus,
        contradiction: Option<Contradiction>,
    ) {
        // A handover may have begun, and ended, since the record was read.
        let Ok(_shared) = self.book.share(&identity.lun, Duration::ZERO) else { return };
        let unit = self.unit(identity);
        let (Some(_unit), Some(mut known)) = (try_lock(&unit), try_lock(known)) else { return };
        let record = self.record(identity);
        if !record.state.is_away() {
            let mut run = self.run(identity, record, &mut known, nexus);
            run.doubt(contradiction);
            let _ = run.settle();
        }
    }

    fn out(&self, order: &Order, opened: Result<Opened, Refused>) -> Result<Completion, Refused> {
        if order.is_cut() {
            let why = "of a parameter list of 64 KiB or more only a part arrives";
            return Err(Refused::new(failure::cut_list(), why));
        }
        let Opened { identity, multipath, mut nexus } = opened?;
        self.judge(identity.as_deref(), order)?;
        let Some(identity) = identity.as_deref().filter(|_| !multipath) else {
            return self.out_unrecorded(order, identity.as_deref(), multipath, &mut *nexus);
        };
        let _shared = self.admit(identity)?;
        let (unit, known) = (self.unit(identity), self.known(identity));
        let _unit = lock(&unit);
        let mut known = lock(&known);
        let record = self.guard(identity)?;
        self.run(identity, record, &mut known, &mut *nexus).out(order)
    }

    /// What cannot be recorded passes only if it can change nothing.
    fn out_unrecorded(
        &self,
        order: &Order,
        identity: Option<&Identity>,
        multipath: bool,
        nexus: &mut dyn Nexus,
    ) -> Result<Completion, Refused> {
        if order.list.is_empty() {
            return Ok(nexus.execute(&order.request()).unwrap_or_else(|error| failure::answer(&error)));
        }
        let (answer, why) = if multipath {
            let why = "a dm-multipath map: a registration on one of its paths would be worse than none";
            (failure::not_allowed(), why)
        } else {
            let why = "the device has neither a designator nor a serial number to record it under";
            (failure::not_recorded(), why)
        };
        self.complaints.say(
            identity.map(|identity| &identity.lun),
            format_args!("{} was refused: {why}", order.cdb.action),
        );
        Err(Refused::new(answer, why))
    }

    fn judge(&self, identity: Option<&Identity>, order: &Order) -> Result<(), Refused> {
        let ruling = self.ruling(identity);
        ruling
            .judge_out(&order.cdb, &order.list)
            .map_err(|refusal| Refused::new(refusal.completion(), refusal.to_string()))?;
        match order.beyond_own_nexus().filter(|_| ruling.migrate()) {
            Some(field) => {
                let why = "SPEC_I_PT and ALL_TG_PT are masked where the guest may migrate";
                Err(Refused::new(failure::bad_field(field), why))
            }
            None => Ok(()),
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

    fn open(&self, fd: OwnedFd, changes: bool) -> Result<Opened, Refused> {
        let why = if changes { "no SCSI device opened for writing" } else { "no SCSI device" };
        self.devices.open(fd, changes).map_err(|ended| Refused::new(ended, why))
    }

    fn serve_out(
        &self,
        caller: &Caller,
        cdb: PrOutCdb,
        raw: [u8; 16],
        list: Vec<u8>,
        fd: OwnedFd,
    ) -> (Completion, bool) {
        let begun = Instant::now();
        let order = Order::new(cdb, raw, list);
        let opened = self.open(fd, true);
        let identity = opened.as_ref().ok().and_then(|opened| opened.identity.clone());
        let ended = self.out(&order, opened);
        let (completion, refused) = match ended {
            Ok(completion) => (completion, None),
            Err(refused) => (refused.completion, Some(refused.why)),
        };
        self.observer.pr_out(&PrOutEvent {
            vm: &self.vm,
            caller,
            handover: None,
            lun: identity.as_ref().map(|identity| &identity.lun),
            node: identity.as_ref().map(|identity| identity.node.as_str()),
            cdb,
            parameters: &order.list,
            completion: &completion,
            refused: refused.as_deref(),
            took: begun.elapsed(),
        });
        (completion, refused.is_some())
    }
}

impl Serve for Service {
    fn serve(&self, caller: &Caller, command: Command) -> Completion {
        let begun = Instant::now();
        let Command { cdb, data_out, fd } = command;
        let (completion, refused) = match (PrInCdb::parse(&cdb), PrOutCdb::parse(&cdb)) {
            (Ok(read), _) => match self.read_in(read, cdb, fd) {
                Ok(completion) => (completion, false),
                Err(refused) => (refused.completion, true),
            },
            (_, Ok(out)) => self.serve_out(caller, out, cdb, data_out, fd),
            _ => (failure::not_allowed(), true),
        };
        self.observer.request(&RequestEvent {
            cdb: &cdb,
            completion: &completion,
            refused,
            took: begun.elapsed(),
        });
        completion
    }

    /// Nothing is registered behind a guest's back here but by a dm-multipath daemon, whose maps are refused.
    fn cleanup(&self, _: &Caller, fd: OwnedFd) -> Completion {
        let begun = Instant::now();
        let (completion, refused) = match self.open(fd, true) {
            Ok(Opened { multipath: true, .. }) => (failure::not_allowed(), true),
            Ok(_) => (Completion::good(Vec::new()), false),
            Err(refused) => (refused.completion, true),
        };
        let (cdb, took) = (&CLEANUP, begun.elapsed());
        self.observer.request(&RequestEvent { cdb, completion: &completion, refused, took });
        completion
    }
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

fn masked(mut ended: Completion) -> Completion {
    if let Some(byte) = ended.data.get_mut(2).filter(|_| ended.status.is_good()) {
        *byte &= !REGISTERS_OTHERS;
    }
    ended
}
