//! Whole PR commands as an initiator sends them; used by `handover` and the command line.

use super::cdb::{PrInCdb, PrOutCdb};
use super::parameters::{BasicParameters, MoveParameters};
use super::types::{InAction, Key, OutAction, ReservationType, Scope};
use crate::task::{DataPhase, Request};

/// PERSISTENT RESERVE IN with room for `allocation_length` bytes.
#[must_use]
pub fn read(action: InAction, allocation_length: u16) -> Request {
    let cdb = PrInCdb { action, allocation_length, control: 0 };
    Request { cdb: cdb.to_bytes().to_vec(), data: DataPhase::In(usize::from(allocation_length)) }
}

/// PERSISTENT RESERVE OUT with a basic parameter list. `kind` is ignored by actions without a type.
#[must_use]
pub fn out(action: OutAction, kind: ReservationType, parameters: &BasicParameters) -> Request {
    with_list(action, kind, parameters.to_bytes())
}

/// REGISTER: `old` to `new`; a new key of zero unregisters.
#[must_use]
pub fn register(old: Key, new: Key, aptpl: bool) -> Request {
    let parameters =
        BasicParameters { reservation_key: old, service_action_key: new, aptpl, ..Default::default() };
    out(OutAction::REGISTER, ReservationType(0), &parameters)
}

/// REGISTER AND IGNORE EXISTING KEY.
#[must_use]
pub fn register_and_ignore(new: Key, aptpl: bool) -> Request {
    let parameters = BasicParameters { service_action_key: new, aptpl, ..Default::default() };
    out(OutAction::REGISTER_AND_IGNORE, ReservationType(0), &parameters)
}

/// RESERVE.
#[must_use]
pub fn reserve(key: Key, kind: ReservationType) -> Request {
    out(OutAction::RESERVE, kind, &BasicParameters { reservation_key: key, ..Default::default() })
}

/// RELEASE.
#[must_use]
pub fn release(key: Key, kind: ReservationType) -> Request {
    out(OutAction::RELEASE, kind, &BasicParameters { reservation_key: key, ..Default::default() })
}

/// CLEAR.
#[must_use]
pub fn clear(key: Key) -> Request {
    let parameters = BasicParameters { reservation_key: key, ..Default::default() };
    out(OutAction::CLEAR, ReservationType(0), &parameters)
}

/// PREEMPT of `victim`.
#[must_use]
pub fn preempt(key: Key, victim: Key, kind: ReservationType) -> Request {
    let parameters =
        BasicParameters { reservation_key: key, service_action_key: victim, ..Default::default() };
    out(OutAction::PREEMPT, kind, &parameters)
}

/// PREEMPT AND ABORT of `victim`.
#[must_use]
pub fn preempt_and_abort(key: Key, victim: Key, kind: ReservationType) -> Request {
    let parameters =
        BasicParameters { reservation_key: key, service_action_key: victim, ..Default::default() };
    out(OutAction::PREEMPT_AND_ABORT, kind, &parameters)
}

/// REGISTER AND MOVE.
#[must_use]
pub fn register_and_move(parameters: &MoveParameters) -> Request {
    with_list(OutAction::REGISTER_AND_MOVE, ReservationType(0), parameters.to_bytes())
}

/// REPLACE LOST RESERVATION.
#[must_use]
pub fn replace_lost(new: Key, kind: ReservationType) -> Request {
    let parameters = BasicParameters { service_action_key: new, ..Default::default() };
    out(OutAction::REPLACE_LOST, kind, &parameters)
}

fn with_list(action: OutAction, kind: ReservationType, list: Vec<u8>) -> Request {
    let parameter_list_length = u32::try_from(list.len()).unwrap_or(u32::MAX);
    let cdb = PrOutCdb { action, scope: Scope::LOGICAL_UNIT, kind, parameter_list_length, control: 0 };
    Request { cdb: cdb.to_bytes().to_vec(), data: DataPhase::Out(list) }
}
