//! A guest's logical units on one host, for one handover: where they are, what the ledger knows of them, the freeze, and what
//! is recorded when the guest's registrations have left or arrived.
//!
//! Both hosts have one, and the destination's is frozen as long as the handover is open: its helper lets nothing that
//! changes the device pass before. While it is frozen every record says `handover`: that is written first, with one append for all
//! logical units, then each freeze lock is taken alone, then the records are read again. Whatever ends it is one append as
//! well, and the locks are given back after it. An agent that dies in between leaves records that say `handover`, and the
//! guest's PERSISTENT RESERVE OUT is answered BUSY until recovery has opened the same handover again and ended it.
//!
//! A logical unit on which the guest has nothing *rests*: it is no part of the handover's group, but of its freeze.

mod error;
mod find;
mod place;
mod unit;

pub use error::Error;
pub use find::{nodes_again, nodes_of};
pub use place::{Place, Way, opening};
pub use unit::{Standing, Unit, UnitPath};

use crate::drive::{Lines, Link, Ports};
use handover::{Entry, Path, Role, Side, Tracked, UnitIndex, Verdict};
use ledger::{Change, Guest, HandoverId, Ledger, Lock, LunId, Owner, State};
use pr_helper::opening::OpenLun;
use scsi::{AdditionalSense, Sense};
use std::time::{Duration, Instant};

/// What an agent gives a login, and each command.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// What it gives the freeze locks: the guest's last commands end within their own time limit.
pub const FREEZE: Duration = Duration::from_secs(10);

/// What a ground is opened for.
pub struct Order<'a> {
    /// This host's ledger.
    pub ledger: &'a Ledger,
    /// Whose records.
    pub owner: Owner,
    /// The handover.
    pub handover: HandoverId,
    /// What this host is in it.
    pub side: Side,
    /// How long a login, and a command, may take.
    pub timeout: Duration,
    /// Who says what is behind a device node.
    pub devices: &'a dyn OpenLun,
}

/// A guest's logical units on this host.
#[derive(Debug)]
pub struct Ground {
    guest: Guest,
    handover: HandoverId,
    side: Side,
    timeout: Duration,
    /// Those of the handover, in the order of its group.
    units: Vec<Unit>,
    /// The others.
    resting: Vec<Unit>,
    links: Vec<(LunId, usize, Link)>,
    locks: Vec<Lock>,
}

/// What the records said when the guest was frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// They do not say the same as when the ground was opened: what was read of the devices must be read again.
    pub changed: bool,
}

/// What the guest has on a logical unit at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is registered on this host's nexuses.
    Has(Tracked),
    /// What the record said before the handover.
    AsBefore,
    /// Another nexus removed its registration.
    Fenced,
    /// The target forgot it.
    Lost,
}

/// How a logical unit ends at the host where the guest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Which.
    pub unit: UnitIndex,
    /// What the guest has there.
    pub fate: Fate,
    /// Sense data of unit attentions that the guest is owed, oldest first.
    pub owed: Vec<Vec<u8>>,
}

impl Fate {
    /// What a verdict leaves at the host where the guest is; `entry`: the last of the journal. `None` where nobody knows.
    #[must_use]
    pub fn of(verdict: &Verdict, entry: Option<&Entry>) -> Option<Self> {
        match (verdict, entry) {
            (Verdict::Moved, Some(entry)) => Some(Self::Has(tracked(entry))),
            (Verdict::KeptAtSource { .. } | Verdict::Refused(_), _) => Some(Self::AsBefore),
            (Verdict::Fenced { .. }, _) => Some(Self::Fenced),
            (Verdict::Lost, _) => Some(Self::Lost),
            (Verdict::Moved, None) | (Verdict::InDoubt(_), _) => None,
        }
    }
}

/// What a journal entry says the guest has. A holder that may be a sharer is left open: the device is asked before the
/// guest's next command in any case.
#[must_use]
pub const fn tracked(entry: &Entry) -> Tracked {
    let held = match entry.role {
        Role::Holder(kind) | Role::AllRegistrants(kind) => Some(kind),
        _ => None,
    };
    Tracked { key: Some(entry.key), held, aptpl: entry.aptpl, all_target_ports: false }
}

/// Sense data for a unit attention of which a handover knows the code alone.
#[must_use]
pub fn sense(code: AdditionalSense) -> Vec<u8> {
    Sense::unit_attention(code).to_fixed()
}

impl Ground {
    /// Opens the guest's records and every way to its logical units. A logical unit of which this host has no record
    /// gets an empty one: the helper answers questions only about logical units that are recorded.
    ///
    /// # Errors
    /// [`Error`]; nothing but that was written.
    pub fn open(order: &Order<'_>, places: &[Place]) -> Result<Self, Error> {
        let guest = order.ledger.guest(&order.owner)?;
        let ports = Ports::default();
        let (mut units, links) = unit::group(place::open_all(places, order, &ports)?)?;
        units.iter_mut().for_each(|unit| unit.read(&guest));
        note(&guest, &units, order.side)?;
        units.iter_mut().for_each(|unit| unit.read(&guest));
        if order.side == Side::Source {
            units.iter().try_for_each(Unit::check_paths)?;
        }
        let (units, resting) = match order.side {
            Side::Source => units.into_iter().partition(|unit| unit.standing() != Standing::Unregistered),
            Side::Destination => (Vec::new(), units),
        };
        let (handover, side, timeout) = (order.handover, order.side, order.timeout);
        Ok(Self { guest, handover, side, timeout, units, resting, links, locks: Vec::new() })
    }

    /// At the destination: the logical units of the handover in the leader's order; the others rest.
    ///
    /// # Errors
    /// [`Error::NotHere`] if one of them is not configured for this guest.
    pub fn arrange(&mut self, offered: &[LunId]) -> Result<(), Error> {
        self.resting.append(&mut self.units);
        for lun in offered {
            let at = self.resting.iter().position(|unit| unit.lun == *lun);
            let at = at.ok_or_else(|| Error::NotHere(lun.clone()))?;
            self.units.push(self.resting.remove(at));
        }
        Ok(())
    }

    /// The logical units of the handover, in the order of its group.
    #[must_use]
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// One of them.
    #[must_use]
    pub fn unit(&self, index: UnitIndex) -> Option<&Unit> {
        self.units.get(usize::from(index.0))
    }

    /// The others.
    #[must_use]
    pub fn resting(&self) -> &[Unit] {
        &self.resting
    }

    /// The links to the handover's logical units, open as they are; they are handed out once.
    #[must_use]
    pub fn lines(&mut self) -> Lines {
        let mut links = std::mem::take(&mut self.links);
        let place = |lun: &LunId| self.units.iter().position(|unit| unit.lun == *lun);
        links.sort_by_key(|(_, path, _)| *path);
        let at = |(lun, path, link): (LunId, usize, Link)| {
            let unit = UnitIndex(u16::try_from(place(&lun)?).ok()?);
            Some(((unit, Path { side: self.side, index: u8::try_from(path).ok()? }), link))
        };
        Lines::new(links.into_iter().filter_map(at))
    }

    /// How long a login, and a command, may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// From now on the guest's PERSISTENT RESERVE OUT waits, and then gets BUSY: at the source when it is stopped, at the
    /// destination, where nobody runs, from the beginning. Recovery does the same. Once it is frozen the records are only
    /// read again.
    ///
    /// # Errors
    /// [`Error::Replan`] if the guest has other keys than when the ground was opened; [`Error::Ledger`], also if a command
    /// of the guest is not over by the deadline. The records may say `handover` then: end it with [`Self::restore`].
    pub fn freeze(&mut self, deadline: Instant) -> Result<Frozen, Error> {
        if self.locks.is_empty() {
            self.enter(None, deadline)?;
        }
        self.guest.refresh()?;
        self.look_again()
    }

    /// The same, for longer than this process may live: the record says why, and the guest gets BUSY until that is ended.
    ///
    /// # Errors
    /// As [`Self::freeze`].
    pub fn hold(&mut self, why: &str, deadline: Instant) -> Result<Frozen, Error> {
        self.enter(Some(why.to_owned()), deadline)?;
        self.guest.refresh()?;
        self.look_again()
    }

    fn enter(&mut self, why: Option<String>, deadline: Instant) -> Result<(), Error> {
        let enter = Change::State { state: State::Handover, handover: Some(self.handover), why };
        let all = || self.units.iter().chain(&self.resting);
        let mut changes: Vec<_> = all().map(|unit| (unit.lun.clone(), enter.clone())).collect();
        if self.side == Side::Destination {
            self.guest.refresh()?;
            // What whoever was here before was owed is nobody's now; what this handover brought is the guest's.
            for mut unit in all().cloned() {
                unit.read(&self.guest);
                if !unit.is_in(self.handover) {
                    unit.forget_owed(&mut changes);
                }
            }
        }
        // Others append in processes of their own: an export, an import.
        self.guest.append_if(&changes, |guest| all().try_for_each(|unit| self.is_free(unit, guest)))?;
        let locks = all().map(|unit| self.guest.freeze(&unit.lun, deadline)).collect::<Result<_, _>>()?;
        self.locks = locks;
        Ok(())
    }

    /// No other handover has the logical unit.
    fn is_free(&self, unit: &Unit, guest: &Guest) -> Result<(), Error> {
        let now = guest.record(&unit.lun);
        let Some(now) = now.filter(|now| unit.is_anothers(now, self.side, self.handover)) else {
            return Ok(());
        };
        let why = now.doubt.as_deref().unwrap_or(now.state.word());
        let other = now.handover.map_or_else(|| why.to_owned(), |id| format!("{id}: {why}"));
        Err(Error::UnderWay { lun: unit.lun.clone(), other })
    }

    fn look_again(&mut self) -> Result<Frozen, Error> {
        let (mut changed, mut arises) = (false, None);
        let handed_over = self.units.len();
        for (place, unit) in self.units.iter_mut().chain(&mut self.resting).enumerate() {
            let before = (unit.key(), unit.standing(), unit.content());
            unit.read(&self.guest);
            let after = (unit.key(), unit.standing(), unit.content());
            changed |= before != after;
            // What fenced or lost guests had is looked for all the same.
            if before.0 != after.0 && !matches!(after.1, Standing::Fenced | Standing::Lost) {
                return Err(Error::Replan(unit.lun.clone()));
            }
            let had_nothing = before.1 == Standing::Unregistered && after.1 != Standing::Unregistered;
            if place >= handed_over && self.side == Side::Source && had_nothing {
                arises = Some(unit.lun.clone());
            }
        }
        arises.map_or(Ok(Frozen { changed }), |lun| Err(Error::Replan(lun)))
    }

    /// Commands of the handover took these unit attentions from the guest, or another host says so: they are owed to it here
    /// from now on, beside what it is owed already. While it runs its helper gives them to it; otherwise they go with it, or
    /// are given to it here in the end.
    ///
    /// # Errors
    /// [`Error::Ledger`]: they are not durable.
    pub fn owe(&mut self, owed: &[(UnitIndex, Vec<Vec<u8>>)]) -> Result<(), Error> {
        self.look()?;
        let mut changes = Vec::new();
        for (index, sense) in owed {
            if let Some(unit) = self.unit(*index) {
                unit.owe(sense, &mut changes);
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.guest.append(&changes)?;
        self.look()
    }

    /// At the records as they are now.
    fn look(&mut self) -> Result<(), Error> {
        self.guest.refresh()?;
        self.units.iter_mut().chain(&mut self.resting).for_each(|unit| unit.read(&self.guest));
        Ok(())
    }

    /// Sense data of unit attentions that the guest is owed here; it takes them along.
    #[must_use]
    pub fn owed(&self) -> Vec<(UnitIndex, Vec<Vec<u8>>)> {
        let owed = self.numbered().map(|(index, unit)| (index, unit.owed()));
        owed.filter(|(_, owed)| !owed.is_empty()).collect()
    }

    /// The guest's registrations are this host's now, and the guest is to run here: records what it has, and what it is
    /// owed beside what this handover brought. What was owed to whoever was here before went when it was frozen.
    ///
    /// # Errors
    /// [`Error::Ledger`]: the records still say `handover`.
    pub fn arrive(&mut self, ends: &[End]) -> Result<(), Error> {
        let mut changes = Vec::new();
        for (index, unit) in self.numbered() {
            let end =
                ends.iter().find(|end| end.unit == index).ok_or_else(|| Error::Unsaid(unit.lun.clone()))?;
            unit.settle(end.fate, self.handover, &mut changes);
            unit.owe(&end.owed, &mut changes);
        }
        for unit in &self.resting {
            unit.forget_owed(&mut changes);
            unit.settle(Fate::Has(Tracked::default()), self.handover, &mut changes);
        }
        self.end(&changes)
    }

    /// The handover was undone, or found that the guest was fenced, and the guest stays here: records what it has. What it
    /// is owed is owed beside what it was owed before. A record in which this handover is over already stays as it is: the
    /// guest may run by then.
    ///
    /// # Errors
    /// [`Error::Ledger`]: the records still say `handover`.
    pub fn restore(&mut self, ends: &[End]) -> Result<(), Error> {
        self.look()?;
        let mut changes = Vec::new();
        for (index, unit) in self.numbered().filter(|(_, unit)| unit.is_in(self.handover)) {
            let end = ends.iter().find(|end| end.unit == index);
            unit.settle(end.map_or(Fate::AsBefore, |end| end.fate), self.handover, &mut changes);
            end.into_iter().for_each(|end| unit.owe(&end.owed, &mut changes));
        }
        for unit in self.resting.iter().filter(|unit| unit.is_in(self.handover)) {
            unit.settle(Fate::AsBefore, self.handover, &mut changes);
        }
        self.end(&changes)
    }

    /// The guest is on the other host, or stayed there: nothing is registered for it here, and nothing is owed. A record that
    /// this handover has not, or has ended already, stays as it is.
    ///
    /// # Errors
    /// [`Error::Ledger`]: the records still say `handover`.
    pub fn depart(&mut self) -> Result<(), Error> {
        self.depart_with(&[])
    }

    /// The same, of a guest of which this is known to have gone with it: the record remembers it, for a guest that is started
    /// here again some day.
    ///
    /// # Errors
    /// As [`Self::depart`].
    pub fn depart_with(&mut self, had: &[(UnitIndex, Tracked)]) -> Result<(), Error> {
        self.look()?;
        let mut changes = Vec::new();
        for (index, unit) in self.numbered().filter(|(_, unit)| unit.is_in(self.handover)) {
            let had = had.iter().find(|(of, _)| *of == index).map(|(_, tracked)| *tracked);
            unit.forget_owed(&mut changes);
            unit.leave(had, self.handover, &mut changes);
        }
        for unit in self.resting.iter().filter(|unit| unit.is_in(self.handover)) {
            unit.forget_owed(&mut changes);
            unit.leave(None, self.handover, &mut changes);
        }
        self.end(&changes)
    }

    /// One append, and only then the locks are given back.
    fn end(&mut self, changes: &[(LunId, Change)]) -> Result<(), Error> {
        self.guest.append(changes)?;
        self.look()?;
        self.locks.clear();
        Ok(())
    }

    fn numbered(&self) -> impl Iterator<Item = (UnitIndex, &Unit)> {
        (0..).map(UnitIndex).zip(&self.units)
    }
}

/// Records the ways through which logical units are seen that are not recorded at all, and what the guest is owed since they
/// were opened; at the destination it is owed nothing yet.
fn note(guest: &Guest, units: &[Unit], side: Side) -> Result<(), Error> {
    let unknown = units.iter().filter(|unit| guest.record(&unit.lun).is_none());
    let mut changes: Vec<_> = unknown.flat_map(Unit::seen).collect();
    if side == Side::Source {
        units.iter().for_each(|unit| unit.owe_taken(&mut changes));
    }
    Ok(guest.append(&changes)?)
}
