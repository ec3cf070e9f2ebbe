//! An interrupted handover, from the journals of both hosts: the same functions on both, because the two replicas of the
//! recovery must be alike.

use super::leg::Agreed;
use super::site::{Begin, Last, Leg, Log, Lun, Trouble};
use super::{talk, units};
use crate::entry::EntryForm;
use crate::journal::{self, TargetForm};
use crate::ownership::{Mark, Marks};
use crate::recover::{Merged, merge};
use handover::known_targets::{KnownTargets, TargetIdentity, Traits};
use handover::{Entry, Group, Port, Remains, Side};
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
    /// What the target calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<TargetForm>,
}

/// What both hosts put in order together.
#[derive(Debug)]
pub struct Interrupted {
    pub(crate) agreed: Agreed,
    /// Back: source and destination have changed places in the group.
    pub leg: Leg,
    /// Which units, by their places.
    pub places: Vec<u16>,
    /// `None` where nothing was begun.
    pub group: Option<Group>,
}

/// A host's journal in the words of the messages. `luns` are its logical units as they can be reached now.
pub(crate) fn record(log: &dyn Log, luns: &[Lun]) -> Record {
    let begin = Begin { luns: luns.to_vec(), ..log.begun().clone() };
    tell(&begin, log.marks(), &log.last(), None)
}

/// What a journal has of a handover in the words of the messages.
#[must_use]
pub fn tell(begin: &Begin, marks: Marks, last: &[Option<Last>], verdict: Option<String>) -> Record {
    let lun = |(place, lun): (usize, &Lun)| Told {
        lun: lun.name.clone(),
        ports: lun.ports.iter().map(units::told).collect(),
        entry: last.get(place).copied().flatten().and_then(|last| form(last, lun.target.as_ref())),
    };
    Record {
        handover: Id(begin.handover),
        led: begin.side == Side::Source,
        marks: Mark::ALL.into_iter().filter(|mark| marks.has(*mark)).map(talk::told).collect(),
        luns: begin.luns.iter().enumerate().map(lun).collect(),
        verdict,
    }
}

fn form(last: Last, target: Option<&TargetIdentity>) -> Option<Value> {
    let (entry, back) = (EntryForm::new(&last.entry), last.leg == Leg::Back);
    serde_json::to_value(Form { entry, back, target: target.map(TargetForm::new) }).ok()
}

/// The last entry that a host tells of, and the target.
type Heard = (Option<Last>, Option<TargetIdentity>);

fn heard(told: &Told) -> Result<Heard, Trouble> {
    let Some(value) = &told.entry else { return Ok((None, None)) };
    let wrong = |error: String| Trouble(format!("the other host's entry of {}: {error}", told.lun));
    let form: Form = serde_json::from_value(value.clone()).map_err(|error| wrong(error.to_string()))?;
    let entry = form.entry.to_entry().map_err(|error| wrong(error.to_string()))?;
    let target = form.target.as_ref().map(TargetForm::target).transpose().map_err(wrong)?;
    Ok((Some(Last { leg: if form.back { Leg::Back } else { Leg::There }, entry }), target))
}

/// What is known of a target that both hosts call the same; of another nothing, so that no peer's word makes it a better one than
/// it is. Both hosts have both words, and so come to the same.
fn traits(one: Option<TargetIdentity>, other: Option<TargetIdentity>) -> Traits {
    let target = one.filter(|one| other == Some(*one));
    target.map(|target| KnownTargets::default().traits(&target)).unwrap_or_default()
}

/// From what both hosts say, with this host's `luns`: the same on both.
///
/// # Errors
/// [`Trouble`]: the two do not speak of one handover, and nothing may be done.
pub fn interrupted(recover: &Recover, destination: &Record, luns: &[Lun]) -> Result<Interrupted, Trouble> {
    let source = &recover.record;
    let same = source.luns.iter().map(|lun| &lun.lun).eq(destination.luns.iter().map(|lun| &lun.lun));
    if !same {
        return Err(Trouble("the two hosts' journals name different logical units".into()));
    }
    let all = |record: &Record| record.luns.iter().map(heard).collect::<Result<Vec<_>, _>>();
    let (from, to) = (all(source)?, all(destination)?);
    let known: Vec<_> = from.iter().zip(&to).map(|((_, one), (_, other))| traits(*one, *other)).collect();
    let both = from.iter().zip(&to).map(|((from, _), (to, _))| (from.map(turned), to.map(turned)));
    let merged = both.map(|(from, to)| merge(Some(from), Some(to)));
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
            let traits = known.get(usize::from(place)).copied().unwrap_or_default();
            remains.push(Remains { traits, ..one(leg, entries, from, to, recover)? });
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
        let ports = [units::ports(&offer.ports)?, units::ports(&paths.ports)?];
        Ok(alone(Side::Source, last, ports, target(agreed, place)))
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
        let source = theirs.get(place).cloned().unwrap_or_default();
        let ports = [source, units::ports(&own.ports)?];
        Ok(alone(Side::Destination, last, ports, target(agreed, place)))
    };
    Ok(Group::recover(agreed.paths.iter().enumerate().map(of).collect::<Result<_, Trouble>>()?))
}

fn target(agreed: &Agreed, place: usize) -> Option<TargetIdentity> {
    agreed.luns.get(place).and_then(|lun| lun.target)
}

/// What `host` has alone of a logical unit that never was on its way back; the ports of the source, and of the destination.
#[must_use]
pub fn alone(
    host: Side,
    last: Option<Last>,
    [source, destination]: [Vec<Port>; 2],
    target: Option<TargetIdentity>,
) -> Remains {
    let entry = last.filter(|last| last.leg == Leg::There).map(|last| last.entry);
    let at_destination = Remains::of_destination_alone(entry, source, destination);
    let traits = traits(target, target);
    match host {
        Side::Destination => Remains { traits, ..at_destination },
        Side::Source => Remains {
            source_entry: entry,
            destination_entry: None,
            source_alive: true,
            destination_alive: false,
            prefer_destination: false,
            traits,
            ..at_destination
        },
    }
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
            let entry = key.and_then(|key| form(Last { leg: Leg::There, entry: entry(key) }, None));
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
    fn what_is_known_of_a_target_counts_where_both_hosts_call_it_the_same() {
        let named = |vendor: &[u8; 8]| Some(TargetIdentity { vendor: *vendor, ..TargetIdentity::default() });
        let known = traits(named(b"LIO-ORG "), named(b"LIO-ORG "));
        assert!(known.counts_registrations.is_yes() && known.counts_unregistrations.is_no());
        for other in [None, named(b"SPDK    ")] {
            assert_eq!(traits(named(b"LIO-ORG "), other), Traits::default());
            assert_eq!(traits(other, named(b"LIO-ORG ")), Traits::default());
        }
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
