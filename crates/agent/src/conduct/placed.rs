//! Nexuses and a journal of many logical units, in the words of a group of some of them.

use super::{Hands, Journal, NotDurable, Report};
use handover::{Action, Entry, UnitIndex};
use scsi::AdditionalSense;
use std::time::Instant;

/// Those of `of` that are in `units`, in the group's order.
#[derive(Debug)]
pub struct Placed<'a, T: ?Sized> {
    /// Of all logical units.
    pub of: &'a mut T,
    /// Which of them the units of the group are.
    pub units: &'a [UnitIndex],
}

impl<T: ?Sized> Placed<'_, T> {
    fn outside<W: Clone>(&self, inside: &[(UnitIndex, W)]) -> Vec<(UnitIndex, W)> {
        let place =
            |(unit, what): &(UnitIndex, W)| Some((*self.units.get(usize::from(unit.0))?, what.clone()));
        inside.iter().filter_map(place).collect()
    }

    fn inside(&self, outside: UnitIndex) -> Option<UnitIndex> {
        let unit = self.units.iter().position(|unit| *unit == outside)?;
        u16::try_from(unit).ok().map(UnitIndex)
    }
}

impl<T: Hands + ?Sized> Hands for Placed<'_, T> {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
        let reports = self.of.carry_out(&self.outside(actions), deadline);
        let told = reports.into_iter();
        told.filter_map(|report| Some(Report { unit: self.inside(report.unit)?, ..report })).collect()
    }
}

impl<T: Journal + ?Sized> Journal for Placed<'_, T> {
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        let placed = self.outside(entries);
        if placed.len() != entries.len() {
            return Err(NotDurable("an entry of no logical unit".into()));
        }
        self.of.append(round, &placed)
    }

    fn owe(&mut self, owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> bool {
        self.of.owe(&self.outside(owed))
    }
}
