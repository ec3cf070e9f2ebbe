//! Gives up what a handover left registered on this host's nexuses: its nonce, and where the guest is not this host's its
//! key too. Nothing is ever registered: each command is REGISTER of a key to none, which is GOOD only on a nexus that has
//! this very key, so that no other guest's registration can be met.

use super::site::{End, Last, Leg, Log, Site, Trouble, UnitEnd};
use crate::conduct::Hands;
use handover::{Action, CommandId, Method, Outcome, Path, Side, UnitIndex};
use nexus::unit_attention;
use scsi::pr::{Capabilities, InAction, Key, request};
use scsi::{Completion, Request, SenseKey, Status};
use std::time::{Duration, Instant};

/// Unit attentions that one command may meet.
const ATTENTIONS: usize = 8;
/// For one round of commands.
const PATIENCE: Duration = Duration::from_secs(20);

/// A registration that may be left on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leftover {
    unit: UnitIndex,
    path: u8,
    key: Key,
    /// As the handover knew it.
    aptpl: bool,
}

/// Removes what is left; gives how many registrations that were. `here`: the guest is this host's, and keeps its key.
///
/// # Errors
/// [`Trouble`]: what could not be asked, or did not answer. It may be done again.
pub fn release(site: &dyn Site, log: &dyn Log, here: bool) -> Result<usize, Trouble> {
    let begun = log.begun();
    // Its name and ISID went with the guest: nothing can be left here, and a login would end the guest's session there.
    if !here && log.last().iter().flatten().any(|last| last.entry.method == Method::Identity) {
        return Ok(0);
    }
    let side = if here { Side::Source } else { Side::Destination };
    let ground = site.ground(begun.handover, side)?;
    let names: Vec<_> = begun.luns.iter().map(|lun| lun.name.clone()).collect();
    let luns = ground.arrange(&names)?;
    let left = leftovers(log, here, |unit| luns.get(unit).map_or(0, |lun| lun.ports.len()));
    // The helper lets commands of a handover pass only while the record says that one is under way.
    ground.freeze()?;
    let (mut hands, mut owed) = (ground.hands(), vec![Vec::new(); names.len()]);
    let removed = left.iter().map(|leftover| {
        let taken = owed.get_mut(usize::from(leftover.unit.0));
        remove(&mut *hands, side, *leftover, taken.unwrap_or(&mut Vec::new()))
    });
    let removed = removed.collect::<Result<Vec<_>, _>>();
    // Also where something did not answer: the guest is not kept waiting for what is tried again.
    let end = if here { End::Kept } else { End::Refused };
    let ends = names.into_iter().zip(owed);
    let ends = ends.map(|(lun, owed)| UnitEnd { lun, verdict: None, last: None, owed });
    ground.settle(end, &ends.collect::<Vec<_>>())?;
    Ok(removed?.into_iter().filter(|removed| *removed).count())
}

/// Of each logical unit that the handover may have changed.
fn leftovers(log: &dyn Log, here: bool, paths: impl Fn(usize) -> usize) -> Vec<Leftover> {
    let (begun, mut left) = (log.begun(), Vec::new());
    for (place, last) in log.last().into_iter().enumerate() {
        let (Some(last), Ok(unit)) = (last, u16::try_from(place)) else { continue };
        let nonces = [Some(last.entry.nonce), begun.nonces.get(place).copied()];
        let key = Some(last.entry.key).filter(|_| !here);
        let mut keys: Vec<_> = nonces.into_iter().chain([key]).flatten().collect();
        keys.retain(|key| *key != Key::NONE && (!here || *key != last.entry.key));
        keys.sort_unstable();
        keys.dedup();
        for path in (0..u8::MAX).take(paths(place)) {
            let ours = |key: &&Key| **key != last.entry.key || !had_before(begun.side, &last, path);
            let leftover =
                |key: &Key| Leftover { unit: UnitIndex(unit), path, key: *key, aptpl: last.entry.aptpl };
            left.extend(keys.iter().filter(ours).map(leftover));
        }
    }
    left
}

/// The destination's path had the key before the handover, which is not ours to remove.
const fn had_before(side: Side, last: &Last, path: u8) -> bool {
    let told = matches!((side, last.leg), (Side::Destination, Leg::There));
    told && path < 8 && last.entry.destination_had & (1 << path) != 0
}

/// Whether it was there. `owed`: sense data that the guest is owed for what this took.
fn remove(
    hands: &mut dyn Hands,
    side: Side,
    left: Leftover,
    owed: &mut Vec<Vec<u8>>,
) -> Result<bool, Trouble> {
    let aptpl = persistence(hands, side, left, owed)?;
    let ended = send(hands, side, left, &request::register(left.key, Key::NONE, aptpl), owed)?;
    match ended.status {
        Status::GOOD => Ok(true),
        Status::RESERVATION_CONFLICT => Ok(false),
        _ => Err(left.trouble(&ended)),
    }
}

/// APTPL of the whole logical unit as it is now, which every REGISTER sets again; others may have changed it since the handover.
/// A device that does not tell it has the one that the handover knew.
fn persistence(
    hands: &mut dyn Hands,
    side: Side,
    left: Leftover,
    owed: &mut Vec<Vec<u8>>,
) -> Result<bool, Trouble> {
    let ended = send(hands, side, left, &request::read(InAction::REPORT_CAPABILITIES, 8), owed)?;
    let key = ended.decoded_sense().map(|sense| sense.key);
    match ended.status {
        Status::GOOD => {
            let told = Capabilities::parse(&ended.data);
            Ok(told.map_or(left.aptpl, |capabilities| capabilities.persist_active))
        }
        Status::CHECK_CONDITION if key == Some(SenseKey::ILLEGAL_REQUEST) => Ok(left.aptpl),
        _ => Err(left.trouble(&ended)),
    }
}

/// Past unit attentions, which are taken for `owed`.
fn send(
    hands: &mut dyn Hands,
    side: Side,
    left: Leftover,
    request: &Request,
    owed: &mut Vec<Vec<u8>>,
) -> Result<Completion, Trouble> {
    let path = Path { side, index: left.path };
    let action = Action::Execute { id: CommandId(0), path, request: request.clone() };
    for _ in 0..ATTENTIONS {
        let told = hands.carry_out(&[(left.unit, action.clone())], Instant::now() + PATIENCE);
        match told.into_iter().next().and_then(|report| report.outcome) {
            Some(Outcome::Done(ended)) => match unit_attention(&ended) {
                Some(code) => owed.push(crate::ground::sense(code)),
                None => return Ok(ended),
            },
            Some(Outcome::NotSent | Outcome::Unknown) | None => break,
        }
    }
    let Leftover { unit, key, .. } = left;
    Err(Trouble(format!("logical unit {} did not say whether key {key} is gone: release it again", unit.0)))
}

impl Leftover {
    fn trouble(&self, ended: &Completion) -> Trouble {
        let status = crate::drive::words::status(ended);
        Trouble(format!("key {} on logical unit {}: {status}", self.key, self.unit.0))
    }
}
