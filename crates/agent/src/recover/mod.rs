//! Puts an interrupted handover in order, on the devices' side: what both journals say becomes the groups that finish it or
//! undo it, from both hosts together or from one alone. Who may run the guest afterwards is
//! [`ownership`](crate::ownership)'s to say.
//!
//! The two hosts exchange what their journals have ([`Half`]), make the same [`Part`]s of it, and run each with
//! [`conduct`](crate::conduct). Logical units that were on their way back are a part of their own, in which source and
//! destination have changed places. Nothing a peer says of a handover counts that this host's journal does not
//! know, and no key that this host did not know: a peer that lies can end a recovery, and make this host send nothing.

mod half;
mod merge;

pub use half::{Half, HalfUnit};
pub use merge::{Merged, Mismatch, merge};

use handover::known_targets::KnownTargets;
use handover::{Group, Port, Remains, Side, UnitIndex, Verdict};

/// What is known beside the journals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The guest cannot be resumed at the source any more: rather finish than undo.
    pub prefer_destination: bool,
    /// The guest was given back to the source since the last entry and may run there: it is never moved then.
    pub kept_at_source: bool,
}

/// Logical units that one group recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Source and destination of the group have changed places: its source is the handover's destination.
    pub exchanged: bool,
    /// Which units of the handover those of the group are.
    pub units: Vec<UnitIndex>,
    remains: Vec<Remains>,
}

/// Why what the peer says cannot be what is left of this handover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It speaks of other logical units.
    #[error("the peer's journal is about other logical units")]
    OtherUnits,
    /// It is the same side.
    #[error("the peer's journal says that it was the {0} too")]
    SameSide(Side),
    /// Its entry has a key that this host does not know.
    #[error("the peer's journal has other keys for logical unit {}", .0.0)]
    OtherKeys(UnitIndex),
    /// An entry of a form that this version does not know.
    #[error("the peer's journal has something that this version does not know: {0}")]
    Unknown(String),
}

/// Where a logical unit's registration is, after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// At the handover's source.
    Source,
    /// At its destination.
    Destination,
    /// Nowhere: another node removed it.
    Fenced,
    /// Nowhere: the target forgot it.
    Lost,
    /// Nobody can tell.
    Unknown,
}

/// What is to be done: the units that never turned back, then those that did. The hosts' tables of targets must be alike.
///
/// # Errors
/// [`Unfit`], and then nothing may be done with this peer.
pub fn parts(
    own: &Half,
    theirs: Option<&Half>,
    wishes: Wishes,
    targets: &KnownTargets,
) -> Result<Vec<Part>, Unfit> {
    if let Some(theirs) = theirs {
        own.check(theirs)?;
    }
    let nobody = own.unreachable();
    let other = theirs.unwrap_or(&nobody);
    let (source, destination) = match own.side {
        Side::Source => (own, other),
        Side::Destination => (other, own),
    };
    let case = Case { source, destination, wishes, targets };
    let merged = case.merge()?;
    let of = |exchanged: bool| {
        let counts = move |merged: &Merged| (merged.turn % 2 == 1) == exchanged;
        let all = (0u16..).map(UnitIndex).zip(&merged);
        case.part(exchanged, all.filter(|(_, merged)| counts(merged)).collect())
    };
    Ok([of(false), of(true)].into_iter().filter(|part| !part.units.is_empty()).collect())
}

/// Both halves, by their sides in the handover.
struct Case<'a> {
    source: &'a Half,
    destination: &'a Half,
    wishes: Wishes,
    targets: &'a KnownTargets,
}

impl Case<'_> {
    fn merge(&self) -> Result<Vec<Merged>, Unfit> {
        let units = (0u16..).map(UnitIndex).zip(self.source.units.iter().zip(&self.destination.units));
        let merged = |(unit, (source, destination)): (UnitIndex, (&HalfUnit, &HalfUnit))| {
            let last = |half: &Half, unit: &HalfUnit| half.alive.then_some(unit.last);
            let merged = merge(last(self.source, source), last(self.destination, destination));
            merged.map_err(|Mismatch| Unfit::OtherKeys(unit))
        };
        units.map(merged).collect()
    }

    fn part(&self, exchanged: bool, units: Vec<(UnitIndex, &Merged)>) -> Part {
        let remains = units.iter().map(|(unit, merged)| self.remains(*unit, merged, exchanged)).collect();
        Part { exchanged, units: units.into_iter().map(|(unit, _)| unit).collect(), remains }
    }

    fn remains(&self, unit: UnitIndex, merged: &Merged, exchanged: bool) -> Remains {
        let (source, destination) =
            if exchanged { (self.destination, self.source) } else { (self.source, self.destination) };
        let [at_source, at_destination] = merged.entries;
        let (source_entry, destination_entry) =
            if exchanged { (at_destination, at_source) } else { (at_source, at_destination) };
        let target = self.source.target(unit).or(self.destination.target(unit));
        let Wishes { prefer_destination, kept_at_source } = self.wishes;
        Remains {
            source_entry,
            destination_entry,
            source: ports(source, destination, unit),
            destination: ports(destination, source, unit),
            source_alive: source.alive,
            destination_alive: destination.alive,
            prefer_destination: if exchanged { kept_at_source } else { prefer_destination },
            kept_at_source: kept_at_source && !exchanged,
            traits: target.map(|target| self.targets.traits(&target)).unwrap_or_default(),
        }
    }
}

/// A host's ports by its own word; of one that cannot be asked, as the other recorded them.
fn ports(half: &Half, other: &Half, unit: UnitIndex) -> Vec<Port> {
    let ports = if half.alive {
        half.unit(unit).map(|unit| &unit.own)
    } else {
        other.unit(unit).map(|unit| &unit.peer)
    };
    ports.cloned().unwrap_or_default()
}

impl Part {
    /// The group that recovers them; both hosts make the same.
    #[must_use]
    pub fn group(&self) -> Option<Group> {
        Group::recover(self.remains.clone())
    }

    /// What a host of the handover is in this group.
    #[must_use]
    pub const fn side(&self, host: Side) -> Side {
        if self.exchanged { host.other() } else { host }
    }

    /// Where the units are, from the verdicts of the group.
    pub fn places(&self, verdicts: impl IntoIterator<Item = Option<Verdict>>) -> Vec<(UnitIndex, Place)> {
        let place = |verdict| match verdict {
            Some(Verdict::Moved) => self.host(Side::Destination),
            Some(Verdict::KeptAtSource { .. } | Verdict::Refused(_)) => self.host(Side::Source),
            Some(Verdict::Fenced { .. }) => Place::Fenced,
            Some(Verdict::Lost) => Place::Lost,
            Some(Verdict::InDoubt(_)) | None => Place::Unknown,
        };
        self.units.iter().copied().zip(verdicts.into_iter().map(place)).collect()
    }

    const fn host(&self, side: Side) -> Place {
        match self.side(side) {
            Side::Source => Place::Source,
            Side::Destination => Place::Destination,
        }
    }
}
