//! TransportIDs as text, both ways: what people type on a command line and read in reports.
//!
//! `iqn.2026-01.example:host,i,0x00023d000001` (with `eui.` and `naa.` names too; without `,i,…` every
//! port of the device), `fc:WWPN`, `sas:ADDRESS`, `srp:IDENTIFIER`, `sbp:EUI64`, `spi:ADDRESS,PORT`,
//! `sop:ROUTING-ID`, `opaque:BYTES`. A comma after the protocol and `fcp` serve as well, because that is
//! how sg3_utils writes them. What is displayed parses to the same value, for iSCSI where the name is of
//! one of the three types of RFC 7143 4.2.7. A name that people give to a node of their own (`IscsiName::from_str`) must be
//! of one of these types; one that a target reports (`IscsiName::new`) is taken as it is.

use super::{FIXED_LENGTH, IscsiName, Isid, TransportId, TransportIdError};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a TransportID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportIdTextError {
    /// No protocol can be told from the text.
    #[error(
        "not a TransportID; expected iqn.NAME[,i,0xISID], fc:WWPN, sas:ADDRESS, srp:ID, sbp:EUI64, \
         spi:ADDRESS,PORT, sop:ROUTING-ID or opaque:BYTES"
    )]
    Protocol,
    /// A number of the wrong length, or with characters that are no hexadecimal digits.
    #[error("{protocol}: takes exactly {digits} hexadecimal digits")]
    Digits {
        /// The protocol as it was typed.
        protocol: String,
        /// Hexadecimal digits it takes.
        digits: usize,
    },
    /// `spi:` without two decimal numbers.
    #[error("spi: takes a SCSI address and a relative port, two decimal numbers below 65536")]
    ParallelScsi,
    /// What follows the comma of an iSCSI name.
    #[error("after an iSCSI name only ,i,0x and the 12 hexadecimal digits of an ISID may follow")]
    Isid,
    /// The iSCSI name itself.
    #[error("an iSCSI name has 1 to 223 bytes, without spaces and control characters")]
    Name(#[source] TransportIdError),
}

/// A text that is none of the name types of RFC 7143 4.2.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an iSCSI name is iqn.YYYY-MM.REVERSED-DOMAIN[:NAME], eui. with 16 hexadecimal digits, or naa. with 16 or 32; \
     at most 223 bytes without spaces"
)]
pub struct IscsiNameTextError;

impl FromStr for IscsiName {
    type Err = IscsiNameTextError;

    fn from_str(text: &str) -> Result<Self, IscsiNameTextError> {
        let name = Self::new(text).map_err(|_| IscsiNameTextError)?;
        let typed = match name.as_str().split_once('.') {
            Some(("iqn", rest)) => is_qualified(rest),
            Some(("eui", digits)) => is_hex(digits) && digits.len() == 16,
            Some(("naa", digits)) => is_hex(digits) && [16, 32].contains(&digits.len()),
            _ => false,
        };
        if typed { Ok(name) } else { Err(IscsiNameTextError) }
    }
}

/// What follows `iqn.`: the month in which somebody owned the domain, and the domain (RFC 7143 4.2.7.4).
fn is_qualified(text: &str) -> bool {
    let Some((date, name)) = text.split_once('.') else { return false };
    let Some((year, month)) = date.split_once('-') else { return false };
    let decimal = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    let month_is_one = month.len() == 2 && decimal(month) && (1..=12).contains(&month.parse().unwrap_or(0));
    let domain = name.split(':').next().unwrap_or_default();
    let domain_is_one = domain.split('.').all(|label| !label.is_empty());
    year.len() == 4 && decimal(year) && month_is_one && domain_is_one
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FibreChannel(name) => write!(f, "fc:{name:016x}"),
            Self::ParallelScsi { address, relative_port } => write!(f, "spi:{address},{relative_port}"),
            Self::Ieee1394(eui) => write!(f, "sbp:{eui:016x}"),
            Self::Srp(id) => hex(f, "srp", id),
            Self::Iscsi { name, isid: Some(isid) } => write!(f, "{name},i,0x{isid}"),
            Self::Iscsi { name, isid: None } => write!(f, "{name}"),
            Self::Sas(address) => write!(f, "sas:{address:016x}"),
            Self::Sop(id) => write!(f, "sop:{id:04x}"),
            Self::Opaque(bytes) => hex(f, "opaque", bytes),
        }
    }
}

fn hex(f: &mut fmt::Formatter<'_>, protocol: &str, bytes: &[u8]) -> fmt::Result {
    write!(f, "{protocol}:")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl FromStr for TransportId {
    type Err = TransportIdTextError;

    /// Reads any of the forms that the module's documentation lists, without regard to case.
    fn from_str(text: &str) -> Result<Self, TransportIdTextError> {
        if is_iscsi_name(text) {
            return parse_iscsi(text);
        }
        let (protocol, rest) = text.split_once([':', ',']).ok_or(TransportIdTextError::Protocol)?;
        match protocol.to_ascii_lowercase().as_str() {
            "fc" | "fcp" => Ok(Self::FibreChannel(u64::from_be_bytes(digits(protocol, rest)?))),
            "sas" => Ok(Self::Sas(u64::from_be_bytes(digits(protocol, rest)?))),
            "sbp" => Ok(Self::Ieee1394(u64::from_be_bytes(digits(protocol, rest)?))),
            "srp" => Ok(Self::Srp(digits(protocol, rest)?)),
            "sop" => Ok(Self::Sop(u16::from_be_bytes(digits(protocol, rest)?))),
            "opaque" => Ok(Self::Opaque(digits::<FIXED_LENGTH>(protocol, rest)?)),
            "spi" => parse_parallel_scsi(rest).ok_or(TransportIdTextError::ParallelScsi),
            _ => Err(TransportIdTextError::Protocol),
        }
    }
}

/// Whether the text starts like one of the name types of RFC 7143 4.2.7.
fn is_iscsi_name(text: &str) -> bool {
    let start = text.get(..4).map(str::to_ascii_lowercase);
    matches!(start.as_deref(), Some("iqn." | "eui." | "naa."))
}

fn parse_iscsi(text: &str) -> Result<TransportId, TransportIdTextError> {
    let (name, isid) = match text.split_once(',') {
        None => (text, None),
        Some((name, rest)) => {
            let isid = rest.strip_prefix("i,").or_else(|| rest.strip_prefix("I,")).and_then(Isid::from_hex);
            (name, Some(isid.ok_or(TransportIdTextError::Isid)?))
        }
    };
    let name = IscsiName::new(name).map_err(TransportIdTextError::Name)?;
    Ok(TransportId::Iscsi { name, isid })
}

fn parse_parallel_scsi(text: &str) -> Option<TransportId> {
    let (address, port) = text.split_once(',')?;
    Some(TransportId::ParallelScsi { address: address.parse().ok()?, relative_port: port.parse().ok()? })
}

/// `N` bytes in hexadecimal: a leading `0x` and colons between bytes, as WWPNs are often written, are skipped.
fn digits<const N: usize>(protocol: &str, text: &str) -> Result<[u8; N], TransportIdTextError> {
    let wrong = || TransportIdTextError::Digits { protocol: protocol.to_owned(), digits: 2 * N };
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let nibbles: Option<Vec<u8>> = text.chars().filter(|c| *c != ':').map(nibble).collect();
    let nibbles = nibbles.filter(|all| all.len() == 2 * N).ok_or_else(wrong)?;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(nibbles.as_chunks().0) {
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

fn nibble(digit: char) -> Option<u8> {
    u8::try_from(digit.to_digit(16)?).ok()
}
