//! PERSISTENT RESERVE IN parameter data (SPC-4 6.15.2 to 6.15.5).
//!
//! `to_bytes` gives the full data; the device server cuts it with [`crate::truncate`], which never alters
//! a length field. `parse` accepts cut data and says so.

use super::types::{Key, ReservationType, Scope};
use crate::bytes::{array, be16, be32, be64, u8_at};
use crate::transport_id::TransportId;

const HEADER: usize = 8;
const RESERVATION_DESCRIPTOR: usize = 16;

/// READ KEYS parameter data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadKeys {
    /// PRGENERATION.
    pub generation: u32,
    /// One key per registered I_T nexus; a shared key is listed once for each.
    pub keys: Vec<Key>,
    /// The allocation length cut the list (never emitted).
    pub truncated: bool,
}

impl ReadKeys {
    /// Reads the data; a key cut in half is dropped. `None` below the 8-byte header.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (generation, announced) = header(data)?;
        let body = data.get(HEADER..)?;
        let body = body.get(..announced).unwrap_or(body);
        let keys = body.as_chunks().0.iter().map(|key| Key(u64::from_be_bytes(*key))).collect();
        Some(Self { generation, keys, truncated: announced > body.len() })
    }

    /// The full parameter data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let keys: Vec<u8> = self.keys.iter().flat_map(|key| key.0.to_be_bytes()).collect();
        with_header(self.generation, &keys)
    }
}

/// A reservation as READ RESERVATION shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// The holder's registered key; zero for the all registrants types.
    pub key: Key,
    /// SCOPE.
    pub scope: Scope,
    /// TYPE.
    pub kind: ReservationType,
}

/// READ RESERVATION parameter data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadReservation {
    /// PRGENERATION.
    pub generation: u32,
    /// The reservation, if there is one.
    pub reservation: Option<Reservation>,
}

impl ReadReservation {
    /// Reads the data. `None` if it is cut before the type, or the length is neither 0 nor at least 16.
    /// Of several descriptors (SPC-2 element scope) the one for the whole logical unit counts.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (generation, length) = header(data)?;
        let body = data.get(HEADER..)?;
        let body = body.get(..length).unwrap_or(body);
        let reservation = match length {
            0 => None,
            RESERVATION_DESCRIPTOR.. => Some(whole_unit(body).or_else(|| parse_reservation(body))?),
            _ => return None,
        };
        Some(Self { generation, reservation })
    }

    /// The full parameter data: 8 or 24 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = self.reservation.map(|held| {
            let mut body = held.key.0.to_be_bytes().to_vec();
            body.extend([0, 0, 0, 0, 0, held.scope.0 << 4 | held.kind.0 & 0x0F, 0, 0]);
            body
        });
        with_header(self.generation, &body.unwrap_or_default())
    }
}

/// The descriptor with LU_SCOPE among 16-byte descriptors.
fn whole_unit(body: &[u8]) -> Option<Reservation> {
    let mut all = body.chunks(RESERVATION_DESCRIPTOR).filter_map(parse_reservation);
    all.find(|held| held.scope == Scope::LOGICAL_UNIT)
}

fn parse_reservation(bytes: &[u8]) -> Option<Reservation> {
    let what = u8_at(bytes, 13)?;
    let key = Key(be64(bytes, 0)?);
    Some(Reservation { key, scope: Scope(what >> 4), kind: ReservationType(what & 0x0F) })
}

/// REPORT CAPABILITIES parameter data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// RLR_C: REPLACE LOST RESERVATION is supported.
    pub replace_lost: bool,
    /// CRH: RESERVE and RELEASE of a holder succeed without effect.
    pub compatible_reservation_handling: bool,
    /// SIP_C: SPEC_I_PT is supported.
    pub specify_initiator_ports: bool,
    /// ATP_C: ALL_TG_PT is supported.
    pub all_target_ports: bool,
    /// PTPL_C: persistence through power loss is supported.
    pub persist_capable: bool,
    /// TMV: the type mask is valid.
    pub type_mask_valid: bool,
    /// ALLOW COMMANDS, 3 bits.
    pub allow_commands: u8,
    /// PTPL_A: the last valid APTPL was one.
    pub persist_active: bool,
    /// PERSISTENT RESERVATION TYPE MASK, as on the wire (bytes 4 and 5).
    pub type_mask: u16,
}

impl Capabilities {
    /// Type mask with all six types.
    pub const ALL_TYPES: u16 = 0xEA01;

    /// Reads the data; `None` below 6 bytes or if LENGTH is below 8.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let [high, low, two, three, four, five] = array(data, 0)?;
        if u16::from_be_bytes([high, low]) < 8 {
            return None;
        }
        Some(Self {
            replace_lost: two & 0x80 != 0,
            compatible_reservation_handling: two & 0x10 != 0,
            specify_initiator_ports: two & 0x08 != 0,
            all_target_ports: two & 0x04 != 0,
            persist_capable: two & 0x01 != 0,
            type_mask_valid: three & 0x80 != 0,
            allow_commands: three >> 4 & 0x07,
            persist_active: three & 0x01 != 0,
            type_mask: u16::from_be_bytes([four, five]),
        })
    }

    /// The full parameter data: 8 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let two = u8::from(self.replace_lost) << 7
            | u8::from(self.compatible_reservation_handling) << 4
            | u8::from(self.specify_initiator_ports) << 3
            | u8::from(self.all_target_ports) << 2
            | u8::from(self.persist_capable);
        let three = u8::from(self.type_mask_valid) << 7
            | (self.allow_commands & 0x07) << 4
            | u8::from(self.persist_active);
        let [four, five] = self.type_mask.to_be_bytes();
        vec![0, 8, two, three, four, five, 0, 0]
    }

    /// Whether the type mask (where it is valid) lists `kind`.
    #[must_use]
    pub const fn supports(&self, kind: ReservationType) -> bool {
        let bit = match kind.0 {
            1 => 0x0200,
            3 => 0x0800,
            5 => 0x2000,
            6 => 0x4000,
            7 => 0x8000,
            8 => 0x0001,
            _ => return false,
        };
        !self.type_mask_valid || self.type_mask & bit != 0
    }
}

/// One registration of READ FULL STATUS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FullStatusDescriptor {
    /// Registered key.
    pub key: Key,
    /// ALL_TG_PT.
    pub all_target_ports: bool,
    /// The reservation this registrant holds (R_HOLDER), as scope and type.
    pub holds: Option<(Scope, ReservationType)>,
    /// RELATIVE TARGET PORT IDENTIFIER; without meaning under ALL_TG_PT.
    pub relative_target_port: u16,
    /// Initiator port; the raw bytes where a target sends a TransportID nobody can read.
    pub initiator_port: Result<TransportId, Vec<u8>>,
}

/// READ FULL STATUS parameter data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FullStatus {
    /// PRGENERATION.
    pub generation: u32,
    /// One descriptor per registration.
    pub descriptors: Vec<FullStatusDescriptor>,
    /// The allocation length cut the list (never emitted).
    pub truncated: bool,
}

impl FullStatus {
    /// Reads the data; a descriptor cut short is dropped. `None` below the 8-byte header.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (generation, announced) = header(data)?;
        let body = data.get(HEADER..)?;
        let mut rest = body.get(..announced).unwrap_or(body);
        let mut truncated = announced > body.len();
        let mut descriptors = Vec::new();
        while !rest.is_empty() {
            let Some((descriptor, next)) = parse_descriptor(rest) else {
                truncated = true;
                break;
            };
            descriptors.push(descriptor);
            rest = next;
        }
        Some(Self { generation, descriptors, truncated })
    }

    /// The full parameter data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.descriptors.iter().for_each(|descriptor| put_descriptor(&mut body, descriptor));
        with_header(self.generation, &body)
    }
}

fn parse_descriptor(bytes: &[u8]) -> Option<(FullStatusDescriptor, &[u8])> {
    let (flags, what) = (u8_at(bytes, 12)?, u8_at(bytes, 13)?);
    let end = usize::try_from(be32(bytes, 20)?).ok()?.checked_add(24)?;
    let id = bytes.get(24..end)?;
    let descriptor = FullStatusDescriptor {
        key: Key(be64(bytes, 0)?),
        all_target_ports: flags & 0x02 != 0,
        holds: (flags & 0x01 != 0).then_some((Scope(what >> 4), ReservationType(what & 0x0F))),
        relative_target_port: be16(bytes, 18)?,
        initiator_port: TransportId::parse_reported(id).map_err(|_| id.to_vec()),
    };
    Some((descriptor, bytes.get(end..)?))
}

fn put_descriptor(out: &mut Vec<u8>, descriptor: &FullStatusDescriptor) {
    let id = match &descriptor.initiator_port {
        Ok(port) => port.to_bytes(),
        Err(raw) => raw.clone(),
    };
    let flags = u8::from(descriptor.all_target_ports) << 1 | u8::from(descriptor.holds.is_some());
    let what = descriptor.holds.map_or(0, |(scope, kind)| scope.0 << 4 | kind.0 & 0x0F);
    out.extend(descriptor.key.0.to_be_bytes());
    out.extend([0, 0, 0, 0, flags, what, 0, 0, 0, 0]);
    out.extend(descriptor.relative_target_port.to_be_bytes());
    out.extend(u32::try_from(id.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(id);
}

/// PRGENERATION and ADDITIONAL LENGTH.
fn header(data: &[u8]) -> Option<(u32, usize)> {
    Some((be32(data, 0)?, usize::try_from(be32(data, 4)?).ok()?))
}

fn with_header(generation: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(generation.to_be_bytes());
    out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(body);
    out
}
