//! Real logical units of a guest: a SCSI disk of this host, and LUNs at iSCSI targets, with the record of what the guest registers there.
//!
//! One ledger for each guest (`--state`), opened with its first real LUN; `tenure status` reads it. One session for each target and
//! initiator port, which all the guest's LUNs there share.

mod kept;
mod left;
mod moving;

pub(super) use kept::{Kept, LOOKING, mark, owes, target_of};
pub(super) use moving::{Hindrance, Stays};

use super::handed::KEPT;
use super::handed::follow::Desk;
use super::host::{Hosted, LETTING_GO, LOOK};
use super::lun::{Kind, Lun};
use crate::command::status;
use crate::exit::Failure;
use anyhow::{Context, anyhow};
use guard::{Guard, Identity};
use iscsi::initiator::{IscsiUrl, SessionConfig};
use ledger::{Change, HandoverId, Ledger, LunId, Owner, Record, State};
use nexus::Nexus;
use peer::HostName;
use scsi::{Completion, TransportId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;
use vhost_user_scsi::unit::Unit;
use vhost_user_scsi::unit::iscsi::{IscsiUnit, PATIENCE, Target};
use vhost_user_scsi::unit::keep::Keeper;
use vhost_user_scsi::unit::passthrough::{Passthrough, PassthroughError};

/// What a record names as the handover after which the guest, with its initiator port, is elsewhere. Custody says when it is back.
const WITH_ITS_PORT: HandoverId = HandoverId(u128::from_be_bytes(*b"device-with-port"));

/// A guest's real logical units and their records.
#[derive(Debug)]
pub(super) struct Real {
    /// Whose records they are.
    owner: Owner,
    state: PathBuf,
    /// While one of them is open.
    records: Mutex<Option<Records>>,
    units: Mutex<BTreeMap<u8, RealUnit>>,
    targets: Mutex<Vec<(SessionConfig, Weak<Target>)>>,
    /// This host among its peers, if it has any.
    host: Option<HostName>,
    /// What is kept of them while the guest is elsewhere.
    desk: Mutex<Desk>,
    /// They are open here, or are being opened: nobody is followed. Said before the desk is waited for.
    at_home: AtomicBool,
    /// How often somebody asked to be followed: whoever came last is.
    turn: AtomicU64,
}

/// The guest's ledger, and who keeps it.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) book: Arc<ledger::Guest>,
    pub(super) guard: Arc<Guard>,
}

/// A real logical unit.
#[derive(Clone, Debug)]
pub(super) enum RealUnit {
    Disk(Arc<Passthrough>),
    Iscsi(Arc<IscsiUnit>),
}

impl Records {
    /// The guest is here: what it has is for the device to say. A handover of somebody else's took it away only if the operator `claimed` it.
    fn bring_back(&self, lun: &LunId, claimed: bool) -> Result<(), ledger::Error> {
        self.book.refresh()?;
        let back = |record: &Arc<Record>| {
            let own = [Some(WITH_ITS_PORT), Some(KEPT)].contains(&record.handover);
            record.state.is_away() && (claimed || own)
        };
        let Some(record) = self.book.record(lun).filter(back) else {
            return Ok(());
        };
        let why =
            if claimed { "the operator claimed the guest for this host" } else { "the guest is here again" };
        let change =
            Change::State { state: State::Unverified, handover: record.handover, why: Some(why.to_owned()) };
        self.book.append(&[(lun.clone(), change)])
    }
}

impl RealUnit {
    pub(super) fn unit(&self) -> Arc<dyn Unit> {
        match self {
            Self::Disk(unit) => Arc::clone(unit) as Arc<dyn Unit>,
            Self::Iscsi(unit) => Arc::clone(unit) as Arc<dyn Unit>,
        }
    }

    pub(super) fn keeper(&self) -> Option<&Keeper> {
        match self {
            Self::Disk(unit) => unit.keeper(),
            Self::Iscsi(unit) => unit.keeper(),
        }
    }

    /// The guest's nexus, for commands that are none of its own.
    pub(super) fn nexus(&self) -> Option<Box<dyn Nexus>> {
        match self {
            Self::Disk(unit) => unit.nexus(),
            Self::Iscsi(unit) => Some(unit.nexus()),
        }
    }

    /// The same, where no login is waited for longer than until `end`.
    pub(super) fn nexus_until(&self, end: Instant) -> Option<Box<dyn Nexus>> {
        match self {
            Self::Disk(unit) => unit.nexus(),
            Self::Iscsi(unit) => Some(unit.nexus_until(end)),
        }
    }

    /// Of one at a target, that.
    pub(super) fn target(&self) -> Option<&Arc<Target>> {
        match self {
            Self::Disk(_) => None,
            Self::Iscsi(unit) => Some(unit.target()),
        }
    }

    /// The way to it is there, as far as is known.
    fn is_present(&self) -> bool {
        match self {
            Self::Disk(unit) => unit.is_here(),
            Self::Iscsi(unit) => unit.target().is_connected(),
        }
    }

    pub(super) fn identify(&self) -> Result<Option<Identity>, Completion> {
        match self {
            Self::Disk(unit) => unit.identify(),
            Self::Iscsi(unit) => unit.identify(),
        }
    }

    /// The same, where no login is waited for longer than until `end`.
    fn identify_until(&self, end: Instant) -> Result<Option<Identity>, Completion> {
        match self {
            Self::Disk(unit) => unit.identify(),
            Self::Iscsi(unit) => unit.identify_until(end),
        }
    }

    fn keep(&self, keeper: Keeper) {
        match self {
            Self::Disk(unit) => unit.keep(keeper),
            Self::Iscsi(unit) => unit.keep(keeper),
        }
    }
}

impl Real {
    /// `host`: this host among its peers, if it has any.
    pub(super) fn new(guest: &str, state: &Path, host: Option<&HostName>) -> Self {
        Self {
            owner: Owner(guest.to_owned()),
            state: state.to_owned(),
            records: Mutex::default(),
            units: Mutex::default(),
            targets: Mutex::default(),
            host: host.cloned(),
            desk: Mutex::default(),
            at_home: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        }
    }

    /// Opens a LUN that is none of Tenure's own for this guest, which is one of `guests`.
    ///
    /// # Errors
    /// It cannot be served, or nothing could be recorded of it.
    pub(super) fn open(
        &self,
        hosted: &Hosted,
        guests: usize,
        number: u8,
        lun: &Lun,
    ) -> Result<RealUnit, Failure> {
        self.open_as(hosted, guests, (number, lun), false)
    }

    /// The same for the one guest of this process, whose record may say that it is elsewhere: the operator says that it is not.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn claim(&self, hosted: &Hosted, number: u8, lun: &Lun) -> Result<RealUnit, Failure> {
        self.open_as(hosted, 1, (number, lun), true)
    }

    fn open_as(
        &self,
        hosted: &Hosted,
        guests: usize,
        (number, lun): (u8, &Lun),
        claimed: bool,
    ) -> Result<RealUnit, Failure> {
        let at = || format!("LUN {number}");
        self.at_home.store(true, Ordering::Release);
        let unit = match &lun.kind {
            Kind::Disk(path) => {
                RealUnit::Disk(open_disk(path, guests).map_err(|failure| within(failure, at()))?)
            }
            Kind::Iscsi(url) => {
                let config =
                    session(url, &hosted.initiator, guests).map_err(|failure| within(failure, at()))?;
                let target = self.target(self.own_port(url, config)).with_context(at)?;
                RealUnit::Iscsi(Arc::new(IscsiUnit::open(&target, url.lun).with_context(at)?))
            }
            Kind::Emulated(_) => return Err(Failure::usage(format!("LUN {number} is no real one"))),
        };
        self.keep(&unit, lun.migrate_pr, claimed).map_err(|failure| within(failure, at()))?;
        lock(&self.units).insert(number, unit.clone());
        Ok(unit)
    }

    pub(super) fn close(&self, number: u8) {
        lock(&self.units).remove(&number);
    }

    pub(super) fn has(&self, number: u8) -> bool {
        lock(&self.units).contains_key(&number)
    }

    pub(super) fn unit(&self, number: u8) -> Option<RealUnit> {
        lock(&self.units).get(&number).cloned()
    }

    /// The ledger, and who keeps it.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn records(&self) -> Result<Records, Failure> {
        let mut records = lock(&self.records);
        if let Some(records) = &*records {
            return Ok(records.clone());
        }
        let open = || Ledger::open(&self.state)?.guest(&self.owner);
        let advice = "no record could be kept of what the guest registers (--state says where)";
        let book = Arc::new(open().map_err(|error| anyhow!("{}", status::advise(&error)).context(advice))?);
        let guard = Arc::new(Guard::new(Box::new(Arc::clone(&book))));
        Ok(records.insert(Records { book, guard }).clone())
    }

    fn present_records(&self) -> Option<Records> {
        lock(&self.records).clone()
    }

    /// What the record says of a LUN, as `tenure status --json` does, and whether it is there.
    pub(super) fn shown(&self, number: u8) -> Option<(bool, Value)> {
        let unit = self.unit(number)?;
        let record = self.present_records().zip(unit.keeper()).and_then(|(records, keeper)| {
            // What other processes appended; as it was, if that cannot be read.
            let _ = records.book.refresh();
            let identity = keeper.identity();
            let record = records.book.record(&identity.lun)?;
            serde_json::to_value(status::row(&self.owner.0, &record, record.path(&identity.path))).ok()
        });
        Some((unit.is_present(), record.unwrap_or_default()))
    }

    /// From before its first command on account is kept of the unit, and what a killed device left open is settled.
    fn keep(&self, unit: &RealUnit, migrate_pr: bool, claimed: bool) -> Result<(), Failure> {
        let identity = self.identity(unit)?;
        let records = self.records()?;
        // A guest that is claimed has not been looked for here: a key that is left of a handover would pass every fencing of the guest.
        left::no_nonce_is_left(&records, &identity, unit).map_err(anyhow::Error::from)?;
        if !claimed {
            records.bring_back(&identity.lun, false).context("the record that says that it moved")?;
        }
        let keeper = Keeper::new(records.guard, identity, migrate_pr);
        if let Some(mut nexus) = unit.nexus().filter(|_| !claimed) {
            keeper.settle(&mut *nexus);
        }
        unit.keep(keeper);
        Ok(())
    }

    /// All that was [claimed](Self::claim) is open: only now does the record say that it is here, and no more that it is kept for another
    /// host.
    ///
    /// # Errors
    /// That is not durable.
    pub(super) fn take_claimed(&self) -> Result<(), Hindrance> {
        let Some(records) = self.present_records() else { return Ok(()) };
        for unit in lock(&self.units).values() {
            let Some(keeper) = unit.keeper() else { continue };
            records.bring_back(&keeper.identity().lun, true)?;
            if let Some(mut nexus) = unit.nexus() {
                keeper.settle(&mut *nexus);
            }
        }
        Ok(())
    }

    /// Which logical unit it is, by which nexus; no other one of the guest's is both.
    fn identity(&self, unit: &RealUnit) -> Result<Identity, Failure> {
        let asked = unit
            .identify()
            .map_err(|ended| anyhow!("it does not say which logical unit it is: {}", told(&ended)))?;
        let nameless = "it has neither a designator nor a serial number, so nothing could be recorded of it";
        let identity = asked.ok_or_else(|| anyhow!(nameless))?;
        let keepers = |unit: &RealUnit| unit.keeper().map(|keeper| keeper.identity().clone());
        let twice = lock(&self.units).iter().find_map(|(number, other)| {
            keepers(other)
                .filter(|other| (&other.lun, &other.path) == (&identity.lun, &identity.path))
                .map(|_| *number)
        });
        if let Some(number) = twice {
            return Err(Failure::usage(format!("it is the logical unit of LUN {number}, by the same nexus")));
        }
        Ok(identity)
    }

    /// The session that serves this target already, or a new one.
    fn target(&self, config: SessionConfig) -> anyhow::Result<Arc<Target>> {
        let mut targets = lock(&self.targets);
        targets.retain(|(_, target)| target.strong_count() > 0);
        let known = targets.iter().find(|(other, _)| is_same_port(other, &config));
        if let Some(target) = known.and_then(|(_, target)| target.upgrade()) {
            return Ok(target);
        }
        let target = Target::login(config.clone(), PATIENCE)?;
        targets.push((config, Arc::downgrade(&target)));
        Ok(target)
    }
}

impl Drop for Real {
    /// The target hears that the guest goes; its registrations stay.
    fn drop(&mut self) {
        let targets =
            lock(&self.targets).iter().filter_map(|(_, target)| target.upgrade()).collect::<Vec<_>>();
        for error in targets.iter().filter_map(|target| target.leave().err()) {
            tracing::debug!(%error, "a logout was not confirmed");
        }
    }
}

/// Two sessions of one initiator port at one target would end each other.
fn is_same_port(one: &SessionConfig, other: &SessionConfig) -> bool {
    (&one.target, &one.initiator, one.isid) == (&other.target, &other.initiator, other.isid)
}

/// A SCSI disk of this host has one guest: whoever else used it would be the same I_T nexus to the device.
fn open_disk(path: &Path, guests: usize) -> Result<Arc<Passthrough>, Failure> {
    if guests > 1 {
        let text = "is one I_T nexus of this host, so only one guest can have it; give each guest a nexus of its own \
                    (iscsi://), or Tenure the reservations (block=)";
        return Err(Failure::usage(format!("{} {text}", path.display())));
    }
    let end = Instant::now() + LETTING_GO;
    loop {
        match Passthrough::open(path) {
            // A device that was killed lets it go when the kernel has carried out what it had under way.
            Err(PassthroughError::Open { source, .. }) if is_in_use(&source) && Instant::now() < end => {
                thread::sleep(LOOK);
            }
            opened => return Ok(Arc::new(opened.map_err(anyhow::Error::from)?)),
        }
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

/// Each guest logs in as itself.
fn session(url: &IscsiUrl, own: &TransportId, guests: usize) -> Result<SessionConfig, Failure> {
    if guests > 1 && url.initiator.is_some() {
        let text = "initiator= is the name of one guest; without it each guest has one of its own";
        return Err(Failure::usage(text));
    }
    let TransportId::Iscsi { name, isid: Some(isid) } = own else {
        return Err(Failure::usage(format!("{own} is no initiator port for iSCSI")));
    };
    Ok(url.session(name, *isid))
}

fn told(ended: &Completion) -> String {
    let sense = ended.decoded_sense();
    let sense =
        sense.map(|sense| format!(" {:02x}/{:02x}/{:02x}", sense.key.0, sense.code.asc, sense.code.ascq));
    format!("{}{}", ended.status, sense.unwrap_or_default())
}

fn within(failure: Failure, place: String) -> Failure {
    Failure { exit: failure.exit, reason: failure.reason.context(place) }
}

/// A thread that died with it cannot have left half a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
