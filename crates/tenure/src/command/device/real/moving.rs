//! A guest's LUNs at targets go with the guest to another process: the same initiator port logs out here and logs in there, so that
//! to the target nothing has changed (method *identity*), and the record of what the guest registered goes on there.
//!
//! What must hold, and is looked at: both sides are the same initiator port of the same target; the target keeps registrations without
//! a session; nothing else of the guest's ends with it; the target confirmed the logout, and nobody here logs in again before
//! the guest is back. There, before anybody is served, page 83h must name the same logical unit, and what is registered is proved
//! by the device (REGISTER of the key to itself). Used by `host::moving`.

use super::{Hosted, Kind, Lun, Real, RealUnit, Records, WITH_ITS_PORT, lock, session};
use guard::Identity;
use handover::known_targets::{Known, KnownTargets, TargetIdentity};
use iscsi::initiator::{IscsiUrl, SessionConfig, SessionError};
use ledger::{
    CarriedError, Change, LunId, PathId, PathRecord, Record, State, carried, changes_to, read_carried,
};
use nexus::Nexus;
use scsi::{Completion, DataPhase, Request, SenseKey, Status, TransportId, opcode};
use std::sync::Arc;
use thiserror::Error;
use vhost_user_scsi::saved::SavedLun;
use vhost_user_scsi::unit::iscsi::{IscsiUnit, is_of_a_login};
use vhost_user_scsi::unit::keep::Keeper;

/// Why a real logical unit does not move.
#[derive(Debug, Error)]
pub(in crate::command::device) enum Hindrance {
    /// Its nexus is the host's, which stays.
    #[error(
        "it is a disk of this host, and to the disk the guest is this host: it moves between two sockets of one device \
         (--name given twice); between two devices use a LUN over iscsi://, with which the guest is a host of its own"
    )]
    Disk,
    /// It is not served.
    #[error("it is not open here")]
    Closed,
    /// Nobody could ask the target, or log out.
    #[error("there is no session with its target now")]
    NoSession,
    /// The registration would be gone.
    #[error(
        "its target ({0}) ends registrations with the session, and the guest has registered a key there: it moves between two \
         sockets of one device (--name given twice), or after the guest has unregistered"
    )]
    Forgets(TargetIdentity),
    /// The registration might be gone.
    #[error(
        "of its target ({0}) it is not known whether it keeps registrations without a session, and the guest has registered a \
         key there: it moves if the LUN has migrate-pr=always on both sides, or after the guest has unregistered"
    )]
    Unknown(TargetIdentity),
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
    /// What a logical unit is called, and what is to be known of it where its guest goes. `stopped`: the guest runs no command any more,
    /// so that unit attentions that wait for it can be taken along.
    ///
    /// # Errors
    /// What keeps it from moving.
    pub(in crate::command::device) fn save(
        &self,
        number: u8,
        lun: &Lun,
        stopped: bool,
    ) -> Result<(String, Vec<u8>), Hindrance> {
        let unit = match self.unit(number) {
            Some(RealUnit::Iscsi(unit)) => unit,
            Some(RealUnit::Disk(_)) => return Err(Hindrance::Disk),
            None => return Err(Hindrance::Closed),
        };
        let (Some(keeper), Some(records)) = (unit.keeper(), self.present_records()) else {
            return Err(Hindrance::Closed);
        };
        // While the guest runs its commands see to that.
        if !(unit.target().is_connected() || stopped && unit.target().reach()) {
            return Err(Hindrance::NoSession);
        }
        if stopped {
            settle(&records, keeper, &unit)?;
        }
        if unit.is_reserved() {
            return Err(Hindrance::Reserved);
        }
        let Identity { lun: name, path, .. } = keeper.identity();
        let mut record = recorded(&records, name)?;
        if !stopped {
            // A command that is under way will have ended by then.
            record.paths.iter_mut().for_each(|path| path.intent = None);
        }
        if record.path(path).is_some_and(|path| path.tracked.key.is_some()) {
            may_carry(lun, &mut *unit.nexus())?;
        }
        Ok((name.0.clone(), carried(&record, path)?))
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
        let (_, config) = at(lun, hosted)?;
        let (record, path) = read(saved)?;
        let here = TransportId::iscsi(config.initiator.clone(), config.isid).to_string();
        let there = path.0.split(' ').next().unwrap_or_default().to_owned();
        if here != there {
            return Err(Hindrance::Port { here, there });
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
        let (url, config) = at(lun, hosted)?;
        let (record, path) = read(saved)?;
        let opened = |error: anyhow::Error| Hindrance::Open(format!("{error:#}"));
        let target = self.target(config).map_err(opened)?;
        let unit = IscsiUnit::open(&target, url.lun).map_err(|error| opened(error.into()))?;
        let unit = RealUnit::Iscsi(Arc::new(unit));
        let identity = self.identity(&unit).map_err(|failure| Hindrance::Open(failure.to_string()))?;
        if identity.lun != record.lun {
            return Err(Hindrance::Other { found: identity.lun.0, wanted: record.lun.0 });
        }
        if identity.path != path {
            return Err(Hindrance::Target { here: identity.path.0, there: path.0 });
        }
        let records = self.records().map_err(|failure| Hindrance::Silent(failure.to_string()))?;
        unit.keep(Keeper::new(records.guard, identity, lun.migrate_pr));
        lock(&self.units).insert(number, unit.clone());
        Ok(unit)
    }

    /// When all of the guest's logical units were [found](Self::find): the record goes on here, what waits for the guest is taken, and the
    /// device proves what the guest has.
    ///
    /// # Errors
    /// What keeps it from coming.
    pub(in crate::command::device) fn go_on(&self, number: u8, saved: &SavedLun) -> Result<(), Hindrance> {
        let Some(RealUnit::Iscsi(unit)) = self.unit(number) else { return Err(Hindrance::Closed) };
        let (Some(keeper), Some(records)) = (unit.keeper(), self.present_records()) else {
            return Err(Hindrance::Closed);
        };
        let (record, path) = read(saved)?;
        let has = |record: &Record| record.path(&path).is_some_and(|path| path.tracked.key.is_some());
        records.book.refresh()?;
        let before = records.book.record(&record.lun);
        records.book.append(&changes_to(&record, &path, before.as_deref()))?;
        take_waiting(keeper, &unit, |sense| !is_of_a_login(sense))?;
        ask(has(&record), keeper, &unit)?;
        if has(&record) && !has(&recorded(&records, &record.lun)?) {
            tracing::warn!(
                lun = record.lun.0,
                "the guest's registration was removed on its way; it is fenced"
            );
        }
        Ok(())
    }

    /// Logs out of every target and forgets the logical units, of which the record says then that the guest moved. Nothing has changed after
    /// an error, but that there are new sessions.
    ///
    /// # Errors
    /// [`Hindrance::Logout`].
    pub(in crate::command::device) fn let_go(&self) -> Result<(), Hindrance> {
        let targets = lock(&self.targets);
        let sessions: Vec<_> = targets.iter().filter_map(|(_, target)| target.upgrade()).collect();
        if let Some(error) = sessions.iter().find_map(|target| target.give_away().err()) {
            sessions.iter().for_each(|target| target.take_back());
            return Err(Hindrance::Logout(error));
        }
        drop(targets);
        self.forget(true);
        Ok(())
    }

    /// The same for a guest that nobody was served with here: nothing of its is under way, so it does not matter whether a target confirms
    /// the logout. The connection is closed, and the session ends at the latest when the guest logs in elsewhere.
    pub(in crate::command::device) fn drop_all(&self) {
        let sessions: Vec<_> =
            lock(&self.targets).iter().filter_map(|(_, target)| target.upgrade()).collect();
        for error in sessions.iter().filter_map(|target| target.give_away().err()) {
            tracing::debug!(%error, "a logout was not confirmed");
        }
        self.forget(false);
    }

    /// `owed`: what is owed to the guest goes with it.
    fn forget(&self, owed: bool) {
        lock(&self.targets).clear();
        let units = std::mem::take(&mut *lock(&self.units));
        if let Some(records) = lock(&self.records).take() {
            note_moved(&records, units.values(), owed);
        }
    }

    /// The guest is elsewhere as this process starts: what is recorded of this LUN at a target says so, also where a device that was killed
    /// had no time for that.
    pub(in crate::command::device) fn note_elsewhere(&self, hosted: &Hosted, lun: &Lun) {
        let Ok((url, config)) = at(lun, hosted) else { return };
        let Ok(records) = self.records() else { return };
        let node = vhost_user_scsi::unit::iscsi::node(&config, url.lun);
        let port = TransportId::iscsi(config.initiator.clone(), config.isid).to_string();
        let is_its = |path: &&PathRecord| path.node == node && path.path.0.split(' ').next() == Some(&port);
        let here: Vec<_> =
            records.book.records().into_iter().filter(|record| !record.state.is_away()).collect();
        let known = here.iter().filter_map(|record| Some((record, record.paths.iter().find(is_its)?)));
        let gone: Vec<_> = known.flat_map(|(record, path)| gone(record, &path.path, false)).collect();
        if let Err(error) = records.book.append(&gone) {
            tracing::warn!(%error, "the record does not say that the guest moved");
        }
    }
}

fn at<'a>(lun: &'a Lun, hosted: &Hosted) -> Result<(&'a IscsiUrl, SessionConfig), Hindrance> {
    let Kind::Iscsi(url) = &lun.kind else { return Err(Hindrance::Disk) };
    let config =
        session(url, &hosted.initiator, 1).map_err(|failure| Hindrance::Open(failure.to_string()))?;
    Ok((url, config))
}

fn read(saved: &SavedLun) -> Result<(Record, PathId), Hindrance> {
    let (record, path) = read_carried(&saved.state)?;
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

/// Takes what waits for the guest, which would get lost with the session, and asks what it has.
fn settle(records: &Records, keeper: &Keeper, unit: &IscsiUnit) -> Result<(), Hindrance> {
    take_waiting(keeper, unit, |_| true)?;
    prove(&recorded(records, &keeper.identity().lun)?, keeper, unit)
}

/// Takes what waits for the guest, and keeps what is `wanted` of that for it.
fn take_waiting(keeper: &Keeper, unit: &IscsiUnit, wanted: fn(&[u8]) -> bool) -> Result<(), Hindrance> {
    let (waiting, ended) = unit.take_attentions();
    let waiting = waiting.into_iter().filter(|sense| wanted(sense)).collect();
    keeper.take(&mut *unit.nexus(), waiting).map_err(|refused| Hindrance::Silent(refused.why))?;
    ended.map_err(|error| Hindrance::Silent(error.to_string()))
}

/// Asks the device what the guest has, if it has anything: many do not even know the commands.
fn prove(record: &Record, keeper: &Keeper, unit: &IscsiUnit) -> Result<(), Hindrance> {
    let known = record.path(&keeper.identity().path);
    let has = known.is_some_and(|path| path.tracked.key.is_some() || path.intent.is_some());
    if !has && record.found != State::Unverified {
        return Ok(());
    }
    keeper.agree(&mut *unit.nexus()).map_err(|refused| Hindrance::Silent(refused.why))
}

/// Asks the device what the guest has, also where the other host knew of nothing.
fn ask(has: bool, keeper: &Keeper, unit: &IscsiUnit) -> Result<(), Hindrance> {
    match keeper.agree(&mut *unit.nexus()) {
        Err(refused) if !has && nobody_registers(&refused.completion) => Ok(()),
        asked => asked.map_err(|refused| Hindrance::Silent(refused.why)),
    }
}

/// The device does not know the commands, or somebody has a RESERVE, which there is only without registrations (SPC-2 5.5.1).
fn nobody_registers(ended: &Completion) -> bool {
    let key = ended.decoded_sense().map(|sense| sense.key);
    ended.status == Status::RESERVATION_CONFLICT || key == Some(SenseKey::ILLEGAL_REQUEST)
}

/// What is registered must be there after the logout.
fn may_carry(lun: &Lun, nexus: &mut dyn Nexus) -> Result<(), Hindrance> {
    if !lun.migrate_pr {
        return Err(Hindrance::Off);
    }
    let inquiry = Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 96, 0], data: DataPhase::In(96) };
    let told = nexus.execute(&inquiry).map_err(|error| Hindrance::Silent(error.to_string()))?;
    let target = TargetIdentity::from_inquiry(&told.data).filter(|_| told.status.is_good());
    let target =
        target.ok_or_else(|| Hindrance::Silent(format!("its INQUIRY ended with {}", told.status)))?;
    match KnownTargets::default().traits(&target).keeps_identity {
        Known::Yes => Ok(()),
        Known::No => Err(Hindrance::Forgets(target)),
        Known::Unknown if lun.always => Ok(()),
        Known::Unknown => Err(Hindrance::Unknown(target)),
    }
}

/// For people, and against PERSISTENT RESERVE OUT by whoever else has the guest's records. What decides is the record of where the guest is.
fn note_moved<'a>(records: &Records, units: impl Iterator<Item = &'a RealUnit>, owed: bool) {
    let identities = units.filter_map(RealUnit::keeper).map(Keeper::identity);
    let known = identities.filter_map(|identity| Some((records.book.record(&identity.lun)?, &identity.path)));
    let gone: Vec<_> = known.flat_map(|(record, path)| gone(&record, path, owed)).collect();
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

    fn asked(option: &str, vendor: &[u8], status: Status) -> Result<(), Hindrance> {
        let lun = Lun::parse(&format!("iscsi://a/iqn.2026-11.example:a/0,migrate-pr={option}")).unwrap();
        let data = [&[0; 8], vendor, &[b' '; 88 - 8][..]].concat();
        may_carry(&lun, &mut Answer(Completion { status, sense: Vec::new(), data }))
    }

    #[test]
    fn a_registration_goes_along_only_where_the_target_is_known_to_keep_it() {
        let good = Status::GOOD;
        assert!(asked("on", b"TENURE  ", good).is_ok());
        assert!(matches!(asked("off", b"TENURE  ", good), Err(Hindrance::Off)));
        for (option, unknown) in [("on", true), ("always", false)] {
            assert_eq!(matches!(asked(option, b"NOBODY  ", good), Err(Hindrance::Unknown(_))), unknown);
            assert!(matches!(asked(option, b"SPDK    ", good), Err(Hindrance::Forgets(_))));
            assert!(matches!(asked(option, b"TENURE  ", Status::BUSY), Err(Hindrance::Silent(_))));
        }
        let short = Completion { status: good, sense: Vec::new(), data: vec![0; 35] };
        let lun = Lun::parse("iscsi://a/iqn.2026-11.example:a/0,migrate-pr=always").unwrap();
        assert!(matches!(may_carry(&lun, &mut Answer(short)), Err(Hindrance::Silent(_))));
    }
}
