//! Commands as the engine thinks of them: keys by their part in the handover, not by value, so that a state is
//! small and equal states compare equal. Here they become bytes and words.

use crate::settings::Settings;
use scsi::pr::{InAction, Key, MoveParameters, OutAction, ReservationType, request};
use scsi::{DataPhase, Request, opcode};
use std::fmt;

/// A key by its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// Zero: not registered.
    Nothing,
    /// K, the guest's key.
    Guest,
    /// N, the nonce.
    Nonce,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// INQUIRY, standard data.
    Inquiry,
    /// INQUIRY, VPD page 83h.
    Identification,
    /// REPORT SUPPORTED OPERATION CODES for REGISTER AND MOVE.
    MoveSupport,
    /// REPORT CAPABILITIES.
    Capabilities,
    /// READ RESERVATION.
    Reservation,
    /// READ FULL STATUS.
    FullStatus,
    /// READ KEYS.
    Keys,
    /// REGISTER.
    Register(Name, Name),
    /// PREEMPT of the second key by a nexus that has the first.
    Preempt(Name, Name, ReservationType),
    /// PREEMPT AND ABORT, for a victim that may have commands under way.
    PreemptAbort(Name, Name, ReservationType),
    /// REGISTER AND MOVE to the destination's path 0, with UNREG.
    Move,
    /// Log out for good.
    Close,
    /// Log in with the guest's identity.
    Open,
}

/// What turns orders into bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speech<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) key: Key,
    pub(crate) aptpl: bool,
}

/// Largest PR IN reply the CDB can ask for.
const ALL: u16 = u16::MAX;

impl Order {
    /// A second execution does no harm and tells as much as the first.
    pub(crate) fn is_repeatable(self) -> bool {
        match self {
            Self::Register(old, new) => old == new,
            Self::Preempt(..) | Self::PreemptAbort(..) | Self::Move => false,
            _ => true,
        }
    }

    /// The command; `None` for logging in and out, and for a move to an unknown port.
    pub(crate) fn request(self, speech: &Speech<'_>) -> Option<Request> {
        let key = |name| speech.key(name);
        Some(match self {
            Self::Inquiry => data_in(&[opcode::INQUIRY, 0, 0, 0, 96, 0], 96),
            Self::Identification => data_in(&[opcode::INQUIRY, 1, 0x83, 0x04, 0, 0], 1024),
            Self::MoveSupport => move_support(),
            Self::Capabilities => request::read(InAction::REPORT_CAPABILITIES, 8),
            Self::Reservation => request::read(InAction::READ_RESERVATION, 24),
            Self::FullStatus => request::read(InAction::READ_FULL_STATUS, ALL),
            Self::Keys => request::read(InAction::READ_KEYS, ALL),
            Self::Register(old, new) => request::register(key(old), key(new), speech.aptpl),
            Self::Preempt(own, victim, kind) => request::preempt(key(own), key(victim), kind),
            Self::PreemptAbort(own, victim, kind) => request::preempt_and_abort(key(own), key(victim), kind),
            Self::Move => request::register_and_move(&speech.move_parameters()?),
            Self::Close | Self::Open => return None,
        })
    }

    /// The command in words, with keys.
    pub(crate) fn words(self, speech: &Speech<'_>) -> String {
        let key = |name| speech.key(name);
        match self {
            Self::Register(Name::Nothing, new) => format!("REGISTER {}", key(new)),
            Self::Register(old, Name::Nothing) => format!("REGISTER {} to nothing", key(old)),
            Self::Register(old, new) => format!("REGISTER {} to {}", key(old), key(new)),
            Self::Preempt(own, victim, kind) => format!("PREEMPT {} by {}, {kind}", key(victim), key(own)),
            Self::PreemptAbort(own, victim, kind) => {
                format!("PREEMPT AND ABORT {} by {}, {kind}", key(victim), key(own))
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inquiry => "INQUIRY",
            Self::Identification => "INQUIRY, VPD page 83h",
            Self::MoveSupport => "REPORT SUPPORTED OPERATION CODES",
            Self::Capabilities => "REPORT CAPABILITIES",
            Self::Reservation => "READ RESERVATION",
            Self::FullStatus => "READ FULL STATUS",
            Self::Keys => "READ KEYS",
            Self::Register(..) => "REGISTER",
            Self::Preempt(..) => "PREEMPT",
            Self::PreemptAbort(..) => "PREEMPT AND ABORT",
            Self::Move => "REGISTER AND MOVE to the destination, with UNREG",
            Self::Close => "log out for good",
            Self::Open => "log in with the guest's name and ISID",
        })
    }
}

impl Speech<'_> {
    /// The value of a key.
    pub(crate) fn key(&self, name: Name) -> Key {
        match name {
            Name::Nothing => Key::NONE,
            Name::Guest => self.key,
            Name::Nonce => self.settings.nonce,
        }
    }

    fn move_parameters(&self) -> Option<MoveParameters> {
        let port = self.settings.destination.first()?;
        Some(MoveParameters {
            reservation_key: self.key,
            service_action_key: self.key,
            unregister: true,
            aptpl: self.aptpl,
            relative_target_port: port.target_port?,
            initiator_port: port.initiator.clone()?,
        })
    }
}

fn data_in(cdb: &[u8], length: usize) -> Request {
    Request { cdb: cdb.to_vec(), data: DataPhase::In(length) }
}

/// REPORTING OPTIONS 010b: one operation code with a service action (SPC-4 6.35).
fn move_support() -> Request {
    let action = OutAction::REGISTER_AND_MOVE.0;
    let cdb =
        [opcode::MAINTENANCE_IN, 0x0C, 0x02, opcode::PERSISTENT_RESERVE_OUT, 0, action, 0, 0, 0, 64, 0, 0];
    data_in(&cdb, 64)
}
