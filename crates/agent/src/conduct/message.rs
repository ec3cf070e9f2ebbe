//! What leader and follower say to each other, as values. [`peer`] has their form on the wire.

use handover::{CommandId, Outcome, UnitIndex};

/// From the leader: what the follower did not see, and what it is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Counted from 1, without a gap; anything else is refused.
    pub number: u64,
    /// What happened at the leader since the last order, in order; the follower's replica is told the same.
    pub said: Vec<Said>,
    /// Then both replicas are polled, and must have come to this ([`handover::Group::digest`]).
    pub digest: u64,
    /// And this is what is to be done.
    pub ask: Ask,
}

/// Something that the follower's replica must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The leader's part of the round has been carried out.
    Reports(Vec<Report>),
    /// The entries are not durable on both hosts; nothing of the round was begun.
    JournalFailed,
    /// The leader goes on to the next phase.
    Proceed,
    /// The leader has everything read again.
    Refresh,
    /// The leader gives up.
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
    /// The number of the order.
    pub number: u64,
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
