//! One line of a journal: `CRC32C SP JSON LF`, the checksum in eight hexadecimal digits over the JSON text.

use crate::entry::EntryForm;
use crate::ownership::Mark;
use handover::known_targets::TargetIdentity;
use handover::{Entry, Method, Port, Side, UnitIndex};
use ledger::HandoverId;
use ledger::frame::{checked, framed};
use scsi::TransportId;
use scsi::pr::Key;
use serde::{Deserialize, Serialize};

/// Bytes that a line may have, its end included.
pub(super) const LONGEST: usize = 4 << 20;

/// How a handover began on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The same on both hosts.
    pub handover: HandoverId,
    /// The guest's UUID, as its QEMU tells it.
    pub uuid: String,
    /// What this host is in it.
    pub side: Side,
    /// The other host.
    pub peer: String,
    /// The guest's logical units; their places are the numbers of the entries' units.
    pub luns: Vec<Lun>,
    /// This method or none.
    pub method: Option<Method>,
    /// The guest's key may be unlisted for one command.
    pub allow_absence: bool,
    /// The guest was paused when it began, and stays so.
    pub stays_paused: bool,
    /// Somebody else moves the guest: no QEMU is driven.
    pub orchestrated: bool,
}

/// A logical unit of a handover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lun {
    /// Its best designator, the same on both hosts.
    pub lun: String,
    /// This host's paths.
    pub own: Vec<OwnPath>,
    /// The other host's paths.
    pub peer: Vec<Port>,
    /// The guest's key, where it was known.
    pub key: Option<Key>,
    /// A key that nobody uses.
    pub nonce: Key,
    /// What the target calls itself, where it is known: recovery may have to know what is known of it.
    pub target: Option<TargetIdentity>,
}

/// A path of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPath {
    /// How it was opened: a device, a URL, or a helper's socket and a node.
    pub device: String,
    /// Its names on the target.
    pub port: Port,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Begin(Begun),
    Entries {
        round: u64,
        entries: Vec<(UnitIndex, Entry)>,
    },
    /// The units go the other way from here on.
    Turn(Vec<UnitIndex>),
    /// Of the other host's paths the units' are these alone.
    From(Vec<(UnitIndex, Port)>),
    Mark(Mark),
    /// The guest was given back: let run again, or left paused where it was so.
    Resumed,
    /// The guest ran at the destination before that was given it.
    RanThere,
    End {
        verdict: String,
    },
}

/// Why a line was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The checksum does not match: never written whole, or changed since.
    Damaged(String),
    /// It is whole, and a newer program wrote it.
    Newer(String),
}

/// [`Said`] as JSON has it. Unknown lines and fields are refused: they may matter.
#[derive(Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case", deny_unknown_fields)]
enum Fields {
    Begin(BeginFields),
    Entries {
        round: u64,
        entries: Vec<UnitFields>,
    },
    Turn {
        units: Vec<u16>,
    },
    From {
        ports: Vec<UnitPort>,
    },
    Mark {
        mark: Mark,
    },
    /// Not a unit: serde would let one pass with fields that nobody knows.
    Resumed {},
    RanThere {},
    End {
        verdict: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginFields {
    handover: String,
    uuid: String,
    side: SideName,
    peer: String,
    luns: Vec<LunFields>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    allow_absence: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stays_paused: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    orchestrated: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SideName {
    Source,
    Destination,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LunFields {
    lun: String,
    own: Vec<OwnFields>,
    peer: Vec<PortFields>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    nonce: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<TargetForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnFields {
    device: String,
    port: PortFields,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initiator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_port: Option<u16>,
}

/// [`TargetIdentity`] as JSON has it: each byte as the character of the same number, so that nothing is lost of what is not
/// ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetForm {
    vendor: String,
    product: String,
    revision: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitPort {
    unit: u16,
    port: PortFields,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitFields {
    unit: u16,
    entry: EntryForm,
}

impl Said {
    /// The line that says this, its end included; `None` if it would be too long.
    pub(super) fn to_line(&self) -> Option<String> {
        let line = framed(&serde_json::to_string(&Fields::new(self)).ok()?);
        (line.len() <= LONGEST).then_some(line)
    }

    /// Reads a line, without its end.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Wrong> {
        let json = checked(bytes, LONGEST).map_err(|damage| Wrong::Damaged(damage.to_string()))?;
        let fields: Fields = serde_json::from_str(json).map_err(|error| Wrong::Newer(error.to_string()))?;
        fields.said().map_err(Wrong::Newer)
    }
}

impl Fields {
    fn new(said: &Said) -> Self {
        match said {
            Said::Begin(begun) => Self::Begin(BeginFields::new(begun)),
            Said::Entries { round, entries } => {
                let fields = |(unit, entry): &(UnitIndex, Entry)| UnitFields {
                    unit: unit.0,
                    entry: EntryForm::new(entry),
                };
                Self::Entries { round: *round, entries: entries.iter().map(fields).collect() }
            }
            Said::Turn(units) => Self::Turn { units: units.iter().map(|unit| unit.0).collect() },
            Said::From(ports) => {
                let one =
                    |(unit, port): &(UnitIndex, Port)| UnitPort { unit: unit.0, port: PortFields::new(port) };
                Self::From { ports: ports.iter().map(one).collect() }
            }
            Said::Mark(mark) => Self::Mark { mark: *mark },
            Said::Resumed => Self::Resumed {},
            Said::RanThere => Self::RanThere {},
            Said::End { verdict } => Self::End { verdict: verdict.clone() },
        }
    }

    fn said(self) -> Result<Said, String> {
        Ok(match self {
            Self::Begin(fields) => Said::Begin(fields.begun()?),
            Self::Entries { round, entries } => {
                let entry = |unit: &UnitFields| {
                    Ok((UnitIndex(unit.unit), unit.entry.to_entry().map_err(|error| error.to_string())?))
                };
                Said::Entries { round, entries: entries.iter().map(entry).collect::<Result<_, String>>()? }
            }
            Self::Turn { units } => Said::Turn(units.into_iter().map(UnitIndex).collect()),
            Self::From { ports } => {
                let one = |UnitPort { unit, port }| Ok((UnitIndex(unit), port.port()?));
                Said::From(ports.into_iter().map(one).collect::<Result<_, String>>()?)
            }
            Self::Mark { mark } => Said::Mark(mark),
            Self::Resumed {} => Said::Resumed,
            Self::RanThere {} => Said::RanThere,
            Self::End { verdict } => Said::End { verdict },
        })
    }
}

impl BeginFields {
    fn new(begun: &Begun) -> Self {
        Self {
            handover: begun.handover.to_string(),
            uuid: begun.uuid.clone(),
            side: SideName::new(begun.side),
            peer: begun.peer.clone(),
            luns: begun.luns.iter().map(LunFields::new).collect(),
            method: begun.method.map(|method| method.name().to_owned()),
            allow_absence: begun.allow_absence,
            stays_paused: begun.stays_paused,
            orchestrated: begun.orchestrated,
        }
    }

    fn begun(self) -> Result<Begun, String> {
        let method = self.method.map(|name| name.parse::<Method>()).transpose();
        Ok(Begun {
            handover: HandoverId::from_hex(&self.handover).ok_or("a handover's id is 32 digits")?,
            uuid: self.uuid,
            side: self.side.side(),
            peer: self.peer,
            luns: self.luns.into_iter().map(LunFields::lun).collect::<Result<_, _>>()?,
            method: method.map_err(|error| error.to_string())?,
            allow_absence: self.allow_absence,
            stays_paused: self.stays_paused,
            orchestrated: self.orchestrated,
        })
    }
}

impl SideName {
    const fn new(side: Side) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Destination => Self::Destination,
        }
    }

    const fn side(self) -> Side {
        match self {
            Self::Source => Side::Source,
            Self::Destination => Side::Destination,
        }
    }
}

impl LunFields {
    fn new(lun: &Lun) -> Self {
        let own =
            |path: &OwnPath| OwnFields { device: path.device.clone(), port: PortFields::new(&path.port) };
        Self {
            lun: lun.lun.clone(),
            own: lun.own.iter().map(own).collect(),
            peer: lun.peer.iter().map(PortFields::new).collect(),
            key: lun.key.map(|key| key.to_string()),
            nonce: lun.nonce.to_string(),
            target: lun.target.as_ref().map(TargetForm::new),
        }
    }

    fn lun(self) -> Result<Lun, String> {
        let own = |path: OwnFields| Ok(OwnPath { device: path.device, port: path.port.port()? });
        let key = |text: String| text.parse::<Key>().map_err(|error| error.to_string());
        Ok(Lun {
            lun: self.lun,
            own: self.own.into_iter().map(own).collect::<Result<_, String>>()?,
            peer: self.peer.into_iter().map(PortFields::port).collect::<Result<_, _>>()?,
            key: self.key.map(key).transpose()?,
            nonce: key(self.nonce)?,
            target: self.target.as_ref().map(TargetForm::target).transpose()?,
        })
    }
}

impl PortFields {
    fn new(port: &Port) -> Self {
        Self { initiator: port.initiator.as_ref().map(ToString::to_string), target_port: port.target_port }
    }

    fn port(self) -> Result<Port, String> {
        let parse = |text: String| text.parse::<TransportId>().map_err(|error| error.to_string());
        let initiator = self.initiator.map(parse).transpose()?;
        Ok(Port { initiator, target_port: self.target_port })
    }
}

impl TargetForm {
    /// The form of an identity.
    #[must_use]
    pub fn new(target: &TargetIdentity) -> Self {
        let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect();
        Self {
            vendor: text(&target.vendor),
            product: text(&target.product),
            revision: text(&target.revision),
        }
    }

    /// The identity.
    ///
    /// # Errors
    /// What has not the length that it must have.
    pub fn target(&self) -> Result<TargetIdentity, String> {
        Ok(TargetIdentity {
            vendor: bytes(&self.vendor)?,
            product: bytes(&self.product)?,
            revision: bytes(&self.revision)?,
        })
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = text.chars().map(|letter| u8::try_from(letter).ok()).collect::<Option<Vec<u8>>>();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("{text:?} does not have {N} bytes"))
}
