//! A guest that leaves this host without a handover: `migrate file:`, `virsh save`, a cold start elsewhere. What it has is
//! written into a [`Document`], and this host's records say that it moved; whoever has the document may claim it
//! ([`crate::claim`]).
//!
//! Nothing is asked of any device and nothing is sent: the registration stays where it is until it is claimed.

mod document;

pub use document::{Document, Exported, Flaw, LONGEST};

use ledger::{Change, Guest, HandoverId, Lock, LunId, Record, State};
use std::time::Instant;

/// Why a guest cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records cannot be read, written or locked; also if a command of the guest is under way.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// There is nothing to export.
    #[error("{0} has no record here: nothing was ever registered for it on this host")]
    Nothing(String),
    /// It is not this host's to give away.
    #[error("the record of {} says {state}: only where the guest was last can it be exported", lun.0)]
    NotHere {
        /// The logical unit.
        lun: LunId,
        /// Its state.
        state: State,
    },
    /// The record may not be what the guest has.
    #[error(
        "what the guest has on {} is not known for sure (a command of it was interrupted); it becomes known with the \
         guest's next reservation command, or when its helper is started again",
        .0.0
    )]
    Unverified(LunId),
}

/// Written beside the state, so that an export that was interrupted can be done again.
const WHY: &str = "it is being exported";

/// A guest that is frozen, to be told in a document.
#[derive(Debug)]
pub struct Export<'a> {
    guest: &'a Guest,
    handover: HandoverId,
    records: Vec<Record>,
    locks: Vec<Lock>,
}

impl<'a> Export<'a> {
    /// Freezes the guest, whose VMM is stopped: no reservation command of it passes from now on. `handover`: a new id.
    ///
    /// # Errors
    /// [`Error`]; the records are as they were, unless it is [`Error::Ledger`] and they cannot be written either.
    pub fn begin(guest: &'a Guest, handover: HandoverId, deadline: Instant) -> Result<Self, Error> {
        guest.refresh()?;
        let records = guest.records();
        let first = records.first().ok_or_else(|| Error::Nothing(guest.owner().0.clone()))?;
        let again = first.handover.filter(|_| is_interrupted(first)).unwrap_or(handover);
        records.iter().try_for_each(check)?;
        let mut export = Self { guest, handover: again, records, locks: Vec::new() };
        let frozen = export.freeze(deadline);
        match frozen {
            Ok(()) => Ok(export),
            Err(error) => export.give_up().and(Err(error)),
        }
    }

    fn freeze(&mut self, deadline: Instant) -> Result<(), Error> {
        // A migration may have begun since the records were read.
        let unchanged = |guest: &Guest| guest.records().iter().try_for_each(check);
        self.guest.append_if(&self.changes(|_| State::Handover, Some(WHY)), unchanged)?;
        let lock = |record: &Record| self.guest.freeze(&record.lun, deadline);
        self.locks = self.records.iter().map(lock).collect::<Result<_, _>>()?;
        self.guest.refresh()?;
        self.records = self.guest.records();
        self.records.iter().try_for_each(check)
    }

    /// What the guest has.
    #[must_use]
    pub fn document(&self) -> Document {
        Document::new(&self.guest.owner().0, self.handover, &self.records)
    }

    /// The document is durable: the guest is not this host's any more.
    ///
    /// # Errors
    /// [`Error::Ledger`]: the records still say `handover`, and the same export can be done again.
    pub fn finish(self) -> Result<(), Error> {
        self.enter(|_| State::Moved, Some("it was exported"))
    }

    /// The document could not be written: the guest stays.
    ///
    /// # Errors
    /// [`Error::Ledger`]: the records still say `handover`.
    pub fn give_up(self) -> Result<(), Error> {
        self.enter(|record| record.found, None)
    }

    fn enter(&self, state: impl Fn(&Record) -> State, why: Option<&str>) -> Result<(), Error> {
        Ok(self.guest.append(&self.changes(state, why))?)
    }

    fn changes(&self, state: impl Fn(&Record) -> State, why: Option<&str>) -> Vec<(LunId, Change)> {
        let change = |record: &Record| Change::State {
            state: state(record),
            handover: Some(self.handover),
            why: why.map(str::to_owned),
        };
        self.records.iter().map(|record| (record.lun.clone(), change(record))).collect()
    }
}

fn is_interrupted(record: &Record) -> bool {
    record.state == State::Handover && record.doubt.as_deref() == Some(WHY)
}

fn check(record: &Record) -> Result<(), Error> {
    if record.state.is_away() && !is_interrupted(record) {
        return Err(Error::NotHere { lun: record.lun.clone(), state: record.state });
    }
    let under_way = record.paths.iter().any(|path| path.intent.is_some());
    if under_way || record.found == State::Unverified {
        return Err(Error::Unverified(record.lun.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
