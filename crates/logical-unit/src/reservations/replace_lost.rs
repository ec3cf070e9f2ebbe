//! REPLACE LOST RESERVATION (SPC-4 5.13.11.3): the way out after the device server lost what it knew.

use super::order::{Order, Refusal};
use scsi::FieldError;
use scsi::pr::BasicParameters;

pub(super) fn run(order: &mut Order<'_>, parameters: &BasicParameters) -> Result<u32, Refusal> {
    if !order.state.lost || !parameters.reservation_key.is_none() {
        return Err(Refusal::Conflict);
    }
    if parameters.service_action_key.is_none() {
        return Err(FieldError::parameter(8).into());
    }
    order.state.registrations.clear();
    order.state.lost = false;
    order.register(order.sender, parameters.service_action_key, false);
    order.hold(order.cdb.kind, order.sender);
    Ok(1)
}
