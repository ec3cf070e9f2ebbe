//! Carries out what arrives: policy, guard, record and device, in the order that makes every reply one that the record
//! knows.
//!
//! PERSISTENT RESERVE OUT: the descriptor is looked at; policy is asked; a handover is waited for and then kept out by a shared lock
//! (BUSY after [`Service::WAIT`]); a guest that moved away gets RESERVATION CONFLICT; record and device are made to agree if a crash, an
//! error or a restart left that open; a unit attention that own questions took is given first; what can change the
//! registration is written ahead, sent, observed and committed; then the reply goes out. An intent that cannot be written
//! is answered with HARDWARE ERROR, and nothing is sent. A commit that fails after GOOD does not make it less GOOD: the
//! intent stays open, and nothing that changes anything passes until the device has been asked.
//!
//! PERSISTENT RESERVE IN takes no lock and needs no record; it works with a broken state directory.

mod book;
mod order;
mod question;
mod run;
#[cfg(test)]
mod tests;

pub use book::Book;

use crate::opening::{Identity, OpenLun, Opened};
use crate::policy::Rules;
use crate::{Caller, Command, Observer, PrOutEvent, RequestEvent, Serve, failure};
use ledger::{Error, Lock, LunId, PathId, Record, State};
use nexus::unit_attention;
use order::Order;
use run::{Known, Refused, Run};
use rustix::fd::OwnedFd;
use scsi::pr::{InAction, PrInCdb, PrOutCdb, request};
use scsi::{Completion, Status};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// SIP_C and ATP_C in byte 2 of REPORT CAPABILITIES (SPC-4 6.15.4).
const REGISTERS_OTHERS: u8 = 0x0C;

/// Between two looks at a record that says that a handover is under way.
const PAUSE: Duration = Duration::from_millis(5);

type Nexuses = BTreeMap<(LunId, PathId), Arc<Mutex<Known>>>;

/// Serves one guest.
pub struct Service {
    vm: String,
    rules: Rules,
    devices: Box<dyn OpenLun>,
    book: Box<dyn Book>,
    observer: Box<dyn Observer>,
    /// One entry for each device that the guest was given.
    nexuses: Mutex<Nexuses>,
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
        Self { vm: vm.into(), rules, devices, book, observer, nexuses: Mutex::default() }
    }

    fn known(&self, identity: &Identity) -> Arc<Mutex<Known>> {
        let key = (identity.lun.clone(), identity.path.clone());
        Arc::clone(lock(&self.nexuses).entry(key).or_default())
    }

    fn read_in(&self, cdb: PrInCdb, fd: OwnedFd) -> Result<Completion, Refused> {
        let order = request::read(cdb.action, cdb.allocation_length);
        let request = scsi::Request { cdb: cdb.to_bytes().to_vec(), ..order };
        let Opened { identity, mut nexus, .. } = self.open(fd, false)?;
        let Some(identity) = identity else {
            return Ok(nexus.execute(&request).unwrap_or_else(|error| failure::answer(&error)));
        };
        let ruling = self.rules.of(&self.vm, &identity.lun, &identity.node);
        ruling.judge_in().map_err(|refusal| Refused::new(refusal.completion(), refusal.to_string()))?;
        let known = self.known(&identity);
        let mut known = lock(&known);
        let record = self.book.read(&identity.lun).ok().flatten();
        let readable = record.is_some();
        let record = record.unwrap_or_else(|| new_record(&identity));
        let mut run =
            Run { book: &*self.book, identity: &identity, record, known: &mut known, nexus: &mut *nexus };
        if readable {
            run.load();
        }
        if let Some(sense) = run.give_attention() {
            return Ok(sense);
        }
        let ended = run.nexus.execute(&request).unwrap_or_else(|error| failure::answer(&error));
        run.known.tracker.observe(&request, &ended);
        if unit_attention(&ended).is_some() && !run.known.tracker.wants().nothing() {
            self.settle_aside(&mut run);
        }
        Ok(if ruling.migrate() && cdb.action == InAction::REPORT_CAPABILITIES {
            masked(ended)
        } else {
            ended
        })
    }

    /// After a unit attention that says that registrations changed. Nothing here may harm the reply: what fails is made up
    /// for before the next PERSISTENT RESERVE OUT.
    fn settle_aside(&self, run: &mut Run<'_>) {
        let free = self.book.share(&run.identity.lun, Duration::ZERO);
        let ours = !matches!(run.record.state, State::Handover | State::Moved);
        if let (Ok(_shared), true) = (free, ours) {
            let _ = run.settle();
        }
    }

    fn out(&self, order: &Order, opened: Result<Opened, Refused>) -> Result<Completion, Refused> {
        let Opened { identity, multipath, mut nexus } = opened?;
        if multipath && !order.list.is_empty() {
            let why = "a dm-multipath map: a registration on one of its paths would be worse than none";
            return Err(Refused::new(failure::not_allowed(), why));
        }
        let Some(identity) = &identity else {
            let why = "the device has neither a designator nor a serial number to record it under";
            return Err(Refused::new(failure::not_recorded(), why));
        };
        self.judge(identity, order)?;
        let _shared = self.admit(identity)?;
        let known = self.known(identity);
        let mut known = lock(&known);
        let record = self.guard(identity)?;
        let mut run = Run { book: &*self.book, identity, record, known: &mut known, nexus: &mut *nexus };
        run.out(order)
    }

    fn judge(&self, identity: &Identity, order: &Order) -> Result<(), Refused> {
        let ruling = self.rules.of(&self.vm, &identity.lun, &identity.node);
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
        self.book.share(&identity.lun, left).map_err(|error| unshared(&error))
    }

    /// The record of a logical unit that the guest may use here and now.
    fn guard(&self, identity: &Identity) -> Result<Arc<Record>, Refused> {
        let record = self.book.read(&identity.lun).map_err(|error| unrecorded(&error))?;
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

    fn open(&self, fd: OwnedFd, changes: bool) -> Result<Opened, Refused> {
        let why = if changes { "no SCSI device opened for writing" } else { "no SCSI device" };
        self.devices.open(fd, changes).map_err(|ended| Refused::new(ended, why))
    }

    fn serve_out(&self, caller: &Caller, cdb: PrOutCdb, list: Vec<u8>, fd: OwnedFd) -> (Completion, bool) {
        let begun = Instant::now();
        let order = Order::new(cdb, list);
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
            (Ok(read), _) => match self.read_in(read, fd) {
                Ok(completion) => (completion, false),
                Err(refused) => (refused.completion, true),
            },
            (_, Ok(out)) => self.serve_out(caller, out, data_out, fd),
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
        match self.open(fd, true) {
            Ok(Opened { multipath: true, .. }) => failure::not_allowed(),
            Ok(_) => Completion::good(Vec::new()),
            Err(refused) => refused.completion,
        }
    }
}

/// A map or a nexus stays usable after a thread died holding it: the record, not the memory, is what counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_record(identity: &Identity) -> Arc<Record> {
    Arc::new(Record::new(identity.lun.clone()))
}

fn unshared(error: &Error) -> Refused {
    match error {
        Error::Locked(_) => Refused::new(Completion::status(Status::BUSY), "a handover is under way"),
        _ => unrecorded(error),
    }
}

fn unrecorded(error: &Error) -> Refused {
    Refused::new(failure::not_recorded(), format!("the ledger cannot be used: {error}"))
}

fn masked(mut ended: Completion) -> Completion {
    if let Some(byte) = ended.data.get_mut(2).filter(|_| ended.status.is_good()) {
        *byte &= !REGISTERS_OTHERS;
    }
    ended
}
