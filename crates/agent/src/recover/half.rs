//! What one host has of an interrupted handover: its journal, and its paths as they are now. It travels in the peer's
//! messages, each unit's last entry in the journal's own form.

use super::Unfit;
use crate::entry::EntryForm;
use crate::journal::{Handover, Last, Lun, TargetForm};
use handover::known_targets::TargetIdentity;
use handover::{Port, Side, UnitIndex};
use peer::message;
use scsi::TransportId;
use serde::{Deserialize, Serialize};

/// One host's half of what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// What the host is in the handover.
    pub side: Side,
    /// It can send commands.
    pub alive: bool,
    /// The logical units, in the order of the offer.
    pub units: Vec<HalfUnit>,
}

/// A logical unit of a half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfUnit {
    /// Its designator.
    pub lun: String,
    /// The host's paths; none: as the other host recorded them.
    pub own: Vec<Port>,
    /// The other host's paths, as this one recorded them.
    pub peer: Vec<Port>,
    /// The last entry.
    pub last: Option<Last>,
    /// What the target calls itself, where it is known.
    pub target: Option<TargetIdentity>,
}

/// A unit's last entry as it travels.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastForm {
    turn: u16,
    entry: EntryForm,
    /// Vendor, product and revision, each byte as the character of the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<TargetForm>,
}

impl Half {
    /// What this host's journal says. `ports` are its paths to each unit as they are now; where there are none, as recorded.
    #[must_use]
    pub fn new(handover: &Handover, ports: &[Vec<Port>]) -> Self {
        let unit = |(number, lun): (u16, &Lun)| HalfUnit {
            lun: lun.lun.clone(),
            own: ports
                .get(usize::from(number))
                .filter(|ports| !ports.is_empty())
                .cloned()
                .unwrap_or_else(|| lun.own.iter().map(|path| path.port.clone()).collect()),
            peer: lun.peer.clone(),
            last: handover.last.get(&UnitIndex(number)).copied(),
            target: lun.target,
        };
        let units = (0u16..).zip(&handover.begun.luns).map(unit).collect();
        Self { side: handover.begun.side, alive: true, units }
    }

    /// The units as they travel in a [`message::Record`].
    #[must_use]
    pub fn to_luns(&self) -> Vec<message::Remains> {
        let lun = |unit: &HalfUnit| message::Remains {
            lun: unit.lun.clone(),
            ports: unit.own.iter().map(to_wire).collect(),
            entry: unit.last.and_then(|Last { turn, entry }| {
                let target = unit.target.as_ref().map(TargetForm::new);
                serde_json::to_value(LastForm { turn, entry: EntryForm::new(&entry), target }).ok()
            }),
        };
        self.units.iter().map(lun).collect()
    }

    /// The half that a peer's record is.
    ///
    /// # Errors
    /// [`Unfit::Unknown`] if it has an entry or a port that this version cannot read.
    pub fn from_record(record: &message::Record) -> Result<Self, Unfit> {
        let side = if record.led { Side::Source } else { Side::Destination };
        let units = record.luns.iter().map(unit_from_wire).collect::<Result<_, _>>()?;
        Ok(Self { side, alive: true, units })
    }

    /// The other half of this one when nobody can be asked for it.
    pub(super) fn unreachable(&self) -> Self {
        let unit = |unit: &HalfUnit| HalfUnit {
            lun: unit.lun.clone(),
            own: Vec::new(),
            peer: Vec::new(),
            last: None,
            target: None,
        };
        Self { side: self.side.other(), alive: false, units: self.units.iter().map(unit).collect() }
    }

    /// Whether the other half is one.
    pub(super) fn check(&self, theirs: &Self) -> Result<(), Unfit> {
        if theirs.side == self.side {
            return Err(Unfit::SameSide(theirs.side));
        }
        let names = |half: &Self| half.units.iter().map(|unit| unit.lun.clone()).collect::<Vec<_>>();
        if names(self) != names(theirs) {
            return Err(Unfit::OtherUnits);
        }
        Ok(())
    }

    pub(super) fn unit(&self, unit: UnitIndex) -> Option<&HalfUnit> {
        self.units.get(usize::from(unit.0))
    }

    /// Of a unit with an entry: the peer hears of no other.
    pub(super) fn target(&self, unit: UnitIndex) -> Option<TargetIdentity> {
        self.unit(unit).and_then(|unit| unit.last.and(unit.target))
    }
}

fn to_wire(port: &Port) -> message::Port {
    let initiator = port.initiator.as_ref().map(ToString::to_string);
    message::Port { initiator, target_port: port.target_port }
}

fn unit_from_wire(remains: &message::Remains) -> Result<HalfUnit, Unfit> {
    let unknown = |error: String| Unfit::Unknown(error);
    let port = |port: &message::Port| {
        let parse = |text: &String| text.parse::<TransportId>().map_err(|error| unknown(error.to_string()));
        let initiator = port.initiator.as_ref().map(parse).transpose()?;
        Ok(Port { initiator, target_port: port.target_port })
    };
    let form = |value: &serde_json::Value| serde_json::from_value::<LastForm>(value.clone());
    let form = remains.entry.as_ref().map(form).transpose().map_err(|error| unknown(error.to_string()))?;
    let last = |form: &LastForm| form.entry.to_entry().map(|entry| Last { turn: form.turn, entry });
    let target = form.as_ref().and_then(|form| form.target.as_ref()).map(TargetForm::target);
    Ok(HalfUnit {
        lun: remains.lun.clone(),
        own: remains.ports.iter().map(port).collect::<Result<_, _>>()?,
        peer: Vec::new(),
        last: form.as_ref().map(last).transpose().map_err(|error| unknown(error.to_string()))?,
        target: target.transpose().map_err(unknown)?,
    })
}
