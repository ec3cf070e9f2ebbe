//! What the device says of a guest that was elsewhere: on this host's own nexus, on another one's, or on none.

use super::{Claim, Error};
use crate::drive::{Lines, Link};
use crate::export::Exported;
use crate::ground::{End, Fate, Ground};
use handover::{Outcome, Path, Side, Tracked, UnitIndex};
use ledger::State;
use nexus::unit_attention;
use pr_helper::service::question::Questions;
use scsi::TransportId;
use scsi::pr::{FullStatus, InAction, Key, request};

/// Most unit attentions that are taken before one answer.
const ATTENTIONS: usize = 16;
/// READ FULL STATUS.
const LENGTH: u16 = 8192;

/// What was found of one logical unit.
pub(super) enum Found {
    /// This, on this host's own nexus; and sense data that the questions took.
    Own(Tracked, Vec<Vec<u8>>),
    /// The key on other nexuses; which, if the device tells.
    Elsewhere(Option<Vec<TransportId>>),
    /// The key nowhere.
    Gone(Fate, Claim),
}

impl Found {
    /// Of a guest that had nothing any more when it was last seen.
    pub(super) const fn without(state: State) -> Self {
        match state {
            State::Fenced => Self::Gone(Fate::Fenced, Claim::Fenced),
            State::Lost => Self::Gone(Fate::Lost, Claim::Lost),
            _ => Self::Gone(Fate::Has(NOTHING), Claim::Nothing),
        }
    }

    /// How it ends as far as it is known; what is elsewhere is still to be taken over. What the guest was owed it is owed
    /// here as well.
    pub(super) fn end(self, unit: UnitIndex, known: &Exported) -> (Claim, End) {
        let mut owed = known.owed.clone();
        let (claim, fate) = match self {
            Self::Own(tracked, taken) => {
                owed.extend(taken);
                (Claim::Proved, Fate::Has(tracked))
            }
            Self::Elsewhere(_) => (Claim::TakenOver, Fate::AsBefore),
            Self::Gone(fate, claim) => (claim, fate),
        };
        (claim, End { unit, fate, owed })
    }
}

const NOTHING: Tracked = Tracked { key: None, held: None, aptpl: false, all_target_ports: false };

/// Asks the nexus that acts, of a guest that had this key.
pub(super) fn ask(
    ground: &Ground,
    lines: &mut Lines,
    index: UnitIndex,
    known: &Exported,
    key: Key,
) -> Result<Found, Error> {
    let (Some(unit), Some(link)) =
        (ground.unit(index), lines.link(index, Path { side: Side::Destination, index: 0 }))
    else {
        return Err(Error::Stuck);
    };
    let port = unit.paths.first().map(|path| path.port.clone()).unwrap_or_default();
    let silent = |answer| Error::Silent { lun: known.lun.clone(), answer: Box::new(answer) };
    let mut questions = Questions::new(&mut *link, &port, known.tracked);
    questions.candidates = vec![(key, known.tracked.aptpl)];
    questions.claims = known.tracked.held.into_iter().collect();
    let answer = questions.ask().map_err(silent)?;
    let taken = std::mem::take(&mut questions.taken);
    // Under another key it is another guest's, which shares the nexus.
    if answer.tracker.is_registered() && answer.tracker.last().key == Some(key) {
        return Ok(Found::Own(answer.tracker.last(), taken));
    }
    if questions.may_be_registered(key).map_err(silent)? {
        return Ok(Found::Elsewhere(holders(link, key)));
    }
    let fell = answer.generation.zip(known.generation).is_some_and(|(now, then)| now < then);
    Ok(if answer.nobody && fell { Found::without(State::Lost) } else { Found::without(State::Fenced) })
}

/// Who has the key; `None` where the device does not tell.
fn holders(link: &mut Link, key: Key) -> Option<Vec<TransportId>> {
    let ask = request::read(InAction::READ_FULL_STATUS, LENGTH);
    let ended = (0..ATTENTIONS).find_map(|_| match link.send(&ask) {
        Outcome::Done(ended) if unit_attention(&ended).is_some() => None,
        other => Some(other),
    });
    let Some(Outcome::Done(ended)) = ended.filter(|ended| matches!(ended, Outcome::Done(_))) else {
        return None;
    };
    let status = ended.status.is_good().then(|| FullStatus::parse(&ended.data)).flatten()?;
    let with_key = status.descriptors.into_iter().filter(|one| one.key == key);
    let ports = with_key.map(|one| one.initiator_port.ok()).collect::<Option<Vec<_>>>()?;
    (!status.truncated && !ports.is_empty()).then_some(ports)
}
