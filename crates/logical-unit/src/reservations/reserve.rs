//! RESERVE and RELEASE (SPC-4 5.13.9, 5.13.11.2.2). Neither counts in PRGENERATION.

use super::order::{Order, Refusal};
use crate::attention::Attention;
use crate::profile::WrongTypeRelease;
use scsi::{AdditionalSense, FieldError};

/// Makes the reservation, or confirms it to its holder.
pub(super) fn reserve(order: &mut Order<'_>) -> Result<u32, Refusal> {
    match order.state.reservation {
        None => order.hold(order.cdb.kind, order.sender),
        Some(held) if order.state.is_holder(order.sender) && held.kind == order.cdb.kind => {}
        Some(_) => return Err(Refusal::Conflict),
    }
    Ok(0)
}

/// Ends the reservation of its holder; for everybody else nothing happens and the type is not looked at.
pub(super) fn release(order: &mut Order<'_>) -> Result<u32, Refusal> {
    let Some(held) = order.state.reservation.filter(|_| order.state.is_holder(order.sender)) else {
        return Ok(0);
    };
    if held.kind != order.cdb.kind {
        return Err(wrong_type(order.profile.wrong_type_release));
    }
    order.set_reservation(None);
    if order.profile.attentions.release.contains(held.kind) {
        let others = order.others();
        order.tell(others, Attention::ReservationsReleased);
    }
    Ok(0)
}

fn wrong_type(how: WrongTypeRelease) -> Refusal {
    let field = FieldError::cdb_bit(2, 3);
    match how {
        WrongTypeRelease::InvalidRelease => field.with_code(AdditionalSense::INVALID_RELEASE).into(),
        WrongTypeRelease::InvalidField => field.into(),
        WrongTypeRelease::Conflict => Refusal::Conflict,
    }
}
