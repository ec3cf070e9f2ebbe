//! CLEAR (SPC-4 5.13.11.2.7): everything goes, the sender's registration too; commands under way go on.

use super::order::{Order, Whom};
use crate::attention::Attention;
use crate::profile::Audience;

pub(super) fn run(order: &mut Order<'_>) -> u32 {
    let others = order.others();
    let removed = u32::try_from(others.len() + 1).unwrap_or(u32::MAX);
    order.state.registrations.clear();
    order.set_reservation(None);
    let whom = match order.profile.attentions.audience {
        Audience::EveryNexus => Whom::EveryoneBut(None),
        Audience::Registrants => Whom::Nexuses(others),
    };
    order.outcome.notices.push((whom, Attention::ReservationsPreempted));
    if order.profile.generation.per_removal { removed.saturating_add(1) } else { 1 }
}
