//! PERSISTENT RESERVE OUT parameter lists (SPC-4 6.16.3, 6.16.4).
//! Reserved and obsolete bits are ignored on receipt and sent as zero.

use super::types::Key;
use crate::bytes::{be16, be32, be64, u8_at};
use crate::field::FieldError;
use crate::transport_id::TransportId;

/// Length of the basic parameter list without TransportIDs.
pub(crate) const BASIC_LENGTH: usize = 24;

/// The parameter list of every service action but REGISTER AND MOVE.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BasicParameters {
    /// RESERVATION KEY: the sender's registered key.
    pub reservation_key: Key,
    /// SERVICE ACTION RESERVATION KEY: the new key, or the victim's.
    pub service_action_key: Key,
    /// SPEC_I_PT: also register these initiator ports; `None` if the bit is clear.
    pub initiator_ports: Option<Vec<TransportId>>,
    /// ALL_TG_PT: register on every target port.
    pub all_target_ports: bool,
    /// APTPL: keep registrations and reservation through power loss.
    pub aptpl: bool,
}

impl BasicParameters {
    /// Whether SPEC_I_PT is set, for a list of any length. A device server asks before it parses: with a
    /// service action that forbids the bit, the bit is the error and not the TransportIDs behind it.
    #[must_use]
    pub fn specifies_initiator_ports(list: &[u8]) -> bool {
        u8_at(list, 20).is_some_and(|flags| flags & 0x08 != 0)
    }

    /// Reads a parameter list. Bytes after the first 24 are looked at only with SPEC_I_PT.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR for a list below 24 bytes or below what SPEC_I_PT announces;
    /// INVALID FIELD IN PARAMETER LIST with a pointer for a malformed or cut TransportID.
    pub fn parse(list: &[u8]) -> Result<Self, FieldError> {
        let (Some(key), Some(action_key), Some(flags), true) =
            (be64(list, 0), be64(list, 8), u8_at(list, 20), list.len() >= BASIC_LENGTH)
        else {
            return Err(FieldError::list_length());
        };
        let initiator_ports = if flags & 0x08 != 0 { Some(parse_initiator_ports(list)?) } else { None };
        Ok(Self {
            reservation_key: Key(key),
            service_action_key: Key(action_key),
            initiator_ports,
            all_target_ports: flags & 0x04 != 0,
            aptpl: flags & 0x01 != 0,
        })
    }

    /// The bytes of this list.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BASIC_LENGTH);
        out.extend(self.reservation_key.0.to_be_bytes());
        out.extend(self.service_action_key.0.to_be_bytes());
        let spec_i_pt = u8::from(self.initiator_ports.is_some());
        let flags = spec_i_pt << 3 | u8::from(self.all_target_ports) << 2 | u8::from(self.aptpl);
        out.extend([0, 0, 0, 0, flags, 0, 0, 0]);
        if let Some(ports) = &self.initiator_ports {
            let ids: Vec<u8> = ports.iter().flat_map(TransportId::to_bytes).collect();
            out.extend(u32::try_from(ids.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend(ids);
        }
        out
    }
}

/// The TransportIDs behind SPEC_I_PT (SPC-4 6.16.3).
fn parse_initiator_ports(list: &[u8]) -> Result<Vec<TransportId>, FieldError> {
    let announced = be32(list, BASIC_LENGTH).ok_or(FieldError::list_length())?;
    let start = BASIC_LENGTH + 4;
    let end = usize::try_from(announced).ok().and_then(|n| n.checked_add(start));
    let ids = end.and_then(|end| list.get(start..end)).ok_or(FieldError::list_length())?;
    let (mut ports, mut at) = (Vec::new(), 0);
    while let Some(rest) = ids.get(at..).filter(|rest| !rest.is_empty()) {
        let here = u16::try_from(start + at).unwrap_or(u16::MAX);
        let (id, length) = TransportId::parse(rest).map_err(|_| FieldError::parameter(here))?;
        ports.push(id);
        at += length;
    }
    Ok(ports)
}

/// The parameter list of REGISTER AND MOVE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MoveParameters {
    /// RESERVATION KEY: the sender's registered key.
    pub reservation_key: Key,
    /// SERVICE ACTION RESERVATION KEY: the destination's key.
    pub service_action_key: Key,
    /// UNREG: unregister the sender.
    pub unregister: bool,
    /// APTPL.
    pub aptpl: bool,
    /// RELATIVE TARGET PORT IDENTIFIER of the destination nexus.
    pub relative_target_port: u16,
    /// The destination's initiator port.
    pub initiator_port: TransportId,
}

impl MoveParameters {
    /// Reads a parameter list whose length must be exactly what its TransportID announces.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR below 24 bytes; otherwise INVALID FIELD IN PARAMETER LIST at the
    /// descriptor length (byte 20) or the TransportID (byte 24).
    pub fn parse(list: &[u8]) -> Result<Self, FieldError> {
        let (Some(key), Some(action_key), Some(flags), Some(port), Some(length)) =
            (be64(list, 0), be64(list, 8), u8_at(list, 17), be16(list, 18), be32(list, 20))
        else {
            return Err(FieldError::list_length());
        };
        let id = list.get(BASIC_LENGTH..).unwrap_or_default();
        if usize::try_from(length) != Ok(id.len()) || id.len() < 24 || id.len() % 4 != 0 {
            return Err(FieldError::parameter(20));
        }
        let initiator_port = match TransportId::parse(id) {
            Ok((port, taken)) if taken == id.len() => port,
            _ => return Err(FieldError::parameter(24)),
        };
        Ok(Self {
            reservation_key: Key(key),
            service_action_key: Key(action_key),
            unregister: flags & 0x02 != 0,
            aptpl: flags & 0x01 != 0,
            relative_target_port: port,
            initiator_port,
        })
    }

    /// The bytes of this list.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let id = self.initiator_port.to_bytes();
        let mut out = Vec::with_capacity(BASIC_LENGTH + id.len());
        out.extend(self.reservation_key.0.to_be_bytes());
        out.extend(self.service_action_key.0.to_be_bytes());
        out.extend([0, u8::from(self.unregister) << 1 | u8::from(self.aptpl)]);
        out.extend(self.relative_target_port.to_be_bytes());
        out.extend(u32::try_from(id.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(id);
        out
    }
}
