//! The eight bytes that name a logical unit (virtio 1.2 5.6.6.1, SAM-5 4.7). Used by every queue.
//!
//! 01h, target, then one level of two bytes: peripheral (Windows, SeaBIOS below 256) or flat (Linux, always), or a well-known logical
//! unit of that target, as Linux sends it. C1h 01h with zeros is REPORT LUNS of the whole device.

use super::Error;

/// The well-known logical unit REPORT LUNS (SPC-4 8.2).
const REPORT_LUNS: u8 = 1;
/// A single level that names a well-known logical unit: extended addressing, two bytes (SAM-5 4.7.7.5.1).
const WELL_KNOWN: u8 = 0xC1;
const FLAT: u8 = 0x40;
/// The highest LUN of flat addressing.
const NUMBER_MAX: u16 = 0x3FFF;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lun {
    /// The well-known logical unit REPORT LUNS of the device.
    ReportLuns,
    /// A logical unit of a target.
    Unit {
        /// Target.
        target: u8,
        /// Logical unit.
        address: Address,
    },
}

/// A logical unit within its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// By number, up to 16383.
    Number(u16),
    /// A well-known logical unit (01h: REPORT LUNS).
    WellKnown(u8),
}

impl Lun {
    /// From the bytes of a request.
    pub fn parse(bytes: &[u8; 8]) -> Result<Self, Error> {
        let [format, target, high, low, rest @ ..] = *bytes;
        if rest != [0; 4] {
            return Err(Error::LunLevels);
        }
        match (format, target, high, low) {
            (1, ..) => Ok(Self::Unit { target, address: Address::parse(high, low)? }),
            (WELL_KNOWN, REPORT_LUNS, 0, 0) => Ok(Self::ReportLuns),
            (WELL_KNOWN, ..) => Err(Error::LunMethod(target)),
            _ => Err(Error::LunFormat(format)),
        }
    }

    /// The bytes by which a driver knows it: as REPORT LUNS tells it, so peripheral below 256 and flat above. Numbers
    /// above 16383 have none: their higher bits are left out.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        match self {
            Self::ReportLuns => [WELL_KNOWN, REPORT_LUNS, 0, 0, 0, 0, 0, 0],
            Self::Unit { target, address } => {
                let [high, low] = address.to_bytes();
                [1, target, high, low, 0, 0, 0, 0]
            }
        }
    }
}

impl Address {
    fn parse(high: u8, low: u8) -> Result<Self, Error> {
        match high {
            0 => Ok(Self::Number(u16::from(low))),
            WELL_KNOWN => Ok(Self::WellKnown(low)),
            bus if bus < FLAT => Err(Error::LunBus(bus)),
            flat if flat < 0x80 => Ok(Self::Number(u16::from_be_bytes([flat & 0x3F, low]))),
            method => Err(Error::LunMethod(method)),
        }
    }

    const fn to_bytes(self) -> [u8; 2] {
        match self {
            Self::Number(number) if number < 256 => number.to_be_bytes(),
            Self::Number(number) => ((number & NUMBER_MAX) | (FLAT as u16) << 8).to_be_bytes(),
            Self::WellKnown(number) => [WELL_KNOWN, number],
        }
    }
}
