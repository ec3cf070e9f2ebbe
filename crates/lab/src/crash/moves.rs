//! What the guest and its peer do next, chosen at random from what the device has now.
//!
//! As in the `table`, nobody preempts its own key, and PREEMPT AND ABORT is left out.

use super::ground::Fact;
use crate::random::Random;
use scsi::Request;
use scsi::pr::request::{clear, preempt, read, register, register_and_ignore, release, reserve};
use scsi::pr::{InAction, Key, ReservationType};

/// The guest's keys, of which the last stands for none.
pub(super) const GUEST: [Key; 3] = [Key(0xA1), Key(0xA2), Key::NONE];
/// The peer's key.
pub(super) const PEER: Key = Key(0xB1);

/// The next command of the guest, with APTPL in all registrations or in none. Most are good; one in eight has a wrong key.
pub(super) fn guest(random: &mut Random, now: Fact, aptpl: bool) -> Request {
    let own = if random.once_in(8) { Key(0xBAD) } else { now.key.unwrap_or_default() };
    let kind = random.one_of(ReservationType::ALL);
    let new = random.one_of(GUEST);
    match random.below(18) {
        0..3 => register(own, new, aptpl),
        3..6 => register_and_ignore(new, aptpl),
        6..9 => reserve(own, kind),
        9..12 => release(own, now.held.unwrap_or(kind)),
        12 => clear(own),
        13..15 => preempt(own, PEER, kind),
        // A repetition, which changes nothing.
        15 => register(own, now.key.unwrap_or_default(), aptpl),
        16 => read(InAction::READ_KEYS, 512),
        _ => read(InAction::READ_RESERVATION, 512),
    }
}

/// The next command of the peer, if it does anything now: it registers, and then fences the guest or clears everything.
pub(super) fn peer(random: &mut Random, guest: Fact, registered: bool) -> Option<Request> {
    if !random.once_in(10) {
        return None;
    }
    let kind = guest.held.unwrap_or(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
    Some(match (registered, guest.key, random.below(4)) {
        (false, ..) => register_and_ignore(PEER, false),
        (_, Some(victim), 0 | 1) => preempt(PEER, victim, kind),
        (.., 2) => clear(PEER),
        _ => register(PEER, Key::NONE, false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::DataPhase;
    use std::collections::HashSet;

    fn commands(now: Fact) -> Vec<Request> {
        let mut random = Random::new(3);
        let guest: Vec<_> = (0..500).map(|_| guest(&mut random, now, false)).collect();
        let peer = (0..500).filter_map(|_| peer(&mut random, now, true));
        guest.into_iter().chain(peer).collect()
    }

    #[test]
    fn nobody_preempts_its_own_key() {
        let now = Fact { key: Some(GUEST[0]), held: Some(ReservationType(7)) };
        for request in commands(now).into_iter().chain(commands(Fact::default())) {
            if let ([0x5F, 4 | 5, ..], DataPhase::Out(list)) = (&*request.cdb, &request.data) {
                assert_ne!(list[..8], list[8..16], "{request:?}");
                assert_ne!(list[8..16], [0; 8], "{request:?}");
                assert_eq!(request.cdb[1], 4);
            }
        }
    }

    #[test]
    fn everything_that_changes_a_registration_is_done() {
        let now = Fact { key: Some(GUEST[0]), held: None };
        let done: HashSet<(u8, u8)> =
            commands(now).iter().map(|request| (request.cdb[0], request.cdb[1])).collect();
        for action in [0, 1, 2, 3, 4, 6] {
            assert!(done.contains(&(0x5F, action)), "{action}");
        }
    }
}
