//! Journal entries as values: what must be durable on both hosts before a phase changes anything, and all that
//! [`crate::recovery`] needs afterwards. The caller adds which guest and which logical unit.

use crate::action::Side;
use crate::method::Method;
use crate::role::Role;
use crate::verdict::{Cause, Verdict};
use scsi::pr::Key;

/// How far a handover may have come: everything up to the end of this stage may have happened, nothing after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The destination may have registered the key; the source's own registration is untouched.
    Freeze,
    /// The source proved its registration while the destination had its own. The commit may have been sent.
    Take,
    /// Method *identity*: the source has logged out for good; the destination may have logged in.
    SourceClosed,
    /// The source may have taken its key back from the nonce; that it was not fenced meanwhile is not yet proved.
    Undo,
    /// It is proved. The destination's registration may have been removed, and the guest may run at the source.
    UndoProved,
    /// The destination has everything and the guest may run there: there is no way back.
    Moved,
    /// The handover is over: the source has it.
    Kept,
    /// The handover is over: the guest was fenced.
    Fenced,
    /// The handover is over: the guest was fenced while the source held the reservation under the nonce, which it keeps.
    FencedWithNonce,
    /// The handover is over: the target forgot its registrations.
    Lost,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 10] = [
        Self::Freeze,
        Self::Take,
        Self::SourceClosed,
        Self::Undo,
        Self::UndoProved,
        Self::Moved,
        Self::Kept,
        Self::Fenced,
        Self::FencedWithNonce,
        Self::Lost,
    ];

    /// The name in journals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Take => "take",
            Self::SourceClosed => "source-closed",
            Self::Undo => "undo",
            Self::UndoProved => "undo-proved",
            Self::Moved => "moved",
            Self::Kept => "kept",
            Self::Fenced => "fenced",
            Self::FencedWithNonce => "fenced-with-nonce",
            Self::Lost => "lost",
        }
    }

    /// What became of the guest where this is the last entry; `None` where more was to come.
    #[must_use]
    pub const fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Moved => Some(Verdict::Moved),
            Self::Kept => Some(Verdict::KeptAtSource { cause: Cause::Recovered, leftover: false }),
            Self::Fenced => Some(Verdict::Fenced { nonce_left: false }),
            Self::FencedWithNonce => Some(Verdict::Fenced { nonce_left: true }),
            Self::Lost => Some(Verdict::Lost),
            Self::Freeze | Self::Take | Self::SourceClosed | Self::Undo | Self::UndoProved => None,
        }
    }

    /// The stage of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// One journal entry. The last one counts; where the two hosts differ, the later stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// How far it may have come.
    pub stage: Stage,
    /// The method; before `Take` the one that was planned.
    pub method: Method,
    /// The guest's key.
    pub key: Key,
    /// The nonce, whether the method uses it or not.
    pub nonce: Key,
    /// The source's role when the entry was written, with the type of the reservation.
    pub role: Role,
    /// APTPL as read.
    pub aptpl: bool,
    /// PRGENERATION when the guest was last seen registered.
    pub generation: u32,
    /// Bit i: path i of the source is registered.
    pub source_paths: u8,
    /// The source's path that holds the reservation, where it is known.
    pub holder: Option<u8>,
    /// Bit i: path i of the destination had the guest's key before the handover; it is not ours to remove.
    pub destination_had: u8,
    /// Nexuses of neither side that had the key.
    pub sharers: u16,
}

impl Entry {
    /// Subtracts `by` from PRGENERATION, for searches that keep it relative.
    pub fn shift_generation(&mut self, by: u32) {
        self.generation = self.generation.wrapping_sub(by);
    }
}

/// The side that has the registration once a procedure ended with `stage`; `None` if neither or nobody knows.
#[must_use]
pub const fn owner(stage: Stage) -> Option<Side> {
    match stage {
        Stage::Moved => Some(Side::Destination),
        Stage::Kept => Some(Side::Source),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_a_name_of_its_own() {
        for stage in Stage::ALL {
            assert_eq!(Stage::by_name(stage.name()), Some(stage));
        }
        assert_eq!(Stage::by_name("Take"), None);
    }
}
