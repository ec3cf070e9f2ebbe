//! One way of a handover on one host: its logical units, the nexuses to them, and where its entries go.
//!
//! On the way back the handover's destination is the source of the group. The nexuses stay those of their host: [`Turned`] says
//! the actions in their words.

use super::site::{Ground, Leg, Log, Lun, Trouble};
use super::units;
use crate::conduct::{Hands, Journal, NotDurable, Report};
use handover::{Action, Entry, Path, Settings, UnitIndex};
use peer::message::{BackUnit, Offer, Options, Paths};
use scsi::AdditionalSense;
use scsi::pr::Key;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A host's nexuses, for one leg after the other.
pub(crate) type SharedHands = Arc<Mutex<Box<dyn Hands>>>;

/// What both hosts agreed on when the handover was opened.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) offers: Vec<Offer>,
    pub(crate) paths: Vec<Paths>,
    pub(crate) options: Options,
    /// This host's own, in the same order.
    pub(crate) luns: Vec<Lun>,
}

impl Agreed {
    /// The order of each unit on the way there.
    pub(crate) fn there(&self) -> Result<Vec<Settings>, Trouble> {
        units::settings(&self.offers, &self.paths, &self.options)
    }

    /// The order of some units on the way back.
    pub(crate) fn back(&self, log: &dyn Log, which: &[BackUnit]) -> Result<Vec<Settings>, Trouble> {
        let (there, last) = (self.there()?, log.last());
        let one = |unit: &BackUnit| {
            let place = usize::from(unit.unit);
            let order = there.get(place);
            let order =
                order.ok_or_else(|| Trouble(format!("there is no logical unit {place} in this handover")))?;
            let key = last.get(place).copied().flatten().map(|last| last.entry.key).or(order.key);
            Ok(Settings { method: None, ..order.exchanged(key, Key(unit.nonce.0)) })
        };
        which.iter().map(one).collect()
    }
}

/// A host's nexuses in the words of one leg's group.
pub(crate) struct Turned {
    hands: SharedHands,
    leg: Leg,
    /// The place in the handover of each unit of the leg.
    places: Vec<u16>,
}

impl Turned {
    pub(crate) const fn new(hands: SharedHands, leg: Leg, places: Vec<u16>) -> Self {
        Self { hands, leg, places }
    }

    fn path(&self, path: Path) -> Path {
        match self.leg {
            Leg::There => path,
            Leg::Back => Path { side: path.side.other(), ..path },
        }
    }

    fn place(&self, unit: UnitIndex) -> Option<UnitIndex> {
        self.places.get(usize::from(unit.0)).copied().map(UnitIndex)
    }

    fn unit(&self, place: UnitIndex) -> Option<UnitIndex> {
        let unit = self.places.iter().position(|other| *other == place.0)?;
        u16::try_from(unit).ok().map(UnitIndex)
    }

    fn turn(&self, action: &Action) -> Action {
        let mut action = action.clone();
        match &mut action {
            Action::Execute { path, .. }
            | Action::CloseSession { path, .. }
            | Action::OpenSession { path, .. } => {
                *path = self.path(*path);
            }
            Action::Journal(_) => {}
        }
        action
    }
}

impl Hands for Turned {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
        let turned =
            actions.iter().filter_map(|(unit, action)| Some((self.place(*unit)?, self.turn(action))));
        let turned: Vec<_> = turned.collect();
        let reports = self.hands.lock().unwrap_or_else(PoisonError::into_inner).carry_out(&turned, deadline);
        reports
            .into_iter()
            .filter_map(|report| Some(Report { unit: self.unit(report.unit)?, ..report }))
            .collect()
    }
}

/// Where the entries of a leg go, and what its commands took from the guest.
pub(crate) struct Entries {
    log: Option<Arc<dyn Log>>,
    ground: Arc<dyn Ground>,
    leg: Leg,
    places: Vec<u16>,
}

impl Entries {
    pub(crate) const fn new(
        log: Option<Arc<dyn Log>>,
        ground: Arc<dyn Ground>,
        leg: Leg,
        places: Vec<u16>,
    ) -> Self {
        Self { log, ground, leg, places }
    }

    fn place(&self, unit: UnitIndex) -> Option<u16> {
        self.places.get(usize::from(unit.0)).copied()
    }
}

impl Journal for Entries {
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        let log = self.log.as_ref().ok_or_else(|| NotDurable("this is only a plan".into()))?;
        let placed = |(unit, entry): &(UnitIndex, Entry)| Some((UnitIndex(self.place(*unit)?), *entry));
        let placed: Option<Vec<_>> = entries.iter().map(placed).collect();
        log.entries(round, self.leg, &placed.ok_or_else(|| NotDurable("an entry of no logical unit".into()))?)
    }

    fn owe(&mut self, owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> bool {
        self.ground.owe(&placed(&self.places, owed)).is_ok()
    }
}

/// Unit attentions of a leg's units as sense data, by the places of the units.
pub(crate) fn placed(places: &[u16], owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> Vec<(u16, Vec<Vec<u8>>)> {
    let of = |(unit, codes): &(UnitIndex, Vec<AdditionalSense>)| {
        let place = places.get(usize::from(unit.0)).copied()?;
        Some((place, codes.iter().map(|code| crate::ground::sense(*code)).collect()))
    };
    owed.iter().filter_map(of).collect()
}

/// The places of all units of a handover.
pub(crate) fn all(count: usize) -> Vec<u16> {
    (0..count).filter_map(|place| u16::try_from(place).ok()).collect()
}
