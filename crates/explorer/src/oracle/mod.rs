//! The promises, checked in every state that the search reaches. One file per group of promises; the
//! tolerances that they grant are the variants of [`Tolerance`], each a rule with its reason.

mod bystander;
mod end;
mod ownership;
mod tolerance;

pub(crate) use bystander::{after_foreign_command, after_own_command, compare};
pub use tolerance::Tolerance;

use crate::conductor::Conductor;
use crate::step::Play;
use crate::world::{Driver, World};
use std::fmt;
use std::str::FromStr;

/// Checks every promise about a state by itself.
pub(crate) fn check<C: Conductor>(play: &Play<'_, C>, world: &World<C::Procedure>) -> Result<(), Violation> {
    let scenario = play.scenario;
    ownership::no_gap(scenario, world)?;
    ownership::no_unfencing(scenario, world)?;
    ownership::excluded(scenario, world)?;
    match world.driver {
        Driver::Ended(verdict) => end::check(play, world, verdict),
        Driver::Running(_) | Driver::Down => Ok(()),
    }
}

/// The promises P1 to P7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Promise {
    /// P1: a guest that another nexus removed is never registered again by us.
    NoUnfencing,
    /// P2: while the device grants them, the guest's key and reservation never disappear.
    NoGap,
    /// P3: no other nexus loses or gains anything, and none gets a needless unit attention.
    NoBystander,
    /// P4: at most one host may run the guest; at the end one nexus set is registered, nothing leaks.
    OneOwner,
    /// P5: after any crash one owner, or fenced, or lost, or the operator decides.
    CrashSafe,
    /// P6: key, type, scope, APTPL and role end as they would have without a handover.
    Fidelity,
    /// P7: a command that did not end GOOD changes nothing.
    OnlyGoodCounts,
}

impl Promise {
    const ALL: [Self; 7] = [
        Self::NoUnfencing,
        Self::NoGap,
        Self::NoBystander,
        Self::OneOwner,
        Self::CrashSafe,
        Self::Fidelity,
        Self::OnlyGoodCounts,
    ];

    const fn text(self) -> &'static str {
        match self {
            Self::NoUnfencing => "P1 no un-fencing",
            Self::NoGap => "P2 no gap",
            Self::NoBystander => "P3 no bystander",
            Self::OneOwner => "P4 one owner",
            Self::CrashSafe => "P5 crash-safe",
            Self::Fidelity => "P6 fidelity",
            Self::OnlyGoodCounts => "P7 only what the device accepted counts",
        }
    }
}

/// No promise has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such promise; there are P1 to P7")]
pub struct UnknownPromise;

impl FromStr for Promise {
    type Err = UnknownPromise;

    fn from_str(name: &str) -> Result<Self, UnknownPromise> {
        Self::ALL
            .into_iter()
            .find(|one| one.text().starts_with(name) && name.len() == 2)
            .ok_or(UnknownPromise)
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What was seen.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(promise: Promise, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}
