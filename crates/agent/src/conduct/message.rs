//! What leader and follower say to each other, as values. [`peer`] has their form on the wire.

use handover::{CommandId, Outcome, UnitIndex};

/// From the leader: what the follower did not see, and what it is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What is to be done.
    pub ask: Ask,
    /// Of which round ([`handover::Round::number`]): the next one, the one that was journalled, or, to stand, the last one.
    pub round: u64,
    /// What came of the leader's part of the round before, if that was carried out.
    pub reports: Vec<Report>,
    /// What the leader told its replica after them, in order.
    pub decisions: Vec<Decision>,
    /// Then both replicas have come to this ([`handover::Group::digest`]).
    pub digest: u64,
}

/// Something that the leader told its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The entries of the round before are not durable on both hosts; nothing of it was begun.
    JournalFailed,
    /// Go on to the next phase.
    Proceed,
    /// Read everything again.
    Refresh,
    /// Give up.
    Abort,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Make the entries of the round durable; begin none of its commands.
    Journal,
    /// Carry out the follower's part of the round. Its entries, if it has any, are durable on both hosts.
    Round,
    /// Nothing: the group stands, or has ended.
    Stand,
}

/// From the follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The round of the order.
    pub round: u64,
    /// What came of it.
    pub done: Done,
    /// This host cannot take the guest any more: the leader gives up as soon as it can.
    pub wants_out: bool,
}

/// What came of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The entries are durable.
    Journalled,
    /// They are not.
    JournalFailed,
    /// The follower's part of the round has been carried out.
    Reports(Vec<Report>),
    /// Nothing was to be done.
    Standing,
}

/// What came of one action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// Whose action.
    pub unit: UnitIndex,
    /// Which action of the round.
    pub id: CommandId,
    /// How it ended; `None`: it may still be executed at any time.
    pub outcome: Option<Outcome>,
}
