//! Runs a [`Group`](handover::Group) from two hosts. Each has a replica of it and carries out only what its own nexuses are
//! to do; what passes between them is what came of that, and the leader's decisions.
//!
//! The [`Leader`] (the host from which the guest is moved, also on the way back) sends one [`Order`] for each round, and one
//! before it where entries must be durable on both hosts first. The [`Follower`] takes in what it is told, finds the
//! same round by itself, or refuses, carries out its part and answers. Neither can be asked for a command: a peer that
//! lies about numbers, digests or reports is refused, and a peer that is lost ends the run where it stands, for
//! recovery.
//!
//! What does I/O is behind three traits: [`Hands`] are this host's nexuses, [`Exchange`] is the link, [`Journal`] the disk.

mod alone;
mod follower;
mod leader;
mod message;
mod owed;
mod part;
mod placed;
mod record;
mod wire;

pub use alone::alone;
pub use follower::{Follower, Refusal};
pub use leader::{Leader, Pause, Stop};
pub use message::{Ask, Decision, Done, Order, Reply, Report};
pub use placed::Placed;
pub use record::{Record, Span};
pub use wire::PeerExchange;

use handover::{Action, Entry, UnitIndex};
use scsi::AdditionalSense;
use std::time::{Duration, Instant};

/// This host's nexuses to every logical unit of the group.
pub trait Hands: Send {
    /// Carries the actions out, all units at once, those of one path in their order, and reports each. Between `deadline`
    /// and the return is only what it takes to make sure that nothing of them is executed later; where that cannot be
    /// made sure, the report's outcome is `None`.
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report>;
}

/// The link to the follower.
pub trait Exchange {
    /// Sends an order and waits for the reply, at most `patience`.
    ///
    /// # Errors
    /// [`Lost`] if there is none: the order may or may not have arrived, and no later one will.
    fn call(&mut self, order: &Order, patience: Duration) -> Result<Result<Reply, Refusal>, Lost>;
}

/// Where the entries of a handover go.
pub trait Journal: Send {
    /// Makes entries durable together: one write, one sync.
    ///
    /// # Errors
    /// If that cannot be promised; a recovery finds none of them then.
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable>;

    /// Unit attentions that were just taken from the guest's nexuses: makes them durable, as owed to the guest on this host.
    /// Whether it did; if not, it is told again after the next round.
    fn owe(&mut self, _owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> bool {
        true
    }
}

/// The link to the peer is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is lost: {0}")]
pub struct Lost(pub String);

/// Entries could not be made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal cannot be written: {0}")]
pub struct NotDurable(pub String);

/// How long a step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The commands of one round on one host.
    pub commands: Duration,
    /// What the peer may take beyond that: its journal, the way there and back.
    pub peer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { commands: Duration::from_secs(20), peer: Duration::from_secs(10) }
    }
}

impl<T: Hands + ?Sized> Hands for Box<T> {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
        (**self).carry_out(actions, deadline)
    }
}

impl<T: Journal + ?Sized> Journal for Box<T> {
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        (**self).append(round, entries)
    }

    fn owe(&mut self, owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> bool {
        (**self).owe(owed)
    }
}

impl<T: Exchange + ?Sized> Exchange for Box<T> {
    fn call(&mut self, order: &Order, patience: Duration) -> Result<Result<Reply, Refusal>, Lost> {
        (**self).call(order, patience)
    }
}
