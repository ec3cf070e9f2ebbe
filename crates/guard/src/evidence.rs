//! What a guest's own PERSISTENT RESERVE IN shows: cluster software looks at keys and reservation all the time, and a unit
//! attention that told of a change may have gone to the guest's reads and writes, which nobody here sees.

use handover::Tracked;
use scsi::pr::{InAction, PrInCdb, ReadKeys, ReadReservation, Reservation, ReservationType};
use scsi::{Completion, Request};

/// What of the record a reply does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contradiction {
    /// The recorded key is nobody's.
    Registration,
    /// The reservation is not the recorded one.
    Reservation,
}

impl Contradiction {
    /// Between what is recorded of the nexus and of the reservation's type, and the reply to the guest's command.
    pub(crate) fn of(
        recorded: Tracked,
        reservation: Option<ReservationType>,
        request: &Request,
        ended: &Completion,
    ) -> Option<Self> {
        if !ended.status.is_good() || recorded.key.is_none() {
            return None;
        }
        match PrInCdb::parse(&request.cdb).ok()?.action {
            InAction::READ_KEYS => is_unlisted(recorded, &ended.data).then_some(Self::Registration),
            InAction::READ_RESERVATION => {
                let told = ReadReservation::parse(&ended.data)?.reservation;
                let kind = told.map(|held| held.kind);
                (kind != reservation || is_news(recorded, told)).then_some(Self::Reservation)
            }
            _ => None,
        }
    }
}

fn is_unlisted(recorded: Tracked, data: &[u8]) -> bool {
    let listed = |keys: &ReadKeys| recorded.key.is_none_or(|own| keys.keys.contains(&own));
    ReadKeys::parse(data).is_some_and(|keys| !keys.truncated && !listed(&keys))
}

/// A registrant holds with all others, or alone under its own key; where that is another's too, nothing is said.
fn is_news(recorded: Tracked, told: Option<Reservation>) -> bool {
    let all = told.filter(|held| held.kind.is_all_registrants()).map(|held| held.kind);
    match recorded.held {
        None => all.is_some(),
        held if all.is_some() => held != all,
        held => told.is_none_or(|told| Some(told.kind) != held || Some(told.key) != recorded.key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::pr::{Key, Scope, request};

    const OWN: Key = Key(1);
    const SINGLE: ReservationType = ReservationType(5);
    const ALL: ReservationType = ReservationType(7);

    /// What a registrant that is recorded to hold this is told by a READ RESERVATION of that holder.
    fn told(held: Option<ReservationType>, holder: Option<(Key, ReservationType)>) -> Option<Contradiction> {
        let recorded = Tracked { key: Some(OWN), held, ..Tracked::default() };
        let reservation = holder.map(|(key, kind)| Reservation { key, scope: Scope::LOGICAL_UNIT, kind });
        let data = ReadReservation { generation: 1, reservation }.to_bytes();
        let kind = holder.map(|(_, kind)| kind);
        Contradiction::of(
            recorded,
            kind,
            &request::read(InAction::READ_RESERVATION, 24),
            &Completion::good(data),
        )
    }

    #[test]
    fn a_reservation_of_the_recorded_type_may_still_have_another_holder() {
        let news = Some(Contradiction::Reservation);
        for (held, holder, expected) in [
            (None, None, None),
            (None, Some((Key(2), SINGLE)), None),
            (None, Some((Key(0), ALL)), news),
            (Some(ALL), Some((Key(0), ALL)), None),
            (Some(ALL), None, news),
            (Some(SINGLE), Some((OWN, SINGLE)), None),
            (Some(SINGLE), Some((Key(2), SINGLE)), news),
            (Some(SINGLE), None, news),
        ] {
            assert_eq!(told(held, holder), expected, "{held:?} {holder:?}");
        }
    }

    #[test]
    fn nothing_contradicts_a_guest_that_is_not_registered_or_a_command_that_failed() {
        let read = request::read(InAction::READ_KEYS, 8192);
        let nobody = Completion::good(vec![0; 8]);
        let busy = Completion { status: scsi::Status::BUSY, ..nobody.clone() };
        let of = |recorded, ended: &Completion| Contradiction::of(recorded, None, &read, ended);
        let registered = Tracked { key: Some(OWN), ..Tracked::default() };
        assert_eq!(of(registered, &nobody), Some(Contradiction::Registration));
        assert_eq!(of(Tracked::default(), &nobody), None);
        assert_eq!(of(registered, &busy), None);
    }
}
