//! Commands of the other nodes: what each can do to the logical unit between any two of our commands.
//! Used by the moves; the requests are made from what the node itself would know.

use crate::cast::{GUEST_KEY, node};
use crate::device::Device;
use crate::scenario::Scenario;
use scsi::Request;
use scsi::pr::{Key, ReservationType, request};
use std::fmt;

/// A foreign command, without its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ForeignCommand {
    /// PREEMPT of the guest's key, with the type that is there or Write Exclusive - Registrants Only.
    Fence,
    /// PREEMPT of key zero: under an all registrants type it removes everybody else.
    PreemptAll,
    /// CLEAR.
    Clear,
    /// RESERVE.
    Reserve(ReservationType),
    /// RELEASE with the type that is there.
    Release,
    /// REGISTER of the node's key, where it is not registered.
    Register,
    /// REGISTER of the guest's key, where the node is not registered.
    RegisterShared,
    /// REGISTER to key zero.
    Unregister,
    /// REGISTER of the key it has, with the other APTPL.
    ChangeAptpl,
}

impl ForeignCommand {
    /// What `index` can usefully do in this state.
    pub(crate) fn possible(scenario: &Scenario, device: &Device, index: u8) -> Vec<Self> {
        if device.key(node(index)).is_none() {
            let shared = scenario.shared && index > 0;
            return if shared { vec![Self::Register, Self::RegisterShared] } else { vec![Self::Register] };
        }
        let mut commands = vec![Self::Fence, Self::Clear, Self::Unregister];
        if scenario.profile.support.aptpl {
            commands.push(Self::ChangeAptpl);
        }
        match device.reservation() {
            None => commands.extend([5, 7, 3].map(|kind| Self::Reserve(ReservationType(kind)))),
            Some((kind, None)) if kind.is_all_registrants() => {
                commands.extend([Self::Release, Self::PreemptAll])
            }
            Some((_, holder)) if holder == Some(node(index)) => commands.push(Self::Release),
            Some(_) => {}
        }
        commands
    }

    /// The command as `index` sends it in this state.
    pub(crate) fn request(self, scenario: &Scenario, device: &Device, index: u8) -> Request {
        let own = device.key(node(index)).unwrap_or(Key::NONE);
        let there = device.reservation().map(|(kind, _)| kind);
        let kind = there.unwrap_or(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
        let aptpl = device.aptpl();
        match self {
            Self::Fence => request::preempt(own, GUEST_KEY, kind),
            Self::PreemptAll => request::preempt(own, Key::NONE, kind),
            Self::Clear => request::clear(own),
            Self::Reserve(kind) => request::reserve(own, kind),
            Self::Release => request::release(own, kind),
            Self::Register => request::register(Key::NONE, scenario.key_of(index), aptpl),
            Self::RegisterShared => request::register(Key::NONE, GUEST_KEY, aptpl),
            Self::Unregister => request::register(own, Key::NONE, aptpl),
            Self::ChangeAptpl => request::register(own, own, !aptpl),
        }
    }
}

impl fmt::Display for ForeignCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence => f.write_str("PREEMPT of the guest's key"),
            Self::PreemptAll => f.write_str("PREEMPT of key zero"),
            Self::Clear => f.write_str("CLEAR"),
            Self::Reserve(kind) => write!(f, "RESERVE {kind}"),
            Self::Release => f.write_str("RELEASE"),
            Self::Register => f.write_str("REGISTER of its key"),
            Self::RegisterShared => f.write_str("REGISTER of the guest's key"),
            Self::Unregister => f.write_str("REGISTER to zero"),
            Self::ChangeAptpl => f.write_str("REGISTER with the other APTPL"),
        }
    }
}
