//! TransportIDs (SPC-4 7.6.4): how an initiator port is named in parameter data.
//!
//! Used by SPEC_I_PT and REGISTER AND MOVE parameter lists and by READ FULL STATUS. iSCSI names are
//! compared without regard to case, so they are kept in lower case (RFC 3722); the first NUL ends a
//! name whatever the length field says. Identifiers that T10 left undefined stay as opaque bytes.
//! `text` has the forms that people type and read.

#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use text::{IscsiNameTextError, TransportIdTextError};

use crate::bytes::{array, be16, be64, u8_at};
use std::fmt;

/// Size of every TransportID but iSCSI's.
pub const FIXED_LENGTH: usize = 24;
/// Largest TransportID: 4 bytes of header, 223 of name, `,i,0x`, 12 ISID digits, padding.
pub const MAX_LENGTH: usize = 248;

/// Why bytes are not a TransportID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TransportIdError {
    /// The buffer ends inside the TransportID.
    #[error("TransportID is cut short")]
    Short,
    /// An iSCSI ADDITIONAL LENGTH below 20, above 244 or not a multiple of 4.
    #[error("iSCSI TransportID with an illegal additional length {0}")]
    Length(u16),
    /// A FORMAT CODE that the protocol does not define.
    #[error("TransportID with format code {format} of protocol {protocol:#x}")]
    Format {
        /// FORMAT CODE.
        format: u8,
        /// PROTOCOL IDENTIFIER.
        protocol: u8,
    },
    /// An iSCSI name that is empty, too long or not text, or an ISID that is not 12 hex digits.
    #[error("iSCSI TransportID with a malformed name or ISID")]
    Name,
}

/// An iSCSI name: 1 to 223 bytes, lower case, no control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IscsiName(String);

impl IscsiName {
    /// Checks and lower-cases a name.
    ///
    /// # Errors
    /// [`TransportIdError::Name`] if it is empty, longer than 223 bytes, or has a comma, space or control character.
    pub fn new(name: &str) -> Result<Self, TransportIdError> {
        let legal = |c: char| !c.is_control() && c != ',' && c != ' ';
        let name = name.to_lowercase();
        if name.is_empty() || name.len() > 223 || !name.chars().all(legal) {
            return Err(TransportIdError::Name);
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Initiator session identifier (RFC 7143 11.12.5), six bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isid(pub [u8; 6]);

impl Isid {
    /// Reads 12 hex digits, with or without a leading `0x`.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let value = u64::from_str_radix(digits, 16).ok()?;
        array(&value.to_be_bytes(), 2).map(Self)
    }
}

impl fmt::Display for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// PROTOCOL IDENTIFIER values (SPC-4 7.6.1).
pub mod protocol {
    #![expect(missing_docs, reason = "the names are the standard's")]
    pub const FIBRE_CHANNEL: u8 = 0x0;
    pub const PARALLEL_SCSI: u8 = 0x1;
    pub const IEEE_1394: u8 = 0x3;
    pub const SRP: u8 = 0x4;
    pub const ISCSI: u8 = 0x5;
    pub const SAS: u8 = 0x6;
    pub const SOP: u8 = 0xA;
}

/// The name of an initiator port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransportId {
    /// Fibre Channel N_Port_Name.
    FibreChannel(u64),
    /// Parallel SCSI (obsolete).
    ParallelScsi {
        /// SCSI ADDRESS.
        address: u16,
        /// RELATIVE TARGET PORT IDENTIFIER.
        relative_port: u16,
    },
    /// IEEE 1394 EUI-64.
    Ieee1394(u64),
    /// SCSI RDMA initiator port identifier.
    Srp([u8; 16]),
    /// iSCSI: with an ISID the port (format 01b), without one every port of the device (00b).
    Iscsi {
        /// Initiator name.
        name: IscsiName,
        /// Initiator session identifier.
        isid: Option<Isid>,
    },
    /// SAS address.
    Sas(u64),
    /// SCSI over PCIe routing id.
    Sop(u16),
    /// A protocol whose TransportID the standard leaves undefined; all 24 bytes as received.
    Opaque([u8; FIXED_LENGTH]),
}

impl TransportId {
    /// The iSCSI initiator port `name` + `isid`.
    #[must_use]
    pub const fn iscsi(name: IscsiName, isid: Isid) -> Self {
        Self::Iscsi { name, isid: Some(isid) }
    }

    /// Reads one TransportID; returns it and the bytes it took.
    ///
    /// # Errors
    /// [`TransportIdError`] if the bytes are cut, or a length, format or name is illegal.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), TransportIdError> {
        let head = u8_at(bytes, 0).ok_or(TransportIdError::Short)?;
        let (format, protocol) = (head >> 6, head & 0x0F);
        if protocol == protocol::ISCSI {
            return Self::parse_iscsi(bytes, format);
        }
        let fixed: [u8; FIXED_LENGTH] = array(bytes, 0).ok_or(TransportIdError::Short)?;
        if format != 0 {
            return Err(TransportIdError::Format { format, protocol });
        }
        Self::parse_fixed(&fixed, protocol).map(|id| (id, FIXED_LENGTH)).ok_or(TransportIdError::Short)
    }

    fn parse_fixed(fixed: &[u8; FIXED_LENGTH], protocol: u8) -> Option<Self> {
        Some(match protocol {
            protocol::FIBRE_CHANNEL => Self::FibreChannel(be64(fixed, 8)?),
            protocol::PARALLEL_SCSI => {
                Self::ParallelScsi { address: be16(fixed, 2)?, relative_port: be16(fixed, 6)? }
            }
            protocol::IEEE_1394 => Self::Ieee1394(be64(fixed, 8)?),
            protocol::SRP => Self::Srp(array(fixed, 8)?),
            protocol::SAS => Self::Sas(be64(fixed, 4)?),
            protocol::SOP => Self::Sop(be16(fixed, 2)?),
            _ => Self::Opaque(*fixed),
        })
    }

    fn parse_iscsi(bytes: &[u8], format: u8) -> Result<(Self, usize), TransportIdError> {
        let length = be16(bytes, 2).ok_or(TransportIdError::Short)?;
        if !(20..=244).contains(&length) || length % 4 != 0 {
            return Err(TransportIdError::Length(length));
        }
        let end = 4 + usize::from(length);
        let body = bytes.get(4..end).ok_or(TransportIdError::Short)?;
        let text = body.split(|b| *b == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| TransportIdError::Name)?;
        let (name, isid) = match format {
            0 => (text, None),
            1 => split_isid(text).ok_or(TransportIdError::Name)?,
            _ => return Err(TransportIdError::Format { format, protocol: protocol::ISCSI }),
        };
        Ok((Self::Iscsi { name: IscsiName::new(name)?, isid }, end))
    }

    /// Reads the TransportID that fills `bytes`, as a READ FULL STATUS descriptor holds it. Some device
    /// servers send iSCSI TransportIDs with an ADDITIONAL LENGTH below 20, or end the name before a
    /// binary ISID; they name their port all the same, so this reads them where [`Self::parse`] refuses.
    ///
    /// # Errors
    /// What [`Self::parse`] objects to, if the bytes name no port even so.
    pub fn parse_reported(bytes: &[u8]) -> Result<Self, TransportIdError> {
        match Self::parse(bytes) {
            Ok((id, _)) => Ok(id),
            Err(error) => parse_malformed_iscsi(bytes).ok_or(error),
        }
    }

    /// The bytes of this TransportID.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::FibreChannel(name) => fixed(protocol::FIBRE_CHANNEL, 8, &name.to_be_bytes()),
            Self::ParallelScsi { address, relative_port } => {
                let [a, b] = address.to_be_bytes();
                let [c, d] = relative_port.to_be_bytes();
                fixed(protocol::PARALLEL_SCSI, 2, &[a, b, 0, 0, c, d])
            }
            Self::Ieee1394(eui) => fixed(protocol::IEEE_1394, 8, &eui.to_be_bytes()),
            Self::Srp(identifier) => fixed(protocol::SRP, 8, identifier),
            Self::Iscsi { name, isid } => iscsi_bytes(name, *isid),
            Self::Sas(address) => fixed(protocol::SAS, 4, &address.to_be_bytes()),
            Self::Sop(routing_id) => fixed(protocol::SOP, 2, &routing_id.to_be_bytes()),
            Self::Opaque(bytes) => bytes.to_vec(),
        }
    }

    /// PROTOCOL IDENTIFIER.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match self {
            Self::FibreChannel(_) => protocol::FIBRE_CHANNEL,
            Self::ParallelScsi { .. } => protocol::PARALLEL_SCSI,
            Self::Ieee1394(_) => protocol::IEEE_1394,
            Self::Srp(_) => protocol::SRP,
            Self::Iscsi { .. } => protocol::ISCSI,
            Self::Sas(_) => protocol::SAS,
            Self::Sop(_) => protocol::SOP,
            Self::Opaque([head, ..]) => *head & 0x0F,
        }
    }

    /// Whether `port` is named by this TransportID: equality, but an iSCSI name without ISID names all its ports.
    #[must_use]
    pub fn names(&self, port: &Self) -> bool {
        match (self, port) {
            (Self::Iscsi { name, isid: None }, Self::Iscsi { name: other, .. }) => name == other,
            _ => self == port,
        }
    }
}

fn split_isid(text: &str) -> Option<(&str, Option<Isid>)> {
    let (name, isid) = text.split_once(",i,0x").or_else(|| text.split_once(",i,0X"))?;
    Some((name, Some(Isid::from_hex(isid)?)))
}

fn parse_malformed_iscsi(bytes: &[u8]) -> Option<TransportId> {
    let [head, _, _, _, body @ ..] = bytes else { return None };
    let (text, padding) = body.split_at(body.iter().position(|b| *b == 0).unwrap_or(body.len()));
    let text = std::str::from_utf8(text).ok()?;
    let (name, isid) = match (head >> 6, head & 0x0F) {
        (0, protocol::ISCSI) => (text, None),
        (1, protocol::ISCSI) => split_isid(text).or_else(|| Some((text, Some(binary_isid(padding)?))))?,
        _ => return None,
    };
    Some(TransportId::Iscsi { name: IscsiName::new(name).ok()?, isid })
}

/// An ISID of six bytes instead of twelve digits, behind the NUL that ends the name.
fn binary_isid(padding: &[u8]) -> Option<Isid> {
    array(padding.strip_prefix(b"\0,i,0x")?, 0).map(Isid)
}

fn fixed(protocol: u8, at: usize, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; FIXED_LENGTH];
    out.splice(0..1, [protocol]);
    out.splice(at..at + payload.len(), payload.iter().copied());
    out
}

fn iscsi_bytes(name: &IscsiName, isid: Option<Isid>) -> Vec<u8> {
    let format = if isid.is_some() { 0x40 } else { 0 };
    let mut out = Vec::with_capacity(4 + name.as_str().len() + ISID_TEXT + 4);
    out.extend([format | protocol::ISCSI, 0, 0, 0]);
    out.extend(name.as_str().bytes());
    if let Some(Isid(bytes)) = isid {
        out.extend(b",i,0x");
        // The explorer does this some hundred million times: formatting would be a tenth of its time.
        out.extend(bytes.iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(byte & 0x0F)]));
    }
    let length = (out.len() - 4 + 1).next_multiple_of(4).max(20);
    out.resize(4 + length, 0);
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    out.iter_mut().skip(2).zip(length.to_be_bytes()).for_each(|(place, byte)| *place = byte);
    out
}

/// Bytes of `,i,0x` and an ISID.
const ISID_TEXT: usize = 17;

const fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + (nibble & 0x0F) - 10,
    }
}
