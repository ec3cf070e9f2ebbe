//! The differences from the shadow that are no violation, each by name. Nothing else is tolerated; the
//! search counts how often each rule was used. PRGENERATION and a key that is listed twice while both hosts are
//! registered need no rule: the comparison looks at nexuses.

use std::fmt;

/// A rule that excuses a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tolerance {
    /// An APTPL that another node changed between our read and our REGISTER was set back; it is reported.
    AptplRace,
    /// Method *source nonce*: a node fenced the guest while the source was known by the nonce. The fencer's PREEMPT
    /// removed the destination's key and found no holder to preempt, so the source keeps the reservation as the
    /// nonce (types 5 and 6, reported) or lets it go (types 1 and 3).
    FencedInNonceWindow,
    /// Method *destination nonce*: for one command the key is not listed, and a PREEMPT of it finds nobody.
    KeyAbsent,
    /// The guest was fenced after the destination had been asked to register: until that registration is
    /// withdrawn (the guest does not run) a second PREEMPT finds it, and an all registrants reservation stays.
    DoomedRegistration,
    /// A node registered the guest's key between our last look at the keys and our PREEMPT of that key.
    LateSharer,
    /// A target that marks one of all registrants as the holder lets a PREEMPT of that one take the reservation and set
    /// its type. A node reserved for all registrants and left, between our last look at the reservation and our PREEMPT,
    /// so that the guest was marked.
    MarkedHolder,
    /// The target tells nexuses of an unregistration or of a removal to whom the standard tells nothing.
    TargetAnnounces,
    /// A target without unit attentions forgot its registrations, which looks like a fencing.
    SilentTarget,
    /// The target's word that it had lost power was lost on its way, waits at a host that cannot be reached, or the
    /// procedure died that could have told its age: what was forgotten looks like a fencing, and is said to be one, since nobody
    /// resumes a fenced guest registered.
    WordOfPowerLost,
    /// The target lost power before APTPL was read, or after another node had changed it: whether that removed the
    /// registration or a node did cannot be told, and nobody resumes the guest either way.
    PersistenceUnread,
    /// A host that cannot be reached at the end keeps a registration until it is back and a recovery has run.
    Unreachable,
    /// The procedure ended in doubt after a fault, and nobody runs the guest: the operator decides.
    InDoubt,
}

impl Tolerance {
    /// Every rule.
    pub const ALL: [Self; 12] = [
        Self::AptplRace,
        Self::FencedInNonceWindow,
        Self::KeyAbsent,
        Self::DoomedRegistration,
        Self::LateSharer,
        Self::MarkedHolder,
        Self::TargetAnnounces,
        Self::SilentTarget,
        Self::WordOfPowerLost,
        Self::PersistenceUnread,
        Self::Unreachable,
        Self::InDoubt,
    ];
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AptplRace => "APTPL changed by another node between our read and our REGISTER",
            Self::FencedInNonceWindow => "fenced while the source was known by the nonce",
            Self::KeyAbsent => "PREEMPT while only the destination's nonce was listed",
            Self::DoomedRegistration => "a fenced guest's registration not yet withdrawn",
            Self::LateSharer => "a node that began to share the key just before our PREEMPT of it",
            Self::MarkedHolder => "a node that reserved for all registrants and left just before our PREEMPT",
            Self::TargetAnnounces => "a target that announces more than the standard asks",
            Self::SilentTarget => "forgotten by a target that announces nothing, taken for a fencing",
            Self::WordOfPowerLost => {
                "the word that power was lost did not arrive, and what was forgotten is taken for fenced"
            }
            Self::PersistenceUnread => "power lost before APTPL was read as it then was",
            Self::Unreachable => "left at a host that could not be reached",
            Self::InDoubt => "in doubt after a fault",
        })
    }
}
