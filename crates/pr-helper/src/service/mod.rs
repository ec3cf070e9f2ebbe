//! Carries out what arrives: the descriptor is looked at, policy is asked, and the command goes its way through the guest's
//! [`Guard`], which keeps handovers out and the record in agreement with the device. What cannot be recorded passes only if it can
//! change nothing. Whatever the end, audit and metrics are told.

mod attend;
#[cfg(test)]
mod tests;

pub use guard::{Book, question};

use crate::opening::{Identity, OpenLun, Opened};
use crate::policy::{Rules, Ruling};
use crate::wire::Header;
use crate::{Caller, Command, Observer, PrOutEvent, RequestEvent, Serve, failure};
use guard::{Guard, Order, Refused, Way, masked};
use ledger::LunId;
use nexus::Nexus;
use rustix::fd::OwnedFd;
use scsi::Completion;
use scsi::pr::{PrInCdb, PrOutCdb, request};
use std::time::{Duration, Instant};

/// The CDB of QEMU's own command, which has nothing but its operation code.
const CLEANUP: [u8; 16] = [0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Serves one guest.
pub struct Service {
    vm: String,
    rules: Rules,
    devices: Box<dyn OpenLun>,
    guard: Guard,
    observer: Box<dyn Observer>,
}

impl Service {
    /// How long a PERSISTENT RESERVE OUT waits for a handover before BUSY.
    pub const WAIT: Duration = Guard::WAIT;

    /// `vm`: whose records `book` has, as policy and audit call it.
    #[must_use]
    pub fn new(
        vm: impl Into<String>,
        rules: Rules,
        devices: Box<dyn OpenLun>,
        book: Box<dyn Book>,
        observer: Box<dyn Observer>,
    ) -> Self {
        Self { vm: vm.into(), rules, devices, guard: Guard::new(book), observer }
    }

    fn read_in(&self, cdb: PrInCdb, raw: [u8; 16], fd: OwnedFd) -> Result<Completion, Refused> {
        let order = request::read(cdb.action, cdb.allocation_length);
        let request = scsi::Request { cdb: raw.to_vec(), ..order };
        let Opened { identity, mut nexus, multipath } = self.open(fd, false)?;
        let ruling = self.ruling(identity.as_deref());
        ruling.judge_in().map_err(|refusal| Refused::new(refusal.completion(), refusal.to_string()))?;
        let ended = match identity.as_deref().filter(|_| !multipath) {
            Some(identity) => self.on_the_way(identity, &mut *nexus, |way| self.guard.read(way, &request)),
            None => nexus.execute(&request).unwrap_or_else(|error| failure::answer(&error)),
        };
        Ok(if ruling.migrate() { masked(cdb.action, ended) } else { ended })
    }

    /// The nexus as the guard takes it.
    fn on_the_way<T>(
        &self,
        identity: &Identity,
        nexus: &mut dyn Nexus,
        act: impl FnOnce(&mut Way<'_>) -> T,
    ) -> T {
        let confirm = |identity: &Identity, nexus: &mut dyn Nexus| self.devices.confirm(identity, nexus);
        act(&mut Way { identity, nexus, confirm: &confirm })
    }

    /// What policy says; a device without a name is one that no rule names.
    fn ruling(&self, identity: Option<&Identity>) -> Ruling<'_> {
        match identity {
            Some(identity) => self.rules.of(&self.vm, &identity.lun, &identity.node),
            None => self.rules.of(&self.vm, &LunId(String::new()), ""),
        }
    }

    fn out(
        &self,
        order: &Order,
        is_cut: bool,
        opened: Result<Opened, Refused>,
    ) -> Result<Completion, Refused> {
        if is_cut {
            let why = "of a parameter list of 64 KiB or more only a part arrives";
            return Err(Refused::new(failure::cut_list(), why));
        }
        let Opened { identity, multipath, mut nexus } = opened?;
        self.judge(identity.as_deref(), order)?;
        let Some(identity) = identity.as_deref().filter(|_| !multipath) else {
            return self.out_unrecorded(order, identity.as_deref(), multipath, &mut *nexus);
        };
        self.on_the_way(identity, &mut *nexus, |way| self.guard.out(way, order))
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
        self.guard.complain(
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
        // The protocol carries as much of the list as the lower half of its length says.
        let is_cut = Header::parse(raw).is_ok_and(|header| header.is_cut());
        let order = Order::new(cdb, raw.to_vec(), list);
        let opened = self.open(fd, true);
        let identity = opened.as_ref().ok().and_then(|opened| opened.identity.clone());
        let ended = self.out(&order, is_cut, opened);
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
