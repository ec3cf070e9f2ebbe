//! How a logical unit presents itself where that is the operator's wish: names of its own choice (SPC-4 7.8.5, 7.8.6), and a medium that is
//! write protected (SBC-4 4.12). Part of a LUN's specification and of a snapshot; used by `tenure device` and `tenure target`.
//!
//! Guarantees: whatever was read is what INQUIRY can tell; the text form and what is read from it are the same.

use std::fmt;
use std::str::FromStr;

/// Longest serial number in bytes.
const MAX_SERIAL: usize = 64;

/// What the operator says of a logical unit instead of what follows from its medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presentation {
    /// Nothing is written to the medium.
    pub read_only: bool,
    /// PRODUCT SERIAL NUMBER of VPD page 80h, and the end of the T10 vendor ID based designator.
    pub serial: Option<Serial>,
    /// The NAA designator of VPD page 83h.
    pub wwn: Option<Wwn>,
}

/// A serial number: 1 to 64 printable ASCII characters (SPC-4 4.3.1), with no space at either end, where it could not be told from padding,
/// and no comma, which ends it in a specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial(String);

/// An NAA identifier (SPC-4 7.8.6.6): 8 bytes of NAA 2h, 3h or 5h, or 16 of NAA 6h.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wwn(Vec<u8>);

/// Text or bytes that no logical unit can present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresentationError {
    /// No serial number.
    #[error(
        "a serial number is 1 to {MAX_SERIAL} printable ASCII characters, without a comma and without a space at either end"
    )]
    Serial,
    /// No NAA identifier.
    #[error("a WWN is 16 hexadecimal digits that begin with 2, 3 or 5, or 32 that begin with 6")]
    Wwn,
}

impl Serial {
    /// As it is told.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = PresentationError;

    fn from_str(text: &str) -> Result<Self, PresentationError> {
        let printable = text.bytes().all(|byte| matches!(byte, 0x20..=0x7E) && byte != b',');
        let fits = (1..=MAX_SERIAL).contains(&text.len()) && text.trim() == text;
        if printable && fits { Ok(Self(text.to_owned())) } else { Err(PresentationError::Serial) }
    }
}

impl Wwn {
    /// An identifier in the form of its designator.
    ///
    /// # Errors
    /// [`PresentationError::Wwn`].
    pub fn new(bytes: &[u8]) -> Result<Self, PresentationError> {
        match (bytes.len(), bytes.first().map(|first| first >> 4)) {
            (8, Some(2 | 3 | 5)) | (16, Some(6)) => Ok(Self(bytes.to_vec())),
            _ => Err(PresentationError::Wwn),
        }
    }

    /// The bytes of the designator.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hexadecimal digits, with `0x` or `naa.` before them if one likes.
impl FromStr for Wwn {
    type Err = PresentationError;

    fn from_str(text: &str) -> Result<Self, PresentationError> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("naa.")).unwrap_or(text);
        let nibbles =
            digits.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
        let nibbles: Option<Vec<u8>> = nibbles.collect();
        let nibbles = nibbles.filter(|nibbles| nibbles.len() % 2 == 0).ok_or(PresentationError::Wwn)?;
        let byte = |pair: &[u8]| pair.iter().fold(0, |byte, nibble| byte << 4 | nibble);
        Self::new(&nibbles.chunks(2).map(byte).collect::<Vec<_>>())
    }
}

/// `naa.` and the digits, as udev and `lsscsi` write it.
impl fmt::Display for Wwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("naa.")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Presentation {
    /// The first part in which `other` is not the same: its name in a specification, and what either says.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let said = |one: &Self| {
            let absent = || "none".to_owned();
            [
                ("readonly", if one.read_only { "on" } else { "off" }.to_owned()),
                ("serial", one.serial.as_ref().map_or_else(absent, ToString::to_string)),
                ("wwn", one.wwn.as_ref().map_or_else(absent, ToString::to_string)),
            ]
        };
        let pairs = said(self).into_iter().zip(said(other));
        pairs.into_iter().find_map(|((name, own), (_, other))| (own != other).then_some((name, own, other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wwn_is_what_its_digits_say_in_whatever_form() {
        let wwn: Wwn = "5000C500A1B2C3D4".parse().unwrap();
        assert_eq!(wwn.as_bytes(), [0x50, 0x00, 0xC5, 0x00, 0xA1, 0xB2, 0xC3, 0xD4]);
        assert_eq!(wwn.to_string(), "naa.5000c500a1b2c3d4");
        for same in ["0x5000c500a1b2c3d4", "naa.5000c500a1b2c3d4"] {
            assert_eq!(same.parse(), Ok(wwn.clone()));
        }
        assert_eq!("600140512345678912345678912345ab".parse::<Wwn>().unwrap().as_bytes().len(), 16);
        let wrong = [
            "",
            "0x",
            "5000c500a1b2c3d",
            "1000c500a1b2c3d4",
            "6000c500a1b2c3d4",
            "5000c500a1b2c3d4a1b2c3d45000c500",
        ];
        for text in wrong.into_iter().chain(["5000c500a1b2c3dg", "naa.0x5000c500a1b2c3d4", "5000c500a1b2c3é"])
        {
            assert_eq!(text.parse::<Wwn>(), Err(PresentationError::Wwn), "{text}");
        }
    }

    #[test]
    fn a_serial_number_is_told_as_it_is_written_or_refused() {
        assert_eq!("WD-12 34/x".parse::<Serial>().unwrap().as_str(), "WD-12 34/x");
        assert!("s".repeat(64).parse::<Serial>().is_ok());
        for text in ["", " a", "a ", "a,b", "ä", "a\tb", "a\0", &"s".repeat(65)] {
            assert_eq!(text.parse::<Serial>(), Err(PresentationError::Serial), "{text}");
        }
    }

    #[test]
    fn what_is_not_the_same_is_named() {
        let plain = Presentation::default();
        assert_eq!(plain.difference(&plain), None);
        let named =
            Presentation { serial: "a".parse().ok(), wwn: "3000000000000001".parse().ok(), read_only: false };
        assert_eq!(named.difference(&plain), Some(("serial", "a".into(), "none".into())));
        let wwn = Presentation { serial: None, ..named.clone() };
        assert_eq!(plain.difference(&wwn), Some(("wwn", "none".into(), "naa.3000000000000001".into())));
        let protected = Presentation { read_only: true, ..named };
        assert_eq!(protected.difference(&wwn), Some(("readonly", "on".into(), "off".into())));
    }
}
