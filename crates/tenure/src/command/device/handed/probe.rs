//! What a nexus of this host is registered by, where a handover that nobody else finishes left that in doubt. REGISTER of a key to itself is
//! GOOD only on a nexus that has it, and changes nothing; that reservation commands do not conflict for everybody is seen beside.

use crate::command::device::real::RealUnit;
use nexus::{Nexus, retry_unit_attention};
use scsi::pr::{InAction, Key, request};
use scsi::{AdditionalSense, Request, Status};
use std::time::{Duration, Instant};

/// How long a login may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Unit attentions that are taken of one command.
const MOST: usize = 8;

/// What it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// None of these keys.
    Neither,
    /// This one.
    Has(Key),
    /// It did not say.
    Unknown,
}

/// Asks for each of the keys, with APTPL as it is; and the unit attentions that this took.
pub(super) fn probe(unit: &RealUnit, keys: [Key; 2], aptpl: bool) -> (Found, Vec<AdditionalSense>) {
    let mut taken = Vec::new();
    let nexus = unit.nexus_until(Instant::now() + PATIENCE);
    let found = nexus.and_then(|mut nexus| ask(&mut *nexus, keys, aptpl, &mut taken));
    (found.unwrap_or(Found::Unknown), taken)
}

fn ask(
    nexus: &mut dyn Nexus,
    keys: [Key; 2],
    aptpl: bool,
    taken: &mut Vec<AdditionalSense>,
) -> Option<Found> {
    let mut send = |request: &Request| {
        let told = retry_unit_attention(nexus, request, MOST).ok()?;
        taken.extend(told.attentions);
        Some(told.completion.status)
    };
    let look = request::read(InAction::READ_KEYS, 8);
    // A RESERVE has reservation commands conflict for everybody else.
    let is_open =
        |send: &mut dyn FnMut(&Request) -> Option<Status>| send(&look).filter(|told| told.is_good());
    is_open(&mut send)?;
    for key in keys {
        match send(&request::register(key, key, aptpl))? {
            status if status.is_good() => return Some(Found::Has(key)),
            Status::RESERVATION_CONFLICT => {}
            _ => return None,
        }
    }
    is_open(&mut send).map(|_| Found::Neither)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus::TransportError;
    use scsi::Completion;

    /// Has this key; PERSISTENT RESERVE IN ends so.
    struct Registered(Key, Status);

    impl Nexus for Registered {
        fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
            let own = request::register(self.0, self.0, false);
            let status = match request.cdb[0] {
                0x5E => self.1,
                _ if request.data == own.data => Status::GOOD,
                _ => Status::RESERVATION_CONFLICT,
            };
            Ok(Completion::status(status))
        }
    }

    #[test]
    fn a_nexus_is_known_to_have_nothing_only_where_it_is_told_apart_from_a_reserve() {
        let ask = |has, read| ask(&mut Registered(Key(has), read), [Key(1), Key(2)], false, &mut Vec::new());
        assert_eq!(ask(1, Status::GOOD), Some(Found::Has(Key(1))));
        assert_eq!(ask(2, Status::GOOD), Some(Found::Has(Key(2))));
        assert_eq!(ask(3, Status::GOOD), Some(Found::Neither));
        assert_eq!(ask(3, Status::RESERVATION_CONFLICT), None);
    }
}
