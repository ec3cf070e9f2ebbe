//! One state of everything: the logical unit and its shadow, both hosts, the guest's run state, the
//! procedure with the batch it waits for, the journals, and what may still be disturbed.

use crate::cast::{Host, PerHost, nexus_of, nexuses_of};
use crate::device::Device;
use crate::scenario::Scenario;
use crate::search::Budget;
use crate::shadow::Shadow;
use handover::{Action, Entry, Path, Phase, Side, Verdict};
use logical_unit::NexusId;
use std::hash::{Hash, Hasher};

/// The session of a host with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Session {
    /// Under the host's own name; the source's is the guest's.
    Own,
    /// Closed for good.
    Closed,
    /// Under the guest's name, on the destination (method *identity*).
    Guests,
}

/// One host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostState {
    /// Not crashed.
    pub(crate) up: bool,
    /// Its paths to the target work.
    pub(crate) linked: bool,
    pub(crate) session: Session,
}

impl HostState {
    pub(crate) const fn is_healthy(self) -> bool {
        self.up && self.linked
    }
}

/// Where the guest runs and where it could be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Guest {
    pub(crate) running: Option<Host>,
    /// A state of it is there that may be resumed.
    pub(crate) resumable: PerHost<bool>,
}

/// The procedure at work.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Running<P> {
    pub(crate) procedure: P,
    /// What is left of the batch handed out.
    pub(crate) batch: Vec<Action>,
    /// It stands still at the end of this phase.
    pub(crate) phase_done: Option<Phase>,
    /// It is a recovery.
    pub(crate) recovery: bool,
}

/// Who conducts the handover.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Driver<P> {
    Running(Running<P>),
    /// The coordinator crashed; the journals are what is left.
    Down,
    Ended(Verdict),
}

/// What excuses a difference from the shadow later on; see [`crate::oracle::Tolerance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Excuses {
    /// Another node changed APTPL since we last read it.
    pub(crate) aptpl_stale: bool,
    /// The procedure that runs has read it.
    pub(crate) aptpl_known: bool,
    /// The target lost power when APTPL was not known as it was.
    pub(crate) power_lost_unread: bool,
    /// The target lost power.
    pub(crate) power_lost: bool,
    /// The target's word of that was lost on its way, or nobody is left who can tell how old it is.
    pub(crate) word_lost: bool,
    /// We read it in the batch under way, whose other commands cannot know the answer.
    pub(crate) aptpl_being_read: bool,
    /// It was set back by us, which must be reported.
    pub(crate) aptpl_overridden: bool,
    /// The target lost power while it was: the shadow took it over, so that setting it right looks like an override.
    pub(crate) aptpl_kept: bool,
    /// Bit i: node i registered the guest's key since we last read the keys.
    pub(crate) late_sharers: u8,
    /// Those of them that a read of the batch under way has seen.
    pub(crate) sharers_being_read: u8,
    /// Another node changed the reservation since we last read it, on a target with one marked holder among all registrants.
    pub(crate) reservation_stale: bool,
}

impl Excuses {
    /// A new batch is made with the knowledge of the one before.
    pub(crate) const fn new_batch(&mut self) {
        self.aptpl_stale &= !self.aptpl_being_read;
        self.aptpl_known |= self.aptpl_being_read;
        self.late_sharers &= !self.sharers_being_read;
        self.aptpl_being_read = false;
        self.sharers_being_read = 0;
    }

    /// We read APTPL; while an override of ours stands, it is that which we read, and not what the node meant.
    pub(crate) const fn aptpl_read(&mut self) {
        self.aptpl_being_read = true;
        self.aptpl_kept |= self.aptpl_overridden;
    }

    /// The target lost power.
    pub(crate) const fn power_lost(&mut self) {
        self.power_lost = true;
        self.power_lost_unread |= self.aptpl_stale || self.aptpl_overridden || !self.aptpl_known;
        self.aptpl_kept |= self.aptpl_overridden;
    }

    /// A procedure that knows neither what the one before was told, nor since when its sessions wait to tell.
    pub(crate) const fn new_procedure(&mut self) {
        self.word_lost |= self.power_lost;
        (self.aptpl_known, self.aptpl_being_read) = (false, false);
    }
}

/// The budget, which is no part of a state's identity; see [`crate::search`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spare(pub(crate) Budget);

impl Hash for Spare {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// One state.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct World<P> {
    pub(crate) device: Device,
    pub(crate) shadow: Shadow,
    pub(crate) hosts: PerHost<HostState>,
    pub(crate) guest: Guest,
    pub(crate) driver: Driver<P>,
    /// The last journal entry on each host.
    pub(crate) journal: PerHost<Option<Entry>>,
    pub(crate) excuses: Excuses,
    /// Recoveries left after a verdict that leaves something open.
    pub(crate) repairs: u8,
    /// A fault has happened.
    pub(crate) disturbed: bool,
    pub(crate) spare: Spare,
}

impl<P> World<P> {
    /// Whether a host can send commands now.
    pub(crate) fn reaches(&self, host: Host) -> bool {
        let state = self.hosts.at(host);
        state.is_healthy() && state.session != Session::Closed
    }

    pub(crate) fn all_healthy(&self) -> bool {
        Host::BOTH.iter().all(|host| self.hosts.at(*host).is_healthy())
    }

    /// The nexus that a path of ours is now.
    pub(crate) fn nexus(&self, path: Path) -> NexusId {
        let index = usize::from(path.index);
        match path.side {
            Side::Destination if self.hosts.destination.session != Session::Guests => {
                nexus_of(Host::Destination, index)
            }
            _ => nexus_of(Host::Source, index),
        }
    }

    /// The nexuses that a host's guest would use, unless its session is closed.
    pub(crate) fn nexuses_at(&self, scenario: &Scenario, host: Host) -> Vec<NexusId> {
        let paths = usize::from(scenario.paths);
        match self.hosts.at(host).session {
            Session::Closed => Vec::new(),
            Session::Guests => nexuses_of(Host::Source, paths).collect(),
            Session::Own => nexuses_of(host, paths).collect(),
        }
    }

    /// Takes away what the other nodes would be told.
    pub(crate) fn nodes_attentions_forgotten(&mut self, scenario: &Scenario) {
        scenario.nodes().for_each(|nexus| self.device.forget_attentions(nexus));
    }

    /// All nexuses that are the guest's on one host or the other.
    pub(crate) fn guests(&self, scenario: &Scenario) -> impl Iterator<Item = NexusId> + use<P> {
        let paths = usize::from(scenario.paths);
        nexuses_of(Host::Source, paths).chain(nexuses_of(Host::Destination, paths))
    }
}

/// The host of a side.
pub(crate) const fn host_of(side: Side) -> Host {
    match side {
        Side::Source => Host::Source,
        Side::Destination => Host::Destination,
    }
}
