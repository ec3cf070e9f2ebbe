//! The ways to move a registration and reservation, in order of preference.

use std::fmt;
use std::str::FromStr;

/// A method. The order of the variants is the order in which they are considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// The initiator port's name moves with the guest; no command changes anything on the device.
    Identity,
    /// The destination registers, the source unregisters. For everybody but the single holder.
    MakeBeforeBreak,
    /// The source's REGISTER AND MOVE.
    RegisterAndMove,
    /// The destination registers the guest's key and preempts it.
    PreemptOwnKey,
    /// The source changes to a nonce, which the destination preempts.
    SourceNonce,
    /// The destination registers a nonce, preempts the guest's key and changes to it. Without the source.
    DestinationNonce,
}

impl Method {
    /// All methods, in order of preference.
    pub const ALL: [Self; 6] = [
        Self::Identity,
        Self::MakeBeforeBreak,
        Self::RegisterAndMove,
        Self::PreemptOwnKey,
        Self::SourceNonce,
        Self::DestinationNonce,
    ];

    /// The bit of this method in a set.
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The name on the command line and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::MakeBeforeBreak => "make-before-break",
            Self::RegisterAndMove => "register-and-move",
            Self::PreemptOwnKey => "preempt-own-key",
            Self::SourceNonce => "source-nonce",
            Self::DestinationNonce => "destination-nonce",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No method has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such method; there are identity, make-before-break, register-and-move, preempt-own-key, source-nonce \
     and destination-nonce"
)]
pub struct UnknownMethod;

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.name() == name).ok_or(UnknownMethod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_others_are_refused() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        assert_eq!("naive".parse::<Method>(), Err(UnknownMethod));
    }
}
