//! The state of persistent reservations on one logical unit (SPC-4 5.13) and the service actions on it.
//!
//! Pure: no clock, no I/O. [`PrUnit`](crate::PrUnit) admits a command and hands it to [`order`]; every
//! service action is one indivisible step that checks everything before it changes anything.
//! Invariants: a single holder is registered, an all registrants reservation has a registrant, no key is
//! zero.

mod clear;
pub(crate) mod order;
mod preempt;
mod read;
mod register;
mod register_and_move;
mod registrations;
mod replace_lost;
mod reserve;

pub(crate) use read::read;
pub use registrations::{Registration, Registrations};

use crate::NexusId;
use crate::access::Relation;
use scsi::pr::{Key, ReservationType};

/// Who holds a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// One nexus.
    One(NexusId),
    /// Every registrant.
    All {
        /// The registrant that some targets treat as the holder all the same.
        marked: Option<NexusId>,
    },
}

/// A persistent reservation. Its scope is always the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// TYPE.
    pub kind: ReservationType,
    /// Who holds it.
    pub holder: Holder,
}

/// Everything that persistent reservations and RESERVE/RELEASE(6/10) keep for a logical unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reservations {
    registrations: Registrations,
    reservation: Option<Reservation>,
    generation: u32,
    aptpl: bool,
    lost: bool,
    spc2: Option<NexusId>,
}

impl Reservations {
    /// The registrations.
    #[must_use]
    pub const fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    /// The persistent reservation.
    #[must_use]
    pub const fn reservation(&self) -> Option<Reservation> {
        self.reservation
    }

    /// The key of `nexus`; [`Key::NONE`] if it is not registered.
    #[must_use]
    pub fn key_of(&self, nexus: NexusId) -> Key {
        self.registrations.get(nexus).map_or(Key::NONE, |one| one.key)
    }

    /// Whether `nexus` holds the reservation; under an all registrants type every registrant does.
    #[must_use]
    pub fn is_holder(&self, nexus: NexusId) -> bool {
        match self.reservation.map(|held| held.holder) {
            Some(Holder::One(holder)) => holder == nexus,
            Some(Holder::All { .. }) => self.registrations.get(nexus).is_some(),
            None => false,
        }
    }

    /// How `nexus` stands towards the reservation.
    #[must_use]
    pub fn relation(&self, nexus: NexusId) -> Relation {
        if self.is_holder(nexus) {
            Relation::Holder
        } else if self.registrations.get(nexus).is_some() {
            Relation::Registrant
        } else {
            Relation::Unregistered
        }
    }

    /// The key that READ RESERVATION shows: the single holder's; zero for all registrants types.
    #[must_use]
    pub fn holder_key(&self) -> Key {
        match self.reservation.map(|held| held.holder) {
            Some(Holder::One(holder)) => self.key_of(holder),
            _ => Key::NONE,
        }
    }

    /// PRGENERATION.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The last valid APTPL (PTPL_A).
    #[must_use]
    pub const fn aptpl(&self) -> bool {
        self.aptpl
    }

    /// The reservation information was lost and REPLACE LOST RESERVATION is awaited.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// The nexus that holds an SPC-2 reservation (RESERVE(6/10)).
    #[must_use]
    pub const fn spc2_holder(&self) -> Option<NexusId> {
        self.spc2
    }

    pub(crate) const fn set_spc2_holder(&mut self, nexus: Option<NexusId>) {
        self.spc2 = nexus;
    }

    /// Moves PRGENERATION back by `by`, so that a search can keep it relative to a common start.
    pub const fn rebase_generation(&mut self, by: u32) {
        self.generation = self.generation.wrapping_sub(by);
    }

    /// Power off and on: PRGENERATION and SPC-2 reservations are volatile, the rest unless APTPL is set.
    pub(crate) fn power_cycle(&mut self) {
        if !self.aptpl {
            self.registrations.clear();
            self.reservation = None;
        }
        self.generation = 0;
        self.spc2 = None;
    }

    /// Forgets everything; with `report`, commands end with PERSISTENT RESERVATION INFORMATION LOST
    /// until REPLACE LOST RESERVATION.
    pub(crate) fn lose(&mut self, report: bool) {
        *self = Self { generation: self.generation, spc2: self.spc2, lost: report, ..Self::default() };
    }

    /// State as it was saved, after power on.
    pub(crate) fn restored(
        registrations: impl IntoIterator<Item = Registration>,
        reservation: Option<Reservation>,
        aptpl: bool,
        lost: bool,
    ) -> Self {
        let mut state = Self { reservation, aptpl, lost, ..Self::default() };
        registrations.into_iter().for_each(|one| state.registrations.put(one));
        state
    }

    /// The same with what a power cycle would have taken: state that only another process had.
    pub(crate) fn resumed(self, generation: u32, spc2: Option<NexusId>) -> Self {
        Self { generation, spc2, ..self }
    }
}
