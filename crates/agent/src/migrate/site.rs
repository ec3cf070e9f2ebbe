//! What a migration asks of this host beside QEMU: the guest's logical units and their record, the journal, the link.

use super::machine::Machine;
use crate::conduct::{Hands, NotDurable};
use crate::ownership::{Mark, Marks};
use handover::known_targets::TargetIdentity;
use handover::{Entry, Port, Side, UnitIndex, Verdict};
use peer::message::{Options, Refusal, Reply, Request};
use scsi::pr::Key;
use std::sync::Arc;
use std::time::Duration;

/// One guest on this host.
pub trait Site: Send + Sync {
    /// Its name.
    fn vm(&self) -> &str;
    /// Its QEMU.
    fn machine(&self) -> &dyn Machine;
    /// Somebody else moves the guest: nobody drives a QEMU.
    fn orchestrated(&self) -> bool {
        false
    }
    /// The handover that its record is frozen for already, by the operator.
    fn frozen_for(&self) -> Option<u128> {
        None
    }
    /// Its logical units, for one handover in which this host is `side`.
    ///
    /// # Errors
    /// [`Trouble`].
    fn ground(&self, handover: u128, side: Side) -> Result<Arc<dyn Ground>, Trouble>;
    /// Begins a journal.
    ///
    /// # Errors
    /// [`NotDurable`].
    fn begin(&self, begin: &Begin) -> Result<Arc<dyn Log>, NotDurable>;
}

/// What a journal begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The handover, the same on both hosts.
    pub handover: u128,
    /// The guest's UUID.
    pub uuid: String,
    /// This host's part.
    pub side: Side,
    /// The other host's name.
    pub peer: String,
    /// The logical units in the order of the handover, with this host's paths.
    pub luns: Vec<Lun>,
    /// The other host's paths to each of them.
    pub theirs: Vec<Vec<Port>>,
    /// What the operator wants.
    pub options: Options,
    /// For each of them a key that nobody uses.
    pub nonces: Vec<Key>,
    /// The guest ran when it began, and is to run when it ends.
    pub was_running: bool,
}

/// A logical unit of the guest, as this host reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lun {
    /// Its best designator of VPD page 83h, the same on both hosts.
    pub name: String,
    /// The guest's key, where this host knows it.
    pub key: Option<Key>,
    /// The paths, as this host opens them.
    pub nodes: Vec<String>,
    /// The paths, as the target knows them.
    pub ports: Vec<Port>,
    /// Name and ISID are this guest's alone, and the session can be closed for good.
    pub identity_is_ours: bool,
    /// What the target calls itself, where this host could ask it.
    pub target: Option<TargetIdentity>,
}

/// Which way entries are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// From the source to the destination.
    There,
    /// Back: in these entries the handover's destination is the source.
    Back,
}

/// The last entry of a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// Which way it is meant.
    pub leg: Leg,
    /// The entry.
    pub entry: Entry,
}

/// The journal of one handover on this host.
pub trait Log: Send + Sync {
    /// Makes entries durable together. A unit's number is its place in [`Begin::luns`].
    ///
    /// # Errors
    /// [`NotDurable`].
    fn entries(&self, round: u64, leg: Leg, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable>;
    /// Makes a mark durable. [`Standing::allows`](crate::ownership::Standing::allows) was asked before.
    ///
    /// # Errors
    /// [`NotDurable`].
    fn mark(&self, mark: Mark) -> Result<(), NotDurable>;
    /// How the journal began.
    fn begun(&self) -> &Begin;
    /// What is durable.
    fn marks(&self) -> Marks;
    /// Source: the guest was given back, and runs again if it ran before. From here on its operator may stop it or move it, and
    /// nobody else lets it run.
    ///
    /// # Errors
    /// [`NotDurable`].
    fn resumed(&self) -> Result<(), NotDurable>;
    /// Whether that is durable.
    fn was_resumed(&self) -> bool;
    /// The guest runs, or ran, at the destination, which was not given it.
    ///
    /// # Errors
    /// [`NotDurable`].
    fn saw_ran_there(&self) -> Result<(), NotDurable>;
    /// Whether that is durable.
    fn ran_there(&self) -> bool;
    /// The last entry of each logical unit, in their order.
    fn last(&self) -> Vec<Option<Last>>;
    /// The handover is over.
    ///
    /// # Errors
    /// [`NotDurable`].
    fn end(&self, verdict: &str) -> Result<(), NotDurable>;
}

/// The guest's logical units on this host, and the ledger's record of them.
pub trait Ground: Send + Sync {
    /// Source: those of which the guest has something.
    fn luns(&self) -> Vec<Lun>;
    /// Destination, and in recovery: these, in this order.
    ///
    /// # Errors
    /// [`Trouble`] if the guest has not all of them here.
    fn arrange(&self, offered: &[String]) -> Result<Vec<Lun>, Trouble>;
    /// Sense data of unit attentions that the guest is owed here, for each logical unit; they go with it.
    fn owed(&self) -> Vec<Vec<Vec<u8>>>;
    /// Sense data of unit attentions that commands of the handover took from the guest, by the places of their logical
    /// units: they are owed to it here from now on, beside what it is owed already.
    ///
    /// # Errors
    /// [`Trouble`]: they are not durable.
    fn owe(&self, owed: &[(u16, Vec<Vec<u8>>)]) -> Result<(), Trouble>;
    /// The nexuses to these. They are handed out once.
    fn hands(&self) -> Box<dyn Hands>;
    /// Writes the handover into the record and locks it: at the source when the guest is stopped, at the destination when the
    /// handover is opened. Once that is done the record is only read again. Says whether the guest changed something since
    /// the ground was opened, or looked at last.
    ///
    /// # Errors
    /// [`Trouble`].
    fn freeze(&self) -> Result<bool, Trouble>;
    /// The handover is over here: what is registered where goes into the record, and the lock is given back.
    ///
    /// # Errors
    /// [`Trouble`].
    fn settle(&self, end: End, units: &[UnitEnd]) -> Result<(), Trouble>;
}

/// What became of the guest on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is here now.
    Arrived,
    /// It went away.
    Departed,
    /// It stays; nothing of it left.
    Kept,
    /// It never came.
    Refused,
}

/// What became of one logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitEnd {
    /// Which.
    pub lun: String,
    /// How its procedure ended, where it did.
    pub verdict: Option<Verdict>,
    /// The last entry in the journal.
    pub last: Option<Last>,
    /// Sense data of unit attentions that the guest is owed at its owner.
    pub owed: Vec<Vec<u8>>,
}

/// The link to the other host's agent.
pub trait Link: Send + Sync {
    /// Asks, and waits for the reply at most `patience`.
    ///
    /// # Errors
    /// [`CallError`].
    fn call(&self, request: &Request, patience: Duration) -> Result<Reply, CallError>;
    /// A new connection, where the old one is gone; nothing of the handover is open on it.
    ///
    /// # Errors
    /// [`CallError::Lost`]; [`CallError::Unwelcome`].
    fn reconnect(&self) -> Result<(), CallError>;
}

impl Link for peer::Link {
    fn call(&self, request: &Request, patience: Duration) -> Result<Reply, CallError> {
        Self::call(self, request, patience).map_err(CallError::from)
    }

    fn reconnect(&self) -> Result<(), CallError> {
        Err(CallError::Lost("this link is not made anew".into()))
    }
}

impl From<peer::CallError> for CallError {
    fn from(error: peer::CallError) -> Self {
        match error {
            peer::CallError::Refused(refusal) => Self::Refused(refusal),
            lost => Self::Lost(lost.to_string()),
        }
    }
}

/// Why the other agent's reply is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It said no, and did nothing.
    #[error("the peer refused: {0}")]
    Refused(#[from] Refusal),
    /// The link is gone; whether it was done is not known.
    #[error("the peer is lost: {0}")]
    Lost(String),
    /// It answered, and one of the two does not take the other for what it should be: a certificate, a name, a version.
    #[error("{0}")]
    Unwelcome(String),
    /// The reply is not one to what was asked.
    #[error("the peer's reply does not fit")]
    Unfit,
}

/// Something on this host does not work; in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);
