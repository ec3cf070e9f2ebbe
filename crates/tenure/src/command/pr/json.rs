//! Answers as one JSON document: `schema` 1. Keys are strings `0x%016x`, types and codes are numbers.

use super::answer::Answer;
use super::text;
use scsi::pr::{Capabilities, FullStatus, FullStatusDescriptor, Reservation, ReservationType};
use scsi::{Completion, FieldPointer, Sense};
use serde::Serialize;

/// The document of one `tenure pr`.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    schema: u32,
    status: String,
    sense: Option<SenseDocument>,
    unit_attentions: Vec<SenseDocument>,
    #[serde(flatten)]
    body: Body,
}

impl Document {
    /// What is told about a completion.
    pub(super) fn new(completion: &Completion, attentions: &[Sense], answer: &Answer) -> Self {
        Self {
            schema: 1,
            status: completion.status.to_string(),
            sense: completion.decoded_sense().as_ref().map(SenseDocument::from),
            unit_attentions: attentions.iter().map(SenseDocument::from).collect(),
            body: Body::from(answer),
        }
    }
}

/// Sense data.
#[derive(Debug, Serialize)]
pub(crate) struct SenseDocument {
    key: u8,
    asc: u8,
    ascq: u8,
    field_pointer: Option<FieldDocument>,
}

impl From<&Sense> for SenseDocument {
    fn from(sense: &Sense) -> Self {
        let field_pointer = sense.field_pointer.map(FieldDocument::from);
        Self { key: sense.key.0, asc: sense.code.asc, ascq: sense.code.ascq, field_pointer }
    }
}

/// Where the fault is.
#[derive(Debug, Serialize)]
pub(crate) struct FieldDocument {
    r#in: &'static str,
    byte: u16,
    bit: Option<u8>,
}

impl From<FieldPointer> for FieldDocument {
    fn from(at: FieldPointer) -> Self {
        Self { r#in: if at.in_cdb { "cdb" } else { "data" }, byte: at.byte, bit: at.bit }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body {
    Keys { prgeneration: u32, keys: Vec<String>, truncated: bool },
    Reservation { prgeneration: u32, reservation: Option<ReservationDocument> },
    Registrations { prgeneration: u32, registrations: Vec<Registration>, truncated: bool },
    Capabilities { capabilities: CapabilitiesDocument },
    Nothing {},
}

#[derive(Debug, Serialize)]
struct ReservationDocument {
    key: String,
    scope: u8,
    r#type: u8,
}

#[derive(Debug, Serialize)]
struct Registration {
    key: String,
    initiator_port: String,
    relative_target_port: u16,
    all_target_ports: bool,
    holder: bool,
    scope: Option<u8>,
    r#type: Option<u8>,
}

#[derive(Debug, Serialize)]
struct CapabilitiesDocument {
    replace_lost_reservation: bool,
    compatible_reservation_handling: bool,
    specify_initiator_ports: bool,
    all_target_ports: bool,
    persist_through_power_loss_capable: bool,
    persist_through_power_loss_active: bool,
    allow_commands: u8,
    types: Option<Vec<u8>>,
}

impl From<&Answer> for Body {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Nothing | Answer::Unreadable => Self::Nothing {},
            Answer::Keys(keys) => Self::Keys {
                prgeneration: keys.generation,
                keys: keys.keys.iter().map(ToString::to_string).collect(),
                truncated: keys.truncated,
            },
            Answer::Reservation(read) => Self::Reservation {
                prgeneration: read.generation,
                reservation: read.reservation.map(ReservationDocument::from),
            },
            Answer::Capabilities(read) => Self::Capabilities { capabilities: read.into() },
            Answer::FullStatus(status) => Self::registrations(status),
        }
    }
}

impl Body {
    fn registrations(status: &FullStatus) -> Self {
        let registrations = status.descriptors.iter().map(Registration::from).collect();
        Self::Registrations { prgeneration: status.generation, registrations, truncated: status.truncated }
    }
}

impl From<Reservation> for ReservationDocument {
    fn from(held: Reservation) -> Self {
        Self { key: held.key.to_string(), scope: held.scope.0, r#type: held.kind.0 }
    }
}

impl From<&FullStatusDescriptor> for Registration {
    fn from(registration: &FullStatusDescriptor) -> Self {
        Self {
            key: registration.key.to_string(),
            initiator_port: text::initiator_port(registration),
            relative_target_port: registration.relative_target_port,
            all_target_ports: registration.all_target_ports,
            holder: registration.holds.is_some(),
            scope: registration.holds.map(|(scope, _)| scope.0),
            r#type: registration.holds.map(|(_, kind)| kind.0),
        }
    }
}

impl From<&Capabilities> for CapabilitiesDocument {
    fn from(read: &Capabilities) -> Self {
        let supported =
            || ReservationType::ALL.into_iter().filter(|kind| read.supports(*kind)).map(|kind| kind.0);
        Self {
            replace_lost_reservation: read.replace_lost,
            compatible_reservation_handling: read.compatible_reservation_handling,
            specify_initiator_ports: read.specify_initiator_ports,
            all_target_ports: read.all_target_ports,
            persist_through_power_loss_capable: read.persist_capable,
            persist_through_power_loss_active: read.persist_active,
            allow_commands: read.allow_commands,
            types: read.type_mask_valid.then(|| supported().collect()),
        }
    }
}
