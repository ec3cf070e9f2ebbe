//! What a guest's own PERSISTENT RESERVE IN shows: cluster software looks at keys and reservation all the time, and a unit
//! attention that told of a change may have gone to the guest's reads and writes, which nobody here sees.

use handover::Tracked;
use scsi::pr::{InAction, PrInCdb, ReadKeys, ReadReservation};
use scsi::{Completion, Request};

/// What of the record a reply does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contradiction {
    /// The recorded key is nobody's.
    Registration,
    /// The reservation is not the recorded one.
    Reservation,
}

impl Contradiction {
    /// Between what is recorded of the nexus and the reply to its command.
    pub(super) fn of(recorded: Tracked, request: &Request, ended: &Completion) -> Option<Self> {
        if !ended.status.is_good() {
            return None;
        }
        match PrInCdb::parse(&request.cdb).ok()?.action {
            InAction::READ_KEYS => is_unlisted(recorded, &ended.data).then_some(Self::Registration),
            InAction::READ_RESERVATION => is_no_holder(recorded, &ended.data).then_some(Self::Reservation),
            _ => None,
        }
    }
}

fn is_unlisted(recorded: Tracked, data: &[u8]) -> bool {
    let listed = |keys: &ReadKeys| recorded.key.is_none_or(|own| keys.keys.contains(&own));
    ReadKeys::parse(data).is_some_and(|keys| !keys.truncated && !listed(&keys))
}

fn is_no_holder(recorded: Tracked, data: &[u8]) -> bool {
    let (Some(kind), Some(read)) = (recorded.held, ReadReservation::parse(data)) else { return false };
    read.reservation
        .is_none_or(|held| held.kind != kind || !kind.is_all_registrants() && Some(held.key) != recorded.key)
}
