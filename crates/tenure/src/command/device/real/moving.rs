//! A guest's real LUNs go with the guest to another process, in one of two ways; the record of what the guest registered goes on there.
//!
//! *With its port*: at a target that keeps registrations without a session the same initiator port logs out here and logs in there, so
//! that to the target nothing has changed (method *identity*). What must hold, and is looked at: both sides are the same initiator
//! port of the same target; nothing else of the guest's ends with the session; the target confirmed the logout, and nobody here logs in
//! again before the guest is back. There, before anybody is served, page 83h must name the same logical unit, and what is registered is
//! proved by the device (REGISTER of the key to itself).
//!
//! *Handed*: at any other target, and on a disk of this host, the guest is another initiator port there; its registration stays with this
//! host's nexus until the device there has taken it over (`handed`). Used by `host::moving`.

use super::kept::{LOOKING, Which, is_coming, is_kept, keep_here, port_of, session_as, session_to_look};
use super::left::no_nonce_is_left;
use super::{
    Hosted, Kind, LETTING_GO, Lun, Real, RealUnit, Records, WITH_ITS_PORT, lock, open_disk, session,
};
use crate::command::device::handed::state::{Handed, boot};
use guard::Identity;
use handover::known_targets::{Known, KnownTargets, TargetIdentity};
use iscsi::initiator::{IscsiUrl, SessionConfig, SessionError};
use ledger::{
    CarriedError, Change, HandoverId, LunId, PathId, PathRecord, Record, State, carried, changes_to,
    read_carried,
};
use nexus::Nexus;
use scsi::pr::Key;
use scsi::{Completion, DataPhase, Request, SenseKey, Status, TransportId, opcode};
use std::sync::{Arc, Weak};
use std::time::Instant;
use thiserror::Error;
use vhost_user_scsi::saved::{Kind as SavedKind, SavedLun};
use vhost_user_scsi::unit::iscsi::{IscsiUnit, Target, TargetError, is_of_a_login, take_attentions};
use vhost_user_scsi::unit::keep::Keeper;

/// Why a real logical unit does not move.
#[derive(Debug, Error)]
pub(in crate::command::device) enum Hindrance {
    /// It is not served.
    #[error("it is not open here")]
    Closed,
    /// Nobody could ask the target, or log out.
    #[error("there is no session with its target now")]
    NoSession,
    /// Its registration is to be handed over, and nobody could follow that.
    #[error(
        "its registration is this host's nexus's, and only a device with --host and --peer hands that over"
    )]
    Alone,
    /// There is no way from nexus to nexus: they are the same.
    #[error(
        "the guest's registration there is that of initiator port {0}, which this device would be as well: with isid= on both sides, \
         give each its own, or give none"
    )]
    SamePort(TransportId),
    /// Nothing of it is to be handed over from here.
    #[error("by its record the guest has no registration by this host's nexus any more")]
    NotKept,
    /// The guest would be registered, and hold, by a key of nobody's.
    #[error(
        "another node fenced the guest in a handover, since which this host's nexus holds the reservation under the key {0}: the guest comes \
         when another node has preempted that key"
    )]
    NonceLeft(Key),
    /// It is in the hands of another device.
    #[error(
        "another device is just being answered, which takes over what the guest had registered from here"
    )]
    Followed,
    /// What the target ends with the session was found when the way was chosen already.
    #[error(
        "the guest has registered a key there that was not known of, and that would end with the session"
    )]
    Found,
    /// The reservation would be gone.
    #[error(
        "the guest has reserved it by RESERVE, which a target forgets with the session: it moves when the guest has released it"
    )]
    Reserved,
    /// The user does not want it carried along.
    #[error("migrate-pr=off, and the guest has registered a key there")]
    Off,
    /// It does not say what is to be known.
    #[error("its device cannot be asked: {0}")]
    Silent(String),
    /// What is recorded is in doubt, or was not read.
    #[error(transparent)]
    Record(#[from] CarriedError),
    /// Nothing could be recorded, or read.
    #[error("the ledger cannot be used: {0}")]
    Ledger(#[from] ledger::Error),
    /// Another host to the target.
    #[error(
        "the guest is initiator port {there} there and {here} here: both devices need the same name for the guest, and the same \
         initiator= and isid= where they are given"
    )]
    Port {
        /// Here.
        here: String,
        /// Where it comes from.
        there: String,
    },
    /// Another target, where the key is not registered.
    #[error("its target is {there} there and {here} here: both devices need the same one")]
    Target {
        /// Here.
        here: String,
        /// Where it comes from.
        there: String,
    },
    /// Something else stands there.
    #[error("another logical unit, {found}, stands there: the guest had {wanted}")]
    Other {
        /// What page 83h says.
        found: String,
        /// What it said there.
        wanted: String,
    },
    /// Whether the session has ended is not known.
    #[error("its target did not confirm the logout: {0}")]
    Logout(SessionError),
    /// There is no way to it.
    #[error("{0}")]
    Open(String),
}

impl Real {
    /// The targets where the guest is to be another initiator port on the other host, because a registration of its there may end with the
    /// session: all LUNs of a target share one.
    ///
    /// # Errors
    /// What keeps one of them from moving.
    pub(in crate::command::device) fn stays<'a>(
        &self,
        luns: impl Iterator<Item = (u8, &'a Lun)>,
    ) -> Result<Stays, Hindrance> {
        let mut stays = Stays(Vec::new());
        for (number, lun) in luns {
            let (Some(unit), Some(records)) = (self.unit(number), self.present_records()) else { continue };
            let (Some(target), Some(keeper)) = (unit.target(), unit.keeper()) else { continue };
            let Identity { lun: name, path, .. } = keeper.identity();
            if has(&recorded(&records, name)?, path)
                && let Some(mut nexus) = unit.nexus_until(Instant::now() + LETTING_GO)
                && !goes_along(lun, &mut *nexus)?
            {
                stays.0.push(Arc::clone(target));
            }
        }
        Ok(stays)
    }

    /// How a logical unit goes, what it is called, and what is to be known of it where its guest goes. `ticket`: it is given, in that
    /// handover of the custody; the guest runs no command any more, so that unit attentions that wait for it can be taken along, and a
    /// registration that stays is noted as such.
    ///
    /// # Errors
    /// What keeps it from moving.
    pub(in crate::command::device) fn save(
        &self,
        number: u8,
        lun: &Lun,
        ticket: Option<u128>,
        stays: &Stays,
    ) -> Result<(Way, String, Vec<u8>), Hindrance> {
        let unit = self.unit(number).ok_or(Hindrance::Closed)?;
        let (Some(keeper), Some(records)) = (unit.keeper(), self.present_records()) else {
            return Err(Hindrance::Closed);
        };
        let stopped = ticket.is_some();
        // While the guest runs its commands see to that.
        if !(unit.is_present() || stopped && unit.target().is_some_and(|target| target.reach())) {
            return Err(Hindrance::NoSession);
        }
        let Identity { lun: name, path, .. } = keeper.identity();
        if stopped {
            take_waiting(keeper, unit.nexus(), |_| true)?;
            prove(&recorded(&records, name)?, keeper, &unit)?;
        }
        if let RealUnit::Iscsi(unit) = &unit
            && unit.is_reserved()
        {
            return Err(Hindrance::Reserved);
        }
        let mut record = recorded(&records, name)?;
        if !stopped {
            // A command that is under way will have ended by then.
            record.paths.iter_mut().for_each(|path| path.intent = None);
        }
        let handed =
            unit.target().is_none_or(|target| stays.0.iter().any(|other| Arc::ptr_eq(other, target)));
        let bytes = carried(&record, path)?;
        let has = has(&record, path);
        if !handed {
            if stopped && has {
                must_go_along(lun, &unit)?;
            }
            return Ok((Way::WithItsPort, name.0.clone(), bytes));
        }
        if has && !lun.migrate_pr {
            return Err(Hindrance::Off);
        }
        let bearer = self.host.clone().ok_or(Hindrance::Alone)?;
        if let Some(ticket) = ticket.filter(|_| has) {
            records.book.append(&[keep_here(name, ticket)])?;
        }
        let state = Handed { bearer, boot: boot(), record: bytes };
        Ok((Way::Handed, name.0.clone(), state.to_bytes()))
    }

    /// Whether what was saved elsewhere is of the same initiator port and target as this LUN, as far as that can be said without a login.
    ///
    /// # Errors
    /// What keeps it from coming.
    pub(in crate::command::device) fn fits(
        &self,
        hosted: &Hosted,
        lun: &Lun,
        saved: &SavedLun,
    ) -> Result<(), Hindrance> {
        let (record, path) = read(saved)?;
        let Some((_, config)) = self.config_for(hosted, lun, saved)? else { return Ok(()) };
        if saved.kind == SavedKind::Handed {
            return Ok(());
        }
        let node = record.path(&path).map(|known| known.node.as_str()).unwrap_or_default();
        match node.parse::<IscsiUrl>() {
            Ok(there) if there.target != config.target => {
                Err(Hindrance::Target { here: config.target.to_string(), there: there.target.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Logs in as the guest, which is nowhere else any more, and finds the logical unit that was saved. Nothing is taken from the guest
    /// yet. Whoever gets an error lets go ([`Self::drop_all`]).
    ///
    /// # Errors
    /// What keeps it from coming.
    pub(in crate::command::device) fn find(
        &self,
        hosted: &Hosted,
        number: u8,
        lun: &Lun,
        saved: &SavedLun,
    ) -> Result<RealUnit, Hindrance> {
        let (record, path) = read(saved)?;
        // The way that is kept for whoever takes the registration over is the guest's again, which may be here once more.
        let before = {
            let mut desk = self.desk_at_home()?;
            desk.evict();
            desk.kept.remove(&number)
        };
        let found = self.find_it(hosted, lun, saved, (&record, &path));
        match (&found, before) {
            (Ok(unit), _) => drop(lock(&self.units).insert(number, unit.clone())),
            // Its session is not to end for that: the registration may end with it.
            (Err(_), Some(before)) => drop(self.desk().kept.insert(number, before)),
            (Err(_), None) => {}
        }
        found
    }

    fn find_it(
        &self,
        hosted: &Hosted,
        lun: &Lun,
        saved: &SavedLun,
        (record, path): (&Record, &PathId),
    ) -> Result<RealUnit, Hindrance> {
        let unit = self.open_for(hosted, lun, saved)?;
        let identity = self.identity(&unit).map_err(|failure| Hindrance::Open(failure.to_string()))?;
        if identity.lun != record.lun {
            return Err(Hindrance::Other { found: identity.lun.0, wanted: record.lun.0.clone() });
        }
        if saved.kind == SavedKind::Iscsi && identity.path != *path {
            return Err(Hindrance::Target { here: identity.path.0, there: path.0.clone() });
        }
        let records = self.records().map_err(|failure| Hindrance::Silent(failure.to_string()))?;
        no_nonce_is_left(&records, &identity, &unit)?;
        unit.keep(Keeper::new(records.guard, identity, lun.migrate_pr));
        Ok(unit)
    }

    /// The same for a look, while the guest runs elsewhere: whether the logical unit can be reached by this host's own nexus.
    ///
    /// # Errors
    /// What keeps it from coming.
    pub(in crate::command::device) fn can_reach(
        &self,
        hosted: &Hosted,
        lun: &Lun,
        saved: &SavedLun,
    ) -> Result<(), Hindrance> {
        let handed = Handed::parse(&saved.state);
        // A disk of this very machine may be the one that the other device has open.
        let is_open =
            matches!(lun.kind, Kind::Disk(_)) && handed.is_some_and(|handed| handed.is_of_this_boot());
        if saved.kind != SavedKind::Handed || self.is_own(saved) || is_open {
            return Ok(());
        }
        let (record, _) = read(saved)?;
        let unit = self.open_to_look(hosted, lun, saved)?;
        let asked = unit
            .identify_until(Instant::now() + LOOKING)
            .map_err(|ended| Hindrance::Silent(super::told(&ended)))?;
        if let Some(target) = unit.target()
            && let Err(error) = target.give_away()
        {
            tracing::debug!(%error, "a logout was not confirmed");
        }
        match asked {
            Some(identity) if identity.lun == record.lun => Ok(()),
            found => {
                let found = found.map_or_else(|| "without a name".to_owned(), |identity| identity.lun.0);
                Err(Hindrance::Other { found, wanted: record.lun.0 })
            }
        }
    }

    /// Whether the registration is that of a nexus of this host.
    fn is_own(&self, saved: &SavedLun) -> bool {
        let handed = Handed::parse(&saved.state);
        handed.is_some_and(|handed| Some(handed.bearer) == self.host)
    }

    /// The session by which the guest is to have a LUN at a target here; none for a disk.
    fn config_for<'a>(
        &self,
        hosted: &Hosted,
        lun: &'a Lun,
        saved: &SavedLun,
    ) -> Result<Option<(&'a IscsiUrl, SessionConfig)>, Hindrance> {
        let Some((url, base)) = at(lun, hosted)? else { return Ok(None) };
        let (_, path) = read(saved)?;
        let there = || path.0.split(' ').next().unwrap_or_default().to_owned();
        let port = port_of(&path);
        let config = match (saved.kind, &port) {
            (SavedKind::Handed, Some(port)) if !self.is_own(saved) => {
                let other = session_as(url, &base, Which::But(port));
                other.ok_or_else(|| Hindrance::SamePort(port.clone()))?
            }
            // From a disk of a host.
            (SavedKind::Handed, None) => base,
            (_, port) => {
                let here = || TransportId::iscsi(base.initiator.clone(), base.isid).to_string();
                let same = port.as_ref().and_then(|port| session_as(url, &base, Which::As(port)));
                same.ok_or_else(|| Hindrance::Port { here: here(), there: there() })?
            }
        };
        Ok(Some((url, config)))
    }

    fn open_for(&self, hosted: &Hosted, lun: &Lun, saved: &SavedLun) -> Result<RealUnit, Hindrance> {
        let opened = |error: anyhow::Error| Hindrance::Open(format!("{error:#}"));
        if let Kind::Disk(path) = &lun.kind {
            let unit = open_disk(path, 1).map_err(|failure| Hindrance::Open(failure.to_string()))?;
            return Ok(RealUnit::Disk(unit));
        }
        let (url, config) = self.config_for(hosted, lun, saved)?.ok_or(Hindrance::Closed)?;
        let target = self.target(config).map_err(opened)?;
        let unit = IscsiUnit::open(&target, url.lun).map_err(|error| opened(error.into()))?;
        Ok(RealUnit::Iscsi(Arc::new(unit)))
    }

    /// The same by an initiator port of its own, of which the guest has nothing.
    fn open_to_look(&self, hosted: &Hosted, lun: &Lun, saved: &SavedLun) -> Result<RealUnit, Hindrance> {
        let Some((url, config)) = self.config_for(hosted, lun, saved)? else {
            return self.open_for(hosted, lun, saved);
        };
        let opened = |error: TargetError| Hindrance::Open(format!("{:#}", anyhow::Error::from(error)));
        let target = Target::login(session_to_look(&config)?, LOOKING).map_err(opened)?;
        let unit = IscsiUnit::open(&target, url.lun).map_err(opened)?;
        Ok(RealUnit::Iscsi(Arc::new(unit)))
    }

    /// When all of the guest's logical units were [found](Self::find), of one that comes with its port: the record goes on here, what waits
    /// for the guest is taken, and the device proves what the guest has.
    ///
    /// # Errors
    /// What keeps it from coming.
    pub(in crate::command::device) fn go_on(&self, number: u8, saved: &SavedLun) -> Result<(), Hindrance> {
        if saved.kind == SavedKind::Handed {
            return Ok(());
        }
        let (record, path) = read(saved)?;
        self.take_up(number, &record, &path)
    }

    /// The record goes on here as what `path` has, which is this host's nexus now, or has nothing.
    ///
    /// # Errors
    /// As [`Self::go_on`].
    pub(in crate::command::device) fn take_up(
        &self,
        number: u8,
        record: &Record,
        path: &PathId,
    ) -> Result<(), Hindrance> {
        let unit = self.unit(number).ok_or(Hindrance::Closed)?;
        let (Some(keeper), Some(records)) = (unit.keeper(), self.present_records()) else {
            return Err(Hindrance::Closed);
        };
        let Identity { path: own, node, .. } = keeper.identity();
        let mut record = record.clone();
        if let Some(known) = record.paths.iter_mut().find(|known| known.path == *path) {
            (known.path, known.node) = (own.clone(), node.clone());
        }
        records.book.refresh()?;
        let before = records.book.record(&record.lun).map(|before| undone(&before, own));
        let (given, before) = before.unzip();
        let comes = changes_to(&record, own, before.as_ref());
        records.book.append(&[given.unwrap_or_default(), comes].concat())?;
        let end = Instant::now() + LOOKING;
        take_waiting(keeper, unit.nexus_until(end), |sense| !is_of_a_login(sense))?;
        let has_key = has(&record, own);
        ask(has_key, keeper, unit.nexus_until(end))?;
        if has_key && !has(&recorded(&records, &record.lun)?, own) {
            tracing::warn!(
                lun = record.lun.0,
                "the guest's registration was removed on its way; it is fenced"
            );
        }
        Ok(())
    }

    /// The guest is served here: no registration stays with this host for another one.
    pub(in crate::command::device) fn begin(&self) -> Result<(), Hindrance> {
        let Some(records) = self.present_records() else { return Ok(()) };
        for unit in lock(&self.units).values() {
            if let Some(keeper) = unit.keeper() {
                records.bring_back(&keeper.identity().lun, false)?;
            }
        }
        Ok(())
    }

    /// Logs out of every target and forgets the logical units, of which the record says then that the guest moved. Nothing has changed after
    /// an error, but that there are new sessions.
    ///
    /// # Errors
    /// [`Hindrance::Logout`].
    pub(in crate::command::device) fn let_go(&self) -> Result<(), Hindrance> {
        let aside = self.present_records().map(|records| self.put_aside(&records)).unwrap_or_default();
        let sessions = self.sessions(&aside);
        if let Some(error) = sessions.iter().find_map(|target| target.give_away().err()) {
            sessions.iter().for_each(|target| target.take_back());
            self.take_from_aside();
            return Err(Hindrance::Logout(error));
        }
        self.forget(true, &aside, None);
        Ok(())
    }

    /// The same for a guest that nobody was served with here: nothing of its is under way, so it does not matter whether a target confirms
    /// the logout. The connection is closed, and the session ends at the latest when the guest logs in elsewhere.
    /// What has come already by the handover of this `ticket` stays on record as that.
    pub(in crate::command::device) fn drop_all(&self, ticket: Option<u128>) {
        if lock(&self.units).is_empty() {
            // What else is logged in is kept for the host that has the guest, and may be in use.
            return self.set_at_home(false);
        }
        let aside = self.present_records().map(|records| self.put_aside(&records)).unwrap_or_default();
        let sessions = self.sessions(&aside);
        for error in sessions.iter().filter_map(|target| target.leave().err()) {
            tracing::debug!(%error, "a logout was not confirmed");
        }
        self.forget(false, &aside, ticket);
    }

    /// All sessions but those of `aside`.
    fn sessions(&self, aside: &[Arc<Target>]) -> Vec<Arc<Target>> {
        let targets = lock(&self.targets);
        let all = targets.iter().filter_map(|(_, target)| target.upgrade());
        all.filter(|target| !aside.iter().any(|kept| Arc::ptr_eq(kept, target))).collect()
    }

    /// `owed`: what is owed to the guest goes with it.
    fn forget(&self, owed: bool, aside: &[Arc<Target>], ticket: Option<u128>) {
        let stays = |target: &Weak<Target>| aside.iter().any(|kept| Arc::as_ptr(kept) == target.as_ptr());
        lock(&self.targets).retain(|(_, target)| stays(target));
        let units = std::mem::take(&mut *lock(&self.units));
        if let Some(records) = lock(&self.records).take() {
            note_moved(&records, units.values(), owed, ticket.map(HandoverId));
        }
    }

    /// The guest is elsewhere as this process starts: what is recorded of this LUN at a target says so, also where a device that was killed
    /// had no time for that. But of what has come already by the handover of this `ticket`, with which the guest is on its way here.
    pub(in crate::command::device) fn note_elsewhere(
        &self,
        hosted: &Hosted,
        lun: &Lun,
        ticket: Option<u128>,
    ) {
        let Ok(Some((url, config))) = at(lun, hosted) else { return };
        let Ok(records) = self.records() else { return };
        let node = vhost_user_scsi::unit::iscsi::node(&config, url.lun);
        let is_port = |port: &TransportId| session_as(url, &config, Which::As(port)).is_some();
        let is_its =
            |path: &&PathRecord| path.node == node && port_of(&path.path).is_some_and(|port| is_port(&port));
        let ticket = ticket.map(HandoverId);
        let is_here =
            |record: &Record| !record.state.is_away() && (ticket.is_none() || record.handover != ticket);
        let here: Vec<_> = records.book.records().into_iter().filter(is_here).collect();
        let known = here.iter().filter_map(|record| Some((record, record.paths.iter().find(is_its)?)));
        let gone: Vec<_> = known.flat_map(|(record, path)| gone(record, &path.path, false)).collect();
        if let Err(error) = records.book.append(&gone) {
            tracing::warn!(%error, "the record does not say that the guest moved");
        }
    }
}

/// The targets where the guest is to be another initiator port on the other host.
#[derive(Debug)]
pub(in crate::command::device) struct Stays(Vec<Arc<Target>>);

/// How a real logical unit goes to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command::device) enum Way {
    /// With the guest's initiator port.
    WithItsPort,
    /// From this host's nexus to that one's.
    Handed,
}

impl Way {
    /// As it is saved.
    pub(in crate::command::device) const fn kind(self) -> SavedKind {
        match self {
            Self::WithItsPort => SavedKind::Iscsi,
            Self::Handed => SavedKind::Handed,
        }
    }
}

/// What a LUN at a target says, and the first of the guest's ports there; none for a disk.
fn at<'a>(lun: &'a Lun, hosted: &Hosted) -> Result<Option<(&'a IscsiUrl, SessionConfig)>, Hindrance> {
    let Kind::Iscsi(url) = &lun.kind else { return Ok(None) };
    let config =
        session(url, &hosted.initiator, 1).map_err(|failure| Hindrance::Open(failure.to_string()))?;
    Ok(Some((url, config)))
}

fn has(record: &Record, path: &PathId) -> bool {
    record.path(path).is_some_and(|path| path.tracked.key.is_some())
}

fn read(saved: &SavedLun) -> Result<(Record, PathId), Hindrance> {
    let cut = || CarriedError::Damaged("it is cut short".to_owned());
    let (record, path) = match saved.kind {
        SavedKind::Handed => read_carried(&Handed::parse(&saved.state).ok_or_else(cut)?.record)?,
        _ => read_carried(&saved.state)?,
    };
    if record.lun.0 != saved.name {
        return Err(CarriedError::Damaged("it is of another logical unit".to_owned()).into());
    }
    Ok((record, path))
}

fn recorded(records: &Records, lun: &LunId) -> Result<Record, Hindrance> {
    records.book.refresh()?;
    let record = records.book.record(lun);
    Ok(record.as_deref().cloned().unwrap_or_else(|| Record::new(lun.clone())))
}

/// Takes what waits for the guest, which would get lost with the session, and keeps what is `wanted` of that for it.
fn take_waiting(
    keeper: &Keeper,
    nexus: Option<Box<dyn Nexus>>,
    wanted: fn(&[u8]) -> bool,
) -> Result<(), Hindrance> {
    let mut nexus = nexus.ok_or(Hindrance::Closed)?;
    let (waiting, ended) = take_attentions(&mut *nexus);
    let waiting = waiting.into_iter().filter(|sense| wanted(sense)).collect();
    keeper.take(&mut *nexus, waiting).map_err(|refused| Hindrance::Silent(refused.why))?;
    ended.map_err(|error| Hindrance::Silent(error.to_string()))
}

/// Asks the device what the guest has, if it has anything: many do not even know the commands.
fn prove(record: &Record, keeper: &Keeper, unit: &RealUnit) -> Result<(), Hindrance> {
    let known = record.path(&keeper.identity().path);
    let has = known.is_some_and(|path| path.tracked.key.is_some() || path.intent.is_some());
    if !has && record.found != State::Unverified {
        return Ok(());
    }
    let mut nexus = unit.nexus().ok_or(Hindrance::Closed)?;
    keeper.agree(&mut *nexus).map_err(|refused| Hindrance::Silent(refused.why))
}

/// Asks the device what the guest has, also where the other host knew of nothing.
fn ask(has: bool, keeper: &Keeper, nexus: Option<Box<dyn Nexus>>) -> Result<(), Hindrance> {
    let mut nexus = nexus.ok_or(Hindrance::Closed)?;
    match keeper.agree(&mut *nexus) {
        Err(refused) if !has && nobody_registers(&refused.completion) => Ok(()),
        asked => asked.map_err(|refused| Hindrance::Silent(refused.why)),
    }
}

/// What was noted for a registration that was to come by a handover which came to nothing, or did elsewhere, is the guest's no more: who
/// had the registration then told it where that went. `record` without it, and what makes it so.
fn undone(record: &Record, path: &PathId) -> (Vec<(LunId, Change)>, Record) {
    let mut record = record.clone();
    let came_to_nothing = is_coming(&record);
    let known = record.paths.iter_mut().find(|known| known.path == *path && came_to_nothing);
    let owed = known.map(|known| std::mem::take(&mut known.owed)).unwrap_or_default();
    let given = (record.lun.clone(), Change::Owed { path: path.clone(), sense: None });
    (vec![given; owed.len()], record)
}

/// The proof can have found what was not known of when the way was chosen.
fn must_go_along(lun: &Lun, unit: &RealUnit) -> Result<(), Hindrance> {
    let mut nexus = unit.nexus_until(Instant::now() + LETTING_GO).ok_or(Hindrance::Closed)?;
    if goes_along(lun, &mut *nexus)? { Ok(()) } else { Err(Hindrance::Found) }
}

/// The device does not know the commands, or somebody has a RESERVE, which there is only without registrations (SPC-2 5.5.1).
fn nobody_registers(ended: &Completion) -> bool {
    let key = ended.decoded_sense().map(|sense| sense.key);
    ended.status == Status::RESERVATION_CONFLICT || key == Some(SenseKey::ILLEGAL_REQUEST)
}

/// Whether what is registered will be there after a logout, as far as anybody knows.
fn goes_along(lun: &Lun, nexus: &mut dyn Nexus) -> Result<bool, Hindrance> {
    if !lun.migrate_pr {
        return Err(Hindrance::Off);
    }
    let inquiry = Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 96, 0], data: DataPhase::In(96) };
    let told = nexus.execute(&inquiry).map_err(|error| Hindrance::Silent(error.to_string()))?;
    let target = TargetIdentity::from_inquiry(&told.data).filter(|_| told.status.is_good());
    let target =
        target.ok_or_else(|| Hindrance::Silent(format!("its INQUIRY ended with {}", told.status)))?;
    match KnownTargets::default().traits(&target).keeps_identity {
        Known::Yes => Ok(true),
        Known::No => Ok(false),
        Known::Unknown => Ok(lun.always),
    }
}

/// For people, and against PERSISTENT RESERVE OUT by whoever else has the guest's records. What decides is the record of where the guest is.
fn note_moved<'a>(
    records: &Records,
    units: impl Iterator<Item = &'a RealUnit>,
    owed: bool,
    ticket: Option<HandoverId>,
) {
    let has_come = |record: &Record| ticket.is_some() && record.handover == ticket && !record.state.is_away();
    let identities = units.filter_map(RealUnit::keeper).map(Keeper::identity);
    let known = identities.filter_map(|identity| Some((records.book.record(&identity.lun)?, &identity.path)));
    let known = known.filter(|(record, _)| !is_kept(record) && !has_come(record));
    // What was noted on the way of a registration that did not come is told by who has that.
    let gone: Vec<_> =
        known.flat_map(|(record, path)| gone(&record, path, owed || is_coming(&record))).collect();
    if let Err(error) = records.book.append(&gone) {
        tracing::warn!(%error, "the record does not say that the guest moved");
    }
}

/// `owed`: what is owed to the guest goes with it.
fn gone(record: &Record, path: &PathId, owed: bool) -> Vec<(LunId, Change)> {
    let owed = record.path(path).filter(|_| owed).map_or(0, |known| known.owed.len());
    let why = Some("it went to another host with its initiator port".to_owned());
    let moved = Change::State { state: State::Moved, handover: Some(WITH_ITS_PORT), why };
    let given = Change::Owed { path: path.clone(), sense: None };
    let changes = std::iter::once(moved).chain(vec![given; owed]);
    changes.map(|change| (record.lun.clone(), change)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus::TransportError;

    /// Answers INQUIRY.
    struct Answer(Completion);

    impl Nexus for Answer {
        fn execute(&mut self, _: &Request) -> Result<Completion, TransportError> {
            Ok(self.0.clone())
        }
    }

    fn asked(option: &str, vendor: &[u8], status: Status) -> Result<bool, Hindrance> {
        let lun = Lun::parse(&format!("iscsi://a/iqn.2026-11.example:a/0,migrate-pr={option}")).unwrap();
        let data = [&[0; 8], vendor, &[b' '; 88 - 8][..]].concat();
        goes_along(&lun, &mut Answer(Completion { status, sense: Vec::new(), data }))
    }

    #[test]
    fn only_who_says_that_there_are_no_registrations_is_believed_without_any() {
        let illegal = scsi::Sense::new(
            SenseKey::ILLEGAL_REQUEST,
            scsi::AdditionalSense::INVALID_COMMAND_OPERATION_CODE,
        );
        let not_ready = scsi::Sense::new(SenseKey::NOT_READY, scsi::AdditionalSense { asc: 4, ascq: 1 });
        assert!(nobody_registers(&Completion::check(&illegal)));
        assert!(nobody_registers(&Completion::status(Status::RESERVATION_CONFLICT)));
        for other in [Completion::check(&not_ready), Completion::status(Status::BUSY)] {
            assert!(!nobody_registers(&other), "{other:?}");
        }
    }

    #[test]
    fn a_registration_goes_along_only_where_the_target_is_known_to_keep_it() {
        let good = Status::GOOD;
        assert!(asked("on", b"TENURE  ", good).unwrap());
        assert!(matches!(asked("off", b"TENURE  ", good), Err(Hindrance::Off)));
        for (option, unknown) in [("on", true), ("always", false)] {
            assert_eq!(asked(option, b"NOBODY  ", good).unwrap(), !unknown);
            assert!(!asked(option, b"SPDK    ", good).unwrap());
            assert!(matches!(asked(option, b"TENURE  ", Status::BUSY), Err(Hindrance::Silent(_))));
        }
        let short = Completion { status: good, sense: Vec::new(), data: vec![0; 35] };
        let lun = Lun::parse("iscsi://a/iqn.2026-11.example:a/0,migrate-pr=always").unwrap();
        assert!(matches!(goes_along(&lun, &mut Answer(short)), Err(Hindrance::Silent(_))));
    }
}
