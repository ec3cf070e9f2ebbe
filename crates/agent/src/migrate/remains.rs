//! An interrupted handover, from the journals of both hosts: the same functions on both, because the two replicas of the
//! recovery must be alike.

use super::leg::Agreed;
use super::site::{Begin, Last, Leg, Log, Lun, Trouble};
use super::{talk, units};
use crate::entry::EntryForm;
use crate::journal;
use crate::ownership::{Mark, Marks};
use crate::recover::{Merged, merge};
use handover::known_targets::Traits;
use handover::{Entry, Group, Remains, Side};
use peer::message::Offer;
use peer::message::{Id, Options, Paths, Record, Recover, Remains as Told, Word};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The last entry of a logical unit in a message.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    entry: EntryForm,
    /// It is of the way back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    back: bool,
}

/// What both hosts put in order together.
pub(crate) struct Interrupted {
    pub(crate) agreed: Agreed,
    pub(crate) leg: Leg,
    /// Which units, by their places.
    pub(crate) places: Vec<u16>,
    /// `None` where nothing was begun.
    pub(crate) group: Option<Group>,
}

/// A host's journal in the words of the messages. `luns` are its logical units as they can be reached now.
pub(crate) fn record(log: &dyn Log, luns: &[Lun]) -> Record {
    let begin = Begin { luns: luns.to_vec(), ..log.begun().clone() };
    tell(&begin, log.marks(), &log.last(), None)
}

/// What a journal has of a handover in the words of the messages.
pub(crate) fn tell(begin: &Begin, marks: Marks, last: &[Option<Last>], verdict: Option<String>) -> Record {
    let lun = |(place, lun): (usize, &Lun)| Told {
        lun: lun.name.clone(),
        ports: lun.ports.iter().map(units::told).collect(),
        entry: last.get(place).copied().flatten().and_then(form),
    };
    Record {
        handover: Id(begin.handover),
        led: begin.side == Side::Source,
        marks: Mark::ALL.into_iter().filter(|mark| marks.has(*mark)).map(talk::told).collect(),
        luns: begin.luns.iter().enumerate().map(lun).collect(),
        verdict,
    }
}

fn form(last: Last) -> Option<Value> {
    serde_json::to_value(Form { entry: EntryForm::new(&last.entry), back: last.leg == Leg::Back }).ok()
}

fn last(told: &Told) -> Result<Option<Last>, Trouble> {
    let Some(value) = &told.entry else { return Ok(None) };
    let wrong = |error: String| Trouble(format!("the other host's entry of {}: {error}", told.lun));
    let form: Form = serde_json::from_value(value.clone()).map_err(|error| wrong(error.to_string()))?;
    let entry = form.entry.to_entry().map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Last { leg: if form.back { Leg::Back } else { Leg::There }, entry }))
}

/// From what both hosts say, with this host's `luns`.
pub(crate) fn interrupted(
    recover: &Recover,
    destination: &Record,
    luns: &[Lun],
) -> Result<Interrupted, Trouble> {
    let source = &recover.record;
    let same = source.luns.iter().map(|lun| &lun.lun).eq(destination.luns.iter().map(|lun| &lun.lun));
    if !same {
        return Err(Trouble("the two hosts' journals name different logical units".into()));
    }
    let lasts = |record: &Record| record.luns.iter().map(last).collect::<Result<Vec<_>, _>>();
    let (from, to) = (lasts(source)?, lasts(destination)?);
    let merged = from.iter().zip(&to).map(|(from, to)| merge(Some(from.map(turned)), Some(to.map(turned))));
    let merged = merged.collect::<Result<Vec<_>, _>>().map_err(|error| Trouble(error.to_string()))?;
    let back = merged.iter().any(|merged| leg_of(merged) == Leg::Back);
    let leg = if back { Leg::Back } else { Leg::There };
    let (mut remains, mut places) = (Vec::new(), Vec::new());
    for (place, merged) in (0u16..).zip(&merged) {
        let entries = merged.entries;
        if leg_of(merged) == leg {
            let (Some(from), Some(to)) =
                (source.luns.get(usize::from(place)), destination.luns.get(usize::from(place)))
            else {
                continue;
            };
            places.push(place);
            remains.push(one(leg, entries, from, to, recover)?);
        }
    }
    let group = if remains.is_empty() { None } else { Group::recover(remains) };
    Ok(Interrupted { agreed: agreed(source, destination, luns), leg, places, group })
}

/// A last entry as the journal has it.
fn turned(last: Last) -> journal::Last {
    journal::Last { turn: u16::from(last.leg == Leg::Back), entry: last.entry }
}

const fn leg_of(merged: &Merged) -> Leg {
    if merged.turn % 2 == 1 { Leg::Back } else { Leg::There }
}

fn one(
    leg: Leg,
    entries: [Option<Entry>; 2],
    from: &Told,
    to: &Told,
    recover: &Recover,
) -> Result<Remains, Trouble> {
    let [at_source, at_destination] = entries;
    let (from, to) = (units::ports(&from.ports)?, units::ports(&to.ports)?);
    let there = leg == Leg::There;
    let (source_entry, destination_entry) =
        if there { (at_source, at_destination) } else { (at_destination, at_source) };
    let (source, destination) = if there { (from, to) } else { (to, from) };
    Ok(Remains {
        source_entry,
        destination_entry,
        source,
        destination,
        source_alive: true,
        destination_alive: true,
        prefer_destination: !there || recover.prefer_destination,
        kept_at_source: there && recover.kept_at_source,
        traits: Traits::default(),
    })
}

/// What this host, the source, can find out alone about these units; `None` where there is nothing. None of them was on its
/// way back.
pub(crate) fn without_destination(
    agreed: &Agreed,
    log: &dyn Log,
    places: &[u16],
) -> Result<Option<Group>, Trouble> {
    let last = log.last();
    let asked = |place: &usize| places.iter().any(|other| usize::from(*other) == *place);
    let of = |(place, (offer, paths)): (usize, (&Offer, &Paths))| {
        let last = last.get(place).copied().flatten();
        Ok(Remains {
            source_entry: last.filter(|last| last.leg == Leg::There).map(|last| last.entry),
            destination_entry: None,
            source: units::ports(&offer.ports)?,
            destination: units::ports(&paths.ports)?,
            source_alive: true,
            destination_alive: false,
            prefer_destination: false,
            kept_at_source: false,
            traits: Traits::default(),
        })
    };
    let both = agreed.offers.iter().zip(&agreed.paths).enumerate().filter(|(place, _)| asked(place));
    Ok(Group::recover(both.map(of).collect::<Result<_, Trouble>>()?))
}

/// What this host, the destination, can find out alone: from its own entries, and the source's nexuses as its journal has them.
/// `None` where nothing was to move.
pub(crate) fn without_source(agreed: &Agreed, log: &dyn Log) -> Result<Option<Group>, Trouble> {
    let (last, theirs) = (log.last(), &log.begun().theirs);
    let of = |(place, own): (usize, &Paths)| {
        let last = last.get(place).copied().flatten();
        Ok(Remains {
            source_entry: None,
            destination_entry: last.filter(|last| last.leg == Leg::There).map(|last| last.entry),
            source: theirs.get(place).cloned().unwrap_or_default(),
            destination: units::ports(&own.ports)?,
            source_alive: false,
            destination_alive: true,
            prefer_destination: true,
            kept_at_source: false,
            traits: Traits::default(),
        })
    };
    Ok(Group::recover(agreed.paths.iter().enumerate().map(of).collect::<Result<_, Trouble>>()?))
}

fn agreed(source: &Record, destination: &Record, luns: &[Lun]) -> Agreed {
    let offer = |lun: &Told| Offer {
        lun: lun.lun.clone(),
        key: None,
        nonce: Word::default(),
        ports: lun.ports.clone(),
        identity_is_ours: false,
    };
    let paths = |lun: &Told| Paths { lun: lun.lun.clone(), ports: lun.ports.clone() };
    Agreed {
        offers: source.luns.iter().map(offer).collect(),
        paths: destination.luns.iter().map(paths).collect(),
        options: Options::default(),
        luns: luns.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handover::journal::Stage;
    use handover::{Ending, GroupStep, Method, Role};
    use peer::message::Guest;
    use scsi::pr::Key;

    fn entry(key: u64) -> Entry {
        Entry {
            stage: Stage::Freeze,
            method: Method::SourceNonce,
            key: Key(key),
            nonce: Key(2),
            role: Role::Registrant,
            aptpl: false,
            generation: 0,
            source_paths: 1,
            holder: None,
            destination_had: 0,
            sharers: 0,
        }
    }

    /// What comes of a source that says this key, and a destination whose journal has that one, if any.
    fn interrupted_with(theirs: u64, own: Option<u64>) -> Result<Interrupted, Trouble> {
        let record = |led, key: Option<u64>| {
            let entry = key.and_then(|key| form(Last { leg: Leg::There, entry: entry(key) }));
            let told = Told { lun: "naa.1".into(), ports: Vec::new(), entry };
            Record { handover: Id(1), led, marks: Vec::new(), luns: vec![told], verdict: None }
        };
        let recover = Recover {
            guest: Guest { vm: "vm".into(), uuid: "u".into() },
            record: record(true, Some(theirs)),
            prefer_destination: false,
            kept_at_source: false,
        };
        interrupted(&recover, &record(false, own), &[])
    }

    #[test]
    fn a_peer_that_names_another_guests_key_brings_about_no_command() {
        assert!(interrupted_with(9, Some(1)).is_err());
        assert!(interrupted_with(1, Some(1)).is_ok());
        // Without an entry of its own this host did nothing, whatever the peer says.
        let mut group = interrupted_with(9, None).unwrap().group.unwrap();
        assert_eq!(group.poll(), GroupStep::Finished(Ending::Kept));
    }
}
