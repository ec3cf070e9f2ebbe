//! What is left of a handover at this host's nexus: the key under which it may hold a reservation that no fencing of the guest's own key
//! removes (promise P1). Asked before a guest is served by that nexus again (`super::moving`, a claim).

use super::{Hindrance, LOOKING, RealUnit, Records, owes};
use crate::command::device::handed::left_nonce;
use guard::Identity;
use scsi::AdditionalSense;
use scsi::pr::{InAction, Key, ReadKeys, request};
use std::time::Instant;

/// So many bytes hold all keys that a target lists.
const ROOM: u16 = 0xFFFC;
/// So many unit attentions may come before the answer.
const ATTENTIONS: usize = 8;

/// Whether the logical unit lists this key, and the unit attentions that came first: they are the guest's.
///
/// # Errors
/// It does not say.
fn lists(unit: &RealUnit, key: Key) -> Result<(bool, Vec<AdditionalSense>), Hindrance> {
    let mut nexus = unit.nexus_until(Instant::now() + LOOKING).ok_or(Hindrance::Closed)?;
    let asked =
        nexus::retry_unit_attention(&mut *nexus, &request::read(InAction::READ_KEYS, ROOM), ATTENTIONS);
    let asked = asked.map_err(|error| Hindrance::Silent(error.to_string()))?;
    let (told, attentions) = (asked.completion, asked.attentions);
    let keys = ReadKeys::parse(&told.data).filter(|keys| told.status.is_good() && !keys.truncated);
    let keys = keys.ok_or_else(|| Hindrance::Silent(format!("its READ KEYS ended with {}", told.status)))?;
    Ok((keys.keys.contains(&key), attentions))
}

/// Whether what the record says is left at this host's nexus is gone, if there was anything.
///
/// # Errors
/// It is there, or that is not known.
pub(super) fn no_nonce_is_left(
    records: &Records,
    identity: &Identity,
    unit: &RealUnit,
) -> Result<(), Hindrance> {
    records.book.refresh()?;
    let Some(record) = records.book.record(&identity.lun) else { return Ok(()) };
    let Some(nonce) = left_nonce(&record) else { return Ok(()) };
    let (is_left, attentions) = lists(unit, nonce)?;
    records.book.append(&owes(Some(&record), identity, &attentions))?;
    if is_left { Err(Hindrance::NonceLeft(nonce)) } else { Ok(()) }
}
