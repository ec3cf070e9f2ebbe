//! What is recorded of one logical unit of one guest.

use crate::change::Intended;
use crate::names::{HandoverId, LunId, PathId};
use handover::Tracked;

/// Where the guest's registration stands (DESIGN's words).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// The guest runs here, and what is recorded is what it has.
    #[default]
    Active,
    /// A handover is under way; the guest's PERSISTENT RESERVE OUT waits.
    Handover,
    /// It was handed over to another host.
    Moved,
    /// Somebody else removed the registration.
    Fenced,
    /// The target forgot it.
    Lost,
    /// Nobody can be sure until the device has been asked.
    Unverified,
}

/// What one I_T nexus has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRecord {
    /// The nexus.
    pub path: PathId,
    /// The device node through which it was last seen.
    pub node: String,
    /// What it has registered and holds.
    pub tracked: Tracked,
    /// Written before a command that can change `tracked`, and not yet followed by its result.
    pub intent: Option<Intended>,
    /// Sense data of unit attentions that own commands took, owed to the guest, oldest first.
    pub owed: Vec<Vec<u8>>,
}

/// What is recorded of one logical unit of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The logical unit.
    pub lun: LunId,
    /// Where it stands.
    pub state: State,
    /// Every nexus that was ever used, oldest first.
    pub paths: Vec<PathRecord>,
    /// PRGENERATION last seen.
    pub generation: Option<u32>,
    /// The handover that is under way, or that ended in this state.
    pub handover: Option<HandoverId>,
    /// Why it is unverified, in words.
    pub doubt: Option<String>,
}
