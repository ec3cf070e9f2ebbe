//! Registrations that stay with this host's nexus when the guest goes, until its new device has taken them over (`handed`), and the
//! initiator ports that this takes at targets: of the guest's two there a host uses the one by which nothing is registered yet.

use super::{
    Hosted, Kind, LETTING_GO, LOOK, Lun, Real, RealUnit, Records, WITH_ITS_PORT, lock, open_disk, session,
};
use crate::command::device::handed::follow::Desk;
use crate::command::device::handed::{HandError, KEPT};
use crate::command::device::real::Hindrance;
use guard::Identity;
use handover::known_targets::TargetIdentity;
use iscsi::initiator::{IscsiUrl, SessionConfig};
use ledger::{Change, HandoverId, LunId, PathId, Record, State};
use nexus::Nexus;
use rustix::rand::{GetRandomFlags, getrandom};
use scsi::pr::Key;
use scsi::{AdditionalSense, DataPhase, Isid, Request, Sense, SenseKey, TransportId, opcode};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};
use vhost_user_scsi::unit::iscsi::{IscsiUnit, Target, is_of_a_login, take_attentions};

/// A logical unit whose registration is still this host's.
#[derive(Clone, Debug)]
pub(in crate::command::device) struct Kept {
    /// Its number, of one at a target.
    pub(in crate::command::device) number: Option<u8>,
    pub(in crate::command::device) unit: RealUnit,
    /// Which it is, by the nexus that is registered.
    pub(in crate::command::device) identity: Identity,
    pub(in crate::command::device) key: Option<Key>,
    pub(in crate::command::device) target: Option<TargetIdentity>,
}

/// How long a logical unit may need to say what it is, where somebody waits with a lock.
pub(in crate::command::device) const LOOKING: Duration = Duration::from_secs(10);

/// Which of the guest's initiator ports at a target.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which<'a> {
    /// That one.
    As(&'a TransportId),
    /// Another than that.
    But(&'a TransportId),
}

/// The guest's two ISIDs at a target: the second differs in the last bit of the qualifier. One, where the operator says which.
fn isids(url: &IscsiUrl, first: Isid) -> Vec<Isid> {
    let Isid([type_and_number @ .., last]) = first;
    let [a, b, c, d, e] = type_and_number;
    let second = Isid([a, b, c, d, e, last ^ 1]);
    if url.isid.is_some() { vec![first] } else { vec![first, second] }
}

/// The session of this port; none if the guest cannot be it here.
pub(super) fn session_as(url: &IscsiUrl, base: &SessionConfig, which: Which<'_>) -> Option<SessionConfig> {
    let port = |isid: &Isid| TransportId::iscsi(base.initiator.clone(), *isid);
    let fits = |isid: &Isid| match which {
        Which::As(wanted) => port(isid) == *wanted,
        Which::But(other) => port(isid) != *other,
    };
    let isid = isids(url, base.isid).into_iter().find(fits)?;
    let mut config = base.clone();
    config.isid = isid;
    Some(config)
}

/// The session of a look, by an initiator port that is nobody's: a login by one of the guest's would end a session that another host may
/// need just now, or that of another look.
///
/// # Errors
/// The system has no random bytes.
pub(super) fn session_to_look(config: &SessionConfig) -> Result<SessionConfig, Hindrance> {
    let mut random = [0; 5];
    let filled = getrandom(&mut random, GetRandomFlags::empty());
    if !matches!(filled, Ok(5)) {
        return Err(Hindrance::Open("the system has no random bytes".to_owned()));
    }
    let (Isid([_, guests, ..]), [mut first, b, c, d, e]) = (config.isid, random);
    // The guest's own begin alike.
    first ^= u8::from(first == guests);
    let mut config = config.clone();
    // A random one (RFC 7143 11.12.5, T = 10b).
    config.isid = Isid([0x80, first, b, c, d, e]);
    Ok(config)
}

/// The initiator port of a nexus as records name it.
pub(super) fn port_of(path: &PathId) -> Option<TransportId> {
    path.0.split(' ').next()?.parse().ok()
}

pub(super) fn is_kept(record: &Record) -> bool {
    record.state == State::Handover && record.handover == Some(KEPT)
}

/// A registration that was to come from another host's nexus.
pub(super) fn is_coming(record: &Record) -> bool {
    let known = [Some(KEPT), Some(WITH_ITS_PORT), None].contains(&record.handover);
    record.state == State::Handover && !known
}

/// That the registration stays with this host for now, for who comes with this ticket.
pub(super) fn keep_here(lun: &LunId, ticket: u128) -> (LunId, Change) {
    let why = mark(ticket, "its registration stays with this host's nexus until the guest's new host has it");
    (lun.clone(), Change::State { state: State::Handover, handover: Some(KEPT), why: Some(why) })
}

/// What a record says of a registration that was kept for a ticket.
pub(in crate::command::device) fn mark(ticket: u128, what: &str) -> String {
    format!("{MARK}{}: {what}", HandoverId(ticket))
}

const MARK: &str = "given away in ";

/// The ticket for which a registration was kept.
fn ticket_of(record: &Record) -> Option<u128> {
    let own = record.handover == Some(KEPT) && record.state.is_away();
    let digits = record.doubt.as_deref().filter(|_| own)?.strip_prefix(MARK)?.split(':').next()?;
    HandoverId::from_hex(digits).map(|ticket| ticket.0)
}

/// What a guest is owed at a nexus by these unit attentions, of which `record` does not say so yet: whoever took one may tell it again.
pub(in crate::command::device) fn owes(
    record: Option<&Record>,
    Identity { lun, path, .. }: &Identity,
    codes: &[AdditionalSense],
) -> Vec<(LunId, Change)> {
    let known = record.and_then(|record| record.path(path)).into_iter().flat_map(|known| &known.owed);
    let known: Vec<_> = known.filter_map(|sense| Some(Sense::parse(sense)?.code)).collect();
    let owed = |code: &AdditionalSense| {
        let sense = Some(agent::ground::sense(*code));
        (lun.clone(), Change::Owed { path: path.clone(), sense })
    };
    codes.iter().filter(|code| !known.contains(code)).map(owed).collect()
}

/// Of what is owed, what a command can tell of: a unit attention.
fn tellable(record: &Record, path: &PathId) -> Vec<Vec<u8>> {
    let owed = record.path(path).into_iter().flat_map(|known| &known.owed);
    let is_told = |sense: &&Vec<u8>| {
        let sense = Sense::parse(sense);
        sense.is_some_and(|sense| !sense.deferred && sense.key == SenseKey::UNIT_ATTENTION)
    };
    let mut told: Vec<Vec<u8>> = owed.filter(is_told).cloned().collect();
    // A power-on that was long ago is none since the handover began, if it is told first.
    let is_reset = |sense: &Vec<u8>| Sense::parse(sense).is_some_and(|sense| sense.code.asc == 0x29);
    told.sort_by_key(|sense| !is_reset(sense));
    told
}

/// What the target calls itself.
pub(in crate::command::device) fn target_of(nexus: &mut dyn Nexus) -> Option<TargetIdentity> {
    let inquiry = Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 96, 0], data: DataPhase::In(96) };
    let told = nexus.execute(&inquiry).ok().filter(|told| told.status.is_good())?;
    TargetIdentity::from_inquiry(&told.data)
}

impl Real {
    /// What is kept for the guest while it is elsewhere.
    pub(in crate::command::device) fn desk(&self) -> MutexGuard<'_, Desk> {
        lock(&self.desk)
    }

    /// Where the device keeps what has to be durable.
    pub(in crate::command::device) fn state(&self) -> &Path {
        &self.state
    }

    /// Writes down what became of registrations.
    ///
    /// # Errors
    /// It is not durable.
    pub(in crate::command::device) fn note(&self, changes: &[(LunId, Change)]) -> Result<(), HandError> {
        let records = self.records().map_err(|failure| HandError::Ledger(failure.to_string()))?;
        records.book.append(changes).map_err(|error| HandError::Ledger(error.to_string()))
    }

    /// Whether the registration of a logical unit went from this host's nexus to another one's, which had that ticket.
    pub(in crate::command::device) fn has_gone(&self, lun: &LunId, ticket: u128) -> bool {
        let Ok(records) = self.records() else { return false };
        let read = records.book.refresh().is_ok();
        let record = records.book.record(lun).filter(|_| read);
        record.is_some_and(|record| record.state == State::Moved && ticket_of(&record) == Some(ticket))
    }

    /// Whether registrations of this host's nexuses are kept for this ticket, whatever became of the place since.
    ///
    /// # Errors
    /// Nobody can say, so nothing is to be ended for that.
    pub(in crate::command::device) fn keeps_for(&self, ticket: u128) -> Result<bool, HandError> {
        self.has_record(|record| is_kept(record) && ticket_of(record) == Some(ticket))
    }

    /// Whether nothing is known of a logical unit, as in a ledger that was lost.
    ///
    /// # Errors
    /// Nobody can say.
    pub(in crate::command::device) fn knows_nothing_of(&self, lun: &str) -> Result<bool, HandError> {
        Ok(!self.has_record(|record| record.lun.0 == lun)?)
    }

    fn has_record(&self, wanted: impl Fn(&Record) -> bool) -> Result<bool, HandError> {
        let records = self.records().map_err(|failure| HandError::Ledger(failure.to_string()))?;
        records.book.refresh().map_err(|error| HandError::Ledger(error.to_string()))?;
        Ok(records.book.records().iter().any(wanted))
    }

    /// The desk of a guest that the operator claims for this host.
    ///
    /// # Errors
    /// Somebody is just being followed.
    pub(in crate::command::device) fn desk_for_claim(&self) -> Result<MutexGuard<'_, Desk>, HandError> {
        self.desk_at_home().map_err(|why| HandError::Unfit(why.to_string()))
    }

    /// The logical units whose registration is awaited from this host's nexus, if sessions are kept for that.
    pub(in crate::command::device) fn awaited(&self) -> Vec<LunId> {
        // Before the ledger, which a guest without such logical units has not.
        let keeps = match self.desk.try_lock() {
            Ok(desk) => !desk.kept.is_empty(),
            Err(TryLockError::Poisoned(desk)) => !desk.into_inner().kept.is_empty(),
            // Somebody is being followed.
            Err(TryLockError::WouldBlock) => true,
        };
        let Some(records) = keeps.then(|| self.records().ok()).flatten() else { return Vec::new() };
        let kept = records.book.records().into_iter().filter(is_kept);
        kept.map(|record| record.lun.clone()).collect()
    }

    /// Whether something is, or was, kept for this ticket. Of a logical unit that the guest has no more another one may be named for ever.
    ///
    /// # Errors
    /// Nobody can say.
    pub(in crate::command::device) fn is_of(&self, ticket: u128) -> Result<bool, HandError> {
        self.has_record(|record| ticket_of(record) == Some(ticket))
    }

    /// The link of whoever had this turn is no more: what is under way is for the next one to put in order.
    pub(in crate::command::device) fn stop_following(&self, turn: u64) {
        if let Ok(mut desk) = self.desk.try_lock()
            && self.turn() == turn
        {
            desk.evict();
        }
    }

    /// Whether a handover is being followed just now.
    pub(in crate::command::device) fn is_following(&self) -> bool {
        match self.desk.try_lock() {
            Ok(desk) => desk.is_following(),
            Err(TryLockError::Poisoned(desk)) => desk.into_inner().is_following(),
            Err(TryLockError::WouldBlock) => true,
        }
    }

    /// Somebody asks to be followed: his turn, which ends when the next one asks.
    pub(in crate::command::device) fn take_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }

    /// Whose turn it is.
    pub(in crate::command::device) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Whether the logical units are open here, or are being opened.
    pub(in crate::command::device) fn is_at_home(&self) -> bool {
        self.at_home.load(Ordering::Acquire)
    }

    pub(in crate::command::device) fn set_at_home(&self, home: bool) {
        self.at_home.store(home, Ordering::Release);
    }

    /// The desk of a guest that is to be here: nobody is followed from now on, and who is just being followed is not waited for long.
    pub(super) fn desk_at_home(&self) -> Result<MutexGuard<'_, Desk>, Hindrance> {
        self.set_at_home(true);
        let end = Instant::now() + LETTING_GO;
        loop {
            match self.desk.try_lock() {
                Ok(desk) => return Ok(desk),
                Err(TryLockError::Poisoned(desk)) => return Ok(desk.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => return Err(Hindrance::Followed),
            }
        }
    }

    /// The session by which the guest is registered at the target of `url`, or the first of its two.
    pub(super) fn own_port(&self, url: &IscsiUrl, base: SessionConfig) -> SessionConfig {
        let Ok(records) = self.records() else { return base };
        let at_target = |node: &str| node.parse::<IscsiUrl>().is_ok_and(|there| there.target == url.target);
        let all = records.book.records();
        let known = all
            .iter()
            .flat_map(|record| &record.paths)
            .filter(|path| at_target(&path.node) && (path.tracked.key.is_some() || path.intent.is_some()));
        let mut found = known.filter_map(|path| session_as(url, &base, Which::As(&port_of(&path.path)?)));
        found.next().unwrap_or(base)
    }

    /// The logical units whose registration stays with this host are put aside with their sessions, and those targets are no more the guest's.
    pub(super) fn put_aside(&self, records: &Records) -> Vec<Arc<Target>> {
        let mut desk = self.desk();
        self.set_at_home(false);
        let mut units = lock(&self.units);
        let is_kept = |unit: &RealUnit| {
            let record = unit.keeper().and_then(|keeper| records.book.record(&keeper.identity().lun));
            record.is_some_and(|record| is_kept(&record))
        };
        let kept: Vec<u8> = units
            .iter()
            .filter(|(_, unit)| unit.target().is_some() && is_kept(unit))
            .map(|(n, _)| *n)
            .collect();
        let taken = kept.into_iter().filter_map(|number| Some((number, units.remove(&number)?)));
        desk.kept.extend(taken);
        desk.kept.values().filter(|unit| is_kept(unit)).filter_map(|unit| unit.target().cloned()).collect()
    }

    /// They are the guest's again: it stays.
    pub(super) fn take_from_aside(&self) {
        let mut desk = self.desk();
        self.set_at_home(true);
        lock(&self.units).append(&mut desk.kept);
    }

    /// The way to a logical unit whose registration stayed with this host for this ticket, opened again if need be, and the unit attentions
    /// that the guest is owed there: what is taken of it is durable before anybody is told.
    ///
    /// # Errors
    /// Nothing is registered any more, or there is no way, or none before `end`.
    pub(in crate::command::device) fn reach_kept(
        &self,
        (hosted, luns): (&Hosted, &[(u8, Lun)]),
        kept: &mut BTreeMap<u8, RealUnit>,
        (wanted, ticket): (&LunId, u128),
        end: Instant,
    ) -> Result<(Kept, Vec<Vec<u8>>), Hindrance> {
        let records = self.records().map_err(|failure| Hindrance::Silent(failure.to_string()))?;
        records.book.refresh()?;
        let record = records.book.record(wanted);
        let record = record.filter(|record| is_kept(record) && ticket_of(record) == Some(ticket));
        let record = record.ok_or(Hindrance::NotKept)?;
        let known = record.paths.iter().find(|path| path.tracked.key.is_some()).ok_or(Hindrance::NotKept)?;
        let here = kept.iter().find(|(_, unit)| {
            unit.keeper().is_some_and(|keeper| {
                keeper.identity().path == known.path && keeper.identity().lun == *wanted
            })
        });
        let (number, unit) = match here {
            Some((number, unit)) => (Some(*number), unit.clone()),
            None => {
                let (number, unit, taken) =
                    self.open_kept((hosted, luns), (wanted, &known.path, &known.node), end)?;
                let owes = |sense| Change::Owed { path: known.path.clone(), sense: Some(sense) };
                let taken: Vec<_> = taken.into_iter().map(|sense| (wanted.clone(), owes(sense))).collect();
                records.book.append(&taken)?;
                if let RealUnit::Iscsi(_) = &unit {
                    kept.insert(number, unit.clone());
                }
                (Some(number), unit)
            }
        };
        let identity = unit.identify_until(end).map_err(|ended| Hindrance::Silent(super::told(&ended)))?;
        let identity = identity.ok_or_else(|| Hindrance::Silent("it has no name any more".to_owned()))?;
        let target = unit.nexus_until(end).and_then(|mut nexus| target_of(&mut *nexus));
        let record = records.book.record(wanted).unwrap_or_else(|| Arc::clone(&record));
        let (key, owed) = (known.tracked.key, tellable(&record, &known.path));
        Ok((Kept { number, unit, identity, key, target }, owed))
    }

    fn open_kept(
        &self,
        (hosted, luns): (&Hosted, &[(u8, Lun)]),
        (wanted, path, node): (&LunId, &PathId, &str),
        end: Instant,
    ) -> Result<(u8, RealUnit, Vec<Vec<u8>>), Hindrance> {
        let mut last = Hindrance::NotKept;
        // A disk may go by another name since; those that are open already are not looked at for that.
        let named = |lun: &Lun| matches!(&lun.kind, Kind::Disk(disk) if disk.canonicalize().is_ok_and(|real| real == Path::new(node)));
        let (first, others): (Vec<_>, Vec<_>) = luns.iter().partition(|(_, lun)| named(lun));
        for (number, lun) in first.into_iter().chain(others) {
            let opened = match &lun.kind {
                Kind::Disk(disk) => open_disk(disk, 1)
                    .map(RealUnit::Disk)
                    .map_err(|failure| Hindrance::Open(failure.to_string())),
                Kind::Iscsi(url)
                    if node
                        .parse::<IscsiUrl>()
                        .is_ok_and(|there| (&there.target, there.lun) == (&url.target, url.lun)) =>
                {
                    self.log_in_as(hosted, url, path)
                }
                _ => continue,
            };
            let is_it = |unit: &RealUnit| {
                let identity = unit.identify_until(end).ok().flatten();
                identity.is_some_and(|identity| identity.lun == *wanted && identity.path == *path)
            };
            match opened {
                Ok(unit) if is_it(&unit) => {
                    let waiting = match &unit {
                        RealUnit::Iscsi(unit) => take_attentions(&mut *unit.nexus_until(end)).0,
                        RealUnit::Disk(_) => Vec::new(),
                    };
                    let waiting = waiting.into_iter().filter(|sense| !is_of_a_login(sense)).collect();
                    return Ok((*number, unit, waiting));
                }
                Ok(_) => {}
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    fn log_in_as(&self, hosted: &Hosted, url: &IscsiUrl, path: &PathId) -> Result<RealUnit, Hindrance> {
        let base =
            session(url, &hosted.initiator, 1).map_err(|failure| Hindrance::Open(failure.to_string()))?;
        let config = port_of(path).and_then(|port| session_as(url, &base, Which::As(&port)));
        let config = config.ok_or(Hindrance::NotKept)?;
        let opened = |error: anyhow::Error| Hindrance::Open(format!("{error:#}"));
        let target = self.target(config).map_err(opened)?;
        let unit = IscsiUnit::open(&target, url.lun).map_err(|error| opened(error.into()))?;
        Ok(RealUnit::Iscsi(Arc::new(unit)))
    }

    /// The numbers of the LUNs at targets whose sessions stay for a guest that is elsewhere; none while they are being handed over.
    pub(in crate::command::device) fn keeps(&self) -> Vec<u8> {
        match self.desk.try_lock() {
            Ok(desk) => desk.kept.keys().copied().collect(),
            Err(TryLockError::Poisoned(desk)) => desk.into_inner().kept.keys().copied().collect(),
            Err(TryLockError::WouldBlock) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_two_ports_of_a_guest_the_one_is_taken_that_is_not_registered() {
        let url = |text: &str| text.parse::<IscsiUrl>().unwrap();
        let own = TransportId::iscsi(
            scsi::IscsiName::new("iqn.2026-11.example:a").unwrap(),
            Isid([0x80, 0, 0, 0, 0, 0]),
        );
        let plain = url("iscsi://a/iqn.2026-11.example:t/0");
        let base = session(&plain, &own, 1).unwrap();
        let isid = |url: &IscsiUrl, base: &SessionConfig, which| {
            session_as(url, base, which).map(|config| config.isid.0[5])
        };
        let second = TransportId::iscsi(base.initiator.clone(), Isid([0x80, 0, 0, 0, 0, 1]));
        assert_eq!(isid(&plain, &base, Which::But(&own)), Some(1));
        assert_eq!(isid(&plain, &base, Which::But(&second)), Some(0));
        assert_eq!(isid(&plain, &base, Which::As(&second)), Some(1));
        let fixed = url("iscsi://a/iqn.2026-11.example:t/0?isid=800000000000");
        let base = session(&fixed, &own, 1).unwrap();
        assert_eq!(isid(&fixed, &base, Which::But(&own)), None);
        assert_eq!(isid(&fixed, &base, Which::As(&second)), None);
        assert_eq!(isid(&fixed, &base, Which::But(&second)), Some(0));
    }

    #[test]
    fn a_record_of_a_lun_that_the_guest_has_no_more_hides_no_other_handover() {
        let folder = tempfile::TempDir::new().unwrap();
        let real = Real::new("db1", folder.path(), None);
        let kept = |lun: &str, ticket| {
            let why = Some(mark(ticket, "its registration is awaited"));
            let state = Change::State { state: State::Handover, handover: Some(KEPT), why };
            (LunId(lun.to_owned()), state)
        };
        real.note(&[kept("naa.1", 1), kept("naa.2", 5)]).unwrap();
        assert!(real.is_of(5).unwrap() && real.keeps_for(5).unwrap() && real.keeps_for(1).unwrap());
        assert!(!real.is_of(7).unwrap());
        assert!(real.knows_nothing_of("naa.3").unwrap() && !real.knows_nothing_of("naa.2").unwrap());
    }
}
