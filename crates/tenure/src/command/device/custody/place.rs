//! Where a guest is, as a device has made durable (DESIGN P4, P5). Generic over what names a host and what a device's state is, so that
//! [`standing`](super::standing) can be walked with small ones; used with both by `record`.

use peer::message::Id;

/// Where a guest is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::command::device) enum Place<H, S> {
    /// Here, and nobody else may serve it.
    Here,
    /// At that host, from where it is to come.
    Expected { from: H },
    /// Its state was given to that host, which has not said yet that it is in force there.
    Giving { id: Id, to: H, state: S },
    /// At that host.
    Away { id: Id, to: H },
    /// Its state came from that host, which may not know yet that it is in force here.
    Taking { id: Id, from: H, state: S },
    /// It belongs here: its LUNs are to be opened with this state, then it is here.
    Owned { state: S },
}

impl<H, S> Place<H, S> {
    /// One word for it.
    pub(in crate::command::device) const fn word(&self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Expected { .. } => "expected",
            Self::Giving { .. } => "giving",
            Self::Away { .. } => "away",
            Self::Taking { .. } => "taking",
            Self::Owned { .. } => "owned",
        }
    }

    /// The other host.
    pub(in crate::command::device) const fn other(&self) -> Option<&H> {
        match self {
            Self::Here | Self::Owned { .. } => None,
            Self::Expected { from } | Self::Taking { from, .. } => Some(from),
            Self::Giving { to, .. } | Self::Away { to, .. } => Some(to),
        }
    }

    /// The device's state, where it is on its way.
    pub(in crate::command::device) const fn state(&self) -> Option<&S> {
        match self {
            Self::Giving { state, .. } | Self::Taking { state, .. } | Self::Owned { state } => Some(state),
            Self::Here | Self::Expected { .. } | Self::Away { .. } => None,
        }
    }

    /// The handover that it belongs to, 0 where it belongs to none.
    pub(super) const fn id(&self) -> Id {
        match self {
            Self::Here | Self::Expected { .. } | Self::Owned { .. } => Id(0),
            Self::Giving { id, .. } | Self::Away { id, .. } | Self::Taking { id, .. } => *id,
        }
    }
}

/// A place, and how often the guest has changed hands: nobody takes it from who has seen fewer changes. 0 where it was never here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::command::device) struct Entry<H, S> {
    pub(in crate::command::device) epoch: u64,
    pub(in crate::command::device) place: Place<H, S>,
}
